import { firstDifferentByte } from "../wal/bytes.ts";
import { advance, type Lsn, lsn } from "../wal/lsn.ts";
import { LONG_PAGE_HEADER_BYTES, PAGE_BYTES, SHORT_PAGE_HEADER_BYTES } from "../wal/page.ts";
import { RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES } from "../wal/record.ts";
import { nextRecordLsn, RecordWalk } from "../wal/record_walk.ts";
import { segmentFloor, type SegmentSize } from "../wal/segment.ts";

/** Where a record's link to the one before it stands in its header. */
const PREV_OFFSET = 8;

/** Bytes that are tried as a record where none has to begin, at most: hostile ones would take for ever. */
const MOST_TRIED_BYTES = 64 << 20;

/**
 * What it means that two contents of the same WAL differ.
 *
 * - `diverged`: the first side has a valid record that the second has not.
 * - `damaged`: what differs is no valid record of the first side, and the second has a valid one there.
 * - `unproven`: what differs belongs to no record of either side that these bytes prove.
 */
export type DifferenceVerdict =
  | {
    readonly kind: "diverged";
    readonly recordLsn: Lsn;
    readonly differenceLsn: Lsn;
    /** `false`: of the record only the header is known, and its link is right; the rest lies elsewhere. */
    readonly isWhole: boolean;
  }
  | {
    readonly kind: "damaged";
    /** Of the first record that tells it. */
    readonly recordLsn: Lsn;
    /** The first byte that differs in it. */
    readonly differenceLsn: Lsn;
  }
  | { readonly kind: "unproven"; readonly differenceLsn: Lsn };

/** A record in some bytes, as offsets; `open`: its header can be right, and the rest of it is not in these bytes. */
interface FoundRecord {
  readonly start: number;
  readonly end: number;
  readonly state: "whole" | "open";
}

/** Two contents of the same WAL, of which nothing is known but where they stand. */
export interface TwoContents {
  /** A page's start. */
  readonly startLsn: Lsn;
  readonly segmentSize: SegmentSize;
  /** From `startLsn` on; compared as far as both go. */
  readonly sides: readonly [Uint8Array, Uint8Array];
}

/**
 * Judges by the records of both sides why they differ; `undefined` when they do not.
 *
 * Damage hides nothing behind it: records are looked for again after it.
 */
export function judgeDifference(
  { startLsn, segmentSize, sides }: TwoContents,
): DifferenceVerdict | undefined {
  const length = Math.min(sides[0].length, sides[1].length);
  const own = sides[0].subarray(0, length);
  const other = sides[1].subarray(0, length);
  const differsAt = (start: number, end: number) => firstDifferentByte(own, other, { start, end });
  const first = differsAt(0, length);
  if (first === undefined) return undefined;
  const at = (offset: number) => advance(startLsn, offset);
  /** Page headers stand in every record that crosses pages, and no CRC covers them. */
  const differsInside = ({ start, end }: FoundRecord): number | undefined => {
    for (let from = start; from < end;) {
      const offset = differsAt(from, end);
      if (offset === undefined) return undefined;
      const headerBytes = pageHeaderLeft(at(offset), segmentSize);
      if (headerBytes === 0) return offset;
      from = offset + headerBytes;
    }
    return undefined;
  };
  const owns = findRecords(own, { startLsn, segmentSize });
  for (const record of owns) {
    const inside = differsInside(record);
    if (inside === undefined) continue;
    // Of one that goes on elsewhere the header tells, with the CRC of all of it: two records with the same are one.
    if (record.state === "open" && differsInside(headerOf(record)) === undefined) continue;
    const isWhole = record.state === "whole";
    return { kind: "diverged", recordLsn: at(record.start), differenceLsn: at(inside), isWhole };
  }
  for (const record of findRecords(other, { startLsn, segmentSize })) {
    const inside = differsInside(record);
    if (inside === undefined) continue;
    if (record.state === "open" && owns.some(({ start }) => start === record.start)) continue;
    return { kind: "damaged", recordLsn: at(record.start), differenceLsn: at(inside) };
  }
  return { kind: "unproven", differenceLsn: at(first) };
}

function headerOf({ start, end }: FoundRecord): FoundRecord {
  return { start, end: Math.min(end, start + RECORD_HEADER_BYTES), state: "open" };
}

/** Bytes of a page's header from here on; 0 behind it. */
function pageHeaderLeft(at: Lsn, segmentSize: SegmentSize): number {
  const isFirst = at - segmentFloor(at, segmentSize) < PAGE_BYTES;
  const headerBytes = isFirst ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES;
  return Math.max(0, headerBytes - Number(at % BigInt(PAGE_BYTES)));
}

/**
 * The records of some bytes: each behind the one before, and behind what is none the next that can be proven.
 *
 * A length that is damaged can lead past the end too, as that of a record that goes on elsewhere: what tells is a record
 * behind it that links back to it.
 */
function findRecords(
  bytes: Uint8Array,
  { startLsn, segmentSize }: { readonly startLsn: Lsn; readonly segmentSize: SegmentSize },
): readonly FoundRecord[] {
  const found: FoundRecord[] = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const segmentLsn = segmentFloor(startLsn, segmentSize);
  let prevLsn: Lsn | undefined;
  let open: FoundRecord | undefined;
  let triedBytes = 0;
  for (let offset = 0; offset + RECORD_ALIGNMENT_BYTES <= bytes.length;) {
    const recordLsn = advance(startLsn, offset);
    const skipped = pageHeaderLeft(recordLsn, segmentSize);
    if (skipped > 0) {
      offset += skipped;
      continue;
    }
    const linked = prevLsn !== undefined;
    // Where none has to begin, most of what looks like a record is none: its link shows that without a CRC.
    const isLikely = offset + PREV_OFFSET + 8 > bytes.length || linked ||
      isNear(lsn(view.getBigUint64(offset + PREV_OFFSET, true)), { recordLsn, segmentLsn, segmentSize });
    const walk = isLikely && triedBytes < MOST_TRIED_BYTES ? new RecordWalk(recordLsn) : undefined;
    walk?.push(bytes.subarray(offset));
    if (!linked && walk !== undefined) triedBytes += Number(walk.positionLsn - recordLsn);
    const openLsn = open === undefined ? 0n : advance(startLsn, open.start);
    const isLinked = walk?.header !== undefined &&
      (linked ? walk.header.prevLsn === prevLsn : walk.header.prevLsn >= openLsn);
    if (walk?.state === "whole" && isLinked) {
      open = undefined;
      const end = Number(walk.positionLsn - startLsn);
      found.push({ start: offset, end, state: "whole" });
      prevLsn = recordLsn;
      const next = nextRecordLsn({ header: walk.header, endLsn: walk.positionLsn }, segmentSize);
      offset = Number(next - startLsn);
      continue;
    }
    if (walk?.state === "open" && linked && isLinked) {
      open = { start: offset, end: bytes.length, state: "open" };
    }
    prevLsn = undefined;
    offset += RECORD_ALIGNMENT_BYTES;
  }
  return open === undefined ? found : [...found, open];
}

/** Whether a link leads back as one does from there: what an earlier use of a file left leads further. */
function isNear(
  prevLsn: Lsn,
  { recordLsn, segmentLsn, segmentSize }: {
    readonly recordLsn: Lsn;
    readonly segmentLsn: Lsn;
    readonly segmentSize: SegmentSize;
  },
): boolean {
  return prevLsn < recordLsn && prevLsn + BigInt(segmentSize) >= segmentLsn;
}
