import type { Log } from "../log.ts";

/** Text streams as a command sees them. */
export interface Output {
  write(text: string): void;
  readonly isTerminal: boolean;
}

/** What every command gets besides its options. */
export interface CommandContext {
  /** Only the answer. */
  readonly stdout: Output;
  /** Everything else. */
  readonly stderr: Output;
  /** The environment, as far as the runtime lets us read it. */
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Aborted by SIGINT or SIGTERM. */
  readonly signal: AbortSignal;
}

/** Exit codes of every command but `push` and `fetch`. */
export const EXIT = { done: 0, no: 1, usage: 2, failed: 3 } as const;

/** How a command exits when its command line is wrong, and when it fails in any other way. */
export interface FailureExits {
  readonly usage: number;
  readonly failed: number;
}

/** How much a command says, and how. */
export interface Verbosity {
  readonly verbose?: boolean;
  readonly quiet?: boolean;
  readonly logFormat: "text" | "json";
}

/** A command line that cannot be carried out; `hint` is one line. */
export class UsageError extends Error {
  override readonly name = "UsageError";

  constructor(message: string, readonly hint: string) {
    super(message);
  }
}

/** For errors that came with a hint of their own. */
export function hintOf(error: unknown): string | undefined {
  for (let current: unknown = error; current instanceof Error; current = current.cause) {
    const { hint } = current as { hint?: unknown };
    if (typeof hint === "string") return hint;
  }
  return undefined;
}

export type { Log };
