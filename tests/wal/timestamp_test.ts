import assert from "node:assert/strict";
import { test } from "node:test";
import {
  formatTimestamp,
  POSTGRES_EPOCH_US,
  timestamp,
  timestampOfUnix,
  unixMicroseconds,
} from "../../lib/wal/timestamp.ts";

test("formatTimestamp() writes moments as PostgreSQL does", () => {
  const table: readonly (readonly [bigint, string])[] = [
    [0n, "2000-01-01 00:00:00+00"],
    [1n, "2000-01-01 00:00:00.000001+00"],
    [-1n, "1999-12-31 23:59:59.999999+00"],
    [-1_000_000n, "1999-12-31 23:59:59+00"],
    [500_000n, "2000-01-01 00:00:00.5+00"],
    [123_400n, "2000-01-01 00:00:00.1234+00"],
    [-POSTGRES_EPOCH_US, "1970-01-01 00:00:00+00"],
    [-POSTGRES_EPOCH_US - 1n, "1969-12-31 23:59:59.999999+00"],
    [848_928_063_892_395n, "2026-11-25 13:21:03.892395+00"],
    [(1n << 63n) - 1n, "9223372036854775807 us since 2000"],
  ];
  for (const [us, text] of table) assert.equal(formatTimestamp(timestamp(us)), text);
});

test("timestamps are 64 bits, and count from 2000", () => {
  assert.equal(BigInt(Date.UTC(2000, 0, 1)) * 1000n, POSTGRES_EPOCH_US);
  assert.equal(timestampOfUnix(POSTGRES_EPOCH_US), 0n);
  assert.equal(unixMicroseconds(timestamp(5n)), POSTGRES_EPOCH_US + 5n);
  assert.throws(() => timestamp(1n << 63n), RangeError);
  assert.throws(() => timestamp(-(1n << 63n) - 1n), RangeError);
});
