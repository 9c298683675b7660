import { type Log, messageChain } from "../log.ts";
import { ConnectionError, ServerError } from "../protocol/errors.ts";
import { WalGapError } from "../wal/errors.ts";
import type { LineageView, SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { segmentNumberAt, type SegmentSize, segmentStart } from "../wal/segment.ts";
import { backoffMs } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import { afterFailure, NotYetError, PermanentError, SLOT_INVALIDATED, WAL_REMOVED } from "./failure.ts";
import { removalOf } from "./first_available.ts";
import { FlushGate } from "./flush_gate.ts";
import { GapPassing, lackError } from "./gap_passing.ts";
import { gapFields, GapWatch, unprovenText } from "./gap_watch.ts";
import type { HostReply } from "./lack.ts";
import { type LegEnd, type LegPosition, type LegTiming, streamLeg } from "./leg.ts";
import { Preparation, type Prepared } from "./preparation.ts";
import { Reporter } from "./reporter.ts";
import { RoomWatch } from "./room_watch.ts";
import { claimsBelow, gapsBelow, namedBelow, type StartPlan } from "./start.ts";
import { withinStop } from "./stopping.ts";
import { waitFor } from "./waiting.ts";
import type { GapArchive, GapHealer, UnprovenSegment } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** After a server's orderly end: it needs a moment, and reconnecting at once would hold up its shutdown. */
const AFTER_SHUTDOWN_MS = 2000;
/** A stream that lived this long ends a row of failures; one that breaks at once is one more. */
const STEADY_MS = 10_000;
/** So often in a row another connection is made at once after all hosts were asked; more is getting nowhere. */
const ROUNDS_AT_ONCE = 2;
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
  /** Asks every host of the connection string, also those that `connect` would not take. */
  askHosts<T>(
    ask: (source: WalSource) => Promise<T>,
    signal: AbortSignal,
  ): Promise<readonly HostReply<T>[]>;
  readonly archive: GapArchive;
  /** Who brings in what is missing; nobody without it. */
  readonly healer?: GapHealer | undefined;
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
  /** How far the running stream has come. */
  #receivedLsn: Lsn | undefined;
  /** One round at a time, whatever connections come and go meanwhile. */
  #healing: { readonly gaps: readonly SegmentRun[]; readonly ended: Promise<void> } | undefined;
  /** So often in a row all hosts were asked for what is missing there, and nothing came of the next connection. */
  #rounds: { readonly startLsn: Lsn; readonly count: number } | undefined;
  /** A slot that its server has invalidated, and whether anything was done about it. */
  #slotError:
    | { readonly address: string; readonly error: ServerError; readonly isSettled: boolean }
    | undefined;
  /** Ends what runs beside the connections. */
  readonly #ending = new AbortController();
  readonly #gaps: GapPassing;
  readonly #reporter: Reporter;
  readonly #preparation: Preparation;
  readonly #room: RoomWatch;

  constructor(private readonly dependencies: ReceiveDependencies, private readonly options: ReceiveOptions) {
    const { archive, clock, log } = dependencies;
    const { slot, createSlot, applicationName, timing } = options;
    const { receiveTimeoutMs, statusIntervalMs } = timing;
    const reporter = this.#reporter = new Reporter(log);
    this.#room = new RoomWatch(dependencies, reporter, options.timing);
    const overlap = { clock, timeoutMs: receiveTimeoutMs, statusIntervalMs };
    this.#preparation = new Preparation({
      archive,
      log,
      reporter,
      slot,
      createSlot,
      applicationName,
      overlap,
    });
    this.#gaps = new GapPassing({
      askHosts: (ask, signal) => dependencies.askHosts(ask, signal),
      heal: (gaps, signal) => this.#heal(gaps, signal),
      healing: () => this.#healing?.gaps ?? [],
      takenBytes: () => dependencies.healer?.takenBytes ?? 0,
      archive,
      clock,
      log,
      reporter,
      receiveTimeoutMs,
    });
  }

  async run(signal: AbortSignal): Promise<ReceiveEnd> {
    try {
      return await this.#run(signal);
    } finally {
      // It writes to the archive, and soon nobody may any more.
      this.#ending.abort(new Error("Receiving has ended"));
      const limits = { clock: this.dependencies.clock, timeoutMs: this.options.timing.stopTimeoutMs };
      await withinStop(this.#healing?.ended ?? Promise.resolve(), limits, AbortSignal.abort()).catch(() => {
        // It is stuck, as its disk is: whoever closes that says so.
      });
    }
  }

  async #run(signal: AbortSignal): Promise<ReceiveEnd> {
    for (;;) {
      await this.#room.waitForRoom(signal);
      if (signal.aborted) return "stopped";
      let delayMs: number;
      try {
        const end = await this.#connection(signal);
        if (end.kind === "stopped" || end.kind === "end-reached") return end.kind;
        if (end.kind === "nobody-waits") continue;
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
        if (error instanceof OtherHostError) {
          const more = (this.#rounds?.count ?? 0) - ROUNDS_AT_ONCE;
          if (more <= 0) continue;
          delayMs = backoffMs(more - 1, this.dependencies.random());
        } else {
          if (!this.options.loop || afterFailure(error, { streamed: this.#streamed }) === "stop") throw error;
          this.#reporter.disconnected(error);
          this.#forgiveFailures();
          delayMs = backoffMs(this.#failures++, this.dependencies.random());
        }
      }
      await this.#sleep(delayMs, signal);
    }
  }

  /** One connection, from login to its end; a timeline that ends leads to the next one on the same connection. */
  async #connection(signal: AbortSignal): Promise<ConnectionEnd> {
    const { source, first } = await this.#connect(signal);
    try {
      await this.#untilStopped(source, signal, () => this.#preparation.warnOfSynchronousSettings(source));
      const passed = await this.#untilStopped(source, signal, () => this.#gaps.record(source, first));
      let prepared = passed
        ? await this.#untilStopped(source, signal, () => this.#preparation.prepare(source))
        : first;
      for (;;) {
        const { plan } = prepared;
        await this.#untilStopped(source, signal, () => this.#settleSlot(source, prepared));
        if (this.#endReached(plan)) return await this.#endedWith(source, prepared, signal);
        const end = await this.#leg(source, prepared, signal);
        if (end.kind === "end-reached") return await this.#endedWith(source, prepared, signal);
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
    let lacking: Prepared | undefined;
    this.#gaps.beginConnection();
    const accept = (candidate: WalSource) =>
      this.#untilStopped(candidate, signal, async () => {
        first = await this.#preparation.prepare(candidate);
        const refusal = this.#gaps.refusal(candidate.address, first);
        if (refusal === undefined) return true;
        if (lacking === undefined || first.serverLineage.timeline > lacking.serverLineage.timeline) {
          lacking = first;
        }
        throw refusal;
      });
    try {
      const source = await this.dependencies.connect(accept, signal);
      if (first === undefined) throw new Error("Cannot stream: the server was not checked");
      return { source, first };
    } catch (error) {
      // An archive that has nothing yet has no gap either: it would begin later than it was told to.
      const mayPass = this.options.gaps === "record" && lacking?.plan.origin === "archive";
      if (lacking === undefined || !mayPass || signal.aborted) {
        // Next time every host is asked again: what is missing there may have been brought back.
        this.#gaps.forget();
        // Told to stop before the others were asked: what one host lacks is no verdict.
        if (mayPass && signal.aborted) throw new OtherHostError("Stopped in the search", { cause: error });
        throw error;
      }
      const { clock } = this.dependencies;
      const limits = { clock, timeoutMs: this.options.timing.stopTimeoutMs };
      await withinStop(this.#gaps.askAll(lacking, signal), limits, signal);
      const { startLsn } = lacking.plan;
      const count = this.#rounds?.startLsn === startLsn ? this.#rounds.count : 0;
      this.#rounds = { startLsn, count: count + 1 };
      throw new OtherHostError("What is missing came from elsewhere, or comes from nowhere", {
        cause: error,
      });
    }
  }

  /** @throws {WalGapError} when not all below the end is here. */
  async #endedWith(source: WalSource, prepared: Prepared, signal: AbortSignal): Promise<ConnectionEnd> {
    const { plan, segmentSize, serverLineage: lineage } = prepared;
    const contents = await this.#untilStopped(source, signal, () => this.dependencies.archive.contents());
    const view = { contents, lineage, segmentSize };
    await this.#untilStopped(source, signal, () => this.#gaps.prove(claimsBelow(view, plan.startLsn)));
    const gap = gapsBelow(view, plan.startLsn, "open")
      .find(({ firstNumber }) => segmentStart(firstNumber, segmentSize) < this.options.endLsn!);
    if (gap === undefined) return await this.#provenEnd(source, { prepared, view, signal });
    const { startLsn, endLsn, timeline } = gapFields(gap, segmentSize);
    throw new WalGapError(
      `Cannot say that all WAL up to the end position is safe: from ${startLsn} to ${endLsn} on timeline ${timeline} it ` +
        "is missing; see: walvault gap list",
    );
  }

  /** @throws {WalGapError} when what filled a gap below the end is not what it should be. */
  async #provenEnd(
    source: WalSource,
    { prepared: { plan, segmentSize }, view, signal }: {
      readonly prepared: Prepared;
      readonly view: LineageView;
      readonly signal: AbortSignal;
    },
  ): Promise<ConnectionEnd> {
    const { archive } = this.dependencies;
    for (const run of namedBelow(view, plan.startLsn)) {
      const { startLsn, endLsn, timeline } = gapFields(run, segmentSize);
      if (segmentStart(run.firstNumber, segmentSize) >= this.options.endLsn!) continue;
      const unproven = await this.#untilStopped(source, signal, () => archive.proveSegments(run, signal));
      if (unproven.length > 0) {
        throw new WalGapError(
          `Cannot say that all WAL up to the end position is safe: what was brought in from ${startLsn} to ${endLsn} on ` +
            `timeline ${timeline} is not proven: ${unprovenText(unproven)}; see: walvault gap list`,
        );
      }
      await this.#untilStopped(source, signal, () => archive.recordHealed(run));
    }
    return { kind: "end-reached" };
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

  /** One leg; what is missing before it is watched. */
  async #leg(source: WalSource, prepared: Prepared, signal: AbortSignal): Promise<ConnectionEnd> {
    await this.#untilStopped(source, signal, () => this.#gaps.prove(prepared.claims));
    const isWhole = prepared.openGaps.length + prepared.unproven.length === 0;
    if (isWhole && prepared.passed.length === 0) {
      return await this.#stream(source, prepared, undefined, signal);
    }
    // What is missing is written down, and nothing streams yet: when nobody waits now, nobody ever waits for what is
    // missing, since whoever begins to wait later waits for what comes behind it.
    const standbyNames = isWhole ? "" : await this.#untilStopped(
      source,
      signal,
      () => source.show("synchronous_standby_names"),
    );
    const gate = standbyNames === "" ? undefined : new FlushGate();
    this.#warnOfGaps(prepared, gate);
    const [ended, nobodyWaits] = [new AbortController(), new AbortController()];
    const watch = this.#watchOf(source, prepared, { gate, onNobodyWaits: () => nobodyWaits.abort(), signal });
    const watching = watch.run(ended.signal);
    try {
      const end = await this.#stream(source, prepared, gate, AbortSignal.any([signal, nobodyWaits.signal]));
      return end.kind === "stopped" && !signal.aborted ? { kind: "nobody-waits" } : end;
    } finally {
      ended.abort();
      await watching;
    }
  }

  #watchOf(
    source: WalSource,
    prepared: Prepared,
    { gate, onNobodyWaits, signal }: {
      readonly gate: FlushGate | undefined;
      onNobodyWaits(): void;
      readonly signal: AbortSignal;
    },
  ): GapWatch {
    const { archive, clock, log } = this.dependencies;
    const { plan, segmentSize, systemIdentifier, openGaps, unproven, passed } = prepared;
    const heal = (gaps: readonly SegmentRun[]) => {
      if (this.#healing !== undefined) return;
      this.#heal(gaps, signal).catch((error) => {
        if (!signal.aborted && !this.#ending.signal.aborted) {
          log.warn("missing wal not brought in", { error: messageChain(error) });
        }
      });
    };
    return new GapWatch({
      source,
      systemIdentifier,
      archive,
      clock,
      log,
      gate,
      segmentSize,
      startNumber: segmentNumberAt(plan.startLsn, segmentSize),
      openGaps,
      unproven,
      passed,
      onUnproven: (gap, segments) => this.#tellUnproven(gap, segments, segmentSize),
      heal,
      onNobodyWaits,
    });
  }

  /** Joins the round that is under way, if one is. */
  #heal(gaps: readonly SegmentRun[], signal: AbortSignal): Promise<void> {
    const { healer } = this.dependencies;
    if (healer === undefined) return Promise.resolve();
    const round = async () => await healer.heal(gaps, AbortSignal.any([signal, this.#ending.signal]));
    this.#healing ??= { gaps, ended: round().finally(() => this.#healing = undefined) };
    return this.#healing.ended;
  }

  /** Once for each that is found wrong: it is looked at again and again. */
  #tellUnproven(gap: SegmentRun, segments: readonly UnprovenSegment[], segmentSize: SegmentSize): void {
    const { startLsn, endLsn, timeline } = gapFields(gap, segmentSize);
    this.#reporter.errorOnce("gap not healed", {
      timeline,
      startLsn,
      endLsn,
      segments: unprovenText(segments),
      hint:
        "what stands under these names is not the missing WAL: move it away, and bring the right one, or walvault gap accept",
    });
  }

  #warnOfGaps({ openGaps, unproven, segmentSize }: Prepared, gate: FlushGate | undefined): void {
    const [first] = openGaps;
    const [named] = unproven;
    if (named !== undefined && gate !== undefined) {
      this.#reporter.warnOnce("gap is being proven", {
        gaps: unproven.length,
        bytes: String(unproven.reduce((sum, gap) => sum + gapFields(gap, segmentSize).bytes, 0n)),
        firstLsn: gapFields(named, segmentSize).startLsn,
        hint:
          "what was missing is here, and commits that wait for this standby go on waiting until every byte was looked at",
      });
    }
    if (first === undefined) return;
    const bytes = openGaps.reduce((sum, gap) => sum + gapFields(gap, segmentSize).bytes, 0n);
    this.#reporter.warnOnce("archive has open gaps", {
      gaps: openGaps.length,
      bytes: String(bytes),
      firstLsn: gapFields(first, segmentSize).startLsn,
      hint: gate === undefined
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
    this.#receivedLsn = undefined;
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
        flushGate: gate,
        onStreaming: () => {
          log.info("streaming", { server: source.address, ...where });
          this.#streamed = true;
          this.#slotError = undefined;
          this.#streamingSinceMs = clock.nowMs();
          this.#reporter.recovered();
          this.dependencies.onStreaming(source.address);
        },
        onPosition: (position) => {
          this.#receivedLsn = position.receivedLsn;
          if (position.receivedLsn > plan.startLsn) {
            this.#gaps.forget();
            this.#rounds = undefined;
          }
          this.dependencies.onPosition(position);
        },
        onDiskFull: () =>
          this.#reporter.problem("archive disk full", {
            hint: "reading stops until there is room; nothing acknowledged is lost",
          }),
        onDiskShort: (room) => this.#room.short(room),
        onDiskRoom: () => this.#room.enough(),
        onDiskStalled: (error) => this.#reporter.disconnected(error),
      }, signal);
    } catch (error) {
      throw this.#afterRefusal(source, prepared, error);
    }
  }

  /** What a stream's failure means: another host may have what this one has removed. */
  #afterRefusal(source: WalSource, prepared: Prepared, error: unknown): unknown {
    const { plan } = prepared;
    const { loop, slot } = this.options;
    // What it said of a later segment it says again when it is asked for that.
    if (!(error instanceof ServerError) || (this.#receivedLsn ?? plan.startLsn) > plan.startLsn) return error;
    if (error.sqlState === WAL_REMOVED) {
      const lack = lackError(source.address, prepared, { words: error.serverMessage, cause: error });
      if (loop) this.#gaps.hostLacks(source.address, prepared, lack);
      return loop ? new OtherHostError(lack.message, { cause: lack }) : lack;
    }
    if (error.sqlState === SLOT_INVALIDATED && slot !== undefined && loop && this.#slotError === undefined) {
      this.#slotError = { address: source.address, error, isSettled: false };
      return new OtherHostError(error.message, { cause: error });
    }
    return error;
  }

  /**
   * A slot was refused as invalidated, which says nothing of the WAL: without it the server tells.
   *
   * @throws {OtherHostError} when the WAL is gone.
   * @throws {ServerError} when it is there, and nothing can be done about the slot.
   */
  async #settleSlot(source: WalSource, prepared: Prepared): Promise<void> {
    const slotError = this.#slotError;
    if (slotError?.address !== source.address || slotError.isSettled) return;
    const { plan, segmentSize, serverLineage: lineage } = prepared;
    const { error } = slotError;
    const { clock } = this.dependencies;
    const search = { lineage, segmentSize, clock, timeoutMs: this.options.timing.receiveTimeoutMs };
    const words = await removalOf(source, segmentNumberAt(plan.startLsn, segmentSize), search);
    if (words !== undefined) {
      this.#slotError = undefined;
      const lack = lackError(source.address, prepared, { words, cause: error });
      this.#gaps.hostLacks(source.address, prepared, lack);
      throw new OtherHostError(lack.message, { cause: lack });
    }
    // Once: if it is refused again, something else is wrong with it.
    this.#slotError = { ...slotError, isSettled: true };
    if (!await this.#preparation.remakeSlot(source)) throw error;
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
    return waitFor(delayMs, this.dependencies.clock, signal);
  }
}

/** How a connection ended; with `nobody-waits` the next one shall decide what may be told of WAL behind a gap. */
type ConnectionEnd = LegEnd | { readonly kind: "nobody-waits" };

/** Another connection is to be made at once: this server does not have what is missing, the next one may. */
class OtherHostError extends Error {
  override readonly name = "OtherHostError";
}

/** An error that is worth telling even when we were told to stop: it says that the archive is in danger. */
function isOurs(error: unknown): boolean {
  return afterFailure(error, { streamed: true }) === "stop";
}
