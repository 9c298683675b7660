import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gunzipSync } from "node:zlib";
import { type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { nextRecordLsn, RecordWalk } from "../../lib/wal/record_walk.ts";
import { resourceManagerName } from "../../lib/wal/resource_manager.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { buildWal, MIB, readRecords } from "./wal_builder.ts";

const SIZE = segmentSize(MIB);
const START = 3n * BigInt(MIB);
/** Short, over a page, over many pages, over more than a segment; a switch; and one behind it. */
const PLANS = [
  { totalBytes: 24 },
  { totalBytes: 61 },
  ...Array.from({ length: 300 }, (_, index) => ({ totalBytes: 100 + index })),
  { totalBytes: 8200 },
  { totalBytes: 70_001 },
  { totalBytes: Math.floor(2.3 * MIB) },
  { totalBytes: 50 },
  { totalBytes: 24, resourceManager: 0, info: 0x40 },
  { totalBytes: 99 },
  { totalBytes: 30 },
];
const { segments, records } = buildWal({ startLsn: START, segmentBytes: MIB, records: PLANS });
const WAL = new Uint8Array(segments.length * MIB);
for (const [index, segment] of segments.entries()) WAL.set(segment, index * MIB);

function walkFrom(recordLsn: bigint, pieceBytes: number, wal = WAL): RecordWalk {
  const walk = new RecordWalk(recordLsn as Lsn);
  for (let at = Number(recordLsn - START); walk.state === "open" && at < wal.length; at += pieceBytes) {
    walk.push(wal.subarray(at, at + pieceBytes));
  }
  return walk;
}

for (const pieceBytes of [1, 7, 24, 8192, WAL.length]) {
  test(`RecordWalk finds the end of every record, fed ${pieceBytes} bytes at a time`, () => {
    for (const [index, { lsn: recordLsn, endLsn, prevLsn }] of records.entries()) {
      const walk = walkFrom(recordLsn, pieceBytes);
      assert.equal(walk.state, "whole", `record ${index}`);
      assert.equal(walk.header?.totalBytes, PLANS[index]?.totalBytes);
      assert.equal(walk.header?.prevLsn, prevLsn);
      assert.equal((walk.positionLsn + 7n) / 8n * 8n, endLsn);
      const next = records[index + 1];
      if (next !== undefined) {
        assert.equal(nextRecordLsn({ header: walk.header!, endLsn: walk.positionLsn }, SIZE), next.lsn);
      }
    }
  });
}

test("RecordWalk wants more of a record that is cut, at every byte", () => {
  const { lsn: recordLsn, endLsn } = records[5]!;
  for (let end = recordLsn; end < endLsn - 8n; end++) {
    const walk = walkFrom(recordLsn, 64, WAL.subarray(0, Number(end - START)));
    assert.equal(walk.state, "open");
    assert.equal(walk.positionLsn, end);
  }
});

test("RecordWalk finds every flipped byte of a record that goes over pages, but for what nothing covers", () => {
  const { lsn: recordLsn, endLsn } = records.find((_, index) => PLANS[index]?.totalBytes === 8200)!;
  const { covered } = readRecords(segments[0]!, START);
  let found = 0;
  for (let at = Number(recordLsn - START); at < Number(endLsn - START); at++) {
    const flipped = WAL.slice(0, Number(endLsn - START));
    flipped[at]! ^= 0x40;
    const { state } = walkFrom(recordLsn, 4096, flipped);
    if (covered.has(at)) assert.notEqual(state, "whole", `byte ${at}`);
    if (state !== "whole") found++;
  }
  assert.ok(found >= 8200);
});

test("RecordWalk finds no record where none begins", () => {
  for (const [index, { lsn: recordLsn }] of records.slice(0, 50).entries()) {
    for (const wrong of [recordLsn - 8n, recordLsn + 8n]) {
      if (records.some((each) => each.lsn === wrong)) continue;
      assert.notEqual(walkFrom(wrong, 64).state, "whole", `beside record ${index}`);
    }
  }
  assert.equal(walkFrom(START, 64).state, "broken", "at a page's header");
});

test("RecordWalk follows real records, PostgreSQL 15", () => {
  const fixtures = join(dirname(dirname(fileURLToPath(import.meta.url))), "fixtures", "wal");
  const name = "000000010000000000000008";
  const bytes = gunzipSync(readFileSync(join(fixtures, `15-full-${name}.gz`)));
  const startLsn = 8n * BigInt(bytes.length);
  const real = readRecords(bytes, startLsn).records;
  assert.ok(real.length > 100);
  for (const [index, record] of real.entries()) {
    const walk = new RecordWalk(lsn(record.lsn));
    walk.push(bytes.subarray(Number(record.lsn - startLsn)));
    assert.equal(walk.state, "whole");
    const next = real[index + 1];
    if (next === undefined) continue;
    const end = { header: walk.header!, endLsn: walk.positionLsn };
    assert.equal(nextRecordLsn(end, segmentSize(bytes.length)), next.lsn);
  }
});

test("resource managers have pg_waldump's names", () => {
  assert.equal(resourceManagerName(0), "XLOG");
  assert.equal(resourceManagerName(10), "Heap");
  assert.equal(resourceManagerName(21), "LogicalMessage");
  assert.equal(resourceManagerName(128), "custom128");
});
