import { type Log, messageChain } from "../log.ts";
import type { SystemIdentity } from "../protocol/replication.ts";
import type { ServerPosition, ServerRole, SlotView } from "../protocol/replication_views.ts";
import { parseHistory, type TimelineHistory } from "../wal/history.ts";
import { formatLsn, type Lsn, minLsn } from "../wal/lsn.ts";
import { segmentNumberAt, type SegmentSize } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import type { Clock } from "./clock.ts";
import { withinStop } from "./stopping.ts";
import { waitFor } from "./waiting.ts";

/** Slots on standbys are looked after this often: so much more WAL a standby keeps than it has to. */
export const STANDBY_SLOTS_INTERVAL_MS = 10_000;
/** Before anything streams, it is looked so often whether it does: nobody is asked for that. */
const FIRST_LOOK_MS = 1000;
/** A server has this long to answer all that it is asked in one look. */
export const STANDBY_SLOTS_LOOK_MS = 20_000;
/** Once told to stop, a server that says nothing is waited for no longer. */
export const STANDBY_SLOTS_STOP_MS = 3000;

/** The first version that is known to keep the WAL of a slot on a standby as it should. */
const OLDEST_SERVER_VERSION = 130_000;

/** An ordinary connection to a server. */
export interface ServerSlots {
  position(): Promise<ServerPosition>;
  slots(): Promise<readonly SlotView[]>;
  /**
   * No further than to what a standby has replayed.
   *
   * @returns where it is then; `undefined` when the server has another role by now, and nothing was done.
   */
  advance(
    name: string,
    target: { readonly toLsn: Lsn; readonly role: ServerRole },
  ): Promise<Lsn | undefined>;
  close(): Promise<void>;
}

/** A server, as far as its slots go. */
export interface SlotServer {
  readonly address: string;
  readonly serverVersion: number;
  identifySystem(): Promise<SystemIdentity>;
  /** `undefined` when it does not have it. */
  timelineHistory(timeline: TimelineId): Promise<Uint8Array | undefined>;
  /** The server may refuse it. */
  openSlots(signal: AbortSignal): Promise<ServerSlots>;
  /** Physical, with RESERVE_WAL. */
  createSlot(name: string): Promise<void>;
  close(): Promise<void>;
}

/** A host of the connection string. */
export interface SlotHost {
  /** For messages. */
  readonly name: string;
  /** Whatever it is just now. */
  connect(signal: AbortSignal): Promise<SlotServer>;
}

/** What need not be kept any more. */
export interface KeptWal {
  /** That `flushLsn` is of, with its ancestors. */
  readonly history: TimelineHistory;
  /** Everything below it is durable in the archive, or given up. */
  readonly flushLsn: Lsn;
  /** It stays there, as WAL from there on was recorded as missing, though what follows is durable. */
  readonly gapLsn?: Lsn | undefined;
  readonly segmentSize: SegmentSize;
}

/** What slots on standbys are kept with. */
export interface StandbySlotsOptions {
  readonly hosts: readonly SlotHost[];
  readonly slot: string;
  readonly clock: Clock;
  readonly log: Log;
  /** Of the archive; `undefined` while it has none. */
  systemIdentifier(): bigint | undefined;
  /** The name of the host that streams, or did last: the stream moves its slot. */
  streamingFrom(): string | undefined;
  /** `undefined` before anything was streamed. */
  flushed(): Promise<KeptWal | undefined>;
}

/**
 * Keeps a slot on every standby, and moves it along behind what is durable here: whoever is promoted then still has all
 * WAL that is wanted. While a standby streams, the primary's slot is moved along in the same way.
 *
 * What goes wrong with one of them keeps neither receiving nor the others: it is told once.
 */
export class StandbySlots {
  readonly #told = new Map<string, string>();

  constructor(private readonly options: StandbySlotsOptions) {}

