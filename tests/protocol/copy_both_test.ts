import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { CopyBothDecoder, MAX_XLOG_DATA_BYTES } from "../../lib/protocol/copy_both.ts";
import { ProtocolError } from "../../lib/protocol/errors.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { concat, frame, keepalive, walBytes, xlogData } from "./frames.ts";

const START = 0x16_B374_D848n;

/** Feeds the parts; what the handler got, with the WAL put together again. */
function decodeAll(parts: readonly Uint8Array[], startLsn = START) {
  const wal: number[] = [];
  const positions: string[] = [];
  const decoder = new CopyBothDecoder(lsn(startLsn), {
    onWal(at, bytes) {
      assert.equal(at, startLsn + BigInt(wal.length));
      assert.notEqual(bytes.length, 0);
      for (const byte of bytes) wal.push(byte);
    },
    onServerPosition: (message) =>
      void positions.push(`${wal.length}: ${message.walEndLsn} ${message.replyRequested}`),
  });
  const left = parts.map((bytes) => {
    const cursor = { bytes, index: 0 };
    decoder.decode(cursor);
    return bytes.length - cursor.index;
  });
  return { wal, positions, left, decoder };
}

const STREAM = concat(
  xlogData(START, walBytes(40), START + 1000n),
  keepalive(START + 2000n, 1),
  xlogData(START + 40n, walBytes(0)),
  xlogData(START + 40n, walBytes(3, 9)),
  keepalive(START + 43n, 0),
);
const WANT = {
  wal: [...walBytes(40), ...walBytes(3, 9)],
  positions: [
    `40: ${START + 1000n} false`,
    `40: ${START + 2000n} true`,
    `40: ${START + 40n} false`,
    `43: ${START + 43n} false`,
    `43: ${START + 43n} false`,
  ],
};

