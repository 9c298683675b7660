import type { Clock } from "../receiver/clock.ts";

/** The real clock: monotonic, so that a wrong or jumping wall clock changes nothing. */
export const realClock: Clock = {
  nowMs: () => performance.now(),
  setTimer(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};
