import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import * as zlib from "node:zlib";
import {
  type CompressionFormat,
  DamagedFileError,
  decompress,
  decompressUnfinished,
  FORM_OF_FORMAT,
  formatCompression,
  parseCompression,
  PieceCompressor,
} from "../../lib/archive/compression.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";
import { memoryFile } from "./memory_file.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

const FORMATS: readonly CompressionFormat[] = ["zstd", "gzip", "lz4"];

function compress(text: string, content: Uint8Array, cutAt = content.length): Uint8Array {
  const compression = parseCompression(text);
  assert.ok(compression !== undefined);
  const compressor = new PieceCompressor(compression);
  return Buffer.concat([
    ...compressor.push(content.subarray(0, cutAt)),
    ...compressor.push(content.subarray(cutAt)),
    ...compressor.end(),
  ]);
}

async function read(format: CompressionFormat, file: Uint8Array, wantBytes: number): Promise<Uint8Array> {
  const content = new Uint8Array(wantBytes);
  let end = 0;
  await decompress(memoryFile(file), { format, label: "file", wantBytes }, (bytes, position) => {
    assert.equal(position, end);
    content.set(bytes, position);
    end += bytes.length;
    return "more";
  });
  assert.equal(end, wantBytes);
  return content;
}

/** Damage is found, or does not matter: never other content. */
async function foundOrHarmless(
  format: CompressionFormat,
  file: Uint8Array,
  content: Uint8Array,
): Promise<"found" | "harmless"> {
  let got: Uint8Array;
  try {
    got = await read(format, file, content.length);
  } catch (error) {
    assert.ok(error instanceof DamagedFileError, String(error));
    return "found";
  }
  assert.ok(Buffer.compare(got, content) === 0, "damage gave other content");
  return "harmless";
}

const SMALL = Uint8Array.from(
  { length: 400 },
  (_, index) => index < 150 ? index * index >>> 2 & 255 : index % 5,
);
const NOISE = Uint8Array.from({ length: 60 }, (_, index) => Math.imul(index, 0x9e3779b1) >>> 13 & 255);
/** More than a piece, and no whole number of pieces. */
const LARGE = Uint8Array.from({ length: 9 * MIB + 123 }, (_, index) => index * index >>> 9 & 63);

const [SEGMENT] = buildWal({
  startLsn: 3n * BigInt(MIB),
  segmentBytes: MIB,
  records: Array.from({ length: 300 }, () => ({ totalBytes: 5000 })),
}).segments;
if (SEGMENT === undefined) throw new Error("Cannot make WAL");

