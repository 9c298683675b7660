import { decodePageHeader, LONG_PAGE_HEADER_BYTES } from "../wal/page.ts";
import { SegmentScanner } from "../wal/scanner.ts";
import { segmentOffset, segmentSize } from "../wal/segment.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { Disk } from "./disk.ts";
import { withFile } from "./durable.ts";

/** The start of a segment, read and looked at before anybody knows whether it belongs here. */
export interface ReadAhead {
  /** What the segment says about itself. */
  readonly startLsn: Lsn;
  readonly segmentBytes: number;
  /** Has taken the first `bytes`. */
  readonly scanner: SegmentScanner;
  readonly bytes: number;
}

/**
 * Reads a segment's first bytes into `piece` and looks at the records in it; `undefined` when it is no segment.
 *
 * A disk's thread takes as long to start as a runtime takes to run the scanner for the first time: both at once.
 */
export async function readAhead(disk: Disk, name: string, piece: Uint8Array): Promise<ReadAhead | undefined> {
  return await withFile(disk, name, async (file) => {
    const bytes = await file.read(piece, 0);
    const header = decodePageHeader(piece.subarray(0, Math.min(bytes, LONG_PAGE_HEADER_BYTES)));
    if (header?.segmentBytes === undefined) return undefined;
    const { pageLsn: startLsn, segmentBytes } = header;
    try {
      const size = segmentSize(segmentBytes);
      if (segmentOffset(startLsn, size) !== 0) return undefined;
      const scanner = new SegmentScanner({ startLsn, segmentSize: size });
      scanner.push(piece.subarray(0, bytes));
      return { startLsn, segmentBytes, scanner, bytes };
    } catch (error) {
      // No segment has this size: whoever knows the archive says what is wrong.
      if (!(error instanceof RangeError)) throw error;
      return undefined;
    }
  });
}
