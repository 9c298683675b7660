import { decodePageHeader, LONG_PAGE_HEADER_BYTES, PAGE_BYTES } from "../wal/page.ts";
import { SegmentScanner } from "../wal/scanner.ts";
import { segmentOffset, type SegmentSize, segmentSize } from "../wal/segment.ts";
import { advance, type Lsn } from "../wal/lsn.ts";
import type { Disk, FileState } from "./disk.ts";
import { withFile } from "./durable.ts";

/**
 * Looks whether a segment is complete, in half the time that it takes to prove all of it.
 *
 * Damage before the last page does not make it incomplete: the CRCs of the records before that are not looked at.
 */
export function completenessScanner(
  { startLsn, segmentSize }: { readonly startLsn: Lsn; readonly segmentSize: SegmentSize },
): SegmentScanner {
  const provenFromLsn = advance(startLsn, segmentSize - PAGE_BYTES);
  return new SegmentScanner({ startLsn, segmentSize, provenFromLsn });
}

/** The start of a segment, read and looked at before anybody knows whether it belongs here. */
export interface ReadAhead {
  /** What the segment says about itself. */
  readonly startLsn: Lsn;
  readonly segmentBytes: number;
  /** A `completenessScanner` that has taken the first `bytes`. */
  readonly scanner: SegmentScanner;
  readonly bytes: number;
  /** Of the file, before it was read. */
  readonly state: FileState;
}

/**
 * Reads a segment's first bytes into `piece` and looks at the records in it; `undefined` when it is no segment.
 *
 * A disk's thread takes as long to start as a runtime takes to run the scanner for the first time: both at once.
 */
export async function readAhead(disk: Disk, name: string, piece: Uint8Array): Promise<ReadAhead | undefined> {
  return await withFile(disk, name, async (file) => {
    const state = await file.state();
    const bytes = await file.read(piece, 0);
    const header = decodePageHeader(piece.subarray(0, Math.min(bytes, LONG_PAGE_HEADER_BYTES)));
    if (header?.segmentBytes === undefined) return undefined;
    const { pageLsn: startLsn, segmentBytes } = header;
    try {
      const size = segmentSize(segmentBytes);
      if (segmentOffset(startLsn, size) !== 0) return undefined;
      const scanner = completenessScanner({ startLsn, segmentSize: size });
      scanner.push(piece.subarray(0, bytes));
      return { startLsn, segmentBytes, scanner, bytes, state };
    } catch (error) {
      // No segment has this size: whoever knows the archive says what is wrong.
      if (!(error instanceof RangeError)) throw error;
      return undefined;
    }
  });
}
