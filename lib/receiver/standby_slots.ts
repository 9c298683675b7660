import { type Log, messageChain } from "../log.ts";
import { ConnectionError } from "../protocol/errors.ts";
import type { SystemIdentity } from "../protocol/replication.ts";
import type { SlotView } from "../protocol/replication_views.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Clock } from "./clock.ts";
import { waitFor } from "./waiting.ts";

/** Slots on standbys are looked after this often: so much more WAL a standby keeps than it has to. */
export const STANDBY_SLOTS_INTERVAL_MS = 10_000;

/** The first version that is known to keep the WAL of a slot on a standby as it should. */
const OLDEST_SERVER_VERSION = 130_000;

/** A standby, as far as its slots go. */
export interface StandbyServer {
  readonly address: string;
  readonly serverVersion: number;
  identifySystem(): Promise<SystemIdentity>;
  /** Over an SQL connection, which a server may refuse. */
  replicationViews(): Promise<{ readonly slots: readonly SlotView[] }>;
  /** Physical, with RESERVE_WAL. */
  createSlot(name: string): Promise<void>;
  /** As `replicationViews`. */
  advanceSlot(name: string, toLsn: Lsn): Promise<void>;
  close(): Promise<void>;
}

/** A host of the connection string. */
export interface StandbyHost {
  /** For messages. */
  readonly name: string;
  /** Throws a `ConnectionError` `unsuitable` when it is the primary just now. */
  connect(signal: AbortSignal): Promise<StandbyServer>;
}

/** What slots on standbys are kept with. */
export interface StandbySlotsOptions {
  readonly hosts: readonly StandbyHost[];
  readonly slot: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Of the archive; `undefined` while it has none. */
  systemIdentifier(): bigint | undefined;
  /** Everything below it is durable in the archive, on that timeline, or given up; `undefined`: not known. */
  flushed(): Promise<{ readonly timeline: TimelineId; readonly flushLsn: Lsn } | undefined>;
}

/**
 * Keeps a slot on every standby, and moves it along behind what is durable here: whoever is promoted then still has all
 * WAL that is wanted.
 *
 * What goes wrong with one of them keeps nobody from receiving: it is told once.
 */
export class StandbySlots {
  readonly #told = new Map<string, string>();

  constructor(private readonly options: StandbySlotsOptions) {}

  /** Looks after them until told to stop. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      for (const host of this.options.hosts) {
        if (signal.aborted) return;
        await this.#keep(host, signal);
      }
      await waitFor(STANDBY_SLOTS_INTERVAL_MS, this.options.clock, signal);
    }
  }

  async #keep(host: StandbyHost, signal: AbortSignal): Promise<void> {
    try {
      const server = await host.connect(signal);
      // What stops a receiver does not wait for a server that says nothing.
      const onAbort = () => void server.close();
      signal.addEventListener("abort", onAbort, { once: true });
      try {
        const problem = await this.#keepOn(server);
        if (problem === undefined) this.#told.delete(host.name);
        else this.#warn(host, problem);
      } finally {
        signal.removeEventListener("abort", onAbort);
        await server.close();
      }
    } catch (error) {
      if (signal.aborted) return;
      // The primary's own slot is the stream's.
      if (error instanceof ConnectionError && error.kind === "unsuitable") return;
      const hint = error instanceof Error && "hint" in error ? error.hint : undefined;
      this.#warn(host, { error: messageChain(error), ...(typeof hint === "string" ? { hint } : {}) });
    }
  }

  /** Resolves to what an operator should know. */
  async #keepOn(server: StandbyServer): Promise<Problem | undefined> {
    const { slot: name, log } = this.options;
    const wanted = this.options.systemIdentifier();
    if (wanted === undefined) return undefined;
    if (server.serverVersion < OLDEST_SERVER_VERSION) {
      return { error: `PostgreSQL ${server.serverVersion / 10000 | 0} is too old for it, want 13 or newer` };
    }
    const { systemIdentifier, timeline } = await server.identifySystem();
    if (systemIdentifier !== wanted) {
      return {
        error: `it is of the cluster ${systemIdentifier}, the archive of ${wanted}`,
        hint: "correct the connection string",
      };
    }
    // First: where a slot can't be moved along, none is made. It would keep all WAL for ever.
    const { slots } = await server.replicationViews();
    const slot = slots.find((each) => each.name === name);
    if (slot === undefined) {
      await server.createSlot(name);
      log.info("slot created on standby", { server: server.address, slot: name });
      return undefined;
    }
    if (slot.walStatus === "lost") {
      return {
        error: "its slot has lost WAL that it was to keep",
        hint:
          `drop it there, and it is made again: SELECT pg_drop_replication_slot('${name}'); and look at ` +
          "max_slot_wal_keep_size",
      };
    }
    const flushed = await this.options.flushed();
    // Somebody streams with it: then that one moves it.
    if (slot.activePid !== undefined || flushed === undefined) return undefined;
    // What is here of an old timeline behind a fork says nothing about the new one's WAL.
    if (flushed.timeline !== timeline) return undefined;
    const { flushLsn } = flushed;
    if (slot.restartLsn === undefined) {
      return {
        error: "its slot reserves nothing",
        hint: `drop it there, and it is made again: SELECT pg_drop_replication_slot('${name}')`,
      };
    }
    if (flushLsn <= slot.restartLsn) return undefined;
    await server.advanceSlot(name, flushLsn);
    log.debug("slot on standby moved along", {
      server: server.address,
      slot: name,
      toLsn: formatLsn(flushLsn),
    });
    return undefined;
  }

  #warn(host: StandbyHost, problem: Problem): void {
    if (this.#told.get(host.name) === problem.error) return;
    this.#told.set(host.name, problem.error);
    this.options.log.warn("slot on standby is not kept", {
      server: host.name,
      slot: this.options.slot,
      ...problem,
    });
  }
}

interface Problem {
  readonly error: string;
  readonly hint?: string;
}
