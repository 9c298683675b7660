import assert from "node:assert/strict";
import { test } from "node:test";
import { judgeBackup, type LineageState } from "../../lib/observe/backup_judgement.ts";
import { emptyHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const MIB = 2 ** 20;
const SIZE = segmentSize(MIB);
const T1 = emptyHistory(timelineId(1));
const T2: TimelineHistory = {
  timeline: timelineId(2),
  entries: [{ timeline: timelineId(1), endLsn: at(5.5), reason: "" }],
};

/** A place, counted in segments. */
function at(place: number) {
  return lsn(BigInt(place * MIB));
}

function state(
  lineage: TimelineHistory,
  stretches: readonly (readonly [first: number, end: number])[],
  end: number | undefined,
): LineageState {
  return {
    lineage,
    stretches: stretches.map(([first, last]) => ({
      firstNumber: segmentNumber(BigInt(first)),
      endNumber: segmentNumber(BigInt(last)),
    })),
    endLsn: end === undefined ? undefined : at(end),
  };
}

function judge(start: number, stop: number, states: readonly LineageState[], timeline = 1): string {
  const backup = { startLsn: at(start), stopLsn: at(stop), timeline: timelineId(timeline) };
  const judgement = judgeBackup(backup, states, SIZE);
  if (judgement.kind === "not-recoverable") return judgement.reason;
  const { timeline: reached, endLsn, toEnd } = judgement;
  return `timeline ${reached} to ${Number(endLsn) / MIB}${toEnd ? ", the end" : ""}`;
}

const WHOLE = state(T1, [[3, 8]], 8.25);
const HOLED = state(T1, [[3, 5], [6, 8]], 8.25);

for (
  const [what, got, want] of [
    ["inside", judge(4.5, 4.75, [WHOLE]), "timeline 1 to 8.25, the end"],
    ["from the first byte on", judge(3, 3.5, [WHOLE]), "timeline 1 to 8.25, the end"],
    [
      "before all WAL",
      judge(2.5, 3.5, [WHOLE]),
      "000000010000000000000002, where its recovery begins, is not here",
    ],
    ["in the tail", judge(8.125, 8.1875, [WHOLE]), "timeline 1 to 8.25, the end"],
    ["up to the last byte", judge(8, 8.25, [WHOLE]), "timeline 1 to 8.25, the end"],
    [
      "not yet to its end",
      judge(7.5, 8.5, [WHOLE]),
      "it needs WAL up to 0/880000, and what is here ends at 0/840000",
    ],
    [
      "behind all WAL",
      judge(9.5, 9.75, [WHOLE]),
      "000000010000000000000009, where its recovery begins, is not here",
    ],
    ["before a hole", judge(3.5, 4.5, [HOLED]), "timeline 1 to 5"],
    [
      "with a hole in it",
      judge(4.5, 6.5, [HOLED]),
      "it needs WAL up to 0/680000, and what is here ends at 0/500000",
    ],
    [
      "in a hole",
      judge(5.5, 6.5, [HOLED]),
      "000000010000000000000005, where its recovery begins, is not here",
    ],
    ["behind a hole", judge(6, 6.5, [HOLED]), "timeline 1 to 8.25, the end"],
    ["nothing but a tail", judge(3.5, 3.75, [state(T1, [], 3.875)]), "timeline 1 to 3.875, the end"],
    [
      "no WAL at all",
      judge(3.5, 3.75, [state(T1, [], undefined)]),
      "000000010000000000000003, where its recovery begins, is not here",
    ],
    [
      "over a fork",
      judge(4.5, 4.75, [state(T2, [[3, 8]], 8.25), state(T1, [[3, 9]], 9)]),
      "timeline 2 to 8.25, the end",
    ],
    [
      "behind the fork on the old timeline",
      judge(6.5, 6.75, [state(T2, [[3, 8]], 8.25), state(T1, [[3, 9]], 9)]),
      "timeline 1 to 9, the end",
    ],
    [
      "over a fork at its very end",
      judge(5.25, 5.5, [state(T2, [[3, 8]], 8.25), state(T1, [[3, 9]], 9)]),
      "timeline 2 to 8.25, the end",
    ],
    [
      "whose timeline was left before it ended",
      judge(5.25, 5.75, [state(T2, [[3, 8]], 8.25), state(T1, [[3, 9]], 9)]),
      "timeline 1 to 9, the end",
    ],
    [
      "whose timeline was left before it ended, where nothing of that is here",
      judge(5.25, 5.75, [state(T2, [[3, 8]], 8.25)]),
      "timeline 2 left its timeline 1 at 0/580000, before it ended at 0/5C0000",
    ],
    [
      "of a timeline that nothing is known of",
      judge(6.5, 6.75, [state(T2, [[3, 8]], 8.25)], 3),
      "nothing of its timeline 3 is here",
    ],
    [
      "where only the old timeline has no hole",
      judge(4.5, 4.75, [state(T2, [[3, 5], [6, 8]], 8.25), state(T1, [[3, 9]], 9)]),
      "timeline 1 to 9, the end",
    ],
  ] as const
) {
  test(`judgeBackup(): ${what}`, () => assert.equal(got, want));
}
