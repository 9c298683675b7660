import type { FetchOutcome } from "./fetch_file.ts";
import { obstacleOf } from "./obstacle.ts";

/** A hole may appear while a server waits, and a look for it lists the whole archive. */
const THOROUGH_INTERVAL_MS = 60_000;

/** What an operator tells a server that waits: `smart` goes on as long as files are there, `fast` ends it now. */
export type Trigger = "smart" | "fast";

/** One look into the archive. */
export interface Look {
  /** Everything that could tell where the WAL ends, or only whether the file is there. */
  readonly how: "thorough" | "quick";
  readonly tail: "allowed" | "withheld";
}

/** How to wait. */
export interface Waiting {
  nowMs(): number;
  sleep(ms: number): Promise<void>;
  /** Whether the server is told to become a primary. */
  trigger(): Promise<Trigger | undefined>;
  /** What stands in the way for now; the wait goes on. */
  tell(error: unknown): void;
  readonly pollIntervalMs: number;
  /** `undefined`: for ever. */
  readonly timeoutMs: number | undefined;
}

/** The file did not come in time, which proves nothing. */
export class WaitTimeoutError extends Error {
  override readonly name = "WaitTimeoutError";
}

/**
 * Looks for a file until it is there, or a trigger says that there will be no more.
 *
 * Only a trigger makes the end of the archive the end of all WAL; a hole or damage it does not. What can't be waited for
 * is told at once: a segment of a timeline that had not begun, and one that the server has itself.
 *
 * @throws {WaitTimeoutError} and what stands in the way once the trigger is there.
 */
export async function waitForFile(
  look: (look: Look) => Promise<FetchOutcome>,
  waiting: Waiting,
): Promise<FetchOutcome | { readonly kind: "absent"; readonly reason: "told to end" }> {
  const startedMs = waiting.nowMs();
  let told: string | undefined;
  let thoroughMs = -Infinity;
  for (;;) {
    const trigger = await waiting.trigger();
    if (trigger === "fast") return { kind: "absent", reason: "told to end" };
    const thorough = trigger === "smart" || waiting.nowMs() - thoroughMs >= THOROUGH_INTERVAL_MS;
    if (thorough) thoroughMs = waiting.nowMs();
    try {
      const outcome = await look({
        how: thorough ? "thorough" : "quick",
        tail: trigger === "smart" ? "allowed" : "withheld",
      });
      if (outcome.kind !== "absent" || trigger === "smart" || isFinal(outcome.reason)) return outcome;
    } catch (error) {
      const obstacle = obstacleOf(error);
      if (trigger === "smart" || obstacle === "wrong cluster" || obstacle === "other") throw error;
      // Once: a log with the same line every second hides the others.
      const text = (error as Error).message;
      if (text !== told) waiting.tell(error);
      told = text;
    }
    const leftMs = (waiting.timeoutMs ?? Infinity) - (waiting.nowMs() - startedMs);
    if (leftMs <= 0) {
      throw new WaitTimeoutError(
        `Cannot deliver the file: it did not come within ${(waiting.timeoutMs ?? 0) / 1000} s`,
      );
    }
    await waiting.sleep(Math.min(waiting.pollIntervalMs, leftMs));
  }
}

function isFinal(reason: string): boolean {
  return reason === "before the fork" || reason === "the server's own copy is whole";
}
