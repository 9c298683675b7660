import { ArchiveConflictError } from "../wal/errors.ts";
import { timelineAt, type TimelineHistory } from "../wal/history.ts";
import { advance, formatLsn, type Lsn, lsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";
import { type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import { segmentFloor, segmentNumberAt, segmentOffset, type SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { scanPublished } from "./back_links.ts";
import { keepConflict } from "./conflict.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { Disk } from "./disk.ts";
import { type Naming, removeName, withFile } from "./durable.ts";
import { IN_PROGRESS_DIRECTORY, nameOf, parseInProgressName, pushedPath } from "./layout.ts";
import { withPublished } from "./published.ts";
import { type SegmentBytes, withPublishedBytes } from "./segment_bytes.ts";
import { DIVERGED_ADVICE, explainDifference, seeDifference } from "./segment_conflict.ts";
import { readThrough } from "./segment_file.ts";
import type { Modes } from "./segment_writer.ts";

/** So much of the archive's end is compared with the server's, at most: milliseconds on a network of one's own. */
export const OVERLAP_BYTES = 1 << 20;

/** What a disk takes at a time. */
const WRITE_BYTES = 256 * 1024;

/** WAL of one complete segment of the archive, which a server that goes on behind it must have too. */
export interface Overlap {
  readonly timeline: TimelineId;
  /** A page's start. */
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

/** Where a server is to go on. */
export interface OverlapSearch {
  /** A segment's start. */
  readonly startLsn: Lsn;
  /** Of the timeline that is streamed from there on. */
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
}

/**
 * What a server has to be asked for before it is followed from `startLsn` on; `undefined` when nothing needs to be
 * compared, or nothing can.
 *
 * Records of a segment that was received in part come again, and are compared as they come. Where a segment's end was
 * reached nothing comes again, and a server that went another way may have records that end at the very same LSNs.
 */
export async function planOverlap(disk: Disk, search: OverlapSearch): Promise<Overlap | undefined> {
  const { startLsn, lineage, segmentSize } = search;
  if (startLsn === 0n || await comesAgain(disk, search)) return undefined;
  const before = lsn(startLsn - 1n);
  const timeline = timelineAt(lineage, before);
  const number = segmentNumberAt(before, segmentSize);
  const scan = await scanPublished(disk, {
    name: nameOf({ timeline, number }, segmentSize),
    number,
    segmentSize,
  });
  return scan === undefined ? undefined : overlapOf(scan, timeline);
}

/** The last records of a segment: behind an XLOG_SWITCH there is nothing that could differ. */
function overlapOf(scan: SegmentScan, timeline: TimelineId): Overlap | undefined {
  const endLsn = scan.end === "segment-end"
    ? advance(scan.startLsn, scan.segmentSize)
    : scan.end === "switch"
    ? pageCeiling(scan.endLsn)
    : undefined;
  // Damage in there says nothing about what the server has.
  if (endLsn === undefined) return undefined;
  const startLsn = advance(endLsn, -OVERLAP_BYTES);
  return { timeline, startLsn: startLsn < scan.startLsn ? scan.startLsn : startLsn, endLsn };
}

function pageCeiling(at: Lsn): Lsn {
  const page = BigInt(PAGE_BYTES);
  return lsn((at + page - 1n) / page * page);
}

/** Whether records of the segment at `startLsn` are here: then the server sends them once more. */
async function comesAgain(disk: Disk, { startLsn, lineage, segmentSize }: OverlapSearch): Promise<boolean> {
  const number = segmentNumberAt(startLsn, segmentSize);
  for (const entry of await disk.list(IN_PROGRESS_DIRECTORY) ?? []) {
    const parsed = parseInProgressName(entry, segmentSize);
    if (parsed?.number !== number || parsed.timeline !== lineage.timeline) continue;
    const found = await withFile(disk, `${IN_PROGRESS_DIRECTORY}/${entry}`, async (file) => {
      const scanner = new SegmentScanner({ startLsn, segmentSize });
      await readThrough(file, (bytes) => {
        scanner.push(bytes);
        return scanner.done || scanner.result().recordCount > 0 ? "enough" : "more";
      });
      return scanner.result().recordCount > 0;
    });
    if (found === true) return true;
  }
  return false;
}

/** What a server sent of an overlap; all of it. */
export interface SentOverlap {
  readonly overlap: Overlap;
  readonly bytes: Uint8Array;
  /** Who sent it, for messages. */
  readonly server: string;
}

/**
 * Holds what a server sent against the archive's own.
 *
 * @throws {ArchiveConflictError} when they differ; what the server sent is kept, and the archive stays as it is.
 */
export async function compareOverlap(
  disk: Disk,
  sent: SentOverlap,
  options: { readonly segmentSize: SegmentSize; readonly modes: Modes; readonly naming: Naming },
): Promise<void> {
  const { overlap: { timeline, startLsn, endLsn }, server } = sent;
  const { segmentSize } = options;
  const name = nameOf({ timeline, number: segmentNumberAt(startLsn, segmentSize) }, segmentSize);
  const differenceLsn = await firstDifference(disk, name, sent, segmentSize);
  if (differenceLsn === undefined) return;
  const text = await withPublishedBytes(disk, { name, segmentSize }, async (own) => {
    const sides = [
      { label: "the archive", bytes: own },
      { label: "the server", bytes: withSent(own, sent, segmentSize) },
    ] as const;
    return explainDifference(await seeDifference(sides, { differenceLsn, segmentSize }));
  });
  const kept = await keepSent(disk, { ...sent, name }, options);
  throw new ArchiveConflictError(
    `Cannot go on behind ${name}: the server at ${server} has other WAL there than this archive, of the same cluster and the same ` +
      `timeline; ${
        text ?? `they differ first at ${formatLsn(differenceLsn)}`
      }; nothing was overwritten, what the ` +
      `server sent (${formatLsn(startLsn)} to ${
        formatLsn(endLsn)
      }) is kept as "${disk.root}/${kept}"; ${DIVERGED_ADVICE}`,
  );
}

async function firstDifference(
  disk: Disk,
  name: string,
  { overlap: { startLsn }, bytes: sent }: SentOverlap,
  segmentSize: SegmentSize,
): Promise<Lsn | undefined> {
  const start = segmentOffset(startLsn, segmentSize);
  try {
    return await withPublished(disk, { name, segmentSize }, async (published) => {
      let at: number | undefined;
      await published.readThrough((own, position) => {
        const from = Math.max(start, position);
        const end = Math.min(start + sent.length, position + own.length);
        for (let index = from; index < end; index++) {
          if (own[index - position] === sent[index - start]) continue;
          at = index;
          return "enough";
        }
        return position + own.length < start + sent.length ? "more" : "enough";
      });
      return at === undefined ? undefined : advance(segmentFloor(startLsn, segmentSize), at);
    });
  } catch (error) {
    // As damage inside it.
    if (!(error instanceof DamagedFileError)) throw error;
    return undefined;
  }
}

/** The segment as the server has it: what it was not asked for is taken to be the archive's. */
function withSent(
  own: SegmentBytes,
  { overlap, bytes }: SentOverlap,
  segmentSize: SegmentSize,
): SegmentBytes {
  const start = segmentOffset(overlap.startLsn, segmentSize);
  return async (position, take) => {
    let wants = true;
    if (position < start) {
      await own(position, async (piece, at) => {
        const before = piece.subarray(0, Math.max(0, start - at));
        if (before.length > 0) wants = await take(before, at) === "more";
        return wants && before.length === piece.length ? "more" : "enough";
      });
    }
    const from = Math.max(position, start);
    if (wants && from < start + bytes.length) await take(bytes.subarray(from - start), from);
  };
}

/** Under its segment's name, and each byte at its own place, so that tools for WAL can read it. */
async function keepSent(
  disk: Disk,
  { name, overlap, bytes }: SentOverlap & { readonly name: string },
  { segmentSize, modes, naming }: {
    readonly segmentSize: SegmentSize;
    readonly modes: Modes;
    readonly naming: Naming;
  },
): Promise<string> {
  // No push brings a file of that name, so none takes it away.
  const from = pushedPath(`${name}.server`, "overlap");
  await removeName(disk, from);
  const file = await disk.create(from, modes.file);
  try {
    await file.truncate(segmentSize);
    const start = segmentOffset(overlap.startLsn, segmentSize);
    for (let at = 0; at < bytes.length; at += WRITE_BYTES) {
      await file.write(bytes.subarray(at, at + WRITE_BYTES), start + at);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  return await keepConflict(disk, { from, name }, { modes, naming });
}
