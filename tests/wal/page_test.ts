import assert from "node:assert/strict";
import { test } from "node:test";
import { decodePageHeader } from "../../lib/wal/page.ts";
import { buildWal, MIB, SYSTEM_IDENTIFIER } from "./wal_builder.ts";

const WAL = buildWal({ startLsn: 0x1_0000_0000n, segmentBytes: MIB, records: [{ totalBytes: 20_000 }] });
const BYTES = WAL.segments[0]!;

test("decodePageHeader() reads the long header of a segment's first page", () => {
  assert.deepEqual(decodePageHeader(BYTES), {
    magic: 0xd110,
    majorVersion: 15,
    flags: 2,
    timeline: 1,
    pageLsn: 0x1_0000_0000n,
    remainingBytes: 0,
    headerBytes: 40,
    isContinuation: false,
    isLong: true,
    overwritesContrecord: false,
    systemIdentifier: SYSTEM_IDENTIFIER,
    segmentBytes: MIB,
    pageBytes: 8192,
  });
});

test("decodePageHeader() reads the short header of the next page", () => {
  assert.deepEqual(decodePageHeader(BYTES.subarray(8192)), {
    magic: 0xd110,
    majorVersion: 15,
    flags: 1,
    timeline: 1,
    pageLsn: 0x1_0000_2000n,
    remainingBytes: 20_000 - (8192 - 40),
    headerBytes: 24,
    isContinuation: true,
    isLong: false,
    overwritesContrecord: false,
    systemIdentifier: undefined,
    segmentBytes: undefined,
    pageBytes: undefined,
  });
});

test("decodePageHeader() wants 40 bytes of a long header, 24 of a short one", () => {
  for (let count = 0; count < 100; count++) {
    assert.equal(decodePageHeader(BYTES.subarray(0, count)) !== undefined, count >= 40);
    assert.equal(decodePageHeader(BYTES.subarray(8192, 8192 + count)) !== undefined, count >= 24);
  }
});

const MAGICS: readonly [number, number | undefined][] = [
  [0xd097, 10],
  [0xd098, 11],
  [0xd101, 12],
  [0xd106, 13],
  [0xd10d, 14],
  [0xd110, 15],
  [0xd113, 16],
  [0xd116, 17],
  [0xd118, 18],
  [0xd119, undefined],
  [0, undefined],
];
for (const [magic, majorVersion] of MAGICS) {
  test(`page magic 0x${magic.toString(16)} is of PostgreSQL ${majorVersion}`, () => {
    const bytes = new Uint8Array(24);
    new DataView(bytes.buffer).setUint16(0, magic, true);
    assert.equal(decodePageHeader(bytes)?.majorVersion, majorVersion);
  });
}

test("decodePageHeader() takes any bytes, and shows each flipped one but the padding", () => {
  const good = JSON.stringify(
    decodePageHeader(BYTES),
    (_, value) => typeof value === "bigint" ? `${value}` : value,
  );
  for (let i = 0; i < 40; i++) {
    const bytes = BYTES.slice(0, 40);
    bytes[i]! ^= 0xff;
    const header = decodePageHeader(bytes);
    const bad = JSON.stringify(header, (_, value) => typeof value === "bigint" ? `${value}` : value);
    const isPadding = i >= 20 && i < 24;
    assert.equal(bad === good, isPadding, `byte ${i}`);
  }
});
