import { type Log, messageChain } from "../log.ts";
import { ConnectionError, ServerError } from "../protocol/errors.ts";
import { WalGapError } from "../wal/errors.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { backoffMs } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import { afterFailure, NotYetError, PermanentError, WAL_REMOVED } from "./failure.ts";
import { type LegEnd, type LegPosition, type LegTiming, streamLeg } from "./leg.ts";
import { Preparation, type Prepared } from "./preparation.ts";
import { Reporter } from "./reporter.ts";
import type { StartPlan } from "./start.ts";
import { withinStop } from "./stopping.ts";
import type { WalArchive } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** After a server's orderly end: it needs a moment, and reconnecting at once would hold up its shutdown. */
const AFTER_SHUTDOWN_MS = 2000;
/** A stream that lived this long ends a row of failures; one that breaks at once is one more. */
const STEADY_MS = 10_000;
const SERVER_SHUTDOWN = "The server ended the stream: it shuts down";

/** What a receiver is told to do. */
export interface ReceiveOptions {
  readonly slot: string | undefined;
  /** Make the slot if it is not there. */
  readonly createSlot: boolean;
  /** Stop when everything below it is durable. */
  readonly endLsn: Lsn | undefined;
  /** `false`: the first disconnect ends it. */
  readonly loop: boolean;
  /** The name that the server sees. */
  readonly applicationName: string;
  readonly timing: LegTiming;
}

/** What a receiver needs from outside. */
export interface ReceiveDependencies {
  /** Opens a connection to the first server that `accept` takes; it throws when there is another reason than `false`. */
  connect(accept: (source: WalSource) => Promise<boolean>, signal: AbortSignal): Promise<WalSource>;
  readonly archive: WalArchive;
  readonly clock: Clock;
  readonly log: Log;
  /** From 0 up to, not including, 1. */
  random(): number;
  onPosition(position: LegPosition): void;
  /** Called each time a server begins to send. */
  onStreaming(address: string): void;
}

/** Why receiving ended, when nothing was wrong. */
export type ReceiveEnd = "stopped" | "end-reached";

/**
 * Receives WAL until it is told to stop; comes back after every loss of connection that time can mend.
 *
 * @throws what `afterFailure` says must stop, or with `loop: false` what ended the first connection.
 */
export function receiveWal(
  dependencies: ReceiveDependencies,
  options: ReceiveOptions,
  signal: AbortSignal,
): Promise<ReceiveEnd> {
  return new Receiver(dependencies, options).run(signal);
}

/** True for what ends a receiver without a loop when the server shuts down in order; all of its WAL is durable. */
export function isServerShutdown(error: unknown): boolean {
  return error instanceof ConnectionError && error.message === SERVER_SHUTDOWN;
}

class Receiver {
  #streamed = false;
  #failures = 0;
  #streamingSinceMs: number | undefined;
  /** Servers that do not have the WAL that is missing here: the next host may. By address. */
  readonly #gaps = new Map<string, { readonly startLsn: Lsn; readonly error: WalGapError }>();
  readonly #reporter: Reporter;
  readonly #preparation: Preparation;

