/** Further behind the server than this, nobody can be waiting for the byte that was just written. */
const CATCHING_UP_BYTES = 1 << 20;
/** While catching up, at least this much is synced at once, unless time is up. */
export const SYNC_BYTES = 8 << 20;
/** While catching up, no byte waits longer than this for its sync. */
export const SYNC_INTERVAL_MS = 20;
/** While catching up, the disk is not bothered for less than this. */
const WRITE_BYTES = 1 << 19;

/** Where a writer stands, in bytes and milliseconds. */
export interface WriterState {
  /** Received and not yet written. */
  readonly bufferedBytes: number;
  /** Written and not yet synced. */
  readonly unsyncedBytes: number;
  /** How far the server's own end of WAL is ahead of what was received. */
  readonly behindBytes: number;
  /** Since the last sync began. */
  readonly sinceSyncMs: number;
}

/** What the writer does next; `wait` at most `waitMs`, or until more bytes come. */
export type WriterStep =
  | { readonly kind: "write"; readonly then: "sync" | "leave" }
  | { readonly kind: "sync" }
  | { readonly kind: "wait"; readonly waitMs: number | undefined };

/** True while so much is missing that no commit waits for the newest byte received. */
export function isCatchingUp(state: { readonly behindBytes: number }): boolean {
  return state.behindBytes > CATCHING_UP_BYTES;
}

/**
 * Decides between writing, syncing and waiting.
 *
 * Near the server's end every byte is written and synced as soon as the disk is free, since a commit may wait for it.
 * Far behind, both are done in larger pieces: a sync costs the same for one byte and for a million.
 */
export function planStep(state: WriterState): WriterStep {
  const { bufferedBytes, unsyncedBytes } = state;
  if (!isCatchingUp(state)) {
    if (bufferedBytes > 0) return { kind: "write", then: "sync" };
    return unsyncedBytes > 0 ? { kind: "sync" } : { kind: "wait", waitMs: undefined };
  }
  const due = unsyncedBytes + bufferedBytes >= SYNC_BYTES || state.sinceSyncMs >= SYNC_INTERVAL_MS;
  if (due && bufferedBytes > 0) return { kind: "write", then: "sync" };
  if (due && unsyncedBytes > 0) return { kind: "sync" };
  if (bufferedBytes >= WRITE_BYTES) return { kind: "write", then: "leave" };
  const nothing = bufferedBytes + unsyncedBytes === 0;
  return { kind: "wait", waitMs: nothing ? undefined : SYNC_INTERVAL_MS - state.sinceSyncMs };
}

/** True when bytes that came in are worth waking the writer for. */
export function wakeDue(state: { readonly bufferedBytes: number; readonly behindBytes: number }): boolean {
  return state.bufferedBytes >= (isCatchingUp(state) ? WRITE_BYTES : 1);
}
