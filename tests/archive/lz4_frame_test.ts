import assert from "node:assert/strict";
import { test } from "node:test";
import { lz4BlockEncoder } from "../../lib/archive/lz4_block.ts";
import { decodeLz4BlockHead, decodeLz4FrameHeader, encodeLz4Frame } from "../../lib/archive/lz4_frame.ts";
import { xxHash32 } from "../../lib/archive/xx_hash32.ts";

function header(...bytes: readonly number[]): Uint8Array {
  const hash = xxHash32();
  hash.update(Uint8Array.from(bytes));
  return Uint8Array.of(...bytes, hash.digest() >>> 8 & 255);
}

test("decodeLz4FrameHeader() reads what pg_receivewal writes: linked blocks of 64 KiB, no checksum", () => {
  assert.deepEqual(decodeLz4FrameHeader(header(0x40, 0x40)), {
    headerBytes: 3,
    maximumBlockBytes: 65536,
    linked: true,
    blockChecksums: false,
    contentChecksum: false,
    contentBytes: undefined,
  });
});

test("decodeLz4FrameHeader() reads what lz4 writes, and the content size", () => {
  assert.deepEqual(decodeLz4FrameHeader(header(0x64, 0x70)), {
    headerBytes: 3,
    maximumBlockBytes: 4 << 20,
    linked: false,
    blockChecksums: false,
    contentChecksum: true,
    contentBytes: undefined,
  });
  assert.equal(decodeLz4FrameHeader(header(0x6c, 0x50, 5, 0, 0, 0, 1, 0, 0, 0))?.contentBytes, 2 ** 32 + 5);
});

test("decodeLz4FrameHeader() wants more, wherever it is cut, and refuses any other bit", () => {
  const whole = header(0x7c, 0x70, 1, 2, 3, 0, 0, 0, 0, 0);
  for (let length = 0; length < whole.length; length++) {
    assert.equal(decodeLz4FrameHeader(whole.subarray(0, length)), undefined);
  }
  for (let bit = 0; bit < whole.length * 8; bit++) {
    const other = whole.slice();
    other[bit >>> 3]! ^= 1 << (bit & 7);
    assert.throws(() => decodeLz4FrameHeader(other), SyntaxError);
  }
  const refused = [
    [header(0x80, 0x40), /version 2/],
    [header(0x42, 0x40), /reserved/],
    [header(0x40, 0x41), /reserved/],
    [header(0x41, 0x40, 0, 0, 0, 0), /dictionary/],
    [header(0x40, 0x30), /block size 3/],
  ] as const;
  for (const [bytes, problem] of refused) assert.throws(() => decodeLz4FrameHeader(bytes), problem);
});

test("encodeLz4Frame() makes a whole frame of one block", () => {
  const tools = { hash: xxHash32, encodeBlock: lz4BlockEncoder() };
  const empty = encodeLz4Frame(new Uint8Array(0), tools);
  assert.deepEqual([...empty.subarray(15)], [0, 0, 0, 0, 0x05, 0x5d, 0xcc, 0x02]);
  const noise = Uint8Array.from({ length: 40 }, (_, index) => index * 97 & 255);
  const stored = encodeLz4Frame(noise, tools);
  assert.deepEqual(decodeLz4BlockHead(stored.subarray(15)), { bytes: 40, stored: true });
  assert.equal(stored.length, 15 + 4 + 40 + 4 + 8);
  const zeros = encodeLz4Frame(new Uint8Array(1 << 20), tools);
  assert.equal(decodeLz4FrameHeader(zeros.subarray(4))?.contentBytes, 1 << 20);
  assert.equal(decodeLz4BlockHead(zeros.subarray(15)).stored, false);
  assert.throws(() => encodeLz4Frame(new Uint8Array((1 << 20) + 1), tools), RangeError);
});