  /** Looks after them until told to stop; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.all(this.options.hosts.map((host) => this.#keepAlong(host, signal)));
  }

  async #keepAlong(host: SlotHost, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const problem = await this.#lookInTime(host, signal);
      if (signal.aborted) return;
      if (problem === undefined) this.#told.delete(host.name);
      else this.#warn(host, problem);
      const streams = this.options.streamingFrom() !== undefined;
      await waitFor(streams ? STANDBY_SLOTS_INTERVAL_MS : FIRST_LOOK_MS, this.options.clock, signal);
    }
  }

  /** Never rejects. */
  async #lookInTime(host: SlotHost, signal: AbortSignal): Promise<Problem | undefined> {
    const { clock } = this.options;
    const late = new AbortController();
    const cancel = clock.setTimer(STANDBY_SLOTS_LOOK_MS, () => late.abort());
    const until = AbortSignal.any([signal, late.signal]);
    try {
      // What is cut off and has not noticed it yet is left behind.
      return await withinStop(this.#look(host, until), { clock, timeoutMs: STANDBY_SLOTS_STOP_MS }, until);
    } catch (error) {
      if (late.signal.aborted) return { error: `no answer in ${STANDBY_SLOTS_LOOK_MS / 1000} s` };
      const hint = error instanceof Error && "hint" in error ? error.hint : undefined;
      return { error: messageChain(error), ...(typeof hint === "string" ? { hint } : {}) };
    } finally {
      cancel();
    }
  }

