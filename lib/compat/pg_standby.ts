import * as fs from "node:fs";
import process from "node:process";
import { messageChain } from "../log.ts";
import type { OriginalCall, OriginalContext } from "./originals.ts";
import { readStandbyCommandLine, type StandbyOptions } from "./pg_standby_options.ts";
import { type Readiness, segmentBefore, StandbyArchive } from "./standby_archive.ts";
import { systemErrorText } from "./system_error.ts";

/**
 * The original's own exit codes, and one of ours: 200 stops a recovery where 1 would end it. The original exits 1 when
 * a file that is there can't be copied, and the server then promotes without it.
 */
const EXIT = { delivered: 0, failover: 1, usage: 2, tooLong: 3, undeliverable: 200 } as const;

/**
 * `pg_standby`: waits for a file of WAL and delivers it, until a trigger says that there will be no more.
 *
 * Resolves to the exit code. The target is there only when it is complete.
 */
export async function pgStandby(call: OriginalCall, context: OriginalContext): Promise<number> {
  const commandLine = readStandbyCommandLine(call);
  switch (commandLine.kind) {
    case "answer":
      context.stdout.write(commandLine.text);
      return EXIT.delivered;
    case "wrong":
      context.stderr.write(commandLine.text);
      return EXIT.usage;
    case "work":
  }
  using signals = new FailoverSignals();
  try {
    return await new Standby(call, commandLine.options, context).run(signals);
  } catch (error) {
    context.stderr.write(`${call.name}: ${messageChain(error)}\n`);
    return EXIT.undeliverable;
  }
}

