import type { BackupHistory } from "../wal/backup_history.ts";
import { isInLineage, switchPointOf, type TimelineHistory } from "../wal/history.ts";
import { timelineOfSegment } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { segmentNumberAt, type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { nameOf } from "../archive/layout.ts";
import type { Stretch } from "./lineage_cover.ts";

/** What the archive has of one timeline and its ancestors. */
export interface LineageState {
  readonly lineage: TimelineHistory;
  /** By number; `endLsn` lies in the last one or right behind it. */
  readonly stretches: readonly Stretch[];
  /** The end of the last stretch, or of the valid records behind it. */
  readonly endLsn: Lsn | undefined;
}

/** Whether a base backup can be recovered with what the archive has, and how far. */
export type BackupJudgement =
  | {
    readonly kind: "recoverable";
    /** The newest timeline that it can be recovered on. */
    readonly timeline: TimelineId;
    readonly stopLsn: Lsn;
    readonly endLsn: Lsn;
    /** As far as that timeline goes here: no hole comes before. */
    readonly toEnd: boolean;
  }
  | { readonly kind: "not-recoverable"; readonly reason: string };

/**
 * Judges a base backup on the lineages that lead from it, the newest first.
 *
 * The newest on which it can be recovered to the end counts; else the newest on which it can be recovered at all.
 */
export function judgeBackup(
  backup: Pick<BackupHistory, "startLsn" | "stopLsn" | "timeline">,
  lineages: readonly LineageState[],
  size: SegmentSize,
): BackupJudgement {
  const judgements = lineages.filter(({ lineage }) => leadsFrom(backup, lineage))
    .map((state) => judgeOn(backup, state, size));
  return judgements.find((judgement) => judgement.kind === "recoverable" && judgement.toEnd) ??
    judgements.find((judgement) => judgement.kind === "recoverable") ??
    judgements[0] ??
    { kind: "not-recoverable", reason: noLineage(backup, lineages) };
}

/** Recovery must replay the backup's own timeline to the backup's end: only then it is consistent. */
function leadsFrom(
  { timeline, stopLsn }: Pick<BackupHistory, "stopLsn" | "timeline">,
  lineage: TimelineHistory,
): boolean {
  if (!isInLineage(lineage, timeline)) return false;
  const leftAtLsn = switchPointOf(lineage, timeline);
  return leftAtLsn === undefined || stopLsn <= leftAtLsn;
}

function noLineage(
  { timeline, stopLsn }: Pick<BackupHistory, "stopLsn" | "timeline">,
  lineages: readonly LineageState[],
): string {
  const left = lineages.find(({ lineage }) => isInLineage(lineage, timeline))?.lineage;
  const leftAtLsn = left && switchPointOf(left, timeline);
  if (left === undefined || leftAtLsn === undefined) return `nothing of its timeline ${timeline} is here`;
  return `timeline ${left.timeline} left its timeline ${timeline} at ${formatLsn(leftAtLsn)}, ` +
    `before it ended at ${formatLsn(stopLsn)}`;
}

function judgeOn(
  { startLsn, stopLsn }: Pick<BackupHistory, "startLsn" | "stopLsn">,
  { lineage, stretches, endLsn }: LineageState,
  size: SegmentSize,
): BackupJudgement {
  const number = segmentNumberAt(startLsn, size);
  const index = stretches.findIndex((stretch) => stretch.firstNumber <= number && number < stretch.endNumber);
  const isLast = index === stretches.length - 1;
  const stretch = stretches[index];
  // With nothing complete, or from the tail's own segment on, the tail is all there is.
  const inTail = stretch === undefined && endLsn !== undefined && startLsn < endLsn &&
    number === (stretches.at(-1)?.endNumber ?? number);
  if (stretch === undefined && !inTail) {
    const name = nameOf({ timeline: timelineOfSegment(lineage, number, size), number }, size);
    return { kind: "not-recoverable", reason: `${name}, where its recovery begins, is not here` };
  }
  const reachedLsn = stretch === undefined || isLast
    ? endLsn ?? startLsn
    : segmentStart(stretch.endNumber, size);
  if (reachedLsn < stopLsn) {
    return {
      kind: "not-recoverable",
      reason: `it needs WAL up to ${formatLsn(stopLsn)}, and what is here ends at ${formatLsn(reachedLsn)}`,
    };
  }
  return {
    kind: "recoverable",
    timeline: lineage.timeline,
    stopLsn,
    endLsn: reachedLsn,
    toEnd: stretch === undefined || isLast,
  };
}
