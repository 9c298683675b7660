import assert from "node:assert/strict";
import { test } from "node:test";
import * as zlib from "node:zlib";
import { crc32 } from "../../lib/archive/content_crc.ts";

test("crc32() is the CRC-32 of zlib, in whatever pieces the bytes come", () => {
  const bytes = Uint8Array.from({ length: 10_000 }, (_, i) => (i * 31) >>> 3);
  const whole = crc32()(bytes, 0);
  assert.equal(whole, zlib.crc32(bytes));
  assert.equal(crc32()(new TextEncoder().encode("123456789"), 0), 0xcbf43926);
  for (const cut of [0, 1, 4096, 9999, 10_000]) {
    assert.equal(crc32()(bytes.subarray(cut), crc32()(bytes.subarray(0, cut), 0)), whole);
  }
});
