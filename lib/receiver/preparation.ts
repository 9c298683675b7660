import { type Log, messageChain } from "../log.ts";
import { ConnectionError, ServerError } from "../protocol/errors.ts";
import type { SlotPosition } from "../protocol/replication.ts";
import { ArchiveConflictError } from "../wal/errors.ts";
import {
  ancestorHistory,
  emptyHistory,
  isInLineage,
  parseHistory,
  type TimelineHistory,
} from "../wal/history.ts";
import { firstMissingSegment, passedBegins, type SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { parseSegmentSize, type SegmentSize } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import { NotYetError, PermanentError } from "./failure.ts";
import { compareOverlap, type OverlapTiming } from "./overlap.ts";
import type { Reporter } from "./reporter.ts";
import {
  beyondForks,
  claimsBelow,
  gapsBelow,
  type LedgerClaim,
  namedBelow,
  newestTimeline,
  planStart,
  type StartFacts,
  type StartPlan,
  unfinishedBeyondForks,
} from "./start.ts";
import { synchronousWarnings } from "./synchronous.ts";
import type { WalArchive } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** The oldest server that can be received from. */
const OLDEST_SERVER_VERSION = 100000;
/** The first one that this program has not been tried with. */
const UNKNOWN_SERVER_VERSION = 190000;
/** The first one whose replication connection tells a slot's position. */
const SLOT_POSITION_VERSION = 150000;
/** duplicate_object: a slot of that name is there. */
const SLOT_EXISTS = "42710";

/** A history file as the server sent it. */
interface ReceivedHistory {
  readonly timeline: TimelineId;
  readonly bytes: Uint8Array;
}

/** What a server is to be asked for. */
export interface Prepared {
  readonly plan: StartPlan & { readonly kind: "start" };
  /** The history of the timeline to stream. */
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
  /** The server's own. */
  readonly serverLineage: TimelineHistory;
  readonly systemIdentifier: bigint;
  /** Missing below where streaming begins, and not given up. */
  readonly openGaps: readonly SegmentRun[];
  /** Recorded to be missing below there, and here by name: not proven yet. */
  readonly unproven: readonly SegmentRun[];
  /** Segments that shall be known to have been here, and are not yet, or are to come: see `passedBegins`. */
  readonly passed: readonly SegmentRun[];
  /** What the ledger tells of it; what an earlier process wrote may not be durable. */
  readonly claims: readonly LedgerClaim[];
}

/** What a preparation works with. */
export interface PreparationOptions {
  readonly archive: WalArchive;
  readonly log: Log;
  readonly reporter: Reporter;
  readonly slot: string | undefined;
  /** Make the slot if it is not there. */
  readonly createSlot: boolean;
  /** The name that the server sees, for `synchronous_standby_names`. */
  readonly applicationName: string;
  /** For the server to send WAL that the archive has already. */
  readonly overlap: OverlapTiming;
}

/**
 * All that comes between a connection and its stream: is it the right server, which histories does it have, is there
 * a slot, and where does receiving begin.
 */
export class Preparation {
  readonly #slotCreated = new WeakSet<WalSource>();
  readonly #readEnds = new Map<string, Lsn | undefined>();
  /** Nobody used the slot before us. */
  #slotIsNew = false;

  constructor(private readonly options: PreparationOptions) {}

  /**
   * Checks a server against the archive, and plans.
   *
   * @throws {ConnectionError} `unsuitable`: it is on an older timeline than the archive.
   * @throws {NotYetError} when its WAL ends before the archive's.
   * @throws {WrongClusterError} @throws {ArchiveConflictError} @throws {PermanentError}
   */
  async prepare(source: WalSource): Promise<Prepared> {
    this.#checkVersion(source);
    const { archive } = this.options;
    const system = await source.identifySystem();
    const segmentSize = parseSegmentSize(await source.show("wal_segment_size"));
    await archive.claim({ systemIdentifier: system.systemIdentifier, segmentSize });
    const contents = await archive.contents();
    const newest = newestTimeline(contents) ?? system.timeline;
    if (newest > system.timeline) throw onOldTimeline(source, system.timeline, newest);
    const { lineage, received } = await this.#lineage(source, system.timeline, contents.histories);
    const facts = { contents, lineage, segmentSize, serverFlushLsn: system.flushLsn };
    // Before the slot: none is left behind on a server that will not do.
    const wanted = startOf({ ...facts, slot: undefined }, source);
    if (wanted.origin === "archive") await this.#refuseDiverged(source, wanted, lineage);
    const slot = await this.#slot(source, firstMissingSegment(facts) === undefined);
    const plan = startOf({ ...facts, slot }, source);
    if (plan.origin === "server") {
      this.options.reporter.warnOnce("starting at the server's current position", {
        startLsn: formatLsn(plan.startLsn),
        reason: this.options.slot === undefined
          ? "the archive has nothing on the server's timelines, and no slot is given"
          : "the archive has nothing on the server's timelines, and the slot reserves nothing",
      });
    }
    // Somebody may have used that slot already: an empty archive may be the mount point of one whose disk is away.
    if (plan.origin === "slot" && !this.#slotIsNew) {
      this.options.reporter.warnOnce("starting at the slot's position", {
        startLsn: formatLsn(plan.startLsn),
        reason: "the archive has nothing on the server's timelines",
        hint:
          "what was written before is not here; if the slot had an archive already, look whether its disk is mounted",
      });
    }
    if (contents.incomplete.length > 0) {
      this.options.reporter.warnOnce("archive has segments that are not complete", {
        names: contents.incomplete.slice(0, 10).join(" "),
        hint: "they count as missing; move them away, and they are received again if a server still has them",
      });
    }
    for (const beyond of beyondForks(facts, await this.#unfinishedEnds(facts))) {
      this.options.reporter.warnOnce("archive is ahead of the fork", {
        timeline: beyond.timeline,
        forkLsn: formatLsn(beyond.forkLsn),
        archiveEndLsn: formatLsn(beyond.archiveEndLsn),
        hint:
          "the promoted server never saw these transactions; their WAL stays in the archive, on the old timeline; walvault status counts their commits",
      });
    }
    // Last: a server that will not do must not leave its history behind. And before the first byte of its timeline.
    for (const { timeline, bytes } of received) await this.#storeHistory(timeline, bytes);
    return {
      plan,
      lineage: ancestorHistory(lineage, plan.timeline),
      segmentSize,
      serverLineage: lineage,
      systemIdentifier: system.systemIdentifier,
      openGaps: gapsBelow(facts, plan.startLsn, "open"),
      unproven: namedBelow(facts, plan.startLsn),
      passed: passedBegins(facts),
      claims: claimsBelow(facts, plan.startLsn),
    };
  }

  /** Each is read once: nothing is written any more to the end of a timeline that was left. */
  async #unfinishedEnds(
    facts: Pick<StartFacts, "contents" | "lineage" | "segmentSize">,
  ): Promise<readonly { readonly timeline: TimelineId; readonly endLsn: Lsn }[]> {
    const { archive, log } = this.options;
    const ends: { readonly timeline: TimelineId; readonly endLsn: Lsn }[] = [];
    for (const segment of unfinishedBeyondForks(facts)) {
      const key = `${segment.timeline} ${segment.number}`;
      if (!this.#readEnds.has(key)) {
        try {
          this.#readEnds.set(key, await archive.unfinishedEnd?.(segment));
        } catch (error) {
          // It is only to be told; whoever needs it, a restore or status, reads it again.
          log.debug("end of an old timeline not read", { error: messageChain(error) });
        }
      }
      const endLsn = this.#readEnds.get(key);
      if (endLsn !== undefined) ends.push({ timeline: segment.timeline, endLsn });
    }
    return ends;
  }

  /** Tells once what the server's settings for synchronous replication mean for this standby. */
  async warnOfSynchronousSettings(source: WalSource): Promise<void> {
    const standbyNames = await source.show("synchronous_standby_names");
    const commit = standbyNames === "" ? "" : await source.show("synchronous_commit");
    const { applicationName, reporter } = this.options;
    for (const { event, hint } of synchronousWarnings({ standbyNames, commit, applicationName })) {
      reporter.warnOnce(event, { synchronousStandbyNames: standbyNames, hint });
    }
  }

  /**
   * Before anything of a server is taken over, its histories too: the right one would be refused because of them.
   *
   * @throws {ArchiveConflictError} when it went another way than the archive.
   * @throws {CorruptWalError} when the archive's own end is damaged, and the server has it.
   */
  async #refuseDiverged(
    source: WalSource,
    { timeline, startLsn }: StartPlan & { readonly kind: "start" },
    lineage: TimelineHistory,
  ): Promise<void> {
    const { archive, overlap: timing, log } = this.options;
    const beganMs = timing.clock.nowMs();
    const leg = { startLsn, lineage: ancestorHistory(lineage, timeline) };
    const bytes = await compareOverlap(source, archive, leg, timing);
    if (bytes === 0) return;
    log.debug("server has the archive's last wal", {
      server: source.address,
      endLsn: formatLsn(startLsn),
      bytes,
      durationMs: Math.round(timing.clock.nowMs() - beganMs),
    });
  }

  #checkVersion({ serverVersion, address }: WalSource): void {
    if (serverVersion < OLDEST_SERVER_VERSION) {
      throw new PermanentError(
        `Cannot receive from ${address}: PostgreSQL ${serverVersion / 10000 | 0}, want 10 or newer`,
      );
    }
    if (serverVersion >= UNKNOWN_SERVER_VERSION) {
      this.options.reporter.warnOnce("server version not tried", { serverVersion });
    }
  }

  /** The server's own history and its ancestors', checked against each other and against the archive's. */
  async #lineage(
    source: WalSource,
    timeline: TimelineId,
    stored: readonly { readonly timeline: TimelineId; readonly bytes: Uint8Array }[],
  ): Promise<{ readonly lineage: TimelineHistory; readonly received: readonly ReceivedHistory[] }> {
    if (timeline === 1) return { lineage: emptyHistory(timeline), received: [] };
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
    const received: ReceivedHistory[] = [];
    const here = new Set(stored.map((history) => history.timeline));
    for (const entry of lineage.entries) {
      if (entry.timeline === 1 || here.has(entry.timeline)) continue;
      // Ancestors are told again in every younger history: one that the server no longer has is no loss.
      const ancestor = await source.timelineHistory(entry.timeline);
      if (ancestor === undefined) continue;
      checkAncestor({ timeline: entry.timeline, bytes: ancestor }, lineage);
      received.push({ timeline: entry.timeline, bytes: ancestor });
    }
    received.push({ timeline, bytes });
    return { lineage, received };
  }

  async #storeHistory(timeline: TimelineId, bytes: Uint8Array): Promise<void> {
    if (await this.options.archive.storeHistory(timeline, bytes) === "stored") {
      this.options.log.info("history archived", { history: historyFileName(timeline) });
    }
  }

  async #slot(source: WalSource, archiveEmpty: boolean): Promise<SlotPosition | undefined> {
    const name = this.options.slot;
    if (name === undefined) {
      this.options.reporter.warnOnce("no replication slot", {
        hint: "the server may remove WAL before it is received; use --slot and --create-slot",
      });
      return undefined;
    }
    // Before 15 a slot's position takes a second connection: only an empty archive needs it.
    const told = archiveEmpty || source.serverVersion >= SLOT_POSITION_VERSION;
    let position = told ? await source.readSlot(name) : undefined;
    if (position === undefined && this.options.createSlot && await this.#createSlot(source, name)) {
      position = told ? await source.readSlot(name) : undefined;
    }
    if (position === undefined && told) {
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

  /**
   * Makes a slot anew that the server has invalidated, if slots are ours to make: nothing can use it any more, and it keeps
   * no WAL.
   *
   * @returns whether it did.
   */
  async remakeSlot(source: WalSource): Promise<boolean> {
    const { slot: name, createSlot, log } = this.options;
    if (name === undefined || !createSlot || this.#slotCreated.has(source)) return false;
    // A logical one is refused with the same SQLSTATE, and is somebody else's.
    if ((await source.readSlot(name))?.kind !== "physical") return false;
    await source.dropSlot(name);
    log.warn("invalidated slot dropped", {
      slot: name,
      hint: "it is made anew; look at max_slot_wal_keep_size",
    });
    return await this.#createSlot(source, name);
  }

  async #createSlot(source: WalSource, name: string): Promise<boolean> {
    if (this.#slotCreated.has(source)) return true;
    try {
      await source.createSlot(name);
      this.#slotIsNew = true;
      this.options.log.info("slot created", { slot: name });
    } catch (error) {
      // It is there, which is what was asked for.
      if (!(error instanceof ServerError) || error.sqlState !== SLOT_EXISTS) throw error;
    }
    this.#slotCreated.add(source);
    return true;
  }
}

/** @throws when receiving cannot begin on this server. */
function startOf(facts: StartFacts, source: WalSource): StartPlan & { readonly kind: "start" } {
  const plan = planStart(facts);
  switch (plan.kind) {
    case "start":
      return plan;
    case "old-timeline":
      throw onOldTimeline(source, facts.lineage.timeline, plan.archiveTimeline);
    case "server-behind":
      throw new NotYetError(
        `Cannot receive from ${source.address} yet: its WAL ends at ${
          formatLsn(facts.serverFlushLsn)
        }, the archive's at ${
          formatLsn(plan.startLsn)
        } on timeline ${plan.timeline}; if this server was restored from an older state, it needs a new archive directory`,
      );
  }
}

function onOldTimeline(source: WalSource, timeline: TimelineId, newest: TimelineId): ConnectionError {
  return new ConnectionError(
    "unsuitable",
    `Cannot receive from ${source.address}: it is on timeline ${timeline}, the archive on ${newest}`,
    {
      hint: `connect to a server of timeline ${newest} or later, and make this one its standby (pg_rewind)`,
    },
  );
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
