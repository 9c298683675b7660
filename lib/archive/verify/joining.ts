import { formatLsn, type Lsn } from "../../wal/lsn.ts";
import { RecordWalk } from "../../wal/record_walk.ts";
import type { SegmentScan } from "../../wal/scanner.ts";
import { segmentOffset } from "../../wal/segment.ts";
import type { SegmentBytes } from "../segment_bytes.ts";

/** A segment whose own records are right, as its neighbours see it. */
export interface JoinableSegment {
  readonly path: string;
  readonly scan: SegmentScan;
  /** Its first bytes, and its last ones. */
  readonly head: Uint8Array;
  readonly tail: Uint8Array;
  /** For what these do not reach to. */
  readonly bytes: SegmentBytes;
}

/** Where the WAL stands at a segment's end. */
export interface JoinState {
  /** The last record that begins before the end and is whole; `undefined` when none has been seen. */
  readonly lastRecordLsn: Lsn | undefined;
  /** The record that goes on in the next segment, and the segments it lies in so far. */
  readonly open: { readonly recordLsn: Lsn; readonly segments: readonly JoinableSegment[] } | undefined;
  /** The next segment must continue a record that began before anything that was seen. */
  readonly continues: boolean;
  readonly magic: number | undefined;
}

/** What is wrong between two segments. */
export interface JoinProblem {
  /** `damage`: bytes of one of them are not what was written; `join`: they are of different WAL. */
  readonly kind: "damage" | "join";
  readonly lsn: Lsn;
  readonly problem: string;
}

/** What joining a segment to those before it shows. */
export interface Joined {
  readonly problem: JoinProblem | undefined;
  /** Those that share a record which has just been proven to be whole, in their order. */
  readonly proven: readonly JoinableSegment[];
  readonly state: JoinState;
}

/** The state behind a segment of which nothing before is known. */
export function firstState(segment: JoinableSegment): JoinState {
  return stateBehind(segment, { lastRecordLsn: undefined, open: undefined });
}

/**
 * Joins a segment to the state at the end of the one before: the record that spans both is proven, and the first link, and
 * the format.
 *
 * Of a `tail`, what it has not got yet is no problem.
 */
export async function joinSegment(
  before: JoinState,
  next: JoinableSegment,
  kind: "complete" | "tail",
): Promise<Joined> {
  const { scan } = next;
  let { lastRecordLsn, open } = before;
  let proven: readonly JoinableSegment[] = [];
  let problem = formatProblem(before, scan);
  // Where nothing valid begins, nobody can tell how much of what was begun before has come.
  const isTold = kind === "complete" || scan.recordCount > 0;
  if (open !== undefined && scan.firstPage?.overwritesContrecord === true) open = undefined;
  else if (open !== undefined && isTold) {
    const walk = await walkOver([...open.segments, next], open.recordLsn);
    if (walk.state === "broken") problem ??= brokenProblem(open.recordLsn, open.segments[0]);
    if (walk.state === "open") open = { ...open, segments: [...open.segments, next] };
    else {
      if (walk.state === "whole") proven = [...open.segments, next];
      lastRecordLsn = open.recordLsn;
      open = undefined;
    }
  } else if (open === undefined && !before.continues && scan.continuesFrom && isTold) {
    problem ??= {
      kind: "join",
      lsn: scan.startLsn,
      problem: `${scan.contrecordBytes} bytes of a record from the segment before, want none: it ends whole`,
    };
  }
  problem ??= linkProblem(lastRecordLsn, scan);
  return { problem, proven, state: stateBehind(next, { lastRecordLsn, open }) };
}

function stateBehind(
  segment: JoinableSegment,
  { lastRecordLsn, open }: Pick<JoinState, "lastRecordLsn" | "open">,
): JoinState {
  const { scan } = segment;
  const begun = scan.openRecordLsn === undefined
    ? open
    : { recordLsn: scan.openRecordLsn, segments: [segment] };
  return {
    lastRecordLsn: scan.lastRecordLsn ?? lastRecordLsn,
    open: begun,
    // A whole segment without any record's beginning is the middle of one.
    continues: begun === undefined && scan.end === "segment-end" && scan.continuesFrom &&
      scan.firstRecordLsn === undefined,
    magic: scan.firstPage?.magic,
  };
}

function formatProblem({ magic }: JoinState, scan: SegmentScan): JoinProblem | undefined {
  const own = scan.firstPage?.magic;
  if (magic === undefined || own === undefined || own === magic) return undefined;
  return {
    kind: "join",
    lsn: scan.startLsn,
    problem: `page magic ${formatMagic(own)}, want ${formatMagic(magic)} as in the segment before`,
  };
}

function formatMagic(magic: number): string {
  return `0x${magic.toString(16).toUpperCase().padStart(4, "0")}`;
}

function brokenProblem(recordLsn: Lsn, from: JoinableSegment | undefined): JoinProblem {
  const begins = from === undefined ? "" : ` that begins in "${from.path}"`;
  return {
    kind: "damage",
    lsn: recordLsn,
    problem:
      `the CRC of a record${begins} does not hold over both files, or its pages do not: one of the two is damaged`,
  };
}

function linkProblem(lastRecordLsn: Lsn | undefined, scan: SegmentScan): JoinProblem | undefined {
  const { firstRecordLsn, firstRecordPrevLsn } = scan;
  if (lastRecordLsn === undefined || firstRecordLsn === undefined || firstRecordPrevLsn === undefined) {
    return undefined;
  }
  if (firstRecordPrevLsn === lastRecordLsn) return undefined;
  return {
    kind: "join",
    lsn: firstRecordLsn,
    problem: `link to a record before at ${formatLsn(firstRecordPrevLsn)}, want ${
      formatLsn(lastRecordLsn)
    }, the last one of the segment before`,
  };
}

/** Follows a record through the segments that it lies in. */
async function walkOver(segments: readonly JoinableSegment[], recordLsn: Lsn): Promise<RecordWalk> {
  const walk = new RecordWalk(recordLsn);
  for (const segment of segments) {
    const { scan: { segmentSize }, head, tail } = segment;
    const push = (bytes: Uint8Array) => {
      walk.push(bytes);
      return walk.state === "open" ? "more" : "enough";
    };
    const position = segmentOffset(walk.positionLsn, segmentSize);
    const tailStart = segmentSize - tail.length;
    if (position === 0 && push(head) === "enough") break;
    if (position > 0 && position >= tailStart) push(tail.subarray(position - tailStart));
    else {
      const rest = segmentOffset(walk.positionLsn, segmentSize);
      if (position > 0 || rest > 0) await segment.bytes(rest, push);
    }
    if (walk.state !== "open") break;
  }
  return walk;
}
