import { advance, formatLsn, type Lsn } from "../wal/lsn.ts";
import { LONG_PAGE_HEADER_BYTES, PAGE_BYTES, SHORT_PAGE_HEADER_BYTES } from "../wal/page.ts";
import type { RecordHeader } from "../wal/record.ts";
import { RecordWalk } from "../wal/record_walk.ts";
import { resourceManagerName } from "../wal/resource_manager.ts";
import { SegmentScanner } from "../wal/scanner.ts";
import { segmentFloor, segmentOffset, type SegmentSize } from "../wal/segment.ts";
import type { BackLink } from "./back_link.ts";
import type { SegmentBytes } from "./segment_bytes.ts";

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
  if (endLsn % BigInt(PAGE_BYTES) !== 0n) return endLsn;
  return advance(endLsn, endLsn === startLsn ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES);
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

/** One of two files that should be the same segment. */
export interface ConflictSide {
  /** As the subject of a sentence: "the archive's file". */
  readonly label: string;
  readonly record: SeenRecord | undefined;
  readonly backLink: BackLink;
  /** Whether the archive's next segment continues this one; `undefined` when that can't be told. */
  readonly isContinued: boolean | undefined;
}

/** Two contents for one segment, explained. */
export interface SegmentConflict {
  /** The first byte that differs. */
  readonly differenceLsn: Lsn;
  readonly sides: readonly [ConflictSide, ConflictSide];
}

/** What is known of a conflict, in half sentences: where, what stands there on each side, and which side fits the archive. */
export function explainConflict({ differenceLsn, sides }: SegmentConflict): string {
  const [first, second] = sides;
  const parts = [`they differ first at ${formatLsn(differenceLsn)}`];
  if (first.record !== undefined && second.record !== undefined) {
    parts.push(
      `there ${first.label} has ${formatRecord(first.record)}, ${second.label} ${
        formatRecord(second.record)
      }`,
    );
  }
  return [...parts, ...verdicts(sides)].join("; ");
}

const STATES: Readonly<Record<SeenRecord["state"], string>> = {
  whole: "",
  broken: ", its CRC does not hold",
  open: ", not all of it is in this segment",
};

function formatRecord({ recordLsn, header, state }: SeenRecord): string {
  const { resourceManager, totalBytes, prevLsn } = header;
  return `a record of ${resourceManagerName(resourceManager)} at ${
    formatLsn(recordLsn)
  } (${totalBytes} bytes, ` +
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
