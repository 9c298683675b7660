import { advance, type Lsn } from "../../wal/lsn.ts";
import { RECORD_ALIGNMENT_BYTES, RECORD_HEADER_BYTES } from "../../wal/record.ts";
import { RecordWalk } from "../../wal/record_walk.ts";

/** Where a record's link to the one before it stands in its header. */
const PREV_OFFSET = 8;

/**
 * Finds a whole record that follows one of `prevLsns`, in bytes that begin at `startLsn`, a multiple of 8.
 *
 * Where valid WAL ends, nothing can follow: whoever wrote that record wrote the one before it first. So what stands there
 * was changed later, and is not the end of what was written.
 */
export function findRecordBehind(
  bytes: Uint8Array,
  startLsn: Lsn,
  prevLsns: readonly Lsn[],
): Lsn | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0; at + RECORD_HEADER_BYTES <= bytes.length; at += RECORD_ALIGNMENT_BYTES) {
    // Records may be cut by a page's end behind their length: those are not looked for.
    const prev = view.getBigUint64(at + PREV_OFFSET, true);
    if (!prevLsns.some((lsn) => lsn === prev)) continue;
    const walk = new RecordWalk(advance(startLsn, at));
    walk.push(bytes.subarray(at));
    if (walk.state === "whole") return advance(startLsn, at);
  }
  return undefined;
}