/** SIGUSR1 and SIGINT mean fast failover. SIGQUIT, the server's immediate shutdown, ends the process without a core file. */
class FailoverSignals {
  signaled = false;
  #wake: (() => void) | undefined;
  readonly #onFailover = () => {
    this.signaled = true;
    this.#wake?.();
  };
  readonly #onQuit = () => {
    process.off("SIGINT", this.#onFailover);
    process.kill(process.pid, "SIGINT");
  };

  constructor() {
    for (const name of ["SIGUSR1", "SIGINT"] as const) process.on(name, this.#onFailover);
    process.on("SIGQUIT", this.#onQuit);
  }

  /** Ends early when a signal comes. */
  sleep(seconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
      if (this.signaled) this.#wake();
    });
  }

  [Symbol.dispose](): void {
    for (const name of ["SIGUSR1", "SIGINT"] as const) process.off(name, this.#onFailover);
    process.off("SIGQUIT", this.#onQuit);
  }
}

class Standby {
  readonly #archive: StandbyArchive;

  constructor(
    private readonly call: OriginalCall,
    private readonly options: StandbyOptions,
    private readonly context: OriginalContext,
  ) {
    this.#archive = new StandbyArchive(options.directory);
  }

  async run(signals: FailoverSignals): Promise<number> {
    const { name, directory } = this.options;
    if (!this.#archive.exists) {
      this.#say(`${this.call.name}: archive location "${directory}" does not exist`);
      return EXIT.usage;
    }
    this.#tellOptions();
    // Histories are asked for to find out whether they are there: no waiting.
    if (/^[0-9A-F]{8}\..*history$/.test(name)) {
      const found = await this.#archive.look(name);
      if (found.kind === "ready") return await this.#deliver(found, signals);
      this.#debug("history file not found");
      return EXIT.failover;
    }
    return await this.#wait(signals);
  }

  async #wait(signals: FailoverSignals): Promise<number> {
    const { name, sleepSeconds, maximumWaitSeconds } = this.options;
    let failover: "none" | "smart" | "fast" = "none";
    // One second less than it will be: the original begins there too.
    for (let waitedSeconds = -1;;) {
      if (failover !== "fast") failover = this.#trigger() ?? failover;
      if (signals.signaled) {
        failover = "fast";
        this.#debug("signaled to exit: fast failover");
      }
      if (failover === "fast") return EXIT.failover;
      const found = await this.#archive.look(name);
      if (found.kind === "ready") return await this.#deliver(found, signals);
      if (found.kind === "too-long") {
        this.#debug("file size greater than expected");
        return EXIT.tooLong;
      }
      if (failover === "smart") return EXIT.failover;
      await signals.sleep(sleepSeconds);
      waitedSeconds += sleepSeconds;
      if (maximumWaitSeconds > 0 && waitedSeconds >= maximumWaitSeconds) {
        failover = "fast";
        this.#debug(`Timed out after ${waitedSeconds} seconds: fast failover`);
      }
      const checking = this.options.triggerPath === undefined ? "" : " Checking for trigger file...";
      this.#debug(`WAL file not present yet.${checking}`);
    }
  }

  /** What the trigger file asks for, if there is one. A fast one is made a smart one: the server may ask once more. */
  #trigger(): "smart" | "fast" | undefined {
    const path = this.options.triggerPath;
    if (path === undefined || fs.statSync(path, { throwIfNoEntry: false }) === undefined) return undefined;
    let text: string;
    try {
      text = fs.readFileSync(path, "latin1");
    } catch (error) {
      this.#say(`WARNING: could not open "${path}": ${systemErrorText(error)}`);
      return undefined;
    }
    if (text === "" || text.startsWith("smart")) {
      this.#say("trigger file found: smart failover");
      return "smart";
    }
    if (!text.startsWith("fast")) {
      this.#say(`WARNING: invalid content in "${path}"`);
      return undefined;
    }
    this.#say("trigger file found: fast failover");
    try {
      fs.truncateSync(path, 0);
    } catch (error) {
      this.#say(`WARNING: could not read "${path}": ${systemErrorText(error)}`);
    }
    return "fast";
  }

  /** Tries again with longer and longer pauses: whoever writes the archive may not be done with a file. */
  async #deliver(found: Readiness & { kind: "ready" }, signals: FailoverSignals): Promise<number> {
    const { name, target, debug, maximumRetries, sleepSeconds } = this.options;
    if (debug) this.context.stderr.write("running restore\t\t:");
    let failure: unknown;
    for (let tries = 0; tries <= maximumRetries; tries++) {
      try {
        await this.#archive.deliver(name, found, target);
        this.#debug(" OK");
        await this.#cleanUp(found);
        return EXIT.delivered;
      } catch (error) {
        failure = error;
        await signals.sleep(tries * sleepSeconds);
      }
    }
    this.#debug("not restored");
    this.#say(
      `${this.call.name}: could not copy "${this.#archive.pathOf(name)}" to "${target}": ${told(failure)}`,
    );
    return EXIT.undeliverable;
  }

  async #cleanUp({ segmentSize }: Readiness & { kind: "ready" }): Promise<void> {
    const { name, oldestNeeded, keepSegments } = this.options;
    if (segmentSize === undefined) return;
    // A name that is later than the one asked for must be a mistake.
    const oldestKept = oldestNeeded !== undefined
      ? oldestNeeded <= name ? oldestNeeded : undefined
      : keepSegments > 0
      ? segmentBefore(name, keepSegments, segmentSize)
      : undefined;
    const kept = oldestKept === undefined ? "no cleanup required" : `${oldestKept} and later`;
    this.#debug(`Keep archive history: ${kept}`);
    if (oldestKept === undefined || !/^[0-9A-F]{24}/.test(oldestKept)) return;
    try {
      await this.#archive.removeOlder(oldestKept, (path) => this.#debug(`\nremoving file "${path}"`));
    } catch (error) {
      // The file is delivered; what could not be removed is tried again at the next one.
      this.#say(
        `${this.call.name}: ERROR: could not remove files from "${this.options.directory}": ${told(error)}`,
      );
    }
  }

  #tellOptions(): void {
    const { triggerPath, name, target, sleepSeconds, maximumWaitSeconds } = this.options;
    const path = this.#archive.pathOf(name);
    for (
      const line of [
        `Trigger file:         ${triggerPath ?? "<not set>"}`,
        `Waiting for WAL file: ${name}`,
        `WAL file path:        ${path}`,
        `Restoring to:         ${target}`,
        `Sleep interval:       ${sleepSeconds} second${sleepSeconds > 1 ? "s" : " "}`,
        `Max wait interval:    ${maximumWaitSeconds} ${maximumWaitSeconds > 0 ? "seconds" : "forever"}`,
        `Command for restore:  cp "${path}" "${target}"`,
      ]
    ) this.#debug(line);
  }

  #debug(line: string): void {
    if (this.options.debug) this.#say(line);
  }

  #say(line: string): void {
    this.context.stderr.write(`${line}\n`);
  }
}

/** A refusal of the operating system in its own words, anything else in ours. */
function told(error: unknown): string {
  return error instanceof Error && "code" in error ? systemErrorText(error) : messageChain(error);
}
