import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { decodeLz4Block } from "../../lib/archive/lz4_block.ts";
import { zlib } from "../../lib/archive/zlib.ts";
import { type BlockReference, decodeRecordBody, restoreImage } from "../../lib/wal/record_body.ts";

/** A record that a server wrote, and what PostgreSQL's own programs say of it; see fixtures/wal/pick_records.ts. */
interface Picked {
  readonly major: number;
  readonly shapes: readonly string[];
  readonly view: readonly string[];
  readonly bytes: string;
}

const FIXTURE = new URL("../fixtures/wal/records.json.gz", import.meta.url);
const PICKED: readonly Picked[] = JSON.parse(gunzipSync(readFileSync(FIXTURE)).toString("utf8"));
const HEADER = Array<number>(24).fill(0);
const FILE = [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0];
const BLOCK = [9, 0, 0, 0];

const DECODERS = {
  lz4(bytes: Uint8Array, contentBytes: number) {
    const content = new Uint8Array(contentBytes);
    return content.subarray(0, decodeLz4Block(bytes, content, 0));
  },
  zstd: (bytes: Uint8Array) => zlib().zstdDecompressSync(bytes),
};

function body(...parts: readonly number[]) {
  return decodeRecordBody(Uint8Array.from([...HEADER, ...parts]), 15);
}

function md5(bytes: Uint8Array): string {
  return createHash("md5").update(bytes).digest("hex");
}

function blockView({ id, file, fork, block, image, data }: BlockReference): string {
  const compression = image?.compression ?? "none";
  const flags = image === undefined ? [] : [
    ...(image.holeBytes > 0 ? ["HAS_HOLE"] : []),
    ...(image.apply ? ["APPLY"] : []),
    ...(compression === "none" ? [] : [`COMPRESS_${compression.toUpperCase()}`]),
  ];
  return `#${id} ${file.tablespace}/${file.database}/${file.relation} fork ${fork} ${block} ` +
    `data ${data.length} ${data.length === 0 ? "" : md5(data)} ` +
    `image ${image?.bytes.length ?? 0} ${flags.join()} ${
      image === undefined ? "" : md5(restoreImage(image, DECODERS))
    }`;
}

for (const major of new Set(PICKED.map((picked) => picked.major))) {
  test(`decodeRecordBody() and restoreImage() see real records of PostgreSQL ${major} as the server does`, () => {
    const ofMajor = PICKED.filter((picked) => picked.major === major);
    assert.ok(ofMajor.length > 20);
    for (const { shapes, view, bytes } of ofMajor) {
      const { blocks, mainData, origin, topXid } = decodeRecordBody(Buffer.from(bytes, "base64"), major);
      const [head = "", ...blockViews] = view;
      assert.deepEqual(blocks.map(blockView), blockViews);
      const imageBytes = blocks.reduce((sum, { image }) => sum + (image?.bytes.length ?? 0), 0);
      assert.ok(head.endsWith(`/${mainData.length}/${imageBytes}`), head);
      if (shapes.includes("origin")) assert.equal(origin, 1);
      if (shapes.includes("top xid")) assert.ok(topXid !== undefined && topXid > 700);
    }
  });
}

function decodedOrUndefined(bytes: Uint8Array, major: number) {
  try {
    return decodeRecordBody(bytes, major);
  } catch (error) {
    assert.ok(error instanceof SyntaxError);
    return undefined;
  }
}

test("real records, cut after each byte, are refused or have fewer parts", () => {
  for (const { major, bytes } of PICKED) {
    const whole = Buffer.from(bytes, "base64");
    for (let end = 24; end < Math.min(whole.length, 400); end++) {
      const cut = decodedOrUndefined(whole.subarray(0, end), major);
      if (cut === undefined) continue;
      // It may be a shorter record: the length of what follows the headers tells where they end.
      assert.equal(cut.mainData.length, 0);
      const seen = cut.blocks.map(({ id, file, fork, block }) => ({ id, file, fork, block }));
      const { blocks } = decodeRecordBody(whole, major);
      const real = blocks.map(({ id, file, fork, block }) => ({ id, file, fork, block }));
      assert.deepEqual(seen, real.slice(0, seen.length));
    }
    assert.throws(() => decodeRecordBody(Buffer.concat([whole, Buffer.of(0)]), major), SyntaxError);
  }
});

test("a record may have nothing but its header", () => {
  assert.deepEqual(body(), { blocks: [], mainData: new Uint8Array(0), origin: undefined, topXid: undefined });
});