  /** Resolves to what an operator should know. */
  async #look(host: SlotHost, signal: AbortSignal): Promise<Problem | undefined> {
    const wanted = this.options.systemIdentifier();
    // Its own slot is the stream's.
    if (wanted === undefined || host.name === this.options.streamingFrom()) return undefined;
    const flushed = await this.options.flushed();
    // What this archive needs of a server is known when it has begun to stream.
    if (flushed === undefined || signal.aborted) return undefined;
    const server = await host.connect(signal);
    const closing = closeOnAbort(server, signal);
    try {
      if (server.serverVersion < OLDEST_SERVER_VERSION) {
        return {
          error: `PostgreSQL ${server.serverVersion / 10000 | 0} is too old for it, want 13 or newer`,
        };
      }
      // First: where a slot can't be moved along, none is made. It would keep all WAL for ever.
      const slots = await server.openSlots(signal);
      const closingSlots = closeOnAbort(slots, signal);
      try {
        return await this.#keepOn({ server, slots }, flushed, wanted);
      } finally {
        await closingSlots();
      }
    } finally {
      await closing();
    }
  }

  async #keepOn(
    { server, slots }: { readonly server: SlotServer; readonly slots: ServerSlots },
    flushed: KeptWal,
    wanted: bigint,
  ): Promise<Problem | undefined> {
    const { slot: name, log } = this.options;
    // In this order: a server's timeline only grows, so what it had replayed before is of the timeline that it tells now,
    // or of an ancestor. Whatever it is promoted to meanwhile has all of that.
    const { role, endLsn } = await slots.position();
    const { systemIdentifier, timeline } = await server.identifySystem();
    if (systemIdentifier !== wanted) {
      return {
        error: `it is of the cluster ${systemIdentifier}, the archive of ${wanted}`,
        hint: "correct the connection string",
      };
    }
    const slot = await slotNamed(slots, name);
    if (slot?.walStatus === "lost") {
      return {
        error: "its slot has lost WAL that it was to keep",
        hint:
          `drop it there, so that it can be made again: SELECT pg_drop_replication_slot('${name}'); and look ` +
          "at max_slot_wal_keep_size",
      };
    }
    // Who streams with it moves it; and where there is none, a primary keeps nothing.
    if (slot?.activePid !== undefined || (role === "primary" && slot?.restartLsn === undefined)) {
      return undefined;
    }
    const otherLine = await otherLineOf(server, timeline, { role, flushed });
    if (otherLine !== undefined) return otherLine === "yet" ? undefined : otherLine;
    if (slot !== undefined && slot.restartLsn === undefined) {
      return {
        error: "its slot reserves nothing",
        hint: `drop it there, and it is made again: SELECT pg_drop_replication_slot('${name}')`,
      };
    }
    const restartLsn = slot?.restartLsn ?? await this.#create({ server, slots }, flushed);
    const toLsn = endLsn === undefined ? undefined : minLsn(endLsn, flushed.flushLsn);
    const held = endLsn === undefined ? undefined : heldAt(flushed, endLsn);
    if (restartLsn === undefined || toLsn === undefined || toLsn <= restartLsn) return held;
    const movedTo = await slots.advance(name, { toLsn, role });
    if (movedTo === undefined) return undefined;
    log.debug("slot moved along", { server: server.address, slot: name, role, toLsn: formatLsn(movedTo) });
    return held;
  }

  /** Makes a slot; where it begins its server's last restart point decides. */
  async #create(
    { server, slots }: { readonly server: SlotServer; readonly slots: ServerSlots },
    { flushLsn, segmentSize: size }: KeptWal,
  ): Promise<Lsn | undefined> {
    const { slot, log } = this.options;
    await server.createSlot(slot);
    const restartLsn = (await slotNamed(slots, slot))?.restartLsn;
    log.info("slot created on standby", {
      server: server.address,
      slot,
      ...(restartLsn === undefined ? {} : { restartLsn: formatLsn(restartLsn) }),
    });
    if (restartLsn !== undefined && segmentNumberAt(restartLsn, size) > segmentNumberAt(flushLsn, size)) {
      log.warn("slot on standby begins late", {
        server: server.address,
        slot,
        restartLsn: formatLsn(restartLsn),
        flushLsn: formatLsn(flushLsn),
        hint: "until all before it is here, it may be missing after a failover to this server",
      });
    }
    return restartLsn;
  }

  #warn(host: SlotHost, problem: Problem): void {
    if (this.#told.get(host.name) === problem.error) return;
    this.#told.set(host.name, problem.error);
    this.options.log.warn("slot is not moved along", {
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

/**
 * Why nothing can be said about a server's WAL by what is durable here; "yet" when it will come by itself, and
 * `undefined` when it is of the same line.
 */
async function otherLineOf(
  server: SlotServer,
  timeline: TimelineId,
  { role, flushed: { history } }: { readonly role: ServerRole; readonly flushed: KeptWal },
): Promise<Problem | "yet" | undefined> {
  // What is here of an old timeline behind a fork says nothing about the new one's WAL.
  if (timeline !== history.timeline) {
    return role === "standby" ? "yet" : {
      error:
        `it is the primary on timeline ${timeline}, received is timeline ${history.timeline}: its slot stays`,
      hint: `it keeps WAL until timeline ${timeline} is received: look at the server that streams`,
    };
  }
  if (history.entries.length === 0) return undefined;
  const file = historyFileName(timeline);
  const bytes = await server.timelineHistory(timeline);
  if (bytes === undefined) {
    return { error: `it does not have ${file}`, hint: "copy it into the server's pg_wal" };
  }
  if (pastOf(parseHistory(timeline, bytes)) === pastOf(history)) return undefined;
  return {
    error: `its ${file} tells another past than the archive's`,
    hint: "two servers were promoted to the same timeline: find out which one is right",
  };
}

/** Nobody else tells of it: what the server that streams is told goes past a gap. */
function heldAt({ gapLsn }: KeptWal, endLsn: Lsn): Problem | undefined {
  if (gapLsn === undefined || endLsn <= gapLsn) return undefined;
  return {
    error: `WAL from ${formatLsn(gapLsn)} on is missing here, and may still come`,
    hint:
      "it keeps all WAL from there on, and fills that server's disk: bring what is missing (walvault gap heal), or " +
      "give it up (walvault gap accept); see: walvault gap list",
  };
}

function pastOf({ entries }: TimelineHistory): string {
  return entries.map((entry) => `${entry.timeline} ${entry.endLsn}`).join();
}

async function slotNamed(slots: ServerSlots, name: string): Promise<SlotView | undefined> {
  return (await slots.slots()).find((slot) => slot.name === name);
}

/** What is told to stop does not wait for a server that says nothing. Returns what closes it in order. */
function closeOnAbort(connection: { close(): Promise<void> }, signal: AbortSignal): () => Promise<void> {
  const onAbort = () => void connection.close();
  if (signal.aborted) onAbort();
  else signal.addEventListener("abort", onAbort, { once: true });
  return async () => {
    signal.removeEventListener("abort", onAbort);
    await connection.close();
  };
}
