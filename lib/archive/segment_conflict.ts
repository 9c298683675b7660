import { formatLsn, type Lsn } from "../wal/lsn.ts";
import type { RecordHeader } from "../wal/record.ts";
import { recordBehind, RecordWalk } from "../wal/record_walk.ts";
import { resourceManagerName } from "../wal/resource_manager.ts";
import { SegmentScanner } from "../wal/scanner.ts";
import { segmentFloor, segmentOffset, type SegmentSize } from "../wal/segment.ts";
import { formatTimestamp } from "../wal/timestamp.ts";
import type { BackLink } from "./back_link.ts";
import type { SegmentBytes } from "./segment_bytes.ts";
import type { TransactionMark } from "./segment_index.ts";
import { seeCommits, type SeenCommits } from "./seen_commits.ts";

/** A record as a person can tell it from another. */
export interface SeenRecord {
  readonly recordLsn: Lsn;
  readonly header: RecordHeader;
  /** `whole`: its CRC holds; `broken`: it does not; `open`: the record goes on in the next segment. */
  readonly state: "whole" | "broken" | "open";
}

/**
 * Where the record that holds the byte at `lsn` begins, by the bytes of its segment before that; `undefined` when that
 * is in an earlier segment.
 */
export async function recordStartAt(
  bytes: SegmentBytes,
  at: { readonly lsn: Lsn; readonly segmentSize: SegmentSize },
): Promise<Lsn | undefined> {
  const startLsn = segmentFloor(at.lsn, at.segmentSize);
  const scanner = new SegmentScanner({ startLsn, segmentSize: at.segmentSize });
  const end = segmentOffset(at.lsn, at.segmentSize);
  await bytes(0, (piece, position) => {
    scanner.push(piece.subarray(0, Math.max(0, end - position)));
    return position + piece.length < end ? "more" : "enough";
  });
  const { endLsn, continuesFrom, recordCount } = scanner.result();
  if (continuesFrom && recordCount === 0) return undefined;
  return recordBehind(endLsn, at.segmentSize);
}

/** The record that begins at `recordLsn`, as far as it parses and its segment holds it. */
export async function seeRecord(
  bytes: SegmentBytes,
  at: { readonly recordLsn: Lsn; readonly segmentSize: SegmentSize },
): Promise<SeenRecord | undefined> {
  const walk = new RecordWalk(at.recordLsn);
  await bytes(segmentOffset(at.recordLsn, at.segmentSize), (piece) => {
    walk.push(piece);
    return walk.state === "open" ? "more" : "enough";
  });
  const { header } = walk;
  return header === undefined ? undefined : { recordLsn: at.recordLsn, header, state: walk.state };
}

/** One of two contents of the same WAL. */
export interface DifferingSide {
  /** As the subject of a sentence: "the archive's file". */
  readonly label: string;
  readonly record: SeenRecord | undefined;
  /** Before and after the first byte that differs. */
  readonly commits: SeenCommits;
}

/** One of two files that should be the same segment. */
export interface ConflictSide extends DifferingSide {
  readonly backLink: BackLink;
  /** Whether the archive's next segment continues this one; `undefined` when that can't be told. */
  readonly isContinued: boolean | undefined;
}

/** Two contents of the same WAL, explained. */
export interface Difference<Side extends DifferingSide = DifferingSide> {
  /** The first byte that differs. */
  readonly differenceLsn: Lsn;
  readonly sides: readonly [Side, Side];
}

/** One side, and where its bytes are: up to the difference they are the other one's too. */
export interface SideBytes {
  readonly label: string;
  readonly bytes: SegmentBytes;
}

