import type { Lsn } from "../wal/lsn.ts";
import { isAllZero, type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import type { SegmentSize } from "../wal/segment.ts";
import type { DiskFile } from "./disk.ts";

const READ_BYTES = 256 * 1024;

/** Takes bytes that stand at `position`, valid during the call only, and tells whether it wants more. */
export type TakeBytes = (
  bytes: Uint8Array,
  position: number,
) => "more" | "enough" | Promise<"more" | "enough">;

/** Reads a file once, front to back, as far as `take` wants. */
export async function readThrough(file: DiskFile, take: TakeBytes): Promise<void> {
  const buffer = new Uint8Array(READ_BYTES);
  for (let position = 0;;) {
    const count = await file.read(buffer, position);
    if (count === 0 || await take(buffer.subarray(0, count), position) === "enough") return;
    position += count;
  }
}

/** Where the records in a segment file end, and what they are like at both ends. */
export function scanSegmentFile(
  file: DiskFile,
  segment: { readonly startLsn: Lsn; readonly segmentSize: SegmentSize },
): Promise<SegmentScan> {
  return scanThrough((take) => readThrough(file, take), segment);
}

/** As `scanSegmentFile`, of a segment that is read in some other way. */
export async function scanThrough(
  readSegment: (take: TakeBytes) => Promise<void>,
  segment: { readonly startLsn: Lsn; readonly segmentSize: SegmentSize },
): Promise<SegmentScan> {
  const scanner = new SegmentScanner(segment);
  await readSegment((bytes) => {
    scanner.push(bytes);
    return scanner.done ? "enough" : "more";
  });
  return scanner.result();
}

/** Bytes up to and including the last one that is not zero: more than this nobody can have written. */
export function countWrittenBytes(file: DiskFile): Promise<number> {
  return countWritten((take) => readThrough(file, take));
}

/** As `countWrittenBytes`, of a segment that is read in some other way. */
export async function countWritten(readSegment: (take: TakeBytes) => Promise<void>): Promise<number> {
  let written = 0;
  await readSegment((bytes, position) => {
    if (!isAllZero(bytes)) {
      let length = bytes.length;
      while (bytes[length - 1] === 0) length--;
      written = position + length;
    }
    return "more";
  });
  return written;
}
