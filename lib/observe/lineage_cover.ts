import type { SegmentRun } from "../archive/inventory.ts";
import { nameOf } from "../archive/layout.ts";
import { timelineAt, type TimelineHistory } from "../wal/history.ts";
import { type Lsn, lsn, minLsn } from "../wal/lsn.ts";
import {
  segmentEnd,
  type SegmentNumber,
  segmentNumberAt,
  type SegmentSize,
  segmentStart,
} from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";

/** Complete segments of one lineage without a hole between them: `firstNumber` up to, not including, `endNumber`. */
export interface Stretch {
  readonly firstNumber: SegmentNumber;
  readonly endNumber: SegmentNumber;
}

/** Segments of a lineage that are missing between others that are here. */
export interface Hole {
  /** Of the first file that is missing. */
  readonly timeline: TimelineId;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  readonly segments: bigint;
  /** The name of the first file that is missing. */
  readonly firstName: string;
}

/** The timeline whose file holds segment `number` on a lineage: that of the segment's last byte. */
export function timelineOfSegment(
  lineage: TimelineHistory,
  number: SegmentNumber,
  size: SegmentSize,
): TimelineId {
  return timelineAt(lineage, lsn(segmentEnd(number, size) - 1n));
}

/** The first segment of which a timeline of the lineage has the file; `undefined` outside the lineage. */
export function firstSegmentOf(
  lineage: TimelineHistory,
  timeline: TimelineId,
  size: SegmentSize,
): SegmentNumber | undefined {
  const index = lineage.entries.findIndex((entry) => entry.timeline === timeline);
  if (index === -1 && timeline !== lineage.timeline) return undefined;
  const before = index === -1 ? lineage.entries.at(-1) : lineage.entries[index - 1];
  return before === undefined ? 0n as SegmentNumber : segmentNumberAt(before.endLsn, size);
}

/** The part of a run whose files belong to the lineage: where a newer timeline has its own file, that one counts. */
function onLineage(run: SegmentRun, lineage: TimelineHistory, size: SegmentSize): Stretch | undefined {
  const first = firstSegmentOf(lineage, run.timeline, size);
  if (first === undefined) return undefined;
  const leftAt = lineage.entries.find((entry) => entry.timeline === run.timeline)?.endLsn;
  const end = leftAt === undefined ? undefined : segmentNumberAt(leftAt, size);
  const firstNumber = run.firstNumber > first ? run.firstNumber : first;
  const endNumber = end !== undefined && end < run.endNumber ? end : run.endNumber;
  return firstNumber < endNumber ? { firstNumber, endNumber } : undefined;
}

/** What of a lineage is here, by number. */
export function stretchesOf(
  runs: readonly SegmentRun[],
  lineage: TimelineHistory,
  size: SegmentSize,
): readonly Stretch[] {
  const parts = runs.flatMap((run) => onLineage(run, lineage, size) ?? [])
    .sort((a, b) => a.firstNumber < b.firstNumber ? -1 : 1);
  const stretches: { firstNumber: SegmentNumber; endNumber: SegmentNumber }[] = [];
  for (const part of parts) {
    const last = stretches.at(-1);
    if (last !== undefined && last.endNumber === part.firstNumber) last.endNumber = part.endNumber;
    else stretches.push({ ...part });
  }
  return stretches;
}

/** What is missing from `startNumber` up to, not including, `endNumber` of a lineage. */
export function holeBetween(
  { startNumber, endNumber }: { readonly startNumber: SegmentNumber; readonly endNumber: SegmentNumber },
  lineage: TimelineHistory,
  size: SegmentSize,
): Hole {
  const timeline = timelineOfSegment(lineage, startNumber, size);
  return {
    timeline,
    startLsn: segmentStart(startNumber, size),
    endLsn: segmentStart(endNumber, size),
    segments: endNumber - startNumber,
    firstName: nameOf({ timeline, number: startNumber }, size),
  };
}

/** What is missing between the stretches of a lineage. */
export function holesBetween(
  stretches: readonly Stretch[],
  lineage: TimelineHistory,
  size: SegmentSize,
): readonly Hole[] {
  return stretches.slice(1).map(({ firstNumber }, index) =>
    holeBetween({ startNumber: stretches[index]!.endNumber, endNumber: firstNumber }, lineage, size)
  );
}

/** The place of a file that may hold the tail of a lineage, and how far of it counts. */
export interface TailPlace {
  readonly timeline: TimelineId;
  /** Where the lineage left that timeline: bytes behind it are of no use to it. `undefined` for the segment's owner. */
  readonly limitLsn: Lsn | undefined;
}

/**
 * Whose files may hold the tail in segment `number` of a lineage, the best first: those of the timeline that has the
 * segment, then of ancestors that were left inside it.
 */
export function tailPlaces(
  lineage: TimelineHistory,
  number: SegmentNumber,
  size: SegmentSize,
): readonly TailPlace[] {
  const owner = timelineOfSegment(lineage, number, size);
  const startLsn = segmentStart(number, size);
  const ancestors = lineage.entries.filter(({ timeline, endLsn }) => timeline < owner && endLsn > startLsn)
    .map(({ timeline, endLsn }) => ({ timeline, limitLsn: minLsn(endLsn, segmentEnd(number, size)) }));
  return [{ timeline: owner, limitLsn: undefined }, ...ancestors.reverse()];
}
