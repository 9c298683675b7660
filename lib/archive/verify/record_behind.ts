import { advance, type Lsn } from "../../wal/lsn.ts";
import { RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES } from "../../wal/record.ts";
import { RecordWalk } from "../../wal/record_walk.ts";
import { isAllZero } from "../../wal/scanner.ts";

/** Where a record's link to the one before it stands in its header. */
const PREV_OFFSET = 8;
/** What a power cut keeps or loses as one. */
const SECTOR_BYTES = 512;

/** Which record the one that is looked for must follow. */
export interface RecordBefore {
  /** It begins at one of these. */
  readonly lsns: readonly Lsn[];
  /** Or from here on, up to and not including `untilLsn`. */
  readonly fromLsn: Lsn;
  readonly untilLsn: Lsn;
}

/**
 * Finds a whole record that follows one at which valid WAL seems to end, in bytes that begin at `startLsn`, a multiple of 8.
 *
 * Whoever wrote it wrote the one before it first. So what stands there was changed later, and is not the end of what was
 * written; unless a whole sector between is empty, as a power cut leaves those that were not synced.
 */
export function findRecordBehind(bytes: Uint8Array, startLsn: Lsn, before: RecordBefore): Lsn | undefined {
  const sectorOffset = Number(startLsn % BigInt(SECTOR_BYTES));
  const wanted = new Set<bigint>(before.lsns);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at + RECORD_HEADER_BYTES <= bytes.length; at += RECORD_ALIGNMENT_BYTES) {
    const inSector = (sectorOffset + at) % SECTOR_BYTES;
    if (inSector === 0 && isAllZero(bytes.subarray(at, at + SECTOR_BYTES))) return undefined;
    const prev = view.getBigUint64(at + PREV_OFFSET, true);
    if (!wanted.has(prev) && (prev < before.fromLsn || prev >= before.untilLsn)) continue;
    const walk = new RecordWalk(advance(startLsn, at));
    walk.push(bytes.subarray(at));
    if (walk.state === "whole") return advance(startLsn, at);
  }
  return undefined;
}
