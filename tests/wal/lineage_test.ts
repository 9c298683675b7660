import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { TimelineHistory } from "../../lib/wal/history.ts";
import {
  type HoleKind,
  joinedRuns,
  type LineageView,
  missingBelow,
  missingWithin,
  type SegmentRun,
  timelineOfSegment,
  withoutRuns,
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

function viewOf(
  runs: readonly SegmentRun[],
  recorded: readonly SegmentRun[],
  accepted: readonly SegmentRun[] = [],
): LineageView {
  const contents = { runs, unfinished: [], gaps: { recorded: [...recorded, ...accepted], accepted } };
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

function texts(runs: readonly SegmentRun[]): readonly string[] {
  return runs.map(({ timeline, firstNumber, endNumber }) => `${timeline}: ${firstNumber}-${endNumber}`);
}

function below(view: LineageView, end: number, kind: HoleKind = "open"): readonly string[] {
  return texts(missingBelow(view, number(end), kind));
}

test("missingBelow() ends a gap where receiving begins, whatever stands behind that already", () => {
  const gap = [run(1, 2, 4)];
  assert.deepEqual(below(viewOf([run(1, 0, 2)], gap), 4), ["1: 2-4"]);
  assert.deepEqual(below(viewOf([run(1, 0, 2), run(2, 8, 9)], gap), 4), ["1: 2-4"]);
  assert.deepEqual(below(viewOf([run(1, 0, 2), run(2, 8, 9)], [run(1, 2, 6), run(2, 6, 7)]), 7), [
    "1: 2-6",
    "2: 6-7",
  ]);
  assert.deepEqual(below(viewOf([run(1, 0, 4), run(2, 8, 9)], gap), 4), []);
  // What begins where receiving does is no matter of it.
  assert.deepEqual(below(viewOf([run(1, 0, 2)], gap), 2), []);
});

test("missingBelow() leaves out what lies before the archive's first byte, recorded or not", () => {
  const gap = [run(1, 2, 4)];
  const rest = [run(1, 4, 6), run(2, 6, 9)];
  assert.deepEqual(below(viewOf([run(1, 1, 2), ...rest], gap), 9), ["1: 2-4"]);
  // Healed once, and removed with all that was old.
  assert.deepEqual(below(viewOf(rest, gap), 9), []);
  assert.deepEqual(below(viewOf([run(1, 3, 4), ...rest], gap), 9), []);
  assert.deepEqual(below(viewOf(rest, []), 9), []);
  // Nothing else is here.
  assert.deepEqual(below(viewOf([], gap), 9), ["1: 2-4"]);
});

test("missingBelow() keeps apart what one line of the ledger tells of and the next one does not", () => {
  const here = [run(1, 0, 1)];
  assert.deepEqual(below(viewOf(here, [run(1, 1, 2), run(1, 2, 4)]), 4), ["1: 1-2", "1: 2-4"]);
  assert.deepEqual(below(viewOf(here, [run(1, 1, 4)], [run(1, 1, 3)]), 4), ["1: 3-4"]);
  assert.deepEqual(below(viewOf(here, [run(1, 1, 4)], [run(1, 1, 3)]), 4, "all"), ["1: 1-3", "1: 3-4"]);
});

test("missingBelow(), withoutRuns() and joinedRuns() equal a look at each segment", () => {
  const runs = fc.array(
    fc.tuple(fc.integer({ min: 1, max: 2 }), fc.integer({ min: 0, max: 11 }), fc.integer({ min: 1, max: 4 }))
      .map(([timeline, first, count]) => run(timeline, first, first + count)),
    { maxLength: 4 },
  );
  const segmentsOf = (all: readonly SegmentRun[]) =>
    all.flatMap(({ timeline, firstNumber, endNumber }) =>
      Array.from(
        { length: Number(endNumber - firstNumber) },
        (_, i) => `${timeline} ${Number(firstNumber) + i}`,
      )
    );
  const isIn = (ranges: readonly SegmentRun[], timeline: number, each: number) =>
    ranges.some((range) =>
      range.timeline === timeline && range.firstNumber <= each && each < range.endNumber
    );
  const beginsAt = (here: readonly SegmentRun[]) => {
    // The file of the switch's segment is timeline 2's, but timeline 1's of it begins with bytes of the line too.
    const onLine = here.filter(({ timeline, firstNumber }) =>
      timeline === 1 ? firstNumber <= 6 : firstNumber >= 6
    );
    return Math.min(...onLine.map(({ firstNumber }) => Number(firstNumber)));
  };
  fc.assert(fc.property(runs, runs, runs, fc.nat(14), (here, recorded, accepted, end) => {
    const view = viewOf(here, recorded, accepted);
    for (const kind of ["open", "all"] as const) {
      const wanted: string[] = [];
      for (let each = 0; each < end; each++) {
        const timeline = timelineOfSegment(LINEAGE, number(each), SIZE);
        const begin = beginsAt(here);
        const isAsked = each >= begin ||
          begin === Infinity && isIn([...recorded, ...accepted], timeline, each);
        const isFilled = isIn(kind === "all" ? here : [...here, ...accepted], timeline, each);
        if (isAsked && !isFilled) wanted.push(`${timeline} ${each}`);
      }
      assert.deepEqual(segmentsOf(missingBelow(view, number(end), kind)), wanted);
    }
    const joined = joinedRuns(here);
    assert.deepEqual(segmentsOf(joined).sort(), [...new Set(segmentsOf(here))].sort());
    for (const one of joined) {
      assert.deepEqual(
        segmentsOf(withoutRuns(one, recorded)),
        segmentsOf([one]).filter((each) => !segmentsOf(recorded).includes(each)),
      );
    }
  }));
});
