import { obstacleOf } from "./obstacle.ts";

/** How long to try. */
export interface Patience {
  nowMs(): number;
  sleep(ms: number): Promise<void>;
  readonly limitMs: number;
  readonly intervalMs: number;
}

/**
 * Looks again while there is an outage, up to a limit; other obstacles are thrown at once.
 *
 * A standby has to be told "absent" in an outage. Of a history it asks only now and then, and also when it is promoted: it
 * then takes the first timeline that it got no history of, so that a short outage would give it a number already taken.
 */
export async function outlastOutage<T>(look: () => Promise<T>, patience: Patience): Promise<T> {
  const startedMs = patience.nowMs();
  for (;;) {
    try {
      return await look();
    } catch (error) {
      const leftMs = patience.limitMs - (patience.nowMs() - startedMs);
      if (obstacleOf(error) !== "outage" || leftMs <= 0) throw error;
      await patience.sleep(Math.min(patience.intervalMs, leftMs));
    }
  }
}
