import assert from "node:assert/strict";
import { test } from "node:test";
import { type FoundWal, planRoad } from "../../lib/observe/wal_road.ts";
import { emptyHistory, parseHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { formatLsn } from "../../lib/wal/lsn.ts";
import { segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const SIZE = segmentSize(1 << 20);
/** Timeline 2 leaves 1 within segment 5, 3 leaves 2 at the start of segment 8. */
const THREE = historyOf(3, "1\t0/500100\tx\n\n2\t0/800000\tx\n");
const TWO = historyOf(2, "1\t0/500100\tx\n");
const ONE = emptyHistory(timelineId(1));

function historyOf(timeline: number, text: string): TimelineHistory {
  return parseHistory(timelineId(timeline), new TextEncoder().encode(text));
}

/** "2/5" is segment 5 of timeline 2; "(2/5)" an unfinished file of it. */
function wal(words: string): FoundWal {
  const all = words.split(" ").map((word) => {
    const [, timeline, number] = /^\(?([0-9]+)\/([0-9]+)\)?$/.exec(word)!;
    const segment = { timeline: timelineId(Number(timeline)), number: segmentNumber(BigInt(number!)) };
    return { ...segment, path: `inprogress/${word}`, isUnfinished: word.startsWith("(") };
  });
  return {
    published: all.filter((one) => !one.isUnfinished),
    unfinished: all.filter((one) => one.isUnfinished),
  };
}

/** Runs as text: "<" before where a segment counts only up to the switch. */
function road(words: string, history: TimelineHistory): string {
  return planRoad(wal(words), history, SIZE).map(({ segments, startLsn, endLsn }) => {
    const names = segments.map(({ timeline, number, unfinished, limitLsn }) => {
      const name = `${timeline}/${number}`;
      return (limitLsn === undefined ? "" : "<") + (unfinished === undefined ? name : `(${name})`);
    });
    return `${names.join(" ")} [${formatLsn(startLsn)} ${formatLsn(endLsn)})`;
  }).join(" | ");
}

test("planRoad() follows a timeline, and leaves a run for each hole", () => {
  const table: readonly (readonly [string, TimelineHistory, string])[] = [
    ["1/3 1/4 1/5", ONE, "1/3 1/4 1/5 [0/300000 0/600000)"],
    ["1/5 1/3", ONE, "1/3 [0/300000 0/400000) | 1/5 [0/500000 0/600000)"],
    ["1/3 (1/4)", ONE, "1/3 (1/4) [0/300000 0/500000)"],
    // Two may grow at a time; what was passed is no tail.
    ["1/3 (1/4) (1/5)", ONE, "1/3 (1/4) (1/5) [0/300000 0/600000)"],
    ["1/3 (1/4) 1/5", ONE, "1/3 [0/300000 0/400000) | 1/5 [0/500000 0/600000)"],
    ["1/3 (1/3) (1/3)", ONE, "1/3 [0/300000 0/400000)"],
    // The newer timeline's file has the older one's bytes too.
    ["1/4 1/5 1/6 2/5 2/6", TWO, "1/4 2/5 2/6 [0/400000 0/700000)"],
    ["1/4 1/5 1/6 2/5 2/6", ONE, "1/4 1/5 1/6 [0/400000 0/700000)"],
    ["1/4 (2/5)", TWO, "1/4 (2/5) [0/400000 0/600000)"],
    // Without it, the older one counts up to where it was left.
    ["1/4 1/5 1/6", TWO, "1/4 <1/5 [0/400000 0/500100)"],
    ["1/4 (1/5)", TWO, "1/4 <(1/5) [0/400000 0/500100)"],
    ["1/4 1/5 2/6", TWO, "1/4 <1/5 [0/400000 0/500100) | 2/6 [0/600000 0/700000)"],
    // A fork between two segments.
    ["2/6 2/7 2/8 3/8", THREE, "2/6 2/7 3/8 [0/600000 0/900000)"],
    ["1/4 2/5 2/6 2/7 2/8", THREE, "1/4 2/5 2/6 2/7 [0/400000 0/800000)"],
    ["4/1 1/4", THREE, "1/4 [0/400000 0/500000)"],
  ];
  for (const [words, history, want] of table) assert.equal(road(words, history), want, words);
});

test("planRoad() names all files that hold the beginning of a segment", () => {
  const found = wal("(1/4)");
  const again = { ...found.unfinished[0]!, path: "inprogress/saved" };
  const [run] = planRoad({ published: [], unfinished: [...found.unfinished, again] }, ONE, SIZE);
  assert.deepEqual(run?.segments[0]?.unfinished, ["inprogress/(1/4)", "inprogress/saved"]);
});
