import { type Log, messageChain } from "../log.ts";
import { ConnectionError, ServerError } from "../protocol/errors.ts";
import { ArchiveConflictError, WalGapError, WrongClusterError } from "../wal/errors.ts";
import {
  ancestorHistory,
  emptyHistory,
  isInLineage,
  parseHistory,
  type TimelineHistory,
} from "../wal/history.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { parseSegmentSize, type SegmentSize } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import type { SlotPosition } from "../protocol/replication.ts";
import { backoffMs } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import { afterFailure, NotYetError, PermanentError, WAL_REMOVED } from "./failure.ts";
import { type LegEnd, type LegPosition, type LegTiming, streamLeg } from "./leg.ts";
import { firstMissingSegment, newestTimeline, planStart, type StartPlan } from "./start.ts";
import type { WalArchive } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** The oldest server that can be received from. */
const OLDEST_SERVER_VERSION = 100000;
/** The first one that this program has not been tried with. */
const UNKNOWN_SERVER_VERSION = 190000;
/** The first one whose replication connection tells a slot's position. */
const SLOT_POSITION_VERSION = 150000;
/** After a server's orderly end: it needs a moment, and reconnecting at once would hold up its shutdown. */
const AFTER_SHUTDOWN_MS = 2000;
/** A stream that lived this long ends a row of failures; one that breaks at once is one more. */
const STEADY_MS = 10_000;

/** What a receiver is told to do. */
export interface ReceiveOptions {
  readonly slot: string | undefined;
  /** Make the slot if it is not there. */
  readonly createSlot: boolean;
  /** Stop when everything below it is durable. */
  readonly endLsn: Lsn | undefined;
  /** `false`: the first disconnect ends it. */
  readonly loop: boolean;
  readonly timing: LegTiming;
}

/** What a receiver needs from outside. */
export interface ReceiveDependencies {
  /** Opens a connection to the first server that `accept` takes. */
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

class Receiver {
  #streamed = false;
  #failures = 0;
  #streamingSinceMs: number | undefined;
  #lastProblem: string | undefined;
  readonly #warned = new Set<string>();

  constructor(private readonly dependencies: ReceiveDependencies, private readonly options: ReceiveOptions) {}

