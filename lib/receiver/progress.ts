import type { StandbyStatus } from "../protocol/standby_status.ts";
import type { Lsn } from "../wal/lsn.ts";

/** What was reported last, and what is true now. Times are of the monotonic clock. */
export interface Progress {
  readonly writeLsn: Lsn;
  readonly flushLsn: Lsn;
  readonly reportedFlushLsn: Lsn;
  readonly reportedAtMs: number;
  /** True while nothing is read from the server: then its own requests for a reply are not seen. */
  readonly paused: boolean;
  /** The server asked for a reply and got none yet. */
  readonly replyOwed: boolean;
}

/** The longest the server goes without a word from us while it waits for none. */
export interface StatusTiming {
  readonly statusIntervalMs: number;
}

/** While paused the server's requests are not seen, so it is told often enough for any `wal_sender_timeout` in use. */
export const PAUSED_STATUS_INTERVAL_MS = 1000;

/** The status owed to the server at `nowMs`, if one is (P2: three values, each true; apply is never claimed). */
export function statusDue(
  progress: Progress,
  timing: StatusTiming,
  nowMs: number,
): StandbyStatus | undefined {
  const intervalMs = progress.paused
    ? Math.min(PAUSED_STATUS_INTERVAL_MS, timing.statusIntervalMs)
    : timing.statusIntervalMs;
  const waited = nowMs - progress.reportedAtMs >= intervalMs;
  if (!waited && !progress.replyOwed && progress.flushLsn === progress.reportedFlushLsn) return undefined;
  return { writeLsn: progress.writeLsn, flushLsn: progress.flushLsn, replyRequested: false };
}

/** What a silent connection calls for. */
export type Silence = "none" | "ask" | "give-up";

/**
 * Judges a connection by how long nothing came from it: at half of the deadline it is asked, at the end given up.
 *
 * A half-open TCP connection says nothing for ever, and no error either.
 */
export function judgeSilence(state: {
  readonly silentMs: number;
  readonly timeoutMs: number;
  readonly asked: boolean;
}): Silence {
  if (state.silentMs >= state.timeoutMs) return "give-up";
  return !state.asked && state.silentMs >= state.timeoutMs / 2 ? "ask" : "none";
}
