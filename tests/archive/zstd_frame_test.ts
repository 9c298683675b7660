import assert from "node:assert/strict";
import { test } from "node:test";
import * as zlib from "node:zlib";
import { decodeZstdFrameHeader, isSkippableMagic, ZstdFrameWalker } from "../../lib/archive/zstd_frame.ts";

const { ZSTD_c_checksumFlag, ZSTD_c_contentSizeFlag } = zlib.constants;

function frameOf(
  content: Uint8Array,
  options: { readonly checksum?: boolean; readonly size?: boolean } = {},
) {
  const { checksum = true, size = true } = options;
  return zlib.zstdCompressSync(content, {
    params: { [ZSTD_c_checksumFlag]: Number(checksum), [ZSTD_c_contentSizeFlag]: Number(size) },
    // In one go: Deno 2.9 adds an empty frame when the room does not suffice.
    ...{ pledgedSrcSize: content.length, chunkSize: content.length + 1024 },
  });
}

const NOISE = Uint8Array.from({ length: 300_000 }, (_, index) => Math.imul(index, 0x9e3779b1) >>> 13 & 255);

test("decodeZstdFrameHeader() reads sizes of every length", () => {
  for (const length of [0, 1, 255, 256, 300, 65_791, 65_792, 300_000]) {
    const frame = frameOf(NOISE.subarray(0, length));
    const header = decodeZstdFrameHeader(frame);
    assert.equal(header?.contentBytes, length);
    assert.equal(header?.hasChecksum, true);
    for (let cut = 0; cut < header.headerBytes; cut++) {
      assert.equal(decodeZstdFrameHeader(frame.subarray(0, cut)), undefined);
    }
  }
  assert.equal(decodeZstdFrameHeader(frameOf(NOISE, { size: false }))?.contentBytes, undefined);
  assert.equal(decodeZstdFrameHeader(frameOf(NOISE, { checksum: false }))?.hasChecksum, false);
  const eight = Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, 0xc0, 0x58, 1, 0, 0, 0, 1, 0, 0, 0);
  assert.deepEqual(decodeZstdFrameHeader(eight), {
    headerBytes: 14,
    contentBytes: 2 ** 32 + 1,
    windowBytes: 2 << 20,
    hasChecksum: false,
  });
});

test("decodeZstdFrameHeader() refuses what it can't read", () => {
  const frame = (flags: number, ...rest: number[]) =>
    Uint8Array.of(0x28, 0xb5, 0x2f, 0xfd, flags, ...rest, 0, 0, 0, 0);
  assert.throws(() => decodeZstdFrameHeader(Uint8Array.of(1, 2, 3, 4, 5)), /magic/);
  assert.throws(() => decodeZstdFrameHeader(frame(0x28)), /reserved/);
  assert.throws(() => decodeZstdFrameHeader(frame(0x21, 7)), /dictionary/);
  assert.equal(decodeZstdFrameHeader(frame(0x21, 0, 9))?.contentBytes, 9);
});

const FRAMES = [
  frameOf(new Uint8Array(0)),
  frameOf(NOISE.subarray(0, 50)),
  frameOf(new Uint8Array(2000)),
  frameOf(NOISE.subarray(0, 500), { checksum: false, size: false }),
];

test("ZstdFrameWalker finds the end, wherever the bytes are cut", () => {
  for (const frame of FRAMES) {
    const followed = new Uint8Array(frame.length + 9).fill(0x28);
    followed.set(frame);
    for (let cut = 0; cut <= followed.length; cut++) {
      const walker = new ZstdFrameWalker();
      const first = walker.push(followed.subarray(0, cut));
      assert.equal(first, Math.min(cut, frame.length));
      assert.equal(walker.done, cut >= frame.length);
      assert.equal(first + walker.push(followed.subarray(cut)), frame.length);
      assert.equal(walker.done, true);
    }
    const walker = new ZstdFrameWalker();
    for (const byte of frame) {
      assert.equal(walker.done, false);
      assert.equal(walker.push(Uint8Array.of(byte)), 1);
    }
    assert.equal(walker.done, true);
  }
  const several = new ZstdFrameWalker();
  const large = frameOf(NOISE);
  assert.equal(several.push(large), large.length);
  assert.equal(several.done, true);
});

test("ZstdFrameWalker refuses blocks that can't be", () => {
  const header = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 9];
  assert.throws(() => new ZstdFrameWalker().push(Uint8Array.of(...header, 0x07, 0, 0)), /reserved kind/);
  assert.throws(() => new ZstdFrameWalker().push(Uint8Array.of(...header, 0x00, 0, 0xff)), /at most 128 KiB/);
});

test("isSkippableMagic() knows all sixteen", () => {
  for (let low = 0; low < 16; low++) assert.equal(isSkippableMagic(0x184d2a50 + low), true);
  for (const magic of [0x184d2a4f, 0x184d2a60, 0x184d2204, 0xfd2fb528]) {
    assert.equal(isSkippableMagic(magic), false);
  }
});
