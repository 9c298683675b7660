import assert from "node:assert/strict";
import { test } from "node:test";
import { xxHash32 } from "../../lib/archive/xx_hash32.ts";

function hashOf(...parts: readonly Uint8Array[]): number {
  const hash = xxHash32();
  for (const part of parts) hash.update(part);
  return hash.digest();
}

const KNOWN: readonly (readonly [text: string, hash: number])[] = [
  ["", 0x02cc5d05],
  ["a", 0x550d7456],
  ["abc", 0x32d153ff],
  ["Nobody inspects the spammish repetition", 0xe2293b2f],
];

for (const [text, hash] of KNOWN) {
  test(`xxHash32() of "${text}"`, () => assert.equal(hashOf(new TextEncoder().encode(text)), hash));
}

test("xxHash32() does not care where its input is cut", () => {
  const bytes = Uint8Array.from({ length: 70 }, (_, index) => index * 37 & 255);
  const whole = hashOf(bytes);
  for (let first = 0; first <= bytes.length; first++) {
    for (let second = first; second <= bytes.length; second++) {
      const parts = [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)];
      assert.equal(hashOf(...parts), whole);
    }
  }
});