test("decodeRecordBody() refuses what no server writes, and says what", () => {
  const cases: readonly (readonly [readonly number[], RegExp])[] = [
    [[33, 0, 0, 0], /part 33, want a block up to 32 or 252 to 255/],
    [[251], /part 251/],
    [[255, 3, 1, 2], /2 bytes after the headers, want 3/],
    [[255, 1, 1, 2], /2 bytes after the headers, want 1/],
    [[254, 0, 0], /it ends inside the headers/],
    [[254, 0xff, 0xff, 0xff, 0xff, 1], /1 bytes after the headers, want 4294967295/],
    [[0, 0x80, 0, 0, ...BLOCK], /block 0 of the file of a block before/],
    [[0, 0x20, 0, 0, ...FILE, ...BLOCK], /block 0 with 0 bytes of data, want some/],
    [[0, 0, 1, 0, ...FILE, ...BLOCK, 7], /block 0 with 1 bytes of data, want none/],
    [[0, 4, 0, 0, ...FILE, ...BLOCK], /block 0 of fork 4/],
    [[1, 0, 0, 0, ...FILE, ...BLOCK, 1, 0x80, 0, 0, ...BLOCK], /block 1 after block 1/],
    // Images: no bytes, a hole that is not there, one that goes too far, one without a place.
    [[0, 0x10, 0, 0, 0, 0, 0, 0, ...FILE, ...BLOCK], /an image of block 0 of 0 bytes/],
    [[0, 0x10, 0, 0, 1, 0, 0, 0, 0, ...FILE, ...BLOCK, 1], /an image of block 0 of 1 bytes/],
    [[0, 0x10, 0, 0, 1, 0, 1, 0, 0, ...FILE, ...BLOCK, 1], /hole/],
    [[0, 0x10, 0, 0, 1, 0, 0xff, 0x1f, 1, ...FILE, ...BLOCK, 1], /a hole of 8191 at 8191/],
    [[0, 0x10, 0, 0, 1, 0, 0, 0, 5, 9, 0, ...FILE, ...BLOCK, 1], /a hole of 9 at 0/],
  ];
  for (const [parts, problem] of cases) assert.throws(() => body(...parts), problem);
});

test("the flags of images changed their meaning with version 15", () => {
  const image = (flags: number, majorVersion: number, holeBytes: readonly number[]) => {
    const parts = [0, 0x10, 0, 0, 2, 0, 1, 0, flags, ...holeBytes, ...FILE, ...BLOCK, 1, 2];
    return decodeRecordBody(Uint8Array.from([...HEADER, ...parts]), majorVersion).blocks[0]?.image;
  };
  const seen = (flags: number, majorVersion: number, holeBytes: readonly number[] = []) => {
    const { compression, apply, holeBytes: hole } = image(flags, majorVersion, holeBytes) ?? assert.fail();
    return [compression, apply, hole];
  };
  assert.deepEqual(seen(1, 14), ["none", false, 8190]);
  assert.deepEqual(seen(1 | 4, 14), ["none", true, 8190]);
  assert.deepEqual(seen(1 | 2, 14, [5, 0]), ["pglz", false, 5]);
  assert.deepEqual(seen(1 | 2, 15), ["none", true, 8190]);
  assert.deepEqual(seen(1 | 4, 15, [5, 0]), ["pglz", false, 5]);
  assert.deepEqual(seen(1 | 8, 18, [5, 0]), ["lz4", false, 5]);
  assert.deepEqual(seen(1 | 16 | 2, 18, [5, 0]), ["zstd", true, 5]);
  assert.deepEqual(seen(1 | 16 | 8, 18, [5, 0]), ["unknown", false, 5]);
});

test("restoreImage() wants a decoder, and refuses content of another length", () => {
  const image = { bytes: Uint8Array.of(1), holeOffset: 100, holeBytes: 8000, apply: true, flags: 0 };
  assert.throws(
    () => restoreImage({ ...image, compression: "lz4" }),
    /compression lz4, want one with a decoder/,
  );
  assert.throws(() => restoreImage({ ...image, compression: "unknown" }, DECODERS), TypeError);
  assert.throws(() => restoreImage({ ...image, compression: "none" }), /1 bytes, want 192/);
  assert.throws(
    () => restoreImage({ ...image, compression: "lz4" }, { lz4: () => new Uint8Array(9) }),
    /9 bytes/,
  );
  assert.throws(() => restoreImage({ ...image, compression: "pglz" }), SyntaxError);
});
