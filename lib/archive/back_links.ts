import { timelineAt, type TimelineHistory } from "../wal/history.ts";
import { type Lsn, lsn } from "../wal/lsn.ts";
import { SegmentScanner } from "../wal/scanner.ts";
import { segmentNumberAt, type SegmentSize, segmentStart } from "../wal/segment.ts";
import { DamagedFileError } from "./compression.ts";
import type { Disk } from "./disk.ts";
import { nameOf } from "./layout.ts";
import { withPublished } from "./published.ts";

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
): Promise<readonly Lsn[]> {
  if (startLsn === 0n) return [];
  const before = lsn(startLsn - 1n);
  const number = segmentNumberAt(before, segmentSize);
  const name = nameOf({ timeline: timelineAt(lineage, before), number }, segmentSize);
  const scanner = new SegmentScanner({ startLsn: segmentStart(number, segmentSize), segmentSize });
  try {
    await withPublished(disk, { name, segmentSize }, (published) =>
      published.readThrough((bytes) => {
        scanner.push(bytes);
        return scanner.done ? "enough" : "more";
      }));
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    return [];
  }
  const { end, openRecordLsn, lastRecordLsn } = scanner.result();
  if (end !== "segment-end" && end !== "switch") return [];
  // A server that gave the open record up goes on from the one before, which began in a segment not looked at.
  if (lastRecordLsn === undefined) return [];
  return [openRecordLsn, lastRecordLsn].filter((each) => each !== undefined);
}
