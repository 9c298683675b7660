import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { TimelineHistory } from "../../lib/wal/history.ts";
import {
  type LineageView,
  missingWithin,
  type SegmentRun,
  timelineOfSegment,
} from "../../lib/wal/lineage.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { type SegmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const MIB = 1024 * 1024;
const SIZE = segmentSize(MIB);
/** Timeline 1 up to the middle of segment 6, then 2. */
const LINEAGE: TimelineHistory = {
  timeline: timelineId(2),
  entries: [{ timeline: timelineId(1), endLsn: lsn(BigInt(6.5 * MIB)), reason: "" }],
};

const number = (value: number) => BigInt(value) as SegmentNumber;
const run = (timeline: number, first: number, end: number): SegmentRun => ({
  timeline: timelineId(timeline),
  firstNumber: number(first),
  endNumber: number(end),
});

function viewOf(runs: readonly SegmentRun[], recorded: readonly SegmentRun[]): LineageView {
  const contents = { runs, unfinished: [], gaps: { recorded, accepted: [] } };
  return { contents, lineage: LINEAGE, segmentSize: SIZE };
}

function missing(view: LineageView, first: number, end: number): readonly string[] {
  return missingWithin(view, { firstNumber: number(first), endNumber: number(end) })
    .map(({ timeline, firstNumber, endNumber }) => `${timeline}: ${firstNumber}-${endNumber}`);
}

test("missingWithin() leaves out what is here and what is recorded, and tells each timeline's part", () => {
  assert.deepEqual(missing(viewOf([], []), 2, 9), ["1: 2-6", "2: 6-9"]);
  assert.deepEqual(missing(viewOf([run(1, 0, 2)], []), 2, 5), ["1: 2-5"]);
  assert.deepEqual(missing(viewOf([run(1, 3, 4)], []), 2, 9), ["1: 2-3", "1: 4-6", "2: 6-9"]);
  assert.deepEqual(missing(viewOf([run(1, 0, 2)], [run(1, 2, 5)]), 2, 6), ["1: 5-6"]);
  assert.deepEqual(missing(viewOf([run(1, 0, 6), run(2, 6, 9)], []), 2, 9), []);
  // What a timeline has beyond the switch is of another line of WAL.
  assert.deepEqual(missing(viewOf([run(1, 4, 8)], []), 2, 9), ["1: 2-4", "2: 6-9"]);
  assert.deepEqual(missing(viewOf([], []), 4, 4), []);
});

test("missingWithin() equals a look at each segment", () => {
  const runs = fc.array(
    fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 0, max: 11 }), fc.integer({ min: 1, max: 4 }))
      .map(([timeline, first, count]) => run(timeline, first, first + count)),
    { maxLength: 5 },
  );
  fc.assert(fc.property(runs, runs, fc.nat(11), fc.nat(11), (here, recorded, first, count) => {
    const range = { firstNumber: number(first), endNumber: number(first + count) };
    const found = new Set<string>();
    for (const part of missingWithin(viewOf(here, recorded), range)) {
      assert.ok(part.firstNumber < part.endNumber);
      for (let each = part.firstNumber; each < part.endNumber; each++) found.add(`${part.timeline} ${each}`);
    }
    const wanted = new Set<string>();
    for (let each = range.firstNumber; each < range.endNumber; each++) {
      const timeline = timelineOfSegment(LINEAGE, each, SIZE);
      const isKnown = [...here, ...recorded].some((known) =>
        known.timeline === timeline && known.firstNumber <= each && each < known.endNumber
      );
      if (!isKnown) wanted.add(`${timeline} ${each}`);
    }
    assert.deepEqual([...found].sort(), [...wanted].sort());
  }));
});
