import assert from "node:assert/strict";
import { test } from "node:test";
import { lsn } from "../../lib/wal/lsn.ts";
import {
  decodeRecordHeader,
  isSwitchRecord,
  MAX_RECORD_BYTES,
  type RecordHeader,
  recordHeaderProblem,
} from "../../lib/wal/record.ts";

const BYTES = Uint8Array.from([
  ...[0x72, 0, 0, 0],
  ...[0xd7, 0x02, 0, 0],
  ...[0xb8, 0x54, 0xc0, 0, 1, 0, 0, 0],
  ...[0x40, 0x00, 0, 0],
  ...[0x78, 0x56, 0x34, 0xf2],
]);
const HEADER: RecordHeader = {
  totalBytes: 114,
  xid: 727,
  prevLsn: lsn(0x1_00c0_54b8n),
  info: 0x40,
  resourceManager: 0,
  crc: 0xf2345678,
};

test("decodeRecordHeader() reads the 24 bytes, and waits for all of them", () => {
  assert.deepEqual(decodeRecordHeader(BYTES), HEADER);
  for (let count = 0; count < 24; count++) {
    assert.equal(decodeRecordHeader(BYTES.subarray(0, count)), undefined);
  }
});

test("isSwitchRecord() knows XLOG_SWITCH by its manager and the high bits of info", () => {
  assert.equal(isSwitchRecord(HEADER), true);
  assert.equal(isSwitchRecord({ ...HEADER, info: 0x41 }), true);
  assert.equal(isSwitchRecord({ ...HEADER, info: 0x50 }), false);
  assert.equal(isSwitchRecord({ ...HEADER, resourceManager: 1 }), false);
});

const RECORD_LSN = lsn(0x1_00c0_54e0n);
const CASES: readonly [string, Partial<RecordHeader>, boolean][] = [
  ["as it is", {}, true],
  ["length 0", { totalBytes: 0 }, false],
  ["length 23", { totalBytes: 23 }, false],
  ["length 24", { totalBytes: 24 }, true],
  ["the greatest length", { totalBytes: MAX_RECORD_BYTES }, true],
  ["one more", { totalBytes: MAX_RECORD_BYTES + 1 }, false],
  ["length 2^32-1", { totalBytes: 0xffff_ffff }, false],
  ["resource manager 21", { resourceManager: 21 }, true],
  ["resource manager 22", { resourceManager: 22 }, false],
  ["resource manager 127", { resourceManager: 127 }, false],
  ["resource manager 128", { resourceManager: 128 }, true],
  ["resource manager 255", { resourceManager: 255 }, true],
];
for (const [what, change, isPlausible] of CASES) {
  test(`recordHeaderProblem() ${isPlausible ? "takes" : "refuses"} a header with ${what}`, () => {
    const at = { recordLsn: RECORD_LSN, expectedPrevLsn: HEADER.prevLsn };
    assert.equal(recordHeaderProblem({ ...HEADER, ...change }, at) === undefined, isPlausible);
  });
}

test("recordHeaderProblem() holds the link against the record before, or the record itself", () => {
  const problem = (prevLsn: bigint, expectedPrevLsn?: bigint) =>
    recordHeaderProblem({ ...HEADER, prevLsn: lsn(prevLsn) }, {
      recordLsn: RECORD_LSN,
      expectedPrevLsn: expectedPrevLsn === undefined ? undefined : lsn(expectedPrevLsn),
    });
  assert.equal(problem(8n, 8n), undefined);
  assert.equal(problem(8n, 16n), "link to a record before at 0/8, want 0/10");
  assert.equal(problem(0n), undefined);
  assert.equal(problem(RECORD_LSN - 8n), undefined);
  assert.match(problem(RECORD_LSN) ?? "", /want an earlier one/);
});