  async run(signal: AbortSignal): Promise<ReceiveEnd> {
    for (;;) {
      if (signal.aborted) return "stopped";
      let delayMs: number;
      try {
        const end = await this.#connection(signal);
        if (end.kind === "stopped" || end.kind === "end-reached") return end.kind;
        this.dependencies.log.info("server shut down");
        if (!this.options.loop) {
          throw new ConnectionError("closed", "The server ended the stream: it shuts down");
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
        if (!this.options.loop || afterFailure(error, { streamed: this.#streamed }) === "stop") throw error;
        this.#tellOnce(error);
        this.#forgiveFailures();
        delayMs = backoffMs(this.#failures++, this.dependencies.random());
      }
      await this.#sleep(delayMs, signal);
    }
  }

  /** One connection, from login to its end; a timeline that ends leads to the next one on the same connection. */
  async #connection(signal: AbortSignal): Promise<LegEnd> {
    const source = await this.#connect(signal);
    try {
      this.#checkVersion(source);
      await closingAtStop(source, signal, () => this.#warnOfSynchronousSettings(source));
      let before: { readonly timeline: TimelineId; readonly startLsn: Lsn } | undefined;
      for (;;) {
        const { plan, lineage } = await closingAtStop(source, signal, () => this.#plan(source));
        if (before !== undefined && before.timeline === plan.timeline && before.startLsn === plan.startLsn) {
          throw new NotYetError(
            `Cannot leave timeline ${plan.timeline} at ${
              formatLsn(plan.startLsn)
            }: the server ended it, and offers no other`,
          );
        }
        before = plan;
        if (this.#endReached(plan)) return { kind: "end-reached" };
        const end = await this.#leg(source, plan, lineage, signal);
        if (end.kind !== "timeline") return end;
        this.dependencies.log.info("timeline ended", {
          timeline: plan.timeline,
          nextTimeline: end.nextTimeline,
          switchLsn: formatLsn(end.switchLsn),
        });
      }
    } finally {
      await source.close();
    }
  }

  async #connect(signal: AbortSignal): Promise<WalSource> {
    let hint: string | undefined;
    const accept = (source: WalSource) =>
      closingAtStop(source, signal, async () => {
        hint = await this.#whyNot(source);
        return hint === undefined;
      });
    try {
      return await this.dependencies.connect(accept, signal);
    } catch (error) {
      if (hint === undefined || !(error instanceof ConnectionError) || error.hint !== undefined) throw error;
      throw new ConnectionError(error.kind, error.message, { cause: error, hint });
    }
  }

  /** A server on an older timeline than the archive's is a fallen primary: the next host may be the new one. */
  async #whyNot(source: WalSource): Promise<string | undefined> {
    const { archive } = this.dependencies;
    const newest = newestTimeline(await archive.contents());
    if (newest === undefined) return undefined;
    const { systemIdentifier, timeline } = await source.identifySystem();
    if (timeline >= newest) return undefined;
    try {
      await archive.claim({ systemIdentifier, segmentSize: await readSegmentSize(source) });
    } catch (error) {
      // Not an old server but a wrong one: it is taken, and the check that follows says so and stops.
      if (error instanceof WrongClusterError) return undefined;
      throw error;
    }
    const { address } = source;
    this.#warnOnce("server on an old timeline", { address, timeline, archiveTimeline: newest });
    return `${address} is on timeline ${timeline}, the archive on ${newest}: ` +
      `connect to a server of timeline ${newest} or later, and make this one its standby (pg_rewind)`;
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

  #checkVersion(source: WalSource): void {
    if (source.serverVersion < OLDEST_SERVER_VERSION) {
      throw new PermanentError(
        `Cannot receive from ${source.address}: PostgreSQL ${
          source.serverVersion / 10000 | 0
        }, want 10 or newer`,
      );
    }
    if (source.serverVersion >= UNKNOWN_SERVER_VERSION) {
      this.#warnOnce("server version not tried", { serverVersion: source.serverVersion });
    }
  }

  async #plan(source: WalSource): Promise<{ plan: StartPlan & { kind: "start" }; lineage: TimelineHistory }> {
    const { archive } = this.dependencies;
    const system = await source.identifySystem();
    const segmentSize = await readSegmentSize(source);
    await archive.claim({ systemIdentifier: system.systemIdentifier, segmentSize });
    const contents = await archive.contents();
    const lineage = await this.#lineage(source, system.timeline, contents.histories);
    const empty = firstMissingSegment({ contents, lineage, segmentSize }) === undefined;
    const slot = await this.#slot(source, empty);
    const plan = planStart({ contents, lineage, segmentSize, serverFlushLsn: system.flushLsn, slot });
    if (plan.kind === "old-timeline") {
      throw new ConnectionError(
        "unsuitable",
        `Cannot receive from ${source.address}: it is on timeline ${system.timeline}, the archive on ${plan.archiveTimeline}`,
      );
    }
    if (plan.kind === "server-behind") {
      throw new NotYetError(
        `Cannot receive from ${source.address} yet: its WAL ends at ${
          formatLsn(system.flushLsn)
        }, the archive's at ${
          formatLsn(plan.startLsn)
        } on timeline ${plan.timeline}; if this server was restored from an older state, it needs a new archive directory`,
      );
    }
    if (plan.origin === "server") {
      this.#warnOnce("starting at the server's current position", {
        startLsn: formatLsn(plan.startLsn),
        reason: this.options.slot === undefined
          ? "the archive has nothing on the server's timelines, and no slot is given"
          : "the archive has nothing on the server's timelines, and the slot reserves nothing",
      });
    }
    return { plan, lineage: ancestorHistory(lineage, plan.timeline) };
  }

  /** The server's own history, stored before the first byte of its timeline is acknowledged; then its ancestors'. */
  async #lineage(
    source: WalSource,
    timeline: TimelineId,
    stored: readonly { readonly timeline: TimelineId; readonly bytes: Uint8Array }[],
  ): Promise<TimelineHistory> {
    if (timeline === 1) return emptyHistory(timeline);
    const own = stored.find((history) => history.timeline === timeline)?.bytes;
    const bytes = await source.timelineHistory(timeline) ?? own;
    if (bytes === undefined) {
      throw new PermanentError(
        `Cannot receive timeline ${timeline}: neither ${source.address} nor the archive has ${
          historyFileName(timeline)
        }; ` +
          "copy it into the server's pg_wal",
      );
    }
    const lineage = parseHistory(timeline, bytes);
    for (const history of stored) checkAncestor(history, lineage);
    const here = new Set(stored.map((history) => history.timeline));
    for (const entry of lineage.entries) {
      if (entry.timeline === 1 || here.has(entry.timeline)) continue;
      // Ancestors are told again in every younger history: one that the server no longer has is no loss.
      const ancestor = await source.timelineHistory(entry.timeline);
      if (ancestor === undefined) continue;
      checkAncestor({ timeline: entry.timeline, bytes: ancestor }, lineage);
      await this.#storeHistory(entry.timeline, ancestor);
    }
    await this.#storeHistory(timeline, bytes);
    return lineage;
  }

  async #storeHistory(timeline: TimelineId, bytes: Uint8Array): Promise<void> {
    if (await this.dependencies.archive.storeHistory(timeline, bytes) === "stored") {
      this.dependencies.log.info("history archived", { history: historyFileName(timeline) });
    }
  }

