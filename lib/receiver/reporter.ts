import { type Log, messageChain } from "../log.ts";

/** Tells what an operator should know once, not at each try. */
export class Reporter {
  readonly #warned = new Set<string>();
  #lastProblem: string | undefined;

  constructor(private readonly log: Log) {}

  /** A warning that holds for the whole run. */
  warnOnce(event: string, fields: Readonly<Record<string, string | number>>): void {
    this.#once("warn", event, fields);
  }

  /** As `warnOnce`, of what somebody must do something about. */
  errorOnce(event: string, fields: Readonly<Record<string, string | number>>): void {
    this.#once("error", event, fields);
  }

  #once(level: "warn" | "error", event: string, fields: Readonly<Record<string, string | number>>): void {
    const text = event + JSON.stringify(fields);
    if (this.#warned.has(text)) return;
    this.#warned.add(text);
    this.log[level](event, fields);
  }

  /** One `error` line for each change of state; the same again is for those who look closely. */
  problem(event: string, fields: Readonly<Record<string, string>>): void {
    const text = `${event} ${fields["error"] ?? ""}`;
    if (text === this.#lastProblem) this.log.debug(event, fields);
    else this.log.error(event, fields);
    this.#lastProblem = text;
  }

  /** What ended a connection, or keeps it from going on. */
  disconnected(error: unknown): void {
    const hint = error instanceof Error && "hint" in error ? error.hint : undefined;
    this.problem("disconnected", {
      error: messageChain(error),
      ...(typeof hint === "string" ? { hint } : {}),
    });
  }

  /** All is well again: the next problem is news, whatever it is. */
  recovered(): void {
    this.#lastProblem = undefined;
  }
}
