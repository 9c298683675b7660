import assert from "node:assert/strict";
import { test } from "node:test";
import {
  formatTimelineId,
  historyFileName,
  parseHistoryFileName,
  timelineId,
} from "../../lib/wal/timeline.ts";

const NAMES: readonly [number, string][] = [
  [1, "00000001"],
  [9, "00000009"],
  [0x0a, "0000000A"],
  [0x10, "00000010"],
  [0xabcdef, "00ABCDEF"],
  [0x8000_0000, "80000000"],
  [0xffff_ffff, "FFFFFFFF"],
];
for (const [timeline, digits] of NAMES) {
  test(`timeline ${timeline} is ${digits} in file names`, () => {
    assert.equal(formatTimelineId(timelineId(timeline)), digits);
    assert.equal(historyFileName(timelineId(timeline)), `${digits}.history`);
    assert.equal(parseHistoryFileName(`${digits}.history`), timeline);
  });
}

for (const value of [0, -1, 0.5, NaN, Infinity, 0x1_0000_0000]) {
  test(`timelineId() refuses ${value}`, () => assert.throws(() => timelineId(value), RangeError));
}

const OTHERS = [
  "",
  "0000000A",
  "0000000a.history",
  "00000000.history",
  "000000A.history",
  "00000000A.history",
  "0000000A.history.partial",
  "0000000A.HISTORY",
  " 0000000A.history",
  "0000000A.history\n",
];
for (const name of OTHERS) {
  test(`parseHistoryFileName() takes ${JSON.stringify(name)} for no history file`, () => {
    assert.equal(parseHistoryFileName(name), undefined);
  });
}
