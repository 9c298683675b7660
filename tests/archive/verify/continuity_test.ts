import assert from "node:assert/strict";
import { test } from "node:test";
import { findHoles, type HeldSegment } from "../../../lib/archive/verify/continuity.ts";
import type { NumberRange } from "../../../lib/archive/verify/plan.ts";
import { parseHistory, type TimelineHistory } from "../../../lib/wal/history.ts";
import { lsn } from "../../../lib/wal/lsn.ts";
import { segmentNumber, segmentSize } from "../../../lib/wal/segment.ts";
import { type TimelineId, timelineId } from "../../../lib/wal/timeline.ts";
import { MIB } from "../../wal/wal_builder.ts";

const size = segmentSize(MIB);

/** `1:3-5 1:6t 2:6`: timeline, numbers, `t` for a tail that ends half way, `e` for an empty file. */
function held(text: string): readonly HeldSegment[] {
  return text.split(" ").filter((word) => word !== "").flatMap((word) => {
    const [, timeline, first, last = first, kind] = /^(\d+):(\d+)(?:-(\d+))?([te])?$/.exec(word)!;
    const count = Number(last) - Number(first) + 1;
    return Array.from({ length: count }, (_, i): HeldSegment => {
      const number = segmentNumber(BigInt(Number(first) + i));
      return {
        timeline: timelineId(Number(timeline)),
        number,
        extent: kind === "t" ? "tail" : kind === "e" ? "none" : "whole",
        endLsn: lsn(number * BigInt(MIB) + BigInt(MIB / 2)),
        path: `${timeline}/${number}`,
      };
    });
  });
}

function histories(texts: Readonly<Record<number, string>>): ReadonlyMap<TimelineId, TimelineHistory> {
  return new Map(
    Object.entries(texts).map(([timeline, text]) => {
      const id = timelineId(Number(timeline));
      return [id, parseHistory(id, text)];
    }),
  );
}

/** In segment 6, at a quarter; and in segment 8. */
const TWO = { 2: "1\t0/640000\tx\n" };
const THREE = { ...TWO, 3: "1\t0/640000\tx\n2\t0/840000\tx\n" };
const ONLY_THREE = { 3: THREE[3] };
const FOUR = { ...THREE, 4: "1\t0/640000\tx\n2\t0/840000\tx\n3\t0/940000\tx\n" };
const SHORT_LIVED = { ...TWO, 3: "1\t0/640000\tx\n2\t0/660000\tx\n" };
const AT_START = { 2: "1\t0/600000\tx\n" };

const CASES: readonly (readonly [
  what: string,
  held: string,
  histories: Readonly<Record<number, string>>,
  want: readonly string[],
  range?: readonly [first: number | undefined, last: number | undefined],
])[] = [
  ["nothing", "", {}, []],
  ["one segment", "1:3", {}, []],
  ["a row", "1:3-9", {}, []],
  ["a row with a tail", "1:3-9 1:10t", {}, []],
  ["an empty file behind", "1:3-9 1:10e 1:12e", {}, []],
  ["a hole", "1:3-4 1:7-9", {}, ["1:5-7"]],
  ["two holes", "1:3 1:5 1:8", {}, ["1:4-5", "1:6-8"]],
  ["a hole before a tail", "1:3 1:5t", {}, ["1:4-5"]],
  ["a tail in the middle", "1:3 1:4t 1:5", {}, ["1:4-5"]],
  ["a file without content in the middle", "1:3 1:4e 1:5", {}, ["1:4-5"]],
  ["a timeline and the next one", "1:3-5 2:6-8", TWO, []],
  ["both have the segment of the fork", "1:3-6 2:6-8", TWO, []],
  ["the fork's segment is a tail", "1:3-5 1:6t 2:6-8", TWO, []],
  ["the old primary wrote on", "1:3-9 2:6-8", TWO, []],
  ["the fork is where a segment begins", "1:3-5 2:6-8", AT_START, []],
  ["the archive begins on the newer timeline", "2:7-9", TWO, []],
  ["the newer timeline has written nothing yet", "1:3-5 1:6t", TWO, []],
  ["the old timeline ends early", "1:3 2:6-8", TWO, ["1:4-6"]],
  ["the newer one begins late", "1:3-6 2:8-9", TWO, ["2:6-8"]],
  ["both", "1:3-4 2:8", TWO, ["1:5-6", "2:6-8"]],
  ["three timelines", "1:3-6 2:6-8 3:8-9", THREE, []],
  ["the middle one is missing", "1:3-6 3:8-9", THREE, ["2:6-8"]],
  ["the middle one is missing, and its history", "1:3-6 3:8-9", ONLY_THREE, ["2:6-8"]],
  ["the middle one is missing, and the last has written nothing yet", "1:3-6", THREE, ["2:6-8"]],
  ["the middle one is missing, and the old primary wrote on", "1:3-9 3:8-9", THREE, ["2:6-8"]],
  ["two in the middle are missing", "1:3-6 4:9-10", FOUR, ["2:6-8", "3:8-9"]],
  ["the middle one lived within one segment", "1:3-6 3:6-9", SHORT_LIVED, []],
  ["the middle one is missing, and nothing older is here", "3:8-9", THREE, []],
  ["the middle one has no history and begins late", "1:3-6 2:7 3:8-9", ONLY_THREE, ["2:6-7"]],
  ["the middle one has no history and ends early", "1:3-6 2:6 3:8-9", ONLY_THREE, ["2:7-8"]],
  ["only what the old primary wrote on is older", "1:7-9 3:8-9", THREE, []],
  ["the missing middle one is outside of the range", "1:3-5 3:8-9", THREE, [], [8, 9]],
  ["the range begins within the missing middle one", "1:3-6 3:8-9", THREE, ["2:7-8"], [7, 9]],
  ["the middle one ends early", "1:3-6 2:6 3:8-9", THREE, ["2:7-8"]],
  ["a history without any WAL before", "2:6 3:8-9", THREE, ["2:7-8"]],
  ["no history: nobody knows", "1:3-4 2:8", {}, []],
  ["a hole outside of the range", "1:6-9", {}, [], [6, 9]],
  ["a range that begins before", "1:6-9", {}, ["1:4-6"], [4, 9]],
  ["a range that ends behind", "1:6-9", {}, ["1:10-12"], [6, 11]],
  ["a fork behind the range", "1:3-4", TWO, [], [3, 4]],
];

for (const [what, segments, texts, want, range = [undefined, undefined]] of CASES) {
  test(`findHoles(): ${what}`, () => {
    const [first, last] = range.map((each) => each === undefined ? undefined : segmentNumber(BigInt(each)));
    const numbers: NumberRange = { first, last };
    const holes = findHoles(held(segments), {
      histories: histories(texts),
      segmentSize: size,
      range: numbers,
    });
    assert.deepEqual(
      holes.map(({ timeline, firstNumber, endNumber }) => `${timeline}:${firstNumber}-${endNumber}`),
      want,
    );
    for (const { finding } of holes) {
      assert.equal(finding.kind, "hole");
      assert.match(finding.problem, /^[^:]+/);
    }
  });
}

test("findHoles() misses no timeline that is not asked for", () => {
  const asked = (timeline: number) =>
    findHoles(held("1:3-5"), {
      histories: histories(THREE),
      segmentSize: size,
      range: { first: undefined, last: undefined },
      isAsked: (each) => each <= timeline,
    }).map((hole) => `${hole.timeline}:${hole.firstNumber}-${hole.endNumber}`);
  assert.deepEqual(asked(1), []);
  assert.deepEqual(asked(2), ["2:6-8"]);
});
