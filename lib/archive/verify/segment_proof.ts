import { timelineAt, type TimelineHistory } from "../../wal/history.ts";
import { advance, type Lsn } from "../../wal/lsn.ts";
import { LONG_PAGE_HEADER_BYTES, SHORT_PAGE_HEADER_BYTES } from "../../wal/page.ts";
import { type SegmentScan, SegmentScanner } from "../../wal/scanner.ts";
import type { SegmentSize } from "../../wal/segment.ts";
import { historyFileName, type TimelineId } from "../../wal/timeline.ts";
import {
  type CompressionFormat,
  DamagedFileError,
  decompress,
  decompressUnfinished,
} from "../compression.ts";
import type { Disk, DiskFile, FileState } from "../disk.ts";
import { withFile } from "../durable.ts";
import { readIndexHead } from "../index.ts";
import { PageNotes, unsyncedBytesOf } from "../page_notes.ts";
import { readThrough, type TakeBytes } from "../segment_file.ts";
import { zlib } from "../zlib.ts";
import { findRecordBehind } from "./record_behind.ts";
import { isRecoveryMark, RecoveryMarks, type TimelineMark } from "./recovery_marks.ts";
import { judgeSegment, type SegmentRole, type SegmentVerdict } from "./segment_verdict.ts";

/** Kept of both ends of each segment: most records that span two can be proven from that. */
const KEPT_BYTES = 64 * 1024;
/** Behind the end of valid WAL, so much is searched for a record that shows that it is none. */
const SEARCHED_BYTES = 16 * 1024 * 1024;
/** A file that grows while it is read may look damaged; it is looked at again so often, with a pause between. */
const LOOKS = 5;
const PAUSE_MS = 200;
const SEGMENT_NAME_LENGTH = 24;

/** A file of WAL that is to be proven. Plain data: it travels to threads. */
export interface SegmentTask {
  /** Below the directory. */
  readonly path: string;
  /** `undefined`: as the server wrote it. */
  readonly format: CompressionFormat | undefined;
  readonly role: SegmentRole;
  readonly timeline: TimelineId;
  readonly startLsn: Lsn;
  readonly segmentSize: SegmentSize;
  /** `undefined` when nobody knows it. */
  readonly systemIdentifier: bigint | undefined;
  /** Of `timeline`; `undefined` when nobody knows it: then pages of any older one will do. */
  readonly history: TimelineHistory | undefined;
  /** The content's CRC-32 is wanted. */
  readonly digest: boolean;
  /** Its index is to be looked at. */
  readonly index: boolean;
}

/**
 * What a segment's index says of it.
 *
 * - `unresolved`: it is right, and waits for what the next segment adds.
 * - `stale`: it was made of other bytes. `before`, `behind`: a record is shared with that neighbour, by either.
 */
export type IndexProof =
  | { readonly state: "right" | "unresolved" | "missing" | "not asked" }
  | { readonly state: "stale"; readonly before: boolean; readonly behind: boolean };

const NOT_ASKED: IndexProof = { state: "not asked" };

/** What a file of WAL proves. Plain data, as the task. */
export interface SegmentProof extends SegmentVerdict {
  readonly scan: SegmentScan;
  /** Of content, whatever the file's own length. */
  readonly bytes: number;
  /** CRC-32 of the content. */
  readonly digest: number | undefined;
  readonly index: IndexProof;
  /** Where a timeline begins in it, by the records. */
  readonly timelineStarts: readonly TimelineMark[];
  /** Where its last checkpoint lets a recovery begin. */
  readonly redoLsn: Lsn | undefined;
  /** The first bytes of the content, and the last ones of a whole segment. */
  readonly head: Uint8Array<ArrayBuffer>;
  readonly tail: Uint8Array<ArrayBuffer>;
}

/**
 * Reads a file of WAL to its end and tells what it proves; `undefined` when it is gone.
 *
 * `pauseMs` lies between two looks at a file that may grow.
 */
