import { timelineAt, type TimelineHistory } from "../wal/history.ts";
import { type Lsn, lsn } from "../wal/lsn.ts";
import type { SegmentScan } from "../wal/scanner.ts";
import { type SegmentNumber, segmentNumberAt, type SegmentSize, segmentStart } from "../wal/segment.ts";
import { endsAsItShould } from "./back_link.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { Disk } from "./disk.ts";
import { nameOf } from "./layout.ts";
import { withPublished } from "./published.ts";
import { scanThrough } from "./segment_file.ts";

/**
 * The records that the first one from `startLsn` on, a segment's start, may point back to; none when nothing tells.
 *
 * Two where the segment before ends inside a record: after a crash the server gives that one up, and goes on from the
 * one before it. Damage inside that segment says nothing about what the server sends now.
 */
export async function backLinksBefore(
  disk: Disk,
  { startLsn, lineage, segmentSize }: {
    readonly startLsn: Lsn;
    readonly lineage: TimelineHistory;
    readonly segmentSize: SegmentSize;
  },
  scanSegment: ScanPublished = scanPublished,
): Promise<readonly Lsn[]> {
  if (startLsn === 0n) return [];
  const before = lsn(startLsn - 1n);
  const number = segmentNumberAt(before, segmentSize);
  const name = nameOf({ timeline: timelineAt(lineage, before), number }, segmentSize);
  const scan = await scanSegment(disk, { name, number, segmentSize });
  if (scan === undefined || scan === "unreadable" || !endsAsItShould(scan)) return [];
  // A server that gave the open record up goes on from the one before, which began in a segment not looked at.
  if (scan.lastRecordLsn === undefined) return [];
  return [scan.openRecordLsn, scan.lastRecordLsn].filter((each) => each !== undefined);
}

/** A published segment that is to be scanned. */
export interface SegmentToScan {
  readonly name: string;
  readonly number: SegmentNumber;
  readonly segmentSize: SegmentSize;
}

/** As `scanPublished`. */
export type ScanPublished = (
  disk: Disk,
  segment: SegmentToScan,
) => Promise<SegmentScan | "unreadable" | undefined>;

/** How the records of a published segment go; `undefined` when it is not there. */
export async function scanPublished(
  disk: Disk,
  { name, number, segmentSize }: SegmentToScan,
): Promise<SegmentScan | "unreadable" | undefined> {
  const startLsn = segmentStart(number, segmentSize);
  try {
    return await withPublished(
      disk,
      { name, segmentSize },
      ({ readThrough }) => scanThrough(readThrough, { startLsn, segmentSize }),
    );
  } catch (error) {
    if (error instanceof DamagedFileError) return "unreadable";
    throw error;
  }
}
