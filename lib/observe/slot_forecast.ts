import type { Lsn } from "../wal/lsn.ts";

/** A slot and its server at one moment. */
export interface SlotSample {
  /** Of a clock that only goes forward. */
  readonly atMs: number;
  /** The server's end of durable WAL. */
  readonly serverLsn: Lsn;
  /** `undefined` while the slot reserves nothing. */
  readonly restartLsn: Lsn | undefined;
  /** "reserved", "extended", "unreserved" or "lost"; `undefined` where the server does not tell. */
  readonly walStatus: string | undefined;
  /** How much may still be written before the slot may lose WAL; `undefined` when there is no limit. */
  readonly safeWalBytes: bigint | undefined;
  /** How far WAL is durable at the receiver, whatever it may tell the server of it; `undefined` before anything came. */
  readonly durableLsn?: Lsn | undefined;
}

/** What was long ago says nothing of what comes. */
const WINDOW_MS = 600_000;
/** So many samples also show what began only now; fewer show nothing. */
const RECENT_SAMPLES = 3;

/** WAL that the server keeps for the slot, in bytes; `undefined` while it reserves nothing. */
export function keptBytes({ serverLsn, restartLsn }: SlotSample): bigint | undefined {
  if (restartLsn === undefined) return undefined;
  return serverLsn > restartLsn ? serverLsn - restartLsn : 0n;
}

/** What of it the receiver has not made durable, in bytes; `undefined` while the slot reserves nothing. */
export function awaitedBytes(sample: SlotSample): bigint | undefined {
  const { restartLsn, serverLsn, durableLsn } = sample;
  if (restartLsn === undefined) return undefined;
  // What lies beyond the server's end is of another line of WAL.
  const isAhead = durableLsn !== undefined && durableLsn > restartLsn && durableLsn <= serverLsn;
  return keptBytes(isAhead ? { ...sample, restartLsn: durableLsn } : sample);
}

/**
 * When `max_slot_wal_keep_size` will be hit: milliseconds from the last sample on, if what the server keeps goes on
 * growing as it did; `undefined` when there is no limit, when it does not grow, and while nothing tells.
 *
 * How far the slot's distance grew counts, not how fast WAL is written or `safe_wal_size` shrinks: that one goes down and
 * up by a segment with every segment, also where all is well. Of the last minutes and the last moments the faster growth
 * counts.
 */
export function forecastLimitMs(samples: readonly SlotSample[]): number | undefined {
  const last = samples.at(-1);
  if (last?.safeWalBytes === undefined) return undefined;
  if (last.safeWalBytes <= 0n) return 0;
  const recent = samples.filter(({ atMs, restartLsn }) =>
    restartLsn !== undefined && atMs >= last.atMs - WINDOW_MS
  );
  if (recent.length < RECENT_SAMPLES) return undefined;
  const rates = [recent[0], recent.at(-RECENT_SAMPLES)].map((first) => growthPerMs(first!, last));
  return limitInMs(last.safeWalBytes, Math.max(...rates));
}

/** When so many bytes are used up at this rate; `undefined`: never. */
export function limitInMs(safeWalBytes: bigint, bytesPerMs: number): number | undefined {
  if (!(bytesPerMs > 0)) return undefined;
  return Math.max(0, Number(safeWalBytes)) / bytesPerMs;
}

function growthPerMs(first: SlotSample, last: SlotSample): number {
  const before = keptBytes(first);
  const now = keptBytes(last);
  if (before === undefined || now === undefined || last.atMs <= first.atMs) return 0;
  return Number(now - before) / (last.atMs - first.atMs);
}
