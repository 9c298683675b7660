import type { SegmentRun } from "../archive/inventory.ts";
import { nameOf } from "../archive/layout.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { onLineage, timelineOfSegment } from "../wal/lineage.ts";
import { type Lsn, minLsn } from "../wal/lsn.ts";
import { segmentEnd, type SegmentNumber, type SegmentSize, segmentStart } from "../wal/segment.ts";
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

/** What of a lineage is here, by number. */
export function stretchesOf(
  runs: readonly SegmentRun[],
  lineage: TimelineHistory,
  size: SegmentSize,
): readonly Stretch[] {
  const stretches: { firstNumber: SegmentNumber; endNumber: SegmentNumber }[] = [];
  for (const { firstNumber, endNumber } of onLineage(runs, { lineage, segmentSize: size })) {
    const last = stretches.at(-1);
    if (last !== undefined && last.endNumber === firstNumber) last.endNumber = endNumber;
    else stretches.push({ firstNumber, endNumber });
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
