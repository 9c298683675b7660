import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeLz4Block, lz4BlockEncoder } from "../../lib/archive/lz4_block.ts";
import { Random } from "../simulation/random.ts";

const encode = lz4BlockEncoder();

function encoded(content: Uint8Array): Uint8Array {
  const target = new Uint8Array(content.length + Math.ceil(content.length / 255) + 16);
  const length = encode(content, target);
  assert.ok(length !== undefined);
  return target.subarray(0, length);
}

function decoded(block: Uint8Array, contentBytes: number): Uint8Array {
  const target = new Uint8Array(contentBytes);
  return target.subarray(0, decodeLz4Block(block, target, 0));
}

/** Content of many kinds: repetitions near and far, long and short, and noise between them. */
function* contents(): Iterable<Uint8Array> {
  for (const length of [0, 1, 4, 5, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 32, 64]) {
    yield new Uint8Array(length);
    yield Uint8Array.from({ length }, (_, index) => index);
    yield Uint8Array.from({ length }, (_, index) => index % 3);
  }
  for (const length of [269, 270, 271, 272, 273, 274, 275, 524, 529, 1000]) {
    yield new Uint8Array(length).fill(7);
  }
  const random = new Random(1);
  for (let round = 0; round < 300; round++) {
    const bytes = new Uint8Array(random.pick([50, 700, 5000, 200_000]));
    for (let at = 0; at < bytes.length;) {
      const count = Math.min(bytes.length - at, random.pick([1, 3, 5, 14, 15, 16, 40, 300, 70_000]));
      const distance = random.pick([1, 2, 3, 7, 100, 4000, 65_535, 65_536]);
      for (const end = at + count; at < end; at++) {
        bytes[at] = distance <= at && round % 3 > 0 ? bytes[at - distance]! : random.next() * 256;
      }
    }
    yield bytes;
  }
}

test("lz4BlockEncoder() makes what decodeLz4Block() takes apart", () => {
  for (const content of contents()) {
    const block = encoded(content);
    assert.ok(Buffer.compare(decoded(block, content.length), content) === 0);
    // A target that is just too short is noticed, and nothing is written behind it.
    const short = new Uint8Array(block.length + 8).fill(255);
    assert.equal(encode(content, short.subarray(0, block.length - 1)), undefined);
    assert.ok(short.subarray(block.length - 1).every((byte) => byte === 255));
  }
});

test("lz4BlockEncoder() makes repetitions short", () => {
  assert.ok(encoded(new Uint8Array(100_000)).length < 420);
  const page = Uint8Array.from({ length: 8192 }, (_, index) => index * index >>> 3 & 255);
  const twice = new Uint8Array(16384);
  twice.set(page);
  twice.set(page, 8192);
  assert.ok(encoded(twice).length < encoded(page).length + 60);
});

test("decodeLz4Block() refers to content before the block", () => {
  const target = new Uint8Array(20);
  target.set([1, 2, 3, 4, 5]);
  // No literals, distance 5, 8 bytes; then one literal.
  const block = Uint8Array.of(0x04, 5, 0, 0x10, 9);
  assert.equal(decodeLz4Block(block, target, 5), 14);
  assert.deepEqual([...target.subarray(5, 14)], [1, 2, 3, 4, 5, 1, 2, 3, 9]);
  block[1] = 6;
  assert.throws(() => decodeLz4Block(block, target, 5), /never there/);
});

test("decodeLz4Block() refuses a block that is cut off anywhere, or has other bytes", () => {
  const content = Uint8Array.from({ length: 600 }, (_, index) => index < 300 ? index * index >>> 2 & 255 : 7);
  const block = encoded(content);
  for (let length = 0; length < block.length; length++) {
    try {
      // Behind whole literals a block may end: less content, and that shows.
      assert.ok(decoded(block.subarray(0, length), content.length).length < content.length);
    } catch (error) {
      assert.ok(error instanceof SyntaxError);
    }
  }
  for (let at = 0; at < block.length * 8; at++) {
    const other = block.slice();
    other[at >>> 3]! ^= 1 << (at & 7);
    try {
      assert.ok(decoded(other, content.length).length <= content.length);
    } catch (error) {
      assert.ok(error instanceof SyntaxError);
    }
  }
});
