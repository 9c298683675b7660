import type { Lsn } from "../wal/lsn.ts";
import { PAGE_BYTES, SHORT_PAGE_HEADER_BYTES } from "../wal/page.ts";
import type { SegmentSize } from "../wal/segment.ts";

/**
 * How an archive stands to its server, judged by the bytes that are there.
 *
 * - `current`: it has all that the server had flushed when it was asked.
 * - `receiving`: it has not, and grew while it was looked at.
 * - `stalled`: it has not, and nothing came.
 */
export type ReceiverState = "current" | "receiving" | "stalled";

/** What was seen in the archive after the server had told where it is. */
export interface LagFacts {
  /** The server's own end of durable WAL, told before the archive was looked at. */
  readonly serverFlushLsn: Lsn;
  /** The archive's end on the server's lineage; `undefined` when it has nothing of it. */
  readonly receivedLsn: Lsn | undefined;
  /** At the first look. */
  readonly receivedAtFirstLsn: Lsn | undefined;
  /** From the server's answer to the last look; of an archive that was current at once, 0. */
  readonly elapsedMs: number;
  /**
   * From the last time anything was written to the archive to the last look; of one that has nothing yet, from when it
   * was made. `undefined` when nothing tells.
   */
  readonly sinceChangeMs: number | undefined;
  /** From the newest commit in the archive to the last look, by the server's clock. */
  readonly sinceCommitMs: number | undefined;
  readonly segmentSize: SegmentSize;
}

/** How far an archive is behind its server. */
export interface Lag {
  readonly state: ReceiverState;
  readonly bytes: bigint;
  /** At most this long ago the server wrote the first byte that is not here; 0 when all is, `undefined` when nothing tells. */
  readonly ms: number | undefined;
}

/** Clocks of two machines, and the time that a file system gives a file, may differ by so much. */
const CLOCK_DIFFERENCE_MS = 5000;

/** How long ago a file was written; negative when its time is of the future, and tells nothing. */
export function sinceModified(modifiedMs: number, nowMs: number): number {
  const sinceMs = nowMs - modifiedMs;
  return sinceMs < 0 && sinceMs >= -CLOCK_DIFFERENCE_MS ? 0 : sinceMs;
}

/**
 * Whether an archive has what its server had flushed.
 *
 * A server may stop to flush at the end of a page, inside a record. How much of that record's last page has come can't
 * be told where the record's bytes are zeros.
 */
export function hasReached(receivedLsn: Lsn, serverFlushLsn: Lsn): boolean {
  if (receivedLsn >= serverFlushLsn) return true;
  const isPageEnd = serverFlushLsn % BigInt(PAGE_BYTES) === 0n;
  return isPageEnd && receivedLsn > serverFlushLsn - BigInt(PAGE_BYTES - SHORT_PAGE_HEADER_BYTES);
}

/** Judges how far an archive is behind. */
export function judgeLag(facts: LagFacts): Lag {
  const { serverFlushLsn, receivedLsn, receivedAtFirstLsn, elapsedMs, segmentSize } = facts;
  const { sinceChangeMs, sinceCommitMs } = facts;
  if (receivedLsn !== undefined && hasReached(receivedLsn, serverFlushLsn)) {
    return { state: "current", bytes: 0n, ms: elapsedMs };
  }
  const bytes = serverFlushLsn - (receivedLsn ?? 0n);
  const grew = receivedLsn !== undefined &&
    (receivedAtFirstLsn === undefined || receivedLsn > receivedAtFirstLsn);
  if (grew) {
    // What comes is as old as the newest commit in it. Without one, only what is little is surely young.
    const isLittle = bytes <= BigInt(segmentSize);
    const since = sinceCommitMs ?? (isLittle ? 0 : undefined);
    return { state: "receiving", bytes, ms: since === undefined ? undefined : Math.max(elapsedMs, since) };
  }
  // When nothing comes, all that is missing is younger than what is here. A file's time may be of a copy, and too young.
  const isTold = sinceChangeMs !== undefined && sinceChangeMs >= 0;
  const ms = isTold ? Math.max(elapsedMs, sinceChangeMs, sinceCommitMs ?? 0) : undefined;
  return { state: "stalled", bytes, ms };
}