/** Looks at both sides of a difference inside one segment. */
export async function seeDifference(
  sides: readonly [SideBytes, SideBytes],
  { differenceLsn, segmentSize, ...at }: {
    readonly differenceLsn: Lsn;
    /** Of the record that holds it; found from the first side's bytes, if it is not given. */
    readonly recordLsn?: Lsn | undefined;
    readonly segmentSize: SegmentSize;
  },
): Promise<Difference> {
  const recordLsn = at.recordLsn ?? await recordStartAt(sides[0].bytes, { lsn: differenceLsn, segmentSize });
  const see = async ({ label, bytes }: SideBytes): Promise<DifferingSide> => ({
    label,
    record: recordLsn === undefined ? undefined : await seeRecord(bytes, { recordLsn, segmentSize }),
    commits: await seeCommits(bytes, {
      fromLsn: segmentFloor(differenceLsn, segmentSize),
      placeLsn: differenceLsn,
      segmentSize,
    }),
  });
  return { differenceLsn, sides: [await see(sides[0]), await see(sides[1])] };
}

/** What is known of a conflict, in half sentences: as `explainDifference`, and which side fits the archive. */
export function explainConflict(conflict: Difference<ConflictSide>): string {
  return [explainDifference(conflict), ...verdicts(conflict.sides)].join("; ");
}

/** In half sentences: where two contents differ, which record stands there on each side, and when each was written. */
export function explainDifference({ differenceLsn, sides }: Difference): string {
  const [first, second] = sides;
  const parts = [`they differ first at ${formatLsn(differenceLsn)}`];
  if (first.record !== undefined && second.record !== undefined) {
    parts.push(
      `there ${first.label} has ${formatRecord(first.record)}, ${second.label} ${
        formatRecord(second.record)
      }`,
    );
  }
  return [...parts, ...ages(sides)].join("; ");
}

/** The commit records near the difference tell when each side was written, and which one went on. */
function ages(sides: readonly [DifferingSide, DifferingSide]): readonly string[] {
  const [{ commits: { before } }] = sides;
  const after = sides.map(({ label, commits }) => ({ label, mark: commits.after }));
  if (before === undefined && after.every(({ mark }) => mark === undefined)) return [];
  return [
    before === undefined
      ? "no commit before that is near"
      : `the last commit before that, which both have, is of ${formatCommit(before)}`,
    ...after.map(({ label, mark }) =>
      mark === undefined
        ? `${label} shows no commit after it`
        : `the newest commit that ${label} shows after it is of ${formatCommit(mark)}`
    ),
  ];
}

function formatCommit({ time, xid, lsn }: TransactionMark): string {
  return `${formatTimestamp(time)} (transaction ${xid} at ${formatLsn(lsn)})`;
}

const STATES: Readonly<Record<SeenRecord["state"], string>> = {
  whole: "",
  broken: ", its CRC does not hold",
  open: ", not all of it is in this segment",
};

/** In words, as a part of a sentence. */
export function formatRecord({ recordLsn, header, state }: SeenRecord): string {
  const { resourceManager, totalBytes, prevLsn, xid } = header;
  return `a record of ${resourceManagerName(resourceManager)} at ${
    formatLsn(recordLsn)
  } (${totalBytes} bytes, ${xid === 0 ? "" : `transaction ${xid}, `}` +
    `after ${formatLsn(prevLsn)}${STATES[state]})`;
}

function verdicts(sides: readonly [ConflictSide, ConflictSide]): readonly string[] {
  const parts: string[] = [];
  for (const { label, backLink } of sides) {
    if (backLink.kind === "broken") {
      parts.push(`${label} does not continue this archive's ${backLink.before}: ${backLink.problem}`);
    }
  }
  const continuing = sides.filter(({ backLink }) => backLink.kind === "continues");
  if (continuing.length === 1) parts.push(`${continuing[0]?.label} continues this archive`);
  for (const { label, isContinued } of sides) {
    if (isContinued !== undefined) {
      parts.push(`the archive's next segment ${isContinued ? "continues" : "does not continue"} ${label}`);
    }
  }
  if (parts.length === 0) parts.push("nothing in the archive tells which one belongs to it");
  return parts;
}

/** What to do about two servers that went different ways. */
export const DIVERGED_ADVICE =
  "two servers went on from one past (a restored snapshot or copy, or a split brain): find out which one is right; " +
  "if it is another one, correct the connection string; if it is this one, give it a new archive " +
  "(walvault receive --archive NEW-DIRECTORY) and take a new base backup";