describe("CopyBothDecoder", () => {
  it("gives the same cut in two at each byte", () => {
    for (let i = 0; i <= STREAM.length; i++) {
      const { wal, positions, decoder } = decodeAll([STREAM.subarray(0, i), STREAM.subarray(i)]);
      assert.deepEqual({ wal, positions }, WANT, `cut at ${i}`);
      assert.equal(decoder.nextLsn, START + 43n);
      assert.ok(decoder.atBoundary);
    }
  });

  it("gives the same byte by byte", () => {
    const { wal, positions } = decodeAll(Array.from(STREAM, (byte) => Uint8Array.of(byte)));
    assert.deepEqual({ wal, positions }, WANT);
  });

  it("invents nothing when the stream is truncated at each byte", () => {
    for (let i = 0; i < STREAM.length; i++) {
      const { wal, positions, decoder } = decodeAll([STREAM.subarray(0, i)]);
      assert.deepEqual(wal, WANT.wal.slice(0, wal.length));
      assert.deepEqual(positions, WANT.positions.slice(0, positions.length));
      assert.equal(decoder.nextLsn, START + BigInt(wal.length));
    }
  });

  it("gives the same for any messages in any pieces", () => {
    fc.assert(fc.property(
      fc.array(fc.oneof(fc.nat({ max: 300 }), fc.constant("k" as const)), { maxLength: 20 }),
      fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 30 }),
      (messages, sizes) => {
        const frames: Uint8Array[] = [];
        const wal: number[] = [];
        for (const message of messages) {
          const at = START + BigInt(wal.length);
          if (message === "k") frames.push(keepalive(at, 1));
          else {
            const bytes = walBytes(message, wal.length);
            frames.push(xlogData(at, bytes));
            wal.push(...bytes);
          }
        }
        const whole = concat(...frames);
        const parts: Uint8Array[] = [];
        for (let i = 0, k = 0; i < whole.length; k++) {
          const size = sizes[k % sizes.length]!;
          parts.push(whole.subarray(i, i + size));
          i += size;
        }
        const got = decodeAll(parts);
        assert.deepEqual(got.wal, wal);
        assert.equal(got.positions.length, messages.length);
      },
    ));
  });

  it("hands on views of the chunk, not copies", () => {
    const chunk = xlogData(START, walBytes(50));
    new CopyBothDecoder(lsn(START), {
      onWal: (_at, bytes) => assert.equal(bytes.buffer, chunk.buffer),
      onServerPosition: () => {},
    }).decode({ bytes: chunk, index: 0 });
  });

  it("stops at a message that is not CopyData", () => {
    const { left, positions } = decodeAll([concat(keepalive(START, 0), frame("N", [0]))]);
    assert.deepEqual(left, [6]);
    assert.equal(positions.length, 1);
  });

  it("takes the longest message, and the last byte of WAL there can be", () => {
    assert.equal(decodeAll([xlogData(START, walBytes(MAX_XLOG_DATA_BYTES))]).wal.length, MAX_XLOG_DATA_BYTES);
    const end = 2n ** 64n - 1n;
    assert.equal(decodeAll([xlogData(end - 5n, walBytes(5), end)], end - 5n).decoder.nextLsn, end);
  });

  const k = (change: (bytes: Uint8Array) => void) => {
    const bytes = keepalive(START, 0);
    change(bytes);
    return bytes;
  };
  for (
    const [what, bytes, text] of [
      ["a gap", xlogData(START + 1n, walBytes(9)), /WAL at 16\/B374D849: want 16\/B374D848/],
      ["an overlap", xlogData(START - 1n, walBytes(9)), /WAL at 16\/B374D847: want 16\/B374D848/],
      ["the same offset 4 GiB on", xlogData(START + 2n ** 32n, walBytes(9)), /WAL at 17\/B374D848/],
      ["another type of message", frame("d", [0x68, 1, 2]), /type 'h', want 'w' or 'k'/],
      ["an unprintable type", frame("d", [7, 1]), /type 0x07/],
      ["an empty CopyData", concat(frame("d", []), keepalive(START, 0)), /length 4, want 5 or more/],
      ["a length below 4", k((b) => b[4] = 3), /length 3/],
      ["a length of 0", k((b) => b[4] = 0), /length 0/],
      ["a negative length", k((b) => b.fill(0xff, 1, 5)), /keepalive: 4294967291 bytes, want 18/],
      ["a short keepalive", k((b) => b[4] = 21), /17 bytes, want 18/],
      ["a long keepalive", k((b) => b[4] = 23), /19 bytes, want 18/],
      ["an XLogData without its header", frame("d", [0x77, ...new Uint8Array(23)]), /24 bytes, want 25 to/],
      [
        "an XLogData that is too long",
        xlogData(START, walBytes(MAX_XLOG_DATA_BYTES + 1)),
        /1048602 bytes, want 25/,
      ],
    ] as const
  ) {
    it(`refuses ${what}`, () => {
      assert.throws(
        () => decodeAll([bytes]),
        (error) => error instanceof ProtocolError && text.test(error.message),
      );
    });
  }

  it("refuses WAL past the last LSN", () => {
    const start = 2n ** 64n - 3n;
    assert.throws(() => decodeAll([xlogData(start, walBytes(3), start)], start), ProtocolError);
  });

  it("throws what the handler throws", () => {
    const decoder = new CopyBothDecoder(lsn(START), {
      onWal: () => {
        throw new Error("disk on fire");
      },
      onServerPosition: () => {},
    });
    assert.throws(() => decoder.decode({ bytes: xlogData(START, walBytes(2)), index: 0 }), /disk on fire/);
  });

  it("never does anything but decode, wait or refuse, whatever comes", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 200 }), (noise) => {
      const bytes = concat(xlogData(START, walBytes(10)), Uint8Array.of(0x64, 0, 0, 0), noise);
      try {
        decodeAll([bytes]);
      } catch (error) {
        assert.ok(error instanceof ProtocolError, String(error));
      }
    }));
  });
});
