import type { Clock } from "./clock.ts";

/** Told to stop, and what was waited for did not come in time. */
export class StopTimeout extends Error {
  override readonly name = "StopTimeout";
}

/**
 * Waits for `work` as long as it takes; once told to stop, no longer than `timeoutMs`.
 *
 * @throws {StopTimeout} then; `work` goes on, and whoever started it must bear that.
 */
export async function withinStop<T>(
  work: Promise<T>,
  limits: { readonly clock: Clock; readonly timeoutMs: number },
  signal: AbortSignal,
): Promise<T> {
  let cancel: (() => void) | undefined;
  let onAbort = () => {};
  const late = new Promise<never>((_resolve, reject) => {
    onAbort = () => {
      cancel = limits.clock.setTimer(limits.timeoutMs, () => reject(new StopTimeout("Told to stop")));
    };
  });
  if (signal.aborted) onAbort();
  else signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await Promise.race([work, late]);
  } finally {
    cancel?.();
    signal.removeEventListener("abort", onAbort);
    work.catch(() => {
      // The race is over: what comes later concerns nobody any more.
    });
  }
}
