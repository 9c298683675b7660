import type { Lsn } from "../wal/lsn.ts";
import { PAGE_BYTES, SHORT_PAGE_HEADER_BYTES } from "../wal/page.ts";

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
  /** From the last time anything was written to the archive to the last look. */
  readonly sinceChangeMs: number | undefined;
  /** From the newest commit in the archive to the last look, by the server's clock. */
  readonly sinceCommitMs: number | undefined;
}

/** How far an archive is behind its server. */
export interface Lag {
  readonly state: ReceiverState;
  readonly bytes: bigint;
  /** At most this long ago the server wrote the first byte that is not here; 0 when all is. */
  readonly ms: number;
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
  const { serverFlushLsn, receivedLsn, receivedAtFirstLsn, elapsedMs } = facts;
  if (receivedLsn !== undefined && hasReached(receivedLsn, serverFlushLsn)) {
    return { state: "current", bytes: 0n, ms: elapsedMs };
  }
  const bytes = serverFlushLsn - (receivedLsn ?? 0n);
  const grew = receivedLsn !== undefined &&
    (receivedAtFirstLsn === undefined || receivedLsn > receivedAtFirstLsn);
  // What comes is as old as the newest commit in it. When nothing comes, all that is missing is younger than what is here.
  const since = grew ? facts.sinceCommitMs : facts.sinceChangeMs;
  return { state: grew ? "receiving" : "stalled", bytes, ms: Math.max(elapsedMs, since ?? 0) };
}
