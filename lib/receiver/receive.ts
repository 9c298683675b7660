import { type Log, messageChain } from "../log.ts";
import { ConnectionError, ServerError } from "../protocol/errors.ts";
import { WalGapError } from "../wal/errors.ts";
import { byTimeline, type SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { segmentNumberAt, segmentStart } from "../wal/segment.ts";
import { backoffMs } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import { afterFailure, NotYetError, PermanentError, WAL_REMOVED } from "./failure.ts";
import { firstAvailable, hasSegment } from "./first_available.ts";
import { FlushGate } from "./flush_gate.ts";
import { gapFields, GapWatch, waitFor } from "./gap_watch.ts";
import { type LegEnd, type LegPosition, type LegTiming, streamLeg } from "./leg.ts";
import { Preparation, type Prepared } from "./preparation.ts";
import { Reporter } from "./reporter.ts";
import type { StartPlan } from "./start.ts";
import { withinStop } from "./stopping.ts";
import type { GapArchive } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** After a server's orderly end: it needs a moment, and reconnecting at once would hold up its shutdown. */
const AFTER_SHUTDOWN_MS = 2000;
/** A stream that lived this long ends a row of failures; one that breaks at once is one more. */
const STEADY_MS = 10_000;
/** A host that does not answer may have what others lack; for so long it is waited for. */
const GAP_PATIENCE_MS = 60_000;
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
  /** What to do about WAL that no server has any more: write that down and go on behind it, or end. */
  readonly gaps: "record" | "stop";
  /** The name that the server sees. */
  readonly applicationName: string;
  readonly timing: LegTiming;
}

/** What a receiver needs from outside. */
export interface ReceiveDependencies {
  /** Opens a connection to the first server that `accept` takes; it throws when there is another reason than `false`. */
  connect(accept: (source: WalSource) => Promise<boolean>, signal: AbortSignal): Promise<WalSource>;
  readonly archive: GapArchive;
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
  readonly #gaps = new Map<string, LackingServer>();
  /** Since when hosts lack what is missing from here on. */
  #lacking: { readonly startLsn: Lsn; readonly sinceMs: number } | undefined;
  /** No server has what is missing from here on: the next one that lacks it will do. */
  #passLsn: Lsn | undefined;
  /** Gaps of which this process has made the record durable. */
  readonly #provenGaps = new Set<string>();
  readonly #reporter: Reporter;
  readonly #preparation: Preparation;