for (const format of FORMATS) {
  for (
    const [kind, content] of Object.entries({
      small: SMALL,
      noise: NOISE,
      large: LARGE,
      none: new Uint8Array(0),
    })
  ) {
    test(`decompress() reads what PieceCompressor wrote: ${format}, ${kind}`, async () => {
      for (const cutAt of [0, 1, content.length >>> 1, content.length]) {
        const file = compress(format, content, cutAt);
        assert.ok(Buffer.compare(await read(format, file, content.length), content) === 0);
      }
    });
  }

  for (const [kind, content] of Object.entries({ small: SMALL, noise: NOISE })) {
    test(`decompress() finds a file cut off anywhere: ${format}, ${kind}`, async () => {
      const file = compress(format, content);
      for (let length = 0; length < file.length; length++) {
        assert.equal(
          await foundOrHarmless(format, file.subarray(0, length), content),
          "found",
          `at ${length}`,
        );
      }
    });

    test(`decompress() finds each flipped bit that matters: ${format}, ${kind}`, async () => {
      const file = compress(format, content);
      let harmless = 0;
      for (let bit = 0; bit < file.length * 8; bit++) {
        const other = file.slice();
        other[bit >>> 3]! ^= 1 << (bit & 7);
        if (await foundOrHarmless(format, other, content) === "harmless") harmless++;
      }
      // A header of gzip has a time, flags and the like; one of zstd a bit without a meaning, and its window's size.
      assert.ok(harmless <= { zstd: 16, gzip: 68, lz4: 0 }[format], `${harmless} flips without effect`);
    });
  }

  test(`decompress() finds missing and repeated pieces, and what follows the end: ${format}`, async () => {
    const file = compress(format, LARGE);
    const compressor = new PieceCompressor({ format, level: 1 });
    const [first] = compressor.push(LARGE.subarray(0, MIB));
    assert.ok(first !== undefined);
    for (
      const other of [
        first,
        file.subarray(first.length),
        Buffer.concat([file, file]),
        Buffer.concat([file, Uint8Array.of(1)]),
        Buffer.concat([file, Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8)]),
        file.subarray(0, file.length - 1),
      ]
    ) {
      assert.equal(await foundOrHarmless(format, other, LARGE), "found");
    }
    await assert.rejects(read(format, file, LARGE.length + 1), DamagedFileError);
    await assert.rejects(read(format, file, LARGE.length - 1), DamagedFileError);
  });

  test(`decompress() stops when no more is wanted, and tells the reader's and the taker's own errors: ${format}`, async () => {
    const file = compress(format, LARGE);
    const source = { format, label: "file", wantBytes: LARGE.length };
    let calls = 0;
    await decompress(memoryFile(file), source, () => {
      calls++;
      return "enough";
    });
    assert.equal(calls, 1);
    const full = new Error("no room");
    await assert.rejects(
      decompress(memoryFile(file), source, () => {
        throw full;
      }),
      (error) => error === full,
    );
    const broken = Object.assign(new Error("EIO"), { code: "EIO" });
    const failing = { ...memoryFile(file), read: () => Promise.reject(broken) };
    await assert.rejects(decompress(failing, source, () => "more"), (error) => error === broken);
  });
}

for (const format of FORMATS) {
  test(`decompressUnfinished() reads what there is: ${format}`, async () => {
    // Half of it can't be made shorter, so that a file's length tells how much content it holds.
    const content = Uint8Array.from(
      { length: 9 * MIB },
      (_, index) => index & 64 ? Math.imul(index, 0x9e3779b1) >>> (index >>> 12 & 15) & 255 : 0,
    );
    const file = compress(format, content);
    const readable = async (bytes: Uint8Array, rightBytes = content.length): Promise<number> => {
      let end = 0;
      const source = { format, label: "file", maximumBytes: content.length };
      await decompressUnfinished(memoryFile(bytes), source, (piece, position) => {
        assert.equal(position, end);
        end += piece.length;
        const right = Math.max(0, Math.min(rightBytes, end) - position);
        const got = piece.subarray(0, right);
        assert.ok(Buffer.compare(got, content.subarray(position, position + right)) === 0);
        return "more";
      });
      return end;
    };
    assert.equal(await readable(file), content.length);
    assert.equal(await readable(file.subarray(0, 0)), 0);
    for (const share of [0.3, 0.6, 0.9, 0.99]) {
      const bytes = await readable(file.subarray(0, Math.floor(file.length * share)));
      // As far as the last whole block: our own lz4 has large ones.
      const least = share * content.length - (format === "lz4" ? 1.5 : 0.5) * MIB;
      assert.ok(bytes >= least && bytes < content.length, `${bytes} bytes of ${content.length} at ${share}`);
    }
    // Something else may follow, as an earlier, longer file left it: its content is not right, what comes before is.
    const garbled = file.slice();
    garbled.fill(0xaa, file.length >>> 1);
    await readable(garbled, 0.4 * content.length);
  });
}