export async function proveSegment(
  disk: Disk,
  task: SegmentTask,
  pauseMs = PAUSE_MS,
): Promise<SegmentProof | undefined> {
  let last: Look | undefined;
  for (let looks = 1;; looks++) {
    const look = await withFile(disk, task.path, (file) => lookAt(file, task, `${disk.root}/${task.path}`));
    if (look === undefined) return undefined;
    // What is published never changes; of the rest, what is seen twice and does not move is no file that grows.
    const settled = task.role === "complete" || !isDoubtful(look.proof) || looks === LOOKS ||
      (last !== undefined && isSame(last, look));
    if (settled) return { ...look.proof, index: await proveIndex(disk, task, look.proof) };
    last = look;
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

/** What a file that grows while it is read may look like. */
function isDoubtful({ state, behindLsn }: SegmentProof): boolean {
  return state === "damaged" || behindLsn !== undefined;
}

/** Compares the index of a segment that is right with it. */
async function proveIndex(
  disk: Disk,
  { index, path, systemIdentifier, segmentSize }: SegmentTask,
  { state, digest, scan }: SegmentProof,
): Promise<IndexProof> {
  if (!index || state !== "complete" || systemIdentifier === undefined) return NOT_ASKED;
  const name = path.slice(0, SEGMENT_NAME_LENGTH);
  const head = await readIndexHead(disk, { name, identity: { systemIdentifier, segmentSize } });
  if (head === undefined) return { state: "missing" };
  if (head.contentCrc === digest) return { state: head.openRecord === "unresolved" ? "unresolved" : "right" };
  const scans = [scan, head.scan];
  return {
    state: "stale",
    before: scans.some(({ continuesFrom }) => continuesFrom),
    behind: scans.some(({ openRecordLsn }) => openRecordLsn !== undefined),
  };
}

/** Whether there is something to be done about its index. */
export function isIndexDue({ index: { state } }: Pick<SegmentProof, "index">): boolean {
  return state === "missing" || state === "unresolved" || state === "stale";
}

/** Hands over the content of a file of WAL, as far as it can be read. */
export async function readContent(
  file: DiskFile,
  { format, role, segmentSize, label }: Pick<SegmentTask, "format" | "role" | "segmentSize"> & {
    readonly label: string;
  },
  take: TakeBytes,
): Promise<void> {
  if (format === undefined) await readThrough(file, take);
  else if (role === "complete") await decompress(file, { format, label, wantBytes: segmentSize }, take);
  else await decompressUnfinished(file, { format, label, maximumBytes: segmentSize }, take);
}

interface Look {
  readonly proof: SegmentProof;
  readonly state: FileState;
}

function isSame(one: Look, other: Look): boolean {
  return one.state.inode === other.state.inode && one.state.bytes === other.state.bytes &&
    one.state.modifiedMs === other.state.modifiedMs && one.proof.problemLsn === other.proof.problemLsn &&
    one.proof.behindLsn === other.proof.behindLsn;
}

async function lookAt(file: DiskFile, task: SegmentTask, label: string): Promise<Look> {
  const state = await file.state();
  const { startLsn, segmentSize, systemIdentifier, role } = task;
  const marks = new RecoveryMarks();
  const scanner = new SegmentScanner({
    startLsn,
    segmentSize,
    ...(systemIdentifier === undefined ? {} : { systemIdentifier }),
    allowedTimeline: (timeline, pageLsn) => isTimelineOf(task, timeline, pageLsn),
    records: {
      wants: isRecoveryMark,
      take: (record) => marks.take(record, scanner.majorVersion),
    },
  });
  const notes = role === "complete" ? undefined : new PageNotes(task);
  const ends = new SegmentEnds(segmentSize);
  const crc32 = task.digest ? zlib().crc32 : undefined;
  let digest = 0;
  let bytes = 0;
  let damage: string | undefined;
  try {
    await readContent(file, { ...task, label }, (piece, position) => {
      scanner.push(piece);
      notes?.take(piece);
      ends.take(piece, position);
      if (crc32 !== undefined) digest = crc32(piece, digest);
      bytes = position + piece.length;
      return "more";
    });
  } catch (error) {
    if (!(error instanceof DamagedFileError)) throw error;
    damage = error.message.replace(/^Cannot read ".*?": /s, "");
  }
  notes?.end();
  const scan = scanner.result();
  const { head, tail } = ends;
  const recordBehind = role === "complete" || task.format !== undefined
    ? undefined
    : await recordBehindEnd(file, scan, notes?.writtenBytes ?? 0);
  const seen = { scan, notes, bytes, role, damage, head, recordBehind };
  const verdict = named(judgeSegment({ ...seen, unsyncedBytes: unsyncedBytesOf(task.path) }), task.history);
  const { timelineStarts, redoLsn } = marks;
  const content = { bytes, head, tail, digest: crc32 === undefined ? undefined : digest };
  return { proof: { ...verdict, scan, index: NOT_ASKED, timelineStarts, redoLsn, ...content }, state };
}

function isTimelineOf({ timeline, history }: SegmentTask, ofPage: TimelineId, pageLsn: Lsn): boolean {
  return history === undefined ? ofPage <= timeline : ofPage === timelineAt(history, pageLsn);
}

/** The scanner knows no names: which timeline a page should be of, and who says so. */
function named(verdict: SegmentVerdict, history: TimelineHistory | undefined): SegmentVerdict {
  const { problem, problemLsn } = verdict;
  if (history === undefined || problem === undefined || problemLsn === undefined) return verdict;
  const source = history.entries.length === 0 ? "" : ` as "${historyFileName(history.timeline)}" says`;
  const want = `want ${timelineAt(history, problemLsn)}${source}`;
  return { ...verdict, problem: problem.replace("want one of the lineage", want) };
}

/** A valid record behind the end of valid WAL. */
async function recordBehindEnd(
  file: DiskFile,
  scan: SegmentScan,
  writtenBytes: number,
): Promise<Lsn | undefined> {
  const { startLsn, segmentSize, endLsn, lastRecordLsn } = scan;
  if (scan.end === "segment-end" || scan.end === "switch") return undefined;
  const position = Number(endLsn - startLsn);
  if (position >= writtenBytes) return undefined;
  // A record may end in zeros.
  const length = Math.min(SEARCHED_BYTES, writtenBytes + KEPT_BYTES - position, segmentSize - position);
  const bytes = new Uint8Array(length);
  const count = await file.read(bytes, position);
  // A record at a page's start stands behind the page's header.
  const headerBytes = position === 0 ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES;
  const lsns = [endLsn, advance(endLsn, headerBytes), lastRecordLsn ?? scan.firstRecordPrevLsn];
  // Where nothing is valid, the record before began in the segment before. What a server's file held in its earlier life
  // is older than that.
  const isBlank = scan.firstRecordLsn === undefined && startLsn >= segmentSize;
  return findRecordBehind(bytes.subarray(0, count), endLsn, {
    lsns: lsns.filter((lsn) => lsn !== undefined),
    fromLsn: isBlank ? advance(startLsn, -segmentSize) : startLsn,
    untilLsn: startLsn,
  });
}

/** Keeps both ends of a segment's content. */
class SegmentEnds {
  readonly #head: Uint8Array<ArrayBuffer>;
  readonly #tail: Uint8Array<ArrayBuffer>;
  #bytes = 0;

  constructor(private readonly segmentSize: SegmentSize) {
    this.#head = new Uint8Array(KEPT_BYTES);
    this.#tail = new Uint8Array(KEPT_BYTES);
  }

  get head(): Uint8Array<ArrayBuffer> {
    return this.#head.slice(0, this.#bytes);
  }

  /** Empty when the content ends before the segment does. */
  get tail(): Uint8Array<ArrayBuffer> {
    return this.#bytes < this.segmentSize ? new Uint8Array(0) : this.#tail;
  }

  take(piece: Uint8Array, position: number): void {
    if (position < KEPT_BYTES) this.#head.set(piece.subarray(0, KEPT_BYTES - position), position);
    const tailStart = this.segmentSize - KEPT_BYTES;
    const end = Math.min(this.segmentSize, position + piece.length);
    const start = Math.max(tailStart, position);
    if (start < end) this.#tail.set(piece.subarray(start - position, end - position), start - tailStart);
    this.#bytes = position + piece.length;
  }
}
