import { timelineAt, type TimelineHistory } from "../wal/history.ts";
import { advance, formatLsn, type Lsn, lsn } from "../wal/lsn.ts";
import {
  decodePageHeader,
  LONG_PAGE_HEADER_BYTES,
  PAGE_BYTES,
  SHORT_PAGE_HEADER_BYTES,
} from "../wal/page.ts";
import { nextRecordLsn, RecordWalk } from "../wal/record_walk.ts";
import { type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import { type SegmentNumber, segmentOffset, type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { Disk } from "./disk.ts";
import { nameOf } from "./layout.ts";
import { type SegmentBytes, withPublishedBytes } from "./segment_bytes.ts";

/** A segment that is to continue what the archive holds. */
export interface LinkedSegment {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  /** Of `timeline`, as far as it is known. */
  readonly lineage: TimelineHistory | undefined;
  readonly scan: SegmentScan;
  readonly bytes: SegmentBytes;
}

/**
 * Whether a segment's first record continues the archive's segment before it.
 *
 * - `continues`: the record that it points back to is there, ends where it begins, and its CRC holds over both files.
 * - `unknown`: the segment before is not here, or is damaged; or no record of this one tells.
 */
export type BackLink =
  | { readonly kind: "continues"; readonly before: string }
  | { readonly kind: "unknown" }
  | { readonly kind: "broken"; readonly before: string; readonly problem: string };

const UNKNOWN: BackLink = { kind: "unknown" };

/** Follows a segment's first record back into the archive. A wrong server often has the right system identifier. */
export async function checkBackLink(disk: Disk, segment: LinkedSegment): Promise<BackLink> {
  const { startLsn, segmentSize, firstRecordPrevLsn } = segment.scan;
  if (firstRecordPrevLsn === undefined || startLsn === 0n) return UNKNOWN;
  for (const name of namesBefore(segment, segmentSize)) {
    try {
      const link = await withPublishedBytes(disk, { name, segmentSize }, async (bytes): Promise<BackLink> => {
        const problem = await linkProblem(segment, bytes);
        if (problem === undefined) return { kind: "continues", before: name };
        // Damage in there says nothing about what comes now.
        const start = { startLsn: advance(startLsn, -segmentSize), segmentSize };
        return await isSound(bytes, start) ? { kind: "broken", before: name, problem } : UNKNOWN;
      });
      if (link !== undefined) return link;
    } catch (error) {
      // The same damage, found by whoever decompresses it.
      if (!(error instanceof DamagedFileError)) throw error;
      return UNKNOWN;
    }
  }
  return UNKNOWN;
}

/** The segment before under the names that it may have: of the timeline itself, or of the one that it came from. */
function namesBefore(
  { timeline, number, lineage, scan }: LinkedSegment,
  size: SegmentSize,
): readonly string[] {
  const before = number - 1n as SegmentNumber;
  const parent = lineage === undefined ? timeline : timelineAt(lineage, lsn(scan.startLsn - 1n));
  return [...new Set([timeline, parent])].map((each) => nameOf({ timeline: each, number: before }, size));
}

/** What speaks against a segment, of which a first record is known, going on where the one before it ends. */
export async function linkProblem(
  { number, scan, bytes }: LinkedSegment,
  before: SegmentBytes,
): Promise<string | undefined> {
  const { startLsn, segmentSize, firstRecordLsn, firstRecordPrevLsn } = scan;
  if (firstRecordLsn === undefined || firstRecordPrevLsn === undefined) return undefined;
  const points = `its first record at ${formatLsn(firstRecordLsn)} follows one at ${
    formatLsn(firstRecordPrevLsn)
  }`;
  const beforeStart = segmentStart(number - 1n as SegmentNumber, segmentSize);
  if (firstRecordPrevLsn < beforeStart) {
    // Then one record fills the segment before; its first page says whether that goes on from earlier.
    if (await isFilledFromEarlier(before, segmentSize)) return undefined;
    return `${points}, which is not the last one there`;
  }
  const follow = async (recordLsn: Lsn): Promise<RecordWalk> => {
    const walk = new RecordWalk(recordLsn);
    const take = (piece: Uint8Array) => {
      walk.push(piece);
      return walk.state === "open" ? "more" : "enough";
    };
    const offset = segmentOffset(recordLsn, segmentSize);
    if (recordLsn >= startLsn) await bytes(offset, take);
    else await before(offset, take);
    if (walk.state === "open" && walk.positionLsn === startLsn) await bytes(0, take);
    return walk;
  };
  const walk = await follow(firstRecordPrevLsn);
  const { header } = walk;
  if (walk.state !== "whole" || header === undefined) return `${points}, where there is no valid one`;
  // A server that lost the rest of a record in a crash goes on from the one before that.
  if (scan.firstPage?.overwritesContrecord === true && walk.positionLsn <= startLsn) return undefined;
  const next = nextRecordLsn({ header, endLsn: walk.positionLsn }, segmentSize);
  if (next === firstRecordLsn) return undefined;
  // The rest of the record behind it was lost in a crash, somewhere before the page on which this one begins.
  const isOverwriting = next < firstRecordLsn &&
    await beginsByOverwriting(bytes, segmentOffset(firstRecordLsn, segmentSize));
  if (isOverwriting && (await follow(next)).state !== "whole") return undefined;
  return `${points}, which the one at ${formatLsn(next)} follows there`;
}

/** Whether a record is the first of a page that says that the record before it is void. */
async function beginsByOverwriting(bytes: SegmentBytes, offset: number): Promise<boolean> {
  if (offset % PAGE_BYTES !== SHORT_PAGE_HEADER_BYTES) return false;
  const start = new Uint8Array(SHORT_PAGE_HEADER_BYTES);
  let taken = 0;
  await bytes(offset - SHORT_PAGE_HEADER_BYTES, (piece) => {
    const part = piece.subarray(0, start.length - taken);
    start.set(part, taken);
    taken += part.length;
    return taken < start.length ? "more" : "enough";
  });
  return taken === start.length && decodePageHeader(start)?.overwritesContrecord === true;
}

/** Whether a segment is nothing but the middle of a record. */
async function isFilledFromEarlier(bytes: SegmentBytes, size: SegmentSize): Promise<boolean> {
  const first = new Uint8Array(LONG_PAGE_HEADER_BYTES);
  await bytes(0, (piece) => {
    first.set(piece.subarray(0, first.length));
    return "enough";
  });
  const header = decodePageHeader(first);
  return header !== undefined && header.isContinuation && header.remainingBytes >= filledByRecordBytes(size);
}

/** Bytes of one record that fill a segment: all but the page headers. */
export function filledByRecordBytes(size: SegmentSize): number {
  return size - LONG_PAGE_HEADER_BYTES - (size / PAGE_BYTES - 1) * SHORT_PAGE_HEADER_BYTES;
}

async function isSound(
  bytes: SegmentBytes,
  segment: { readonly startLsn: Lsn; readonly segmentSize: SegmentSize },
): Promise<boolean> {
  const scanner = new SegmentScanner(segment);
  await bytes(0, (piece) => {
    scanner.push(piece);
    return "more";
  });
  return endsAsItShould(scanner.result());
}

/** Whether a segment's records can be believed to its end. */
export function endsAsItShould({ end }: SegmentScan): boolean {
  return end === "segment-end" || end === "switch";
}

/** The name of the segment after, of the same timeline. */
export function nameAfter(
  { timeline, number, scan: { segmentSize } }: Pick<LinkedSegment, "timeline" | "number" | "scan">,
): string {
  return nameOf({ timeline, number: number + 1n as SegmentNumber }, segmentSize);
}

/**
 * Whether a segment is the one that the archive's next segment continues; `undefined` when that can't be told.
 *
 * The other direction of `checkBackLink`. Damage in either of them tells nothing.
 */
export async function isContinuedByArchive(disk: Disk, segment: LinkedSegment): Promise<boolean | undefined> {
  const { scan } = segment;
  const { segmentSize } = scan;
  if (!endsAsItShould(scan)) return undefined;
  const startLsn = advance(scan.startLsn, segmentSize);
  try {
    return await withPublishedBytes(
      disk,
      { name: nameAfter(segment), segmentSize },
      async (bytes) => {
        const scanner = new SegmentScanner({ startLsn, segmentSize });
        let prevLsn: Lsn | undefined;
        await bytes(0, (piece) => {
          scanner.push(piece);
          prevLsn = scanner.result().firstRecordPrevLsn;
          return prevLsn === undefined && !scanner.done ? "more" : "enough";
        });
        const last = scan.openRecordLsn ?? scan.lastRecordLsn;
        if (prevLsn === undefined || last === undefined) return undefined;
        const { firstPage, firstRecordLsn } = scanner.result();
        const isContinued = prevLsn === last ||
          prevLsn === scan.lastRecordLsn && (firstPage?.overwritesContrecord === true ||
              firstRecordLsn !== undefined &&
                await beginsByOverwriting(bytes, segmentOffset(firstRecordLsn, segmentSize)));
        if (isContinued) return true;
        return await isSound(bytes, { startLsn, segmentSize }) ? false : undefined;
      },
    );
  } catch (error) {
    // A damaged one tells nothing.
    if (!(error instanceof DamagedFileError)) throw error;
    return undefined;
  }
}