test("decompress() reads zstd frames of unknown size, frames to be skipped, and several in a row", async () => {
  const { ZSTD_c_contentSizeFlag, ZSTD_c_checksumFlag } = zlib.constants;
  const unsized = (content: Uint8Array) =>
    zlib.zstdCompressSync(content, { params: { [ZSTD_c_contentSizeFlag]: 0, [ZSTD_c_checksumFlag]: 1 } });
  const skippable = Uint8Array.of(0x57, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3);
  const half = LARGE.length >>> 1;
  const file = Buffer.concat([
    skippable,
    unsized(LARGE.subarray(0, half)),
    skippable,
    compress("zstd", LARGE.subarray(half)),
    skippable,
  ]);
  assert.ok(Buffer.compare(await read("zstd", file, LARGE.length), LARGE) === 0);
  const small = Buffer.concat([skippable, unsized(SMALL)]);
  for (let length = 0; length < small.length; length++) {
    assert.equal(await foundOrHarmless("zstd", small.subarray(0, length), SMALL), "found", `at ${length}`);
  }
  for (let bit = 0; bit < small.length * 8; bit++) {
    const other = small.slice();
    other[bit >>> 3]! ^= 1 << (bit & 7);
    await foundOrHarmless("zstd", other, SMALL);
  }
});

/** As pg_receivewal writes it: linked blocks of 64 KiB, nothing to check them by. */
function withoutChecksums(content: Uint8Array): Uint8Array {
  const parts: Uint8Array[] = [Uint8Array.of(0x04, 0x22, 0x4d, 0x18, 0x40, 0x40, 0xc0)];
  for (let at = 0; at < content.length; at += 65536) {
    const frame = compress("lz4", content.subarray(at, at + 65536));
    // Its head and its block, without the header before and the checksums after.
    parts.push(frame.subarray(15, frame.length - 12));
  }
  return Buffer.concat([...parts, new Uint8Array(4)]);
}

test("decompress() proves content without a checksum by its records", async () => {
  const unchecked: readonly (readonly [CompressionFormat, Uint8Array])[] = [
    ["lz4", withoutChecksums(SEGMENT)],
    ["zstd", zlib.zstdCompressSync(SEGMENT)],
  ];
  for (const [format, file] of unchecked) {
    assert.ok(Buffer.compare(await read(format, file, MIB), SEGMENT) === 0);
    for (let length = 0; length < file.length; length += 997) {
      assert.equal(await foundOrHarmless(format, file.subarray(0, length), SEGMENT), "found");
    }
    for (let at = 0; at < file.length; at += 997) {
      const other = file.slice();
      other[at]! ^= 1 << (at & 7);
      await foundOrHarmless(format, other, SEGMENT);
    }
  }
  // No segment, so no proof.
  await assert.rejects(
    read("lz4", withoutChecksums(SMALL), SMALL.length),
    /no checksum, and it does not begin/,
  );
  const other = SEGMENT.slice();
  other[500_000]! ^= 1;
  await assert.rejects(
    read("lz4", withoutChecksums(other), MIB),
    /no checksum, and its records are valid up to 0\/3/,
  );
  const mixed = Buffer.concat([
    compress("lz4", SEGMENT.subarray(0, 131_072)),
    withoutChecksums(SEGMENT.subarray(131_072)),
  ]);
  await assert.rejects(read("lz4", mixed, MIB), /a frame without a checksum follows one with it/);
});

test("decompress() refuses what is something else", async () => {
  for (const format of FORMATS) {
    for (const other of FORMATS.filter((name) => name !== format)) {
      assert.equal(await foundOrHarmless(format, compress(other, SMALL), SMALL), "found");
    }
    assert.equal(await foundOrHarmless(format, SMALL, SMALL), "found");
  }
});

test("a gzip file is one member: older tools read the content's size from its end", () => {
  const file = compress("gzip:1", LARGE);
  assert.equal(new DataView(file.buffer, file.byteOffset + file.length - 4).getUint32(0, true), LARGE.length);
  assert.ok(Buffer.compare(zlib.gunzipSync(file), LARGE) === 0);
});

const TOOLS: readonly {
  readonly format: CompressionFormat;
  readonly command: string;
  readonly ways: readonly (readonly string[])[];
}[] = [
  {
    format: "zstd",
    command: "zstd",
    ways: [["-1"], ["-19"], ["--no-check", "-3"], ["--fast=5"], ["--long=27", "-3"], [
      "--no-content-size",
      "-1",
    ]],
  },
  { format: "gzip", command: "gzip", ways: [["-1"], ["-9"]] },
  {
    format: "lz4",
    command: "lz4",
    ways: [["-1"], ["-9"], ["-BD", "-B4"], ["-BX", "-B5"], ["--no-frame-crc"], ["--content-size", "-BD"]],
  },
];

