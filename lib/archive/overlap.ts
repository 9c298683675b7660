import { firstDifferentByte } from "../wal/bytes.ts";
import { ArchiveConflictError, CorruptWalError } from "../wal/errors.ts";
import { timelineAt, type TimelineHistory } from "../wal/history.ts";
import { advance, formatLsn, type Lsn, lsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";
import { recordBehind } from "../wal/record_walk.ts";
import { SegmentScanner } from "../wal/scanner.ts";
import {
  segmentFloor,
  segmentNumberAt,
  segmentOffset,
  type SegmentSize,
  segmentStart,
} from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { type ScanPublished, scanPublished } from "./back_links.ts";
import { keepConflict } from "./conflict.ts";
import { DamagedFileError } from "./damaged_file.ts";
import { type DifferenceVerdict, judgeDifference } from "./divergence.ts";
import type { Disk } from "./disk.ts";
import { type Naming, removeName, withFile } from "./durable.ts";
import { IN_PROGRESS_DIRECTORY, nameOf, parseInProgressName, pushedPath } from "./layout.ts";
import { withPublished } from "./published.ts";
import { type SegmentBytes, withPublishedBytes } from "./segment_bytes.ts";
import {
  DIVERGED_ADVICE,
  explainDifference,
  formatRecord,
  seeDifference,
  seeRecord,
} from "./segment_conflict.ts";
import { countWritten, readThrough } from "./segment_file.ts";
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
export async function planOverlap(
  disk: Disk,
  search: OverlapSearch,
  scanSegment: ScanPublished = scanPublished,
): Promise<Overlap | undefined> {
  const { startLsn, lineage, segmentSize } = search;
  if (startLsn === 0n || await comesAgain(disk, search)) return undefined;
  const before = lsn(startLsn - 1n);
  const timeline = timelineAt(lineage, before);
  const number = segmentNumberAt(before, segmentSize);
  const name = nameOf({ timeline, number }, segmentSize);
  const scan = await scanSegment(disk, { name, number, segmentSize });
  if (scan === undefined) return undefined;
  const firstLsn = segmentStart(number, segmentSize);
  const endLsn = scan !== "unreadable" && scan.end === "switch"
    // Behind it there is nothing that could differ.
    ? pageCeiling(scan.endLsn)
    : scan !== "unreadable" && scan.end === "segment-end"
    ? startLsn
    // Damage hides nothing behind it: all that was received is compared.
    : await writtenEnd(disk, name, { firstLsn, segmentSize });
  const overlapLsn = advance(endLsn, -Math.min(OVERLAP_BYTES, Number(endLsn - firstLsn)));
  return endLsn === firstLsn ? undefined : { timeline, startLsn: overlapLsn, endLsn };
}

/** The end of the last page of a damaged segment that is not empty. */
async function writtenEnd(
  disk: Disk,
  name: string,
  { firstLsn, segmentSize }: { readonly firstLsn: Lsn; readonly segmentSize: SegmentSize },
): Promise<Lsn> {
  let written = 0;
  try {
    await withPublished(disk, { name, segmentSize }, async ({ readThrough }) => {
      written = await countWritten(readThrough);
    });
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    // How far it went, nobody can read.
    written = segmentSize;
  }
  return pageCeiling(advance(firstLsn, Math.min(written, segmentSize)));
}

function pageCeiling(at: Lsn): Lsn {
  const page = BigInt(PAGE_BYTES);
  return lsn((at + page - 1n) / page * page);
}

/** Whether records of the segment at `startLsn` are here: then the server sends them once more. */
async function comesAgain(disk: Disk, { startLsn, lineage, segmentSize }: OverlapSearch): Promise<boolean> {
  const number = segmentNumberAt(startLsn, segmentSize);
  for (const { name, kind } of await disk.entries(IN_PROGRESS_DIRECTORY) ?? []) {
    const parsed = parseInProgressName(name, segmentSize);
    if (parsed?.number !== number || parsed.timeline !== lineage.timeline || kind !== "file") continue;
    const found = await withFile(disk, `${IN_PROGRESS_DIRECTORY}/${name}`, async (file) => {
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

/** The archive's own bytes of an overlap. */
interface OwnOverlap {
  /** As far as they can be read. */
  readonly bytes: Uint8Array;
  /** Why that is not all of them. */
  readonly damage: DamagedFileError | undefined;
}

/**
 * Holds what a server sent against the archive's own.
 *
 * @throws {ArchiveConflictError} when the server went another way; what it sent is kept, and the archive stays as it is.
 * @throws {CorruptWalError} when the archive's own file is damaged, and the server has what is lost there; as above.
 */
export async function compareOverlap(
  disk: Disk,
  sent: SentOverlap,
  options: { readonly segmentSize: SegmentSize; readonly modes: Modes; readonly naming: Naming },
): Promise<void> {
  const { overlap: { timeline, startLsn, endLsn }, bytes } = sent;
  const { segmentSize } = options;
  const number = segmentNumberAt(startLsn, segmentSize);
  const name = nameOf({ timeline, number }, segmentSize);
  const own = await readOwn(disk, name, sent, segmentSize);
  if (own === undefined) return;
  const judged = judgeDifference({ startLsn, segmentSize, sides: [own.bytes, bytes] });
  if (judged === undefined && own.damage === undefined) return;
  const kept = `${disk.root}/${await keepSent(disk, { ...sent, name }, options)}`;
  const place = { name, own, sent, segmentSize };
  const verdict = judged?.kind !== "unproven" || own.damage !== undefined
    ? judged
    : await proveFromBefore(disk, place, judged);
  const keeping = `nothing was overwritten, what the server sent (${formatLsn(startLsn)} to ${
    formatLsn(endLsn)
  }) is kept as "${kept}"`;
  if (verdict?.kind === "diverged" || (verdict?.kind === "unproven" && own.damage === undefined)) {
    throw new ArchiveConflictError(await explainDivergence(disk, place, { verdict, keeping }));
  }
  const path = await publishedPath(disk, name, segmentSize);
  const damageLsn = verdict?.differenceLsn ?? advance(startLsn, own.bytes.length);
  throw new CorruptWalError(
    damageLsn,
    `the archive's own file of ${name} is damaged ("${disk.root}/${path}"); ${await explainDamage(
      disk,
      place,
      verdict,
    )}; ${keeping}; ${damagedAdvice(disk, path)}`,
    own.damage === undefined ? {} : { cause: own.damage },
  );
}

/** What a message about a difference is made from. */
interface Place {
  readonly name: string;
  readonly own: OwnOverlap;
  readonly sent: SentOverlap;
  readonly segmentSize: SegmentSize;
}

async function explainDivergence(
  disk: Disk,
  { name, own, sent, segmentSize }: Place,
  { verdict, keeping }: { readonly verdict: DifferenceVerdict; readonly keeping: string },
): Promise<string> {
  const { differenceLsn } = verdict;
  const recordLsn = verdict.kind === "diverged" ? verdict.recordLsn : undefined;
  const text = await withPublishedBytes(disk, { name, segmentSize }, async (bytes) => {
    const sides = [
      { label: "the archive", bytes },
      { label: "the server", bytes: withSent(bytes, sent, segmentSize) },
    ] as const;
    return explainDifference(await seeDifference(sides, { differenceLsn, recordLsn, segmentSize }));
  }).catch((error) => {
    // It is damaged too: then there is less to tell.
    if (!(error instanceof DamagedFileError)) throw error;
  });
  const first = firstDifferentByte(own.bytes, sent.bytes, { start: 0, end: own.bytes.length });
  const firstLsn = advance(sent.overlap.startLsn, first ?? own.bytes.length);
  const besides = verdict.kind === "diverged" && firstLsn < verdict.recordLsn
    ? `; besides, the archive's own file may be damaged at ${formatLsn(firstLsn)}: ${verifyAdvice(disk)}`
    : verdict.kind === "unproven"
    ? `; no record of either side that is whole tells the two apart: if the archive's file is damaged there (${
      verifyAdvice(disk)
    }), move it away and start again; if not`
    : "";
  return `Cannot go on behind ${name}: the server at ${sent.server} has other WAL there than this archive, of the same ` +
    `cluster and the same timeline; ${
      text ?? `they differ first at ${formatLsn(differenceLsn)}`
    }; ${keeping}${besides}; ${DIVERGED_ADVICE}`;
}

async function explainDamage(
  disk: Disk,
  { name, own, sent, segmentSize }: Place,
  verdict: DifferenceVerdict | undefined,
): Promise<string> {
  const server = `the server at ${sent.server}`;
  if (verdict === undefined || verdict.kind === "unproven" || own.damage !== undefined) {
    return `${server} has the WAL that is lost in it`;
  }
  const { recordLsn } = verdict;
  const seen = await withPublishedBytes(disk, { name, segmentSize }, async (bytes) => ({
    own: await seeRecord(bytes, { recordLsn, segmentSize }),
    server: await seeRecord(withSent(bytes, sent, segmentSize), { recordLsn, segmentSize }),
  }));
  if (seen?.server === undefined) return `${server} has a record that is whole there`;
  return `there it has ${seen.own === undefined ? "no record" : formatRecord(seen.own)}, ${server} ${
    formatRecord(seen.server)
  }`;
}

function verifyAdvice(disk: Disk): string {
  return `walvault verify --archive ${disk.root} tells`;
}

function damagedAdvice(disk: Disk, path: string): string {
  return `look at it: walvault verify --archive ${disk.root}; then move "${path}" out of the archive and start again: the ` +
    "segment is received anew while the server has it, or brought in by walvault gap heal";
}

/** `undefined` when the segment went meanwhile. */
async function readOwn(
  disk: Disk,
  name: string,
  { overlap: { startLsn }, bytes: sent }: SentOverlap,
  segmentSize: SegmentSize,
): Promise<OwnOverlap | undefined> {
  const start = segmentOffset(startLsn, segmentSize);
  const own = new Uint8Array(sent.length);
  let got = 0;
  try {
    const found = await withPublishedBytes(disk, { name, segmentSize }, async (bytes) => {
      got = 0;
      await bytes(start, (piece, position) => {
        own.set(piece.subarray(0, start + own.length - position), position - start);
        got = Math.min(own.length, position - start + piece.length);
        return got < own.length ? "more" : "enough";
      });
      return true;
    });
    if (found === undefined) return undefined;
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    return { bytes: own.subarray(0, got), damage: error };
  }
  return { bytes: own.subarray(0, got), damage: undefined };
}

/** The name of the file that holds a published segment. */
async function publishedPath(disk: Disk, name: string, segmentSize: SegmentSize): Promise<string> {
  return await withPublished(disk, { name, segmentSize }, ({ path }) => Promise.resolve(path)) ?? name;
}

/**
 * Whether a record that begins before what was compared proves which side is damaged: with it the scan of the archive's
 * bytes stops, and goes on with the server's.
 */
async function proveFromBefore(
  disk: Disk,
  { name, sent, segmentSize }: Place,
  judged: DifferenceVerdict,
): Promise<DifferenceVerdict> {
  const startLsn = segmentFloor(judged.differenceLsn, segmentSize);
  const ends = await withPublishedBytes(disk, { name, segmentSize }, async (bytes) => {
    const scanEnd = async (side: SegmentBytes) => {
      const scanner = new SegmentScanner({ startLsn, segmentSize });
      await side(0, (piece) => {
        scanner.push(piece);
        return scanner.done ? "enough" : "more";
      });
      return scanner.result().endLsn;
    };
    return { own: await scanEnd(bytes), server: await scanEnd(withSent(bytes, sent, segmentSize)) };
  });
  if (ends === undefined || ends.own > judged.differenceLsn || ends.server <= judged.differenceLsn) {
    return judged;
  }
  return {
    kind: "damaged",
    recordLsn: recordBehind(ends.own, segmentSize),
    differenceLsn: judged.differenceLsn,
  };
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
