import assert from "node:assert/strict";
import { test } from "node:test";
import { missingBelow } from "../../lib/commands/giving_up.ts";
import { emptyHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import type { SegmentRun } from "../../lib/wal/lineage.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { type SegmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const MIB = 1024 * 1024;

const run = (timeline: number, first: number, end: number): SegmentRun => ({
  timeline: timelineId(timeline),
  firstNumber: BigInt(first) as SegmentNumber,
  endNumber: BigInt(end) as SegmentNumber,
});

function below(
  serverMiB: number,
  { runs, recorded = [], lineage = emptyHistory(timelineId(1)) }: {
    readonly runs: readonly SegmentRun[];
    readonly recorded?: readonly SegmentRun[];
    readonly lineage?: TimelineHistory;
  },
): readonly string[] {
  const contents = { runs, unfinished: [], gaps: { recorded, accepted: [] } };
  return missingBelow({ contents, lineage, segmentSize: segmentSize(MIB) }, lsn(BigInt(serverMiB * MIB)))
    .map(({ timeline, firstNumber, endNumber }) => `${timeline}: ${firstNumber}-${endNumber}`);
}

test("missingBelow() tells what lies between the archive's end and the server's segment", () => {
  assert.deepEqual(below(9.5, { runs: [run(1, 2, 5)] }), ["1: 5-9"]);
  assert.deepEqual(below(9, { runs: [run(1, 2, 5)] }), ["1: 5-9"]);
  assert.deepEqual(below(5.5, { runs: [run(1, 2, 5)] }), [], "the segment that the server writes comes anew");
  assert.deepEqual(below(4, { runs: [run(1, 2, 5)] }), [], "a server behind the archive");
  assert.deepEqual(below(9.5, { runs: [] }), [], "an empty archive has no gap");
});

test("missingBelow() leaves out what is here above a hole, and what is recorded", () => {
  assert.deepEqual(below(12.5, { runs: [run(1, 2, 5), run(1, 7, 9)] }), ["1: 5-7", "1: 9-12"]);
  assert.deepEqual(below(12.5, { runs: [run(1, 2, 5)], recorded: [run(1, 5, 8)] }), ["1: 8-12"]);
});

test("missingBelow() names each timeline's part", () => {
  const entries = [{ timeline: timelineId(1), endLsn: lsn(BigInt(6.5 * MIB)), reason: "" }];
  const lineage = { timeline: timelineId(2), entries };
  assert.deepEqual(below(9.5, { runs: [run(1, 2, 5)], lineage }), ["1: 5-6", "2: 6-9"]);
});
