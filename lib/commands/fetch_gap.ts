import type { Disk } from "../archive/disk.ts";
import { gapAt } from "../archive/gaps.ts";
import { readLedger } from "../archive/gap_ledger_file.ts";
import { ArchiveDirectory } from "../restore/archive_directory.ts";
import { formatLsn } from "../wal/lsn.ts";
import { parseSegmentName, segmentStart } from "../wal/segment.ts";

/** What the archive's ledger tells of a segment that is missing; `undefined` when nothing. */
export async function gapNote(disk: Disk, segment: string): Promise<string | undefined> {
  try {
    const { identity } = await ArchiveDirectory.open(disk);
    const ledger = await readLedger(disk);
    if (identity === undefined || ledger === undefined) return undefined;
    const place = parseSegmentName(segment, identity.segmentSize);
    if (place === undefined) return undefined;
    const startLsn = segmentStart(place.number, identity.segmentSize);
    const gap = gapAt(ledger, { timeline: place.timeline, startLsn });
    if (gap === undefined) return undefined;
    const what = "acceptedAt" in gap
      ? `was given up ${gap.acceptedAt} by ${gap.acceptedBy} (${gap.reason}): no restore goes across it`
      : `was recorded ${gap.recordedAt} (${gap.reason})`;
    return `it lies in the gap from ${formatLsn(gap.startLsn)} to ${formatLsn(gap.endLsn)}, which ${what}; ` +
      `see: walvault gap list --archive ${disk.root}; to end recovery where it begins, on purpose: fetch --until-gap`;
  } catch {
    // What is to be told is told without it.
    return undefined;
  }
}
