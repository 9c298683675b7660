import { type Lsn, lsn } from "./lsn.ts";
import { formatTimelineId, type TimelineId, timelineId } from "./timeline.ts";

declare const segmentSizeBrand: unique symbol;
declare const segmentNumberBrand: unique symbol;

/** Bytes per WAL segment: a power of two from 1 MiB to 1 GiB, fixed when the cluster was made. */
export type SegmentSize = number & { readonly [segmentSizeBrand]: never };

/**
 * A segment's place in the WAL: its first byte's LSN divided by the segment size.
 *
 * @see XLogSegNo, src/include/access/xlogdefs.h
 */
export type SegmentNumber = bigint & { readonly [segmentNumberBrand]: never };

const MIB = 1024 * 1024;
const MIN_SEGMENT_BYTES = MIB;
const MAX_SEGMENT_BYTES = 1024 * MIB;
const LSN_SPACE = 1n << 64n;
/** The last two of the three parts of a segment's name count 4 GiB logs and the segments in one. */
const LOG_BYTES = 1n << 32n;
const SEGMENT_SIZE_TEXT = /^([0-9]{1,10})(B|kB|MB|GB)?$/;
const UNIT_BYTES = { B: 1, kB: 1024, MB: MIB, GB: 1024 * MIB } as const;
const SEGMENT_NAME = /^([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})$/;

/**
 * Bytes per WAL segment, fixed when the cluster was made.
 *
 * A power of two from 1 MiB to 1 GiB; `SHOW wal_segment_size` on a replication connection tells it.
 * @throws {RangeError} on any other number.
 * @see IsValidWalSegSize(), src/include/access/xlog_internal.h (PostgreSQL 11 to 18)
 */
export function segmentSize(bytes: number): SegmentSize {
  const inRange = Number.isInteger(bytes) && bytes >= MIN_SEGMENT_BYTES && bytes <= MAX_SEGMENT_BYTES;
  if (!inRange || (bytes & (bytes - 1)) !== 0) {
    throw new RangeError(
      `Cannot use a WAL segment size of ${bytes} bytes: want a power of two from 1 MiB to 1 GiB`,
    );
  }
  return bytes as SegmentSize;
}

/**
 * Reads the answer to `SHOW wal_segment_size`: "16MB", "1GB", or a bare number of bytes.
 *
 * @throws {SyntaxError} when it is no number with one of PostgreSQL's units B, kB, MB, GB.
 * @throws {RangeError} when that is no segment size.
 */
export function parseSegmentSize(text: string): SegmentSize {
  const parts = SEGMENT_SIZE_TEXT.exec(text);
  if (parts === null) {
    throw new SyntaxError(`Cannot parse WAL segment size: ${JSON.stringify(text)}, want a text like "16MB"`);
  }
  const unit = (parts[2] ?? "B") as keyof typeof UNIT_BYTES;
  return segmentSize(Number(parts[1]) * UNIT_BYTES[unit]);
}

/** The size as `SHOW wal_segment_size` writes it: "16MB", "1GB". */
export function formatSegmentSize(size: SegmentSize): string {
  return size === MAX_SEGMENT_BYTES ? "1GB" : `${size / MIB}MB`;
}

/**
 * The segment number of this value.
 *
 * @throws {RangeError} outside 0 to 2^44-1, the last segment there is (of 1 MiB); whether it lies in the LSN space
 * of a larger segment size shows when it is used with that size.
 */
export function segmentNumber(value: bigint): SegmentNumber {
  if (value < 0n || value >= LSN_SPACE / BigInt(MIN_SEGMENT_BYTES)) {
    throw new RangeError(`Cannot make a segment number of ${value}: want 0 to 2^44-1`);
  }
  return value as SegmentNumber;
}

/**
 * The segment that holds the byte at this LSN.
 *
 * @see XLByteToSeg(), src/include/access/xlog_internal.h
 */
export function segmentNumberAt(lsn: Lsn, size: SegmentSize): SegmentNumber {
  return (lsn / BigInt(size)) as SegmentNumber;
}

/**
 * The LSN of the segment's first byte.
 *
 * @throws {RangeError} when the segment lies outside the LSN space.
 */
export function segmentStart(number: SegmentNumber, size: SegmentSize): Lsn {
  return lsn(number * BigInt(size));
}

/**
 * The first LSN after the segment.
 *
 * @throws {RangeError} for the very last segment, whose end 2^64 is no LSN (no cluster ever gets there), and outside
 * the LSN space.
 */
export function segmentEnd(number: SegmentNumber, size: SegmentSize): Lsn {
  return lsn((number + 1n) * BigInt(size));
}

/**
 * How many bytes this LSN lies behind its segment's first byte: 0 to size-1.
 *
 * @see XLogSegmentOffset(), src/include/access/xlog_internal.h
 */
export function segmentOffset(lsn: Lsn, size: SegmentSize): number {
  return Number(lsn & BigInt(size - 1));
}

/** The LSN of the first byte of the segment that holds this LSN. */
export function segmentFloor(lsn: Lsn, size: SegmentSize): Lsn {
  return (lsn - (lsn & BigInt(size - 1))) as Lsn;
}

/**
 * The segment's file name: timeline, 4 GiB log and segment in it, 8 upper-case hex digits each.
 *
 * @throws {RangeError} when the segment lies outside the LSN space.
 * @see XLogFileName(), src/include/access/xlog_internal.h
 */
export function segmentName(timeline: TimelineId, number: SegmentNumber, size: SegmentSize): string {
  segmentStart(number, size);
  const perLog = LOG_BYTES / BigInt(size);
  return formatTimelineId(timeline) + hexHalf(number / perLog) + hexHalf(number % perLog);
}

function hexHalf(value: bigint): string {
  return value.toString(16).toUpperCase().padStart(8, "0");
}

/**
 * What a segment's file name says; `undefined` when it is no name of a segment of this size.
 *
 * Other names are those not made of 24 upper-case hex digits, timeline 0, and a last part that 4 GiB of segments of
 * this size never reach.
 * @see IsXLogFileName(), XLogFromFileName(), src/include/access/xlog_internal.h
 */
export function parseSegmentName(
  name: string,
  size: SegmentSize,
): { readonly timeline: TimelineId; readonly number: SegmentNumber } | undefined {
  const parts = SEGMENT_NAME.exec(name);
  if (parts === null || parts[1] === "00000000") return undefined;
  const perLog = LOG_BYTES / BigInt(size);
  const inLog = BigInt(`0x${parts[3]}`);
  if (inLog >= perLog) return undefined;
  return {
    timeline: timelineId(parseInt(parts[1] ?? "", 16)),
    number: segmentNumber(BigInt(`0x${parts[2]}`) * perLog + inLog),
  };
}