  async #slot(source: WalSource, archiveEmpty: boolean): Promise<SlotPosition | undefined> {
    const name = this.options.slot;
    if (name === undefined) {
      this.#warnOnce("no replication slot", {
        hint: "the server may remove WAL before it is received; use --slot and --create-slot",
      });
      return undefined;
    }
    if (this.options.createSlot && await this.#createSlot(source, name)) {
      return await this.#slotPosition(source, name, archiveEmpty);
    }
    const position = await this.#slotPosition(source, name, archiveEmpty);
    if (position === undefined && this.#slotTold(source, archiveEmpty)) {
      throw new PermanentError(
        `Cannot use replication slot "${name}": the server has none of that name; add --create-slot`,
      );
    }
    if (position?.kind === "logical") {
      throw new PermanentError(
        `Cannot use replication slot "${name}": it is a logical slot, want a physical one; choose another name`,
      );
    }
    return position;
  }

  /** Before 15 a slot's position takes a second connection: only an empty archive needs it. */
  #slotTold(source: WalSource, archiveEmpty: boolean): boolean {
    return archiveEmpty || source.serverVersion >= SLOT_POSITION_VERSION;
  }

  async #slotPosition(
    source: WalSource,
    name: string,
    archiveEmpty: boolean,
  ): Promise<SlotPosition | undefined> {
    return this.#slotTold(source, archiveEmpty) ? await source.readSlot(name) : undefined;
  }

  async #createSlot(source: WalSource, name: string): Promise<boolean> {
    try {
      await source.createSlot(name);
    } catch (error) {
      // duplicate_object: it is there, which is what was asked for.
      if (error instanceof ServerError && error.sqlState === "42710") return false;
      throw error;
    }
    this.dependencies.log.info("slot created", { slot: name });
    return true;
  }

  async #leg(
    source: WalSource,
    plan: StartPlan & { kind: "start" },
    lineage: TimelineHistory,
    signal: AbortSignal,
  ): Promise<LegEnd> {
    const { archive, clock, log } = this.dependencies;
    const where = { timeline: plan.timeline, startLsn: formatLsn(plan.startLsn) };
    try {
      return await streamLeg({
        source,
        archive,
        clock,
        lineage,
        startLsn: plan.startLsn,
        timing: this.options.timing,
        slot: this.options.slot,
        endLsn: this.options.endLsn,
        onStreaming: () => {
          log.info("streaming", { server: source.address, ...where });
          this.#streamed = true;
          this.#streamingSinceMs = clock.nowMs();
          this.#lastProblem = undefined;
          this.dependencies.onStreaming(source.address);
        },
        onPosition: this.dependencies.onPosition,
        onDiskFull: () => this.#warnOfFullDisk(),
        onDiskStalled: (error) => this.#tellOnce(error),
      }, signal);
    } catch (error) {
      if (error instanceof ServerError && error.sqlState === WAL_REMOVED) {
        throw this.#hole(source, plan, error);
      }
      throw error;
    }
  }

  #hole(source: WalSource, plan: StartPlan & { kind: "start" }, error: ServerError): WalGapError {
    return new WalGapError(
      `Cannot go on from ${
        formatLsn(plan.startLsn)
      } on timeline ${plan.timeline}: ${source.address} no longer has that WAL ` +
        `(${error.serverMessage}); bring the missing segments from the server's own archive or another host, ` +
        "or start a new archive in an empty directory and take a new base backup",
      { cause: error },
    );
  }

  async #warnOfSynchronousSettings(source: WalSource): Promise<void> {
    const names = await source.show("synchronous_standby_names");
    if (names === "") return;
    if (await source.show("synchronous_commit") === "remote_apply") {
      this.#warnOnce("synchronous_commit is remote_apply", {
        hint: "walvault replays nothing, so commits that wait for it wait for ever; use on or remote_write",
      });
    }
    if (!names.includes(",")) {
      this.#warnOnce("only one synchronous standby", {
        synchronousStandbyNames: names,
        hint: "if it is this receiver, commits wait whenever it is not connected",
      });
    }
  }

  #warnOfFullDisk(): void {
    this.#problem("archive disk full", {
      hint: "reading stops until there is room; nothing acknowledged is lost",
    });
  }

  #tellOnce(error: unknown): void {
    const { hint } = error as { hint?: unknown };
    this.#problem("disconnected", {
      error: messageChain(error),
      ...(typeof hint === "string" ? { hint } : {}),
    });
  }

  /** One `error` line for each change of state; the same again is for those who look closely. */
  #problem(event: string, fields: Record<string, string>): void {
    const { log } = this.dependencies;
    const text = `${event} ${fields["error"] ?? ""}`;
    if (text === this.#lastProblem) log.debug(event, fields);
    else log.error(event, fields);
    this.#lastProblem = text;
  }

  #forgiveFailures(): void {
    const sinceMs = this.#streamingSinceMs;
    if (sinceMs !== undefined && this.dependencies.clock.nowMs() - sinceMs >= STEADY_MS) this.#failures = 0;
    this.#streamingSinceMs = undefined;
  }

  #warnOnce(event: string, fields: Record<string, string | number>): void {
    const text = event + JSON.stringify(fields);
    if (this.#warned.has(text)) return;
    this.#warned.add(text);
    this.dependencies.log.warn(event, fields);
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

async function readSegmentSize(source: WalSource): Promise<SegmentSize> {
  return parseSegmentSize(await source.show("wal_segment_size"));
}

/** Until a server streams there is nothing to settle: one that does not answer must not hold up the stop. */
async function closingAtStop<T>(source: WalSource, signal: AbortSignal, act: () => Promise<T>): Promise<T> {
  signal.throwIfAborted();
  const onAbort = () => void source.close();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await act();
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

/** @throws {ArchiveConflictError} when a history tells another past of a timeline than its descendant's does. */
function checkAncestor(
  history: { readonly timeline: TimelineId; readonly bytes: Uint8Array },
  lineage: TimelineHistory,
): void {
  const { timeline, bytes } = history;
  if (timeline === lineage.timeline || !isInLineage(lineage, timeline)) return;
  const pastOf = ({ entries }: TimelineHistory) =>
    entries.map((entry) => `${entry.timeline} until ${formatLsn(entry.endLsn)}`).join(", ");
  const here = pastOf(parseHistory(timeline, bytes));
  const there = pastOf(ancestorHistory(lineage, timeline));
  if (here === there) return;
  throw new ArchiveConflictError(
    `Cannot receive timeline ${lineage.timeline}: its history says that timeline ${timeline} followed ${there}, ` +
      `${historyFileName(timeline)} says ${here}; two servers were promoted to timeline ${timeline}: ` +
      "find out which one is right, and give the other a new archive",
  );
}

/** An error that is worth telling even when we were told to stop: it says that the archive is in danger. */
function isOurs(error: unknown): boolean {
  return afterFailure(error, { streamed: true }) === "stop";
}