  constructor(private readonly dependencies: ReceiveDependencies, private readonly options: ReceiveOptions) {
    const { archive, log } = dependencies;
    const { slot, createSlot, applicationName } = options;
    const reporter = this.#reporter = new Reporter(log);
    this.#preparation = new Preparation({ archive, log, reporter, slot, createSlot, applicationName });
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
    const { source, first, lacking } = await this.#connect(signal);
    try {
      const standbyNames = await this.#untilStopped(
        source,
        signal,
        () => this.#preparation.warnOfSynchronousSettings(source),
      );
      let prepared = first;
      if (lacking !== undefined) {
        await this.#untilStopped(source, signal, () => this.#passGap(source, first, lacking));
        prepared = await this.#untilStopped(source, signal, () => this.#preparation.prepare(source));
      }
      for (;;) {
        const { plan } = prepared;
        if (this.#endReached(plan)) {
          this.#refuseOpenGaps(prepared);
          return { kind: "end-reached" };
        }
        const end = await this.#leg(source, { ...prepared, standbyNames }, signal);
        if (end.kind === "end-reached") this.#refuseOpenGaps(prepared);
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
  async #connect(signal: AbortSignal): Promise<Connected> {
    let first: Prepared | undefined;
    let lacking: LackingServer | undefined;
    const accept = (candidate: WalSource) =>
      this.#untilStopped(candidate, signal, async () => {
        first = await this.#preparation.prepare(candidate);
        const { startLsn } = first.plan;
        const known = this.#gaps.get(candidate.address);
        lacking = known?.startLsn === startLsn ? known : undefined;
        if (lacking !== undefined && this.#passLsn !== startLsn) throw lacking.error;
        return true;
      });
    try {
      const source = await this.dependencies.connect(accept, signal);
      if (first === undefined) throw new Error("Cannot stream: the server was not checked");
      return { source, first, lacking };
    } catch (error) {
      if (this.#mayPass(error)) throw new OtherHostError("No server has what is missing", { cause: error });
      // Next time every host is asked again: what is missing there may have been brought back.
      this.#gaps.clear();
      this.#passLsn = undefined;
      throw error;
    }
  }

  /** Whether a round over all hosts shows that nobody has what is missing; the next one then goes on behind it. */
  #mayPass(error: unknown): boolean {
    const causes = error instanceof ConnectionError && error.cause instanceof AggregateError
      ? error.cause.errors
      : [error];
    if (this.options.gaps !== "record" || !causes.some((cause) => cause instanceof WalGapError)) return false;
    const [lacking] = this.#gaps.values();
    // An archive that has nothing yet has no gap either: it would begin later than it was told to.
    if (lacking?.origin !== "archive" || this.#passLsn === lacking.startLsn) return false;
    const nowMs = this.dependencies.clock.nowMs();
    if (this.#lacking?.startLsn !== lacking.startLsn) {
      this.#lacking = { startLsn: lacking.startLsn, sinceMs: nowMs };
    }
    const allLack = causes.every((cause) => afterFailure(cause, { streamed: false }) === "stop");
    if (!allLack && nowMs - this.#lacking.sinceMs < GAP_PATIENCE_MS) return false;
    this.#passLsn = lacking.startLsn;
    return true;
  }

  /**
   * Goes on behind what no server has: finds where this one's WAL begins, and writes down what is missing before it.
   *
   * @throws {WalGapError} when there is nothing to go on with.
   */
  async #passGap(source: WalSource, prepared: Prepared, { error }: LackingServer): Promise<void> {
    const { archive, clock, log } = this.dependencies;
    const { plan, segmentSize, serverLineage: lineage, slotLsn } = prepared;
    this.#passLsn = undefined;
    this.#gaps.clear();
    const { flushLsn } = await source.identifySystem();
    const goneNumber = segmentNumberAt(plan.startLsn, segmentSize);
    const thereNumber = segmentNumberAt(flushLsn, segmentSize);
    if (thereNumber <= goneNumber) throw error;
    const hintNumber = slotLsn === undefined ? undefined : segmentNumberAt(slotLsn, segmentSize);
    const search = { lineage, segmentSize, clock, timeoutMs: this.options.timing.receiveTimeoutMs };
    // Of a segment that is only to come nobody can say that it is there.
    const isBegun = segmentStart(thereNumber, segmentSize) < flushLsn;
    if (isBegun && !await hasSegment(source, thereNumber, search)) throw error;
    const endNumber = await firstAvailable(source, { goneNumber, thereNumber, hintNumber }, search);
    for (const run of byTimeline({ firstNumber: goneNumber, endNumber }, { lineage, segmentSize })) {
      const { cause } = error;
      const answer = cause instanceof ServerError ? cause.serverMessage : error.message;
      await archive.recordGap({ run, reason: "no server has it any more", server: source.address, answer });
      this.#provenGaps.add(keyOf(run));
      log.error("gap recorded", {
        ...gapFields(run, segmentSize),
        server: source.address,
        hint:
          "receiving goes on behind it; it is filled by itself when a server, push or --peer brings it: walvault gap list",
      });
    }
  }

  /** What an earlier process wrote down may be lost in a power cut: then nothing may stand behind it yet. */
  async #proveGaps({ unprovenGaps }: Prepared): Promise<void> {
    for (const run of unprovenGaps) {
      if (this.#provenGaps.has(keyOf(run))) continue;
      await this.dependencies.archive.confirmGap(run);
      this.#provenGaps.add(keyOf(run));
    }
  }

  /** @throws {WalGapError} when not all below the end is here. */
  #refuseOpenGaps({ openGaps: [gap], segmentSize }: Prepared): void {
    if (gap === undefined) return;
    const { startLsn, endLsn, timeline } = gapFields(gap, segmentSize);
    throw new WalGapError(
      `Cannot say that all WAL up to the end position is safe: from ${startLsn} to ${endLsn} on timeline ${timeline} it ` +
        "is missing; see: walvault gap list",
    );
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

  async #leg(
    source: WalSource,
    prepared: Prepared & { readonly standbyNames: string },
    signal: AbortSignal,
  ): Promise<LegEnd> {
    await this.#untilStopped(source, signal, () => this.#proveGaps(prepared));
    const { openGaps, standbyNames, plan } = prepared;
    if (openGaps.length === 0) return await this.#stream(source, prepared, undefined, signal);
    const gate = new FlushGate();
    if (standbyNames === "") gate.permit(plan.startLsn);
    this.#warnOfGaps(prepared);
    const ended = new AbortController();
    const watch = this.#watchOf(source, prepared, gate);
    const watching = watch.run(ended.signal);
    try {
      return await this.#stream(source, prepared, gate, signal);
    } finally {
      ended.abort();
      await watching;
    }
  }

