import type { Lsn } from "../wal/lsn.ts";
import { isCompleteSegment, type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import type { SegmentSize } from "../wal/segment.ts";
import type { DiskFile } from "./disk.ts";
import { readThrough } from "./segment_file.ts";

/** Reads a segment to its last byte, also behind an XLOG_SWITCH, and looks at every record. */
export async function proveSegmentFile(
  file: DiskFile,
  { startLsn, segmentSize }: { readonly startLsn: Lsn; readonly segmentSize: SegmentSize },
): Promise<SegmentScan> {
  const scanner = new SegmentScanner({ startLsn, segmentSize });
  await readThrough(file, (bytes) => {
    scanner.push(bytes);
    return "more";
  });
  return scanner.result();
}

/** Whether a segment is complete, and every record of it holds. */
export function isWholeAndRight(scan: SegmentScan): boolean {
  return isCompleteSegment(scan, scan.segmentSize) && (scan.end === "segment-end" || scan.end === "switch");
}
