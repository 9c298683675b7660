import assert from "node:assert/strict";
import { test } from "node:test";
import type { SegmentRun } from "../../lib/archive/inventory.ts";
import { holesBetween, stretchesOf, tailPlaces } from "../../lib/observe/lineage_cover.ts";
import { timelineHoldings } from "../../lib/observe/timeline_holdings.ts";
import { emptyHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const MIB = 2 ** 20;
const SIZE = segmentSize(MIB);
const T1 = emptyHistory(timelineId(1));

/** Timeline 2, which left timeline 1 at this place, counted in segments. */
function forkedAt(place: number): TimelineHistory {
  return {
    timeline: timelineId(2),
    entries: [{ timeline: timelineId(1), endLsn: lsn(BigInt(place * MIB)), reason: "" }],
  };
}

function run(timeline: number, first: number, end: number): SegmentRun {
  return {
    timeline: timelineId(timeline),
    firstNumber: segmentNumber(BigInt(first)),
    endNumber: segmentNumber(BigInt(end)),
  };
}

function cover(runs: readonly SegmentRun[], lineage: TimelineHistory) {
  const stretches = stretchesOf(runs, lineage, SIZE);
  return {
    stretches: stretches.map(({ firstNumber, endNumber }) => [Number(firstNumber), Number(endNumber)]),
    holes: holesBetween(stretches, lineage, SIZE).map(({ firstName, segments }) =>
      `${firstName} ${segments}`
    ),
  };
}

for (
  const [what, runs, lineage, stretches, holes] of [
    ["nothing", [], T1, [], []],
    ["one run", [run(1, 3, 9)], T1, [[3, 9]], []],
    ["a hole", [run(1, 3, 5), run(1, 7, 9)], T1, [[3, 5], [7, 9]], ["000000010000000000000005 2"]],
    ["a fork inside a segment", [run(1, 3, 5), run(2, 5, 8)], forkedAt(5.5), [[3, 8]], []],
    ["a fork at a segment's start", [run(1, 3, 5), run(2, 5, 8)], forkedAt(5), [[3, 8]], []],
    ["an old timeline that went on", [run(1, 3, 9), run(2, 5, 7)], forkedAt(5.5), [[3, 7]], []],
    [
      "the old timeline's last segments missing",
      [run(1, 3, 4), run(2, 5, 7)],
      forkedAt(5.5),
      [[3, 4], [5, 7]],
      ["000000010000000000000004 1"],
    ],
    [
      "the new timeline's first segment missing, which the old one has with other content",
      [run(1, 3, 6), run(2, 6, 7)],
      forkedAt(5.5),
      [[3, 5], [6, 7]],
      ["000000020000000000000005 1"],
    ],
    ["nothing before the fork", [run(2, 5, 7)], forkedAt(5.5), [[5, 7]], []],
    ["another branch", [run(1, 3, 5), run(3, 2, 9)], T1, [[3, 5]], []],
  ] as const
) {
  test(`stretchesOf() and holesBetween(): ${what}`, () => {
    assert.deepEqual(cover(runs, lineage), { stretches, holes });
  });
}

test("tailPlaces() looks at the segment's own timeline first, and at an ancestor up to where it was left", () => {
  const places = (number: number, place: number) =>
    tailPlaces(forkedAt(place), segmentNumber(BigInt(number)), SIZE).map(({ timeline, limitLsn }) =>
      limitLsn === undefined ? `${timeline}` : `${timeline} to ${Number(limitLsn) / MIB}`
    );
  assert.deepEqual(places(5, 5.5), ["2", "1 to 5.5"]);
  assert.deepEqual(places(6, 5.5), ["2"]);
  assert.deepEqual(places(4, 5.5), ["1"]);
  assert.deepEqual(places(5, 5), ["2"]);
  assert.deepEqual(places(4, 5), ["1"]);
});

test("timelineHoldings() tells each timeline, those of which only the history is here too", () => {
  const [first, second] = timelineHoldings([run(1, 3, 5), run(1, 7, 8)], [forkedAt(8.5)], SIZE);
  assert.equal(first?.segments, 3n);
  assert.equal(first?.bytes, BigInt(3 * MIB));
  assert.equal(first?.startLsn, BigInt(3 * MIB));
  assert.equal(first?.endLsn, BigInt(8 * MIB));
  assert.deepEqual(first?.holes.map(({ segments }) => segments), [2n]);
  assert.equal(second?.segments, 0n);
  assert.equal(second?.startLsn, undefined);
  assert.deepEqual(second?.parent, { timeline: 1, forkLsn: BigInt(8.5 * MIB) });
});