for (const { format, command, ways } of TOOLS) {
  const missing = spawnSync(command, ["--version"]).error !== undefined;
  test(
    `${command} reads our files and we read its`,
    { skip: missing && `${command} is not installed` },
    () =>
      inTemporaryDirectory(async (directory) => {
        const compressed = join(directory, "compressed" + FORM_OF_FORMAT[format]);
        const input = join(directory, "input");
        const output = join(directory, "output");
        const shell = (script: string, options: readonly string[]): Uint8Array => {
          const env = { ...process.env, COMPRESSED: compressed, INPUT: input, OUTPUT: output };
          const run = spawnSync("sh", ["-c", script, command, ...options], { env, encoding: "utf8" });
          assert.equal(run.status, 0, run.stderr);
          return fs.readFileSync(output);
        };
        for (const content of [SEGMENT, LARGE]) {
          fs.writeFileSync(compressed, compress(format, content));
          assert.ok(Buffer.compare(shell('"$0" -dc "$COMPRESSED" >"$OUTPUT"', []), content) === 0);
        }
        for (const way of ways) {
          // What has no checksum must be a segment.
          const content = way.some((option) => option.startsWith("--no")) ? SEGMENT : LARGE;
          fs.writeFileSync(input, content);
          // Out of a pipe the tool does not know the size before the end.
          for (
            const script of ['"$0" -c "$@" "$INPUT" >"$OUTPUT"', 'cat "$INPUT" | "$0" -c "$@" >"$OUTPUT"']
          ) {
            const got = await read(format, shell(script, way), content.length);
            assert.ok(Buffer.compare(got, content) === 0, way.join(" "));
          }
        }
      }),
  );
}

test("parseCompression() reads a format and a level", () => {
  assert.equal(parseCompression("none"), undefined);
  for (
    const [text, want, short = text] of [
      ["zstd", { format: "zstd", level: 1 }],
      ["zstd:1", { format: "zstd", level: 1 }, "zstd"],
      ["zstd:19", { format: "zstd", level: 19 }],
      ["gzip", { format: "gzip", level: 6 }],
      ["gzip:9", { format: "gzip", level: 9 }],
      ["gzip:level=1", { format: "gzip", level: 1 }, "gzip:1"],
      ["lz4", { format: "lz4", level: 1 }],
      ["lz4:1", { format: "lz4", level: 1 }, "lz4"],
    ] as const
  ) {
    const compression = parseCompression(text);
    assert.deepEqual(compression, want);
    assert.equal(formatCompression(want), short);
  }
  const refused: readonly (readonly [text: string, error: RegExp])[] = [
    ["", /^SyntaxError: Cannot compress with "": want zstd, gzip, lz4 or none$/],
    ["brotli", /^SyntaxError: Cannot compress with "brotli": want zstd/],
    ["ZSTD", /^SyntaxError/],
    ["none:1", /^SyntaxError/],
    ["gzip:", /^SyntaxError: Cannot compress with "gzip:": the level is "", want a number as in gzip:1$/],
    ["gzip:fast", /^SyntaxError/],
    ["gzip:1.5", /^SyntaxError/],
    ["gzip:0", /^RangeError: Cannot compress with "gzip:0": gzip has no level 0, want 1 to 9$/],
    ["gzip:10", /^RangeError/],
    ["zstd:20", /^RangeError/],
    ["zstd:0", /^RangeError/],
    ["zstd:-1", /^RangeError/],
    ["lz4:2", /^RangeError: Cannot compress with "lz4:2": lz4 has no level 2, want 1, its only one$/],
  ];
  for (const [text, want] of refused) {
    assert.throws(() => parseCompression(text), (error) => want.test(String(error)));
  }
});