  #watchOf(source: WalSource, prepared: Prepared, gate: FlushGate): GapWatch {
    const { archive, clock, log } = this.dependencies;
    const { serverLineage: lineage, segmentSize, openGaps, plan: { startLsn } } = prepared;
    const flushLsn = () => this.#flushLsn ?? startLsn;
    return new GapWatch({
      source,
      archive,
      clock,
      log,
      gate,
      lineage,
      segmentSize,
      startLsn,
      openGaps,
      flushLsn,
    });
  }

  #warnOfGaps({ openGaps, segmentSize, standbyNames }: Prepared & { readonly standbyNames: string }): void {
    const [first] = openGaps;
    if (first === undefined) return;
    const bytes = openGaps.reduce((sum, gap) => sum + gapFields(gap, segmentSize).bytes, 0n);
    this.#reporter.warnOnce("archive has open gaps", {
      gaps: openGaps.length,
      bytes: String(bytes),
      firstLsn: gapFields(first, segmentSize).startLsn,
      hint: standbyNames === ""
        ? "a restore can't go across them; see: walvault gap list"
        : "commits that wait for this standby go on waiting until they are healed, or accepted: walvault gap list",
    });
  }

  async #stream(
    source: WalSource,
    prepared: Prepared,
    gate: FlushGate | undefined,
    signal: AbortSignal,
  ): Promise<LegEnd> {
    const { plan, lineage, segmentSize } = prepared;
    const { archive, clock, log } = this.dependencies;
    const where = { timeline: plan.timeline, startLsn: formatLsn(plan.startLsn) };
    this.#flushLsn = undefined;
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
        flushTeller: gate,
        onStreaming: () => {
          log.info("streaming", { server: source.address, ...where });
          this.#streamed = true;
          this.#streamingSinceMs = clock.nowMs();
          this.#reporter.recovered();
          this.dependencies.onStreaming(source.address);
        },
        onPosition: (position) => {
          this.#flushLsn = position.flushLsn;
          this.dependencies.onPosition(position);
        },
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
      this.#gaps.set(source.address, { startLsn: plan.startLsn, origin: plan.origin, error: gap });
      throw new OtherHostError(gap.message, { cause: gap });
    }
  }

  /** What of the running stream is durable, a moment ago. */
  #flushLsn: Lsn | undefined;

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
    return waitFor(delayMs, this.dependencies.clock, signal);
  }
}

/** A server that does not have the WAL that is missing from here on. */
interface LackingServer {
  readonly startLsn: Lsn;
  readonly origin: (StartPlan & { kind: "start" })["origin"];
  readonly error: WalGapError;
}

interface Connected {
  readonly source: WalSource;
  readonly first: Prepared;
  /** It does not have what is missing, and nobody else does. */
  readonly lacking: LackingServer | undefined;
}

function keyOf({ timeline, firstNumber, endNumber }: SegmentRun): string {
  return `${timeline} ${firstNumber} ${endNumber}`;
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
