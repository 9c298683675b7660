import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { crc32c, crc32cOfRange } from "../../lib/wal/crc32c.ts";

const text = (value: string) => new TextEncoder().encode(value);

const KNOWN: readonly [string, Uint8Array, number][] = [
  ["nothing", new Uint8Array(0), 0],
  ['"123456789"', text("123456789"), 0xe3069283],
  ['"a"', text("a"), 0xc1d04330],
  ["32 bytes of zero (RFC 3720)", new Uint8Array(32), 0x8a9136aa],
  ["32 bytes of 0xFF (RFC 3720)", new Uint8Array(32).fill(255), 0x62a8ab43],
  ["0 to 31 (RFC 3720)", Uint8Array.from({ length: 32 }, (_, i) => i), 0x46dd794e],
  ["31 to 0 (RFC 3720)", Uint8Array.from({ length: 32 }, (_, i) => 31 - i), 0x113fdb5c],
];
for (const [name, bytes, crc] of KNOWN) {
  test(`crc32c() of ${name}`, () => assert.equal(crc32c(bytes), crc));
}

test("crc32c() goes on from the bytes before, wherever they are cut", () => {
  const bytes = Uint8Array.from({ length: 100 }, (_, i) => (i * 37) & 255);
  const whole = crc32c(bytes);
  for (let cut = 0; cut <= bytes.length; cut++) {
    assert.equal(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut))), whole);
    const before = crc32cOfRange(bytes, { start: 0, end: cut }, 0);
    assert.equal(crc32cOfRange(bytes, { start: cut, end: bytes.length }, before), whole);
  }
});

test("crc32c() equals the definition, bit by bit, at any alignment", () => {
  const slow = (bytes: Uint8Array) => {
    let crc = ~0;
    for (const byte of bytes) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    }
    return ~crc >>> 0;
  };
  fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), fc.nat({ max: 9 }), (bytes, skip) => {
    assert.equal(crc32c(bytes.subarray(skip)), slow(bytes.subarray(skip)));
  }));
});

test("crc32c() notices each flipped bit", () => {
  const bytes = text("the write-ahead log of a cluster");
  const good = crc32c(bytes);
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const bad = bytes.slice();
    bad[bit >> 3]! ^= 1 << (bit & 7);
    assert.notEqual(crc32c(bad), good);
  }
});
