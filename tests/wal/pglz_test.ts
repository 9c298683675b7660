import assert from "node:assert/strict";
import { test } from "node:test";
import { decodePglz } from "../../lib/wal/pglz.ts";

test("decodePglz() takes bytes, repetitions, long ones, and those that reach into themselves", () => {
  const cases: readonly (readonly [readonly number[], readonly number[]])[] = [
    [[], []],
    [[0, 1, 2, 3], [1, 2, 3]],
    [[0b1000, 1, 2, 3, 0, 3], [1, 2, 3, 1, 2, 3]],
    [[0b10, 9, 4, 1], Array(8).fill(9)],
    [[0b10, 9, 15, 1, 2], Array(21).fill(9)],
    [[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]],
  ];
  for (const [bytes, content] of cases) {
    assert.deepEqual([...decodePglz(Uint8Array.from(bytes), content.length)], content);
  }
  // A distance of 12 bits.
  const far = [
    ...Array.from({ length: 35 }, (_, k) => [0, ...Array.from({ length: 8 }, (_, i) => k * 8 + i)]).flat(),
  ];
  const content = decodePglz(Uint8Array.from([...far, 1, 0x10, 0x0a]), 283);
  assert.deepEqual([...content.subarray(280)], [280 - 266, 280 - 265, 280 - 264]);
});

test("decodePglz() cuts a repetition at the content's end", () => {
  assert.deepEqual([...decodePglz(Uint8Array.from([0b10, 9, 15, 1, 200]), 5)], [9, 9, 9, 9, 9]);
});

test("decodePglz() refuses what is no such thing", () => {
  const cases: readonly (readonly [readonly number[], number, RegExp])[] = [
    [[1], 3, /0 bytes of content/],
    [[1, 0], 3, /ends inside a repetition/],
    [[1, 0, 1], 3, /a distance of 1 at 0/],
    [[0b10, 9, 0, 0], 4, /a distance of 0 at 1/],
    [[0b10, 9, 15, 1], 40, /ends inside a length/],
    [[0, 1, 2], 3, /2 bytes of content and 0 bytes left over, want 3 and none/],
    [[0, 1, 2, 3], 2, /2 bytes of content and 1 bytes left over/],
    [[], 1, /0 bytes of content/],
  ];
  for (const [bytes, contentBytes, problem] of cases) {
    assert.throws(() => decodePglz(Uint8Array.from(bytes), contentBytes), problem);
  }
});
