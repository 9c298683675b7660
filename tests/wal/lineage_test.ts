import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { TimelineHistory } from "../../lib/wal/history.ts";
import {
  firstMissingSegment,
  type HoleKind,
  joinedRuns,
  type LineageView,
  missingBelow,
  missingWithin,
  passedBegins,
  type SegmentRun,
  timelineOfSegment,
  unprovenBelow,
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
  recorded: readonly SegmentRun[] = [],
  accepted: readonly SegmentRun[] = [],
  healed: readonly SegmentRun[] = [],
): LineageView {
  const contents = { runs, unfinished: [], gaps: { recorded: [...recorded, ...accepted], accepted, healed } };
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

test("missingBelow() leaves out what lies before the archive's first byte, unless it is recorded and never healed", () => {
  const gap = [run(1, 2, 4)];
  const rest = [run(1, 4, 6), run(2, 6, 9)];
  assert.deepEqual(below(viewOf([run(1, 1, 2), ...rest], gap), 9), ["1: 2-4"]);
  for (const kind of ["open", "all"] as const) {
    // What was below it has been removed; nobody saw it healed.
    assert.deepEqual(below(viewOf(rest, gap), 9, kind), ["1: 2-4"]);
    assert.deepEqual(below(viewOf([run(1, 3, 4), ...rest], gap), 9, kind), ["1: 2-3"]);
    // Healed once, and removed with all that was old.
    assert.deepEqual(below(viewOf(rest, gap, [], gap), 9, kind), []);
    assert.deepEqual(below(viewOf([run(1, 3, 4), ...rest], gap, [], gap), 9, kind), []);
    assert.deepEqual(below(viewOf(rest, gap, [], [run(1, 2, 3)]), 9, kind), ["1: 3-4"]);
    // Healed once, and removed between others.
    assert.deepEqual(below(viewOf([run(1, 1, 2), ...rest], gap, [], gap), 9, kind), ["1: 2-4"]);
    assert.deepEqual(below(viewOf(rest, []), 9, kind), []);
  }
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
  fc.assert(fc.property(runs, runs, runs, runs, fc.nat(14), (here, recorded, accepted, healed, end) => {
    const view = viewOf(here, recorded, accepted, healed);
    for (const kind of ["open", "all"] as const) {
      const wanted: string[] = [];
      for (let each = 0; each < end; each++) {
        const timeline = timelineOfSegment(LINEAGE, number(each), SIZE);
        const begin = beginsAt(here);
        const isAsked = each >= begin ||
          isIn([...recorded, ...accepted], timeline, each) && !isIn(healed, timeline, each);
        const isFilled = isIn(kind === "all" ? here : [...here, ...accepted], timeline, each);
        if (isAsked && !isFilled) wanted.push(`${timeline} ${each}`);
      }
      assert.deepEqual(segmentsOf(missingBelow(view, number(end), kind)), wanted);
    }
    const unproven = Array.from({ length: end }, (_, each) => ({
      each,
      timeline: timelineOfSegment(LINEAGE, number(each), SIZE),
    })).filter(({ each, timeline }) =>
      isIn(recorded, timeline, each) && isIn(here, timeline, each) &&
      !isIn([...accepted, ...healed], timeline, each)
    );
    assert.deepEqual(
      segmentsOf(unprovenBelow(view, number(end))),
      unproven.map(({ each, timeline }) => `${timeline} ${each}`),
    );
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

test("passedBegins() names what tells later that what was only begun is left over, and then it is no begin", () => {
  const begun = (timeline: number, first: number) => ({
    timeline: timelineId(timeline),
    number: number(first),
  });
  const begunIn = (view: LineageView, unfinished: LineageView["contents"]["unfinished"]): LineageView => ({
    ...view,
    contents: { ...view.contents, unfinished },
  });
  const rows: readonly (readonly [
    name: string,
    unfinished: LineageView["contents"]["unfinished"],
    before: LineageView,
    passed: readonly string[],
    recorded: readonly SegmentRun[],
  ])[] = [
    [
      "a saved copy of what is complete",
      [begun(1, 3)],
      viewOf([run(1, 1, 6), run(2, 6, 12)]),
      ["1: 3-4"],
      [],
    ],
    ["an old timeline's end", [begun(1, 6)], viewOf([run(1, 1, 6), run(2, 6, 12)]), ["2: 6-7"], []],
    [
      "the start of a gap",
      [begun(1, 3)],
      viewOf([run(1, 1, 3), run(1, 5, 6), run(2, 6, 12)], [run(1, 3, 5)], [run(1, 3, 5)]),
      ["1: 5-6"],
      [run(1, 3, 5)],
    ],
    ["an old timeline's end, nothing behind it yet", [begun(1, 6)], viewOf([run(1, 1, 6)]), ["2: 6-7"], []],
    [
      "the start of a gap, nothing behind it yet",
      [begun(1, 3)],
      viewOf([run(1, 1, 3)], [run(1, 3, 5)], [run(1, 3, 5)]),
      ["1: 5-6"],
      [run(1, 3, 5)],
    ],
    ["the growing one", [begun(2, 12)], viewOf([run(1, 1, 6), run(2, 6, 12)]), [], []],
  ];
  for (const [name, unfinished, before, passed, recorded] of rows) {
    const view = begunIn(before, unfinished);
    const marks = passedBegins(view);
    assert.deepEqual(texts(marks), passed, name);
    // Long after: all that is old is removed.
    const later = begunIn(viewOf([run(2, 10, 12)], recorded, recorded, marks), unfinished);
    assert.equal(firstMissingSegment(later), 12n, name);
    assert.deepEqual(below(later, 12), [], name);
    assert.deepEqual(
      passedBegins(begunIn(viewOf([...before.contents.runs], recorded, recorded, marks), unfinished)),
      [],
    );
    // Nobody knew: then it is received from there on, and nothing is passed over.
    const unknown = begunIn(viewOf([run(2, 10, 12)], recorded, recorded), unfinished);
    if (passed.length > 0) assert.ok(firstMissingSegment(unknown)! < 10n, name);
  }
});