  constructor(private readonly dependencies: ReceiveDependencies, private readonly options: ReceiveOptions) {
    const { archive, clock, log } = dependencies;
    const { slot, createSlot, applicationName, timing } = options;
    const reporter = this.#reporter = new Reporter(log);
    const { receiveTimeoutMs: timeoutMs, statusIntervalMs } = timing;
    const overlap = { clock, timeoutMs, statusIntervalMs };
    this.#preparation = new Preparation({
      archive,
      log,
      reporter,
      slot,
      createSlot,
      applicationName,
      overlap,
    });
  }

  async run(signal: AbortSignal): Promise<ReceiveEnd> {
    for (;;) {
      if (signal.aborted) return "stopped";
      let delayMs: number;
      try {
        const end = await this.#connection(signal);
        if (end.kind === "stopped" || end.kind === "end-reached") return end.kind;
        this.dependencies.log.info("server shut down");
        if (!this.options.loop) {
          throw new ConnectionError("closed", SERVER_SHUTDOWN);
        }
        this.#forgiveFailures();
        delayMs = AFTER_SHUTDOWN_MS;
      } catch (error) {
        if (signal.aborted && !isOurs(error)) {
          if (error instanceof NotYetError) {
            this.dependencies.log.warn("stopped early", { error: messageChain(error) });
          }
          return "stopped";
        }
        if (error instanceof OtherHostError) continue;
        if (!this.options.loop || afterFailure(error, { streamed: this.#streamed }) === "stop") throw error;
        this.#reporter.disconnected(error);
        this.#forgiveFailures();
        delayMs = backoffMs(this.#failures++, this.dependencies.random());
      }
      await this.#sleep(delayMs, signal);
    }
  }

  /** One connection, from login to its end; a timeline that ends leads to the next one on the same connection. */
  async #connection(signal: AbortSignal): Promise<LegEnd> {
    const { source, first } = await this.#connect(signal);
    try {
      await this.#untilStopped(source, signal, () => this.#preparation.warnOfSynchronousSettings(source));
      for (let prepared = first;;) {
        const { plan } = prepared;
        if (this.#endReached(plan)) return { kind: "end-reached" };
        const end = await this.#leg(source, prepared, signal);
        if (end.kind !== "timeline") return end;
        this.dependencies.log.info("timeline ended", {
          timeline: plan.timeline,
          nextTimeline: end.nextTimeline,
          switchLsn: formatLsn(end.switchLsn),
        });
        prepared = await this.#untilStopped(source, signal, () => this.#preparation.prepare(source));
        if (prepared.plan.timeline === plan.timeline && prepared.plan.startLsn === plan.startLsn) {
          throw new NotYetError(
            `Cannot leave timeline ${plan.timeline} at ${
              formatLsn(plan.startLsn)
            }: the server ended it, and offers no other`,
          );
        }
      }
    } finally {
      await source.close();
    }
  }

  /** The first host that is of the right cluster, is not behind, and is not known to lack what is missing. */
  async #connect(signal: AbortSignal): Promise<{ readonly source: WalSource; readonly first: Prepared }> {
    let first: Prepared | undefined;
    const accept = (candidate: WalSource) =>
      this.#untilStopped(candidate, signal, async () => {
        first = await this.#preparation.prepare(candidate);
        const gap = this.#gaps.get(candidate.address);
        if (gap?.startLsn === first.plan.startLsn) throw gap.error;
        return true;
      });
    try {
      const source = await this.dependencies.connect(accept, signal);
      if (first === undefined) throw new Error("Cannot stream: the server was not checked");
      return { source, first };
    } catch (error) {
      // Next time every host is asked again: what is missing there may have been brought back.
      this.#gaps.clear();
      throw error;
    }
  }

  /** @throws {PermanentError} when receiving would begin beyond the end: what lies below was never received. */
  #endReached(plan: StartPlan & { kind: "start" }): boolean {
    const { endLsn } = this.options;
    if (endLsn === undefined || plan.startLsn < endLsn) return false;
    if (plan.origin === "archive" || plan.startLsn === endLsn) return true;
    throw new PermanentError(
      `Cannot receive up to ${formatLsn(endLsn)}: the archive has nothing of it, and receiving begins at ${
        formatLsn(plan.startLsn)
      }; give a later --endpos`,
    );
  }

  async #leg(source: WalSource, prepared: Prepared, signal: AbortSignal): Promise<LegEnd> {
    const { plan, lineage, segmentSize } = prepared;
    const { archive, clock, log } = this.dependencies;
    const where = { timeline: plan.timeline, startLsn: formatLsn(plan.startLsn) };
    try {
      return await streamLeg({
        source,
        archive,
        clock,
        lineage,
        segmentSize,
        startLsn: plan.startLsn,
        timing: this.options.timing,
        slot: this.options.slot,
        endLsn: this.options.endLsn,
        onStreaming: () => {
          log.info("streaming", { server: source.address, ...where });
          this.#streamed = true;
          this.#streamingSinceMs = clock.nowMs();
          this.#reporter.recovered();
          this.dependencies.onStreaming(source.address);
        },
        onPosition: this.dependencies.onPosition,
        onDiskFull: () =>
          this.#reporter.problem("archive disk full", {
            hint: "reading stops until there is room; nothing acknowledged is lost",
          }),
        onDiskRoom: () => {
          log.info("archive disk has room again");
          this.#reporter.recovered();
        },
        onDiskStalled: (error) => this.#reporter.disconnected(error),
      }, signal);
    } catch (error) {
      if (!(error instanceof ServerError) || error.sqlState !== WAL_REMOVED) throw error;
      const gap = missingWal(source, plan, error);
      if (!this.options.loop) throw gap;
      this.#gaps.set(source.address, { startLsn: plan.startLsn, error: gap });
      throw new OtherHostError(gap.message, { cause: gap });
    }
  }

  /** Until a server streams there is nothing to settle: neither it nor the disk may hold up the stop. */
  async #untilStopped<T>(source: WalSource, signal: AbortSignal, act: () => Promise<T>): Promise<T> {
    signal.throwIfAborted();
    const onAbort = () => void source.close();
    signal.addEventListener("abort", onAbort, { once: true });
    const limits = { clock: this.dependencies.clock, timeoutMs: this.options.timing.stopTimeoutMs };
    try {
      return await withinStop(act(), limits, signal);
    } finally {
      signal.removeEventListener("abort", onAbort);
    }
  }

  #forgiveFailures(): void {
    const sinceMs = this.#streamingSinceMs;
    if (sinceMs !== undefined && this.dependencies.clock.nowMs() - sinceMs >= STEADY_MS) this.#failures = 0;
    this.#streamingSinceMs = undefined;
  }

  #sleep(delayMs: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        cancel();
        signal.removeEventListener("abort", done);
        resolve();
      };
      const cancel = this.dependencies.clock.setTimer(delayMs, done);
      if (signal.aborted) done();
      else signal.addEventListener("abort", done, { once: true });
    });
  }
}

/** This server does not have what is missing; another one is tried at once, if the connection string names one. */
class OtherHostError extends Error {
  override readonly name = "OtherHostError";
}

function missingWal(source: WalSource, plan: StartPlan & { kind: "start" }, error: ServerError): WalGapError {
  return new WalGapError(
    `Cannot go on from ${
      formatLsn(plan.startLsn)
    } on timeline ${plan.timeline}: ${source.address} no longer has that WAL ` +
      `(${error.serverMessage}); bring the missing segments from the server's own archive or another host, ` +
      "or start a new archive in an empty directory and take a new base backup",
    { cause: error },
  );
}

/** An error that is worth telling even when we were told to stop: it says that the archive is in danger. */
function isOurs(error: unknown): boolean {
  return afterFailure(error, { streamed: true }) === "stop";
}
