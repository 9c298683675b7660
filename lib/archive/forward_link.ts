import { timelineAt } from "../wal/history.ts";
import { advance, type Lsn, lsn } from "../wal/lsn.ts";
import { LONG_PAGE_HEADER_BYTES } from "../wal/page.ts";
import { RecordWalk } from "../wal/record_walk.ts";
import { type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import {
  parseSegmentName,
  type SegmentNumber,
  segmentOffset,
  type SegmentSize,
  segmentStart,
} from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { endsAsItShould, filledByRecordBytes, type LinkedSegment, linkProblem } from "./back_link.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { Disk } from "./disk.ts";
import { withFile } from "./durable.ts";
import { readHistoryOf } from "./history_file.ts";
import { IN_PROGRESS_DIRECTORY, inProgressPath, nameOf } from "./layout.ts";
import { bytesOfFile, type SegmentBytes, withPublishedBytes } from "./segment_bytes.ts";

/**
 * Whether what stands right behind a segment continues it.
 *
 * - `continued`: its first record follows the segment's last one, and the CRC of a record over both holds.
 * - `unknown`: nothing stands there, or too little yet, or it is damaged.
 */
export type ForwardLink =
  | { readonly kind: "continued"; readonly behind: string }
  | { readonly kind: "unknown" }
  | { readonly kind: "broken"; readonly behind: string; readonly problem: string };

const UNKNOWN: ForwardLink = { kind: "unknown" };

/** The place of a segment. */
interface Place {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  readonly segmentSize: SegmentSize;
}

/** What stands right behind a place, and says something about what belongs there. */
interface Behind {
  readonly path: string;
  readonly linked: LinkedSegment;
}

/**
 * Follows what stands right behind a complete segment back into it: what is published there, what grows there, or the
 * first segment of a timeline that went on there.
 */
export async function checkForwardLink(disk: Disk, segment: LinkedSegment): Promise<ForwardLink> {
  const { timeline, number, scan: { segmentSize } } = segment;
  const link = await lookBehind(disk, { timeline, number, segmentSize }, async ({ path, linked }) => {
    const problem = linked.scan.firstRecordPrevLsn === undefined
      ? await middleProblem(segment, linked)
      : await linkProblem(linked, segment.bytes);
    return problem === undefined
      ? { kind: "continued", behind: path } as const
      : { kind: "broken", behind: path, problem } as const;
  });
  return link ?? UNKNOWN;
}

/** Whether something stands right behind a place that tells which segment belongs there. */
export async function isAnchoredBehind(disk: Disk, place: Place): Promise<boolean> {
  return await lookBehind(disk, place, () => Promise.resolve(true as const)) === true;
}

/** What `judge` says of the first that tells something. */
async function lookBehind<T>(
  disk: Disk,
  place: Place,
  judge: (behind: Behind) => Promise<T>,
): Promise<T | undefined> {
  const { segmentSize } = place;
  const number = place.number + 1n as SegmentNumber;
  const lookAt = async (timeline: TimelineId): Promise<{ readonly said: T } | undefined> => {
    const name = nameOf({ timeline, number }, segmentSize);
    const told = (path: string, isPublished: boolean) => async (bytes: SegmentBytes) => {
      const startLsn = segmentStart(number, segmentSize);
      const scan = await scanStart(bytes, { startLsn, segmentSize, isPublished });
      if (scan === undefined) return undefined;
      return { said: await judge({ path, linked: { timeline, number, lineage: undefined, scan, bytes } }) };
    };
    const published = await withoutDamage(() =>
      withPublishedBytes(disk, { name, segmentSize }, told(name, true))
    );
    if (published !== undefined) return published;
    const path = inProgressPath(name);
    return await withFile(disk, path, (file) => told(path, false)(bytesOfFile(file)));
  };
  const own = await lookAt(place.timeline);
  if (own !== undefined) return own.said;
  // Only now: it takes a listing of the archive.
  for (const timeline of await timelinesFrom(disk, place)) {
    const child = await lookAt(timeline);
    if (child !== undefined) return child.said;
  }
  return undefined;
}

/** Damage says nothing about what stands before it. */
async function withoutDamage<T>(look: () => Promise<T | undefined>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof DamagedFileError) return undefined;
    throw error;
  }
}

/** The other timelines of which the archive has the next segment, if that goes on from this place. */
async function timelinesFrom(disk: Disk, place: Place): Promise<readonly TimelineId[]> {
  const { timeline, number, segmentSize } = place;
  const timelines = new Set<TimelineId>();
  for (const directory of [".", IN_PROGRESS_DIRECTORY]) {
    for (const entry of await disk.list(directory) ?? []) {
      const next = parseSegmentName(entry.slice(0, 24), segmentSize);
      if (next?.number === number + 1n && next.timeline > timeline) timelines.add(next.timeline);
    }
  }
  const lastLsn = lsn(segmentStart(number + 1n as SegmentNumber, segmentSize) - 1n);
  const children: TimelineId[] = [];
  for (const child of [...timelines].sort((a, b) => a - b)) {
    const lineage = await readHistoryOf(disk, child);
    if (lineage !== undefined && timelineAt(lineage, lastLsn) === timeline) children.push(child);
  }
  return children;
}

/**
 * What a segment's start says, if that can be believed: by all of its records where it is complete, by its first one
 * where it still grows.
 */
async function scanStart(
  bytes: SegmentBytes,
  { isPublished, ...segment }: {
    readonly startLsn: Lsn;
    readonly segmentSize: SegmentSize;
    readonly isPublished: boolean;
  },
): Promise<SegmentScan | undefined> {
  const scanner = new SegmentScanner(segment);
  await bytes(0, (piece) => {
    scanner.push(piece);
    if (isPublished) return "more";
    return scanner.done || scanner.result().recordCount > 0 ? "enough" : "more";
  });
  const scan = scanner.result();
  if (isPublished ? endsAsItShould(scan) : scan.recordCount > 0) return scan;
  return undefined;
}

/** Of a segment in which no record begins: only the length of the one that fills it can be held against what it follows. */
async function middleProblem(before: LinkedSegment, after: LinkedSegment): Promise<string | undefined> {
  const { openRecordLsn, segmentSize, firstPage } = before.scan;
  const problem = "it goes on with another record than the one that is open there";
  if (openRecordLsn === undefined) {
    const left = (firstPage?.remainingBytes ?? 0) - filledByRecordBytes(segmentSize);
    return left === after.scan.firstPage?.remainingBytes ? undefined : problem;
  }
  const walk = new RecordWalk(openRecordLsn);
  await before.bytes(segmentOffset(openRecordLsn, segmentSize), (piece) => {
    walk.push(piece);
    return walk.state === "open" ? "more" : "enough";
  });
  if (walk.state === "open" && walk.positionLsn === advance(before.scan.startLsn, segmentSize)) {
    await after.bytes(0, (piece) => {
      walk.push(piece.subarray(0, LONG_PAGE_HEADER_BYTES));
      return "enough";
    });
  }
  return walk.state === "broken" ? problem : undefined;
}
