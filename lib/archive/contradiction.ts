import type { Lsn } from "../wal/lsn.ts";
import type { SegmentSize } from "../wal/segment.ts";
import type { Disk, DiskFile } from "./disk.ts";
import { firstDifferenceInFiles, withFile } from "./durable.ts";
import { scanSegmentFile } from "./segment_file.ts";

/** Bytes of a segment that cannot be those of another file of the same segment. */
export interface Contradiction {
  readonly path: string;
  /** Offset of the first byte that differs. */
  readonly at: number;
}

/**
 * The first unfinished file of a segment that differs from `own` below the end of valid WAL of both.
 *
 * Bytes before its first record do not count: their CRC is not there, and a power cut may have left a hole.
 */
export async function findContradiction(
  disk: Disk,
  unfinished: {
    readonly paths: readonly string[];
    readonly startLsn: Lsn;
    readonly segmentSize: SegmentSize;
  },
  own: { readonly file: DiskFile; readonly validBytes: number },
): Promise<Contradiction | undefined> {
  const { startLsn, segmentSize } = unfinished;
  for (const path of unfinished.paths) {
    const at = await withFile(disk, path, async (file) => {
      const look = async () => {
        const scan = await scanSegmentFile(file, { startLsn, segmentSize });
        const start = Number((scan.firstRecordLsn ?? scan.endLsn) - startLsn);
        const end = Math.min(Number(scan.endLsn - startLsn), own.validBytes);
        return await firstDifferenceInFiles(file, own.file, { start, end });
      };
      // A receiver may be writing there: what is no contradiction any more was none.
      return await look() === undefined ? undefined : await look();
    });
    if (at !== undefined) return { path, at };
  }
  return undefined;
}
