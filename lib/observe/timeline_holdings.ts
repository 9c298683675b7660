import type { SegmentRun } from "../archive/inventory.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { type Lsn, lsn } from "../wal/lsn.ts";
import { type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { type Hole, holesBetween } from "./lineage_cover.ts";
import { emptyHistory } from "../wal/history.ts";

/** The complete segments of one timeline. */
export interface TimelineHoldings {
  readonly timeline: TimelineId;
  /** `undefined` when the archive has its history and no complete segment. */
  readonly startLsn: Lsn | undefined;
  readonly endLsn: Lsn | undefined;
  readonly segments: bigint;
  /** Of WAL, whatever the files have become by compression. */
  readonly bytes: bigint;
  /** Between its own segments. */
  readonly holes: readonly Hole[];
  /** The timeline that it came from, and where; `undefined` when there is none, or its history is not here. */
  readonly parent: { readonly timeline: TimelineId; readonly forkLsn: Lsn } | undefined;
}

/** What is here of each timeline that the archive knows of, by number. */
export function timelineHoldings(
  runs: readonly SegmentRun[],
  histories: readonly TimelineHistory[],
  size: SegmentSize,
): readonly TimelineHoldings[] {
  const timelines = new Set([...runs, ...histories].map(({ timeline }) => timeline));
  return [...timelines].sort((a, b) => a - b).map((timeline) => {
    const own = runs.filter((run) => run.timeline === timeline);
    const segments = own.reduce((sum, { firstNumber, endNumber }) => sum + endNumber - firstNumber, 0n);
    const first = own[0];
    const last = own.at(-1);
    const before = histories.find((history) => history.timeline === timeline)?.entries.at(-1);
    return {
      timeline,
      startLsn: first === undefined ? undefined : segmentStart(first.firstNumber, size),
      endLsn: last === undefined ? undefined : lsn(last.endNumber * BigInt(size)),
      segments,
      bytes: segments * BigInt(size),
      holes: holesBetween(own, emptyHistory(timeline), size),
      parent: before === undefined ? undefined : { timeline: before.timeline, forkLsn: before.endLsn },
    };
  });
}
