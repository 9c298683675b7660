import { type Log, messageChain } from "../log.ts";
import { WalGapError } from "../wal/errors.ts";
import { joinedRuns, missingWithin, numbersOf, type SegmentRun } from "../wal/lineage.ts";
import { formatLsn } from "../wal/lsn.ts";
import { type SegmentNumber, segmentNumberAt } from "../wal/segment.ts";
import type { Clock } from "./clock.ts";
import { NotYetError } from "./failure.ts";
import { removalOf } from "./first_available.ts";
import { askForSegment, type SegmentAnswer } from "./gap_survey.ts";
import { gapFields } from "./gap_watch.ts";
import {
  firstBehind,
  GAP_PATIENCE_MS,
  type HostReply,
  judgeRound,
  type Lack,
  LONGEST_PAUSE_MS,
} from "./lack.ts";
import type { Prepared } from "./preparation.ts";
import type { Reporter } from "./reporter.ts";
import type { LedgerClaim } from "./start.ts";
import type { GapArchive } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** What going on behind missing WAL works with. */
export interface GapPassingOptions {
  /** Asks every host of the connection string, also those that would not do for streaming. */
  askHosts<T>(
    ask: (source: WalSource) => Promise<T>,
    signal: AbortSignal,
  ): Promise<readonly HostReply<T>[]>;
  /** Brings in what it can of these segments. */
  heal(gaps: readonly SegmentRun[], signal: AbortSignal): Promise<void>;
  /** What is being brought in just now, by whatever round. */
  healing(): readonly SegmentRun[];
  /** Grows with every byte that is brought in. */
  takenBytes(): number;
  readonly archive: GapArchive;
  readonly clock: Clock;
  readonly log: Log;
  readonly reporter: Reporter;
  readonly receiveTimeoutMs: number;
}

/** WAL that is missing here from a segment on, and what hosts that lack it said, by address. */
interface Missing {
  readonly prepared: Prepared;
  readonly errors: ReadonlyMap<string, WalGapError>;
}

/** That a host has removed WAL, and its own words for it. */
export type LackError = WalGapError & { readonly words: string };

/** A gap that is to be recorded at the next connection. */
interface Passage {
  readonly endNumber: SegmentNumber;
  /** A host that lacks it, and its words. */
  readonly server: string;
  readonly words: string;
}

/**
 * Goes on behind WAL that no host has any more (P6): only when each of them has said so of exactly the segment that is
 * missing, and when that is written down.
 */
export class GapPassing {
  #missing: Missing | undefined;
  #lack: Lack | undefined;
  #passage: Passage | undefined;
  /** When all hosts were last asked. */
  #askedAtMs: number | undefined;
  /** What of the ledger this process has made durable. */
  readonly #proven = new Set<string>();

  constructor(private readonly options: GapPassingOptions) {}

  /** A host has removed what is to be received next. */
  hostLacks(address: string, prepared: Prepared, error: WalGapError): void {
    if (this.#missing === undefined || !isSameStart(this.#missing.prepared, prepared)) this.forget();
    this.#missing = { prepared, errors: new Map([...this.#missing?.errors ?? [], [address, error]]) };
  }

  /** A connection begins: what was found out before a long pause counts no more. */
  beginConnection(): void {
    if (this.#askedAtMs !== undefined && this.options.clock.nowMs() - this.#askedAtMs > LONGEST_PAUSE_MS) {
      this.forget();
    }
  }

  /** What was missing comes, or what is known of it is too old. */
  forget(): void {
    this.#askedAtMs = undefined;
    this.#missing = undefined;
    this.#lack = undefined;
    this.#passage = undefined;
  }

  /** Why a host is not asked to stream from where receiving is to begin: it is known to lack that. */
  refusal(address: string, prepared: Prepared): WalGapError | undefined {
    const missing = this.#missing;
    if (missing === undefined || !isSameStart(missing.prepared, prepared)) return undefined;
    // What is to be recorded was found out for one line of WAL.
    if (this.#passage !== undefined && isSameLine(missing.prepared, prepared)) return undefined;
    return missing.errors.get(address);
  }

  /**
   * No host would stream, and one at least lacks what is missing: asks every host, and has it brought in from one that
   * would not do for streaming. When it resolves the next connection is worth making at once.
   *
   * @param prepared for a host that lacks it, just now: it may have been promoted since it said so
   * @throws {NotYetError} while a host may still have it.
   * @throws {WalGapError} when there is nothing to go on with.
   */
  async askAll(prepared: Prepared, signal: AbortSignal): Promise<void> {
    const missing = { prepared };
    const { archive, clock, receiveTimeoutMs: timeoutMs } = this.options;
    const { plan, serverLineage: lineage, systemIdentifier, segmentSize } = missing.prepared;
    const number = segmentNumberAt(plan.startLsn, segmentSize);
    const sought = { number, lineage, systemIdentifier, segmentSize };
    const replies = await this.options.askHosts(
      (source) => askForSegment(source, sought, { clock, timeoutMs }),
      signal,
    );
    // Other archives and kept copies may have it as well, and between what is here already something stands to tie it to.
    const endNumber = firstBehind(replies) ?? number + 1n as SegmentNumber;
    const view = { contents: await archive.contents(), lineage, segmentSize };
    const gaps = missingWithin(view, { firstNumber: number, endNumber });
    const healing = gaps.length === 0 ? "ended" : await this.#heal(gaps, signal);
    if (await archive.hasSegment({ timeline: plan.timeline, number })) return this.forget();
    const round = {
      nowMs: clock.nowMs(),
      brought: await this.#brought([...gaps, ...this.options.healing()]),
      isHealing: healing === "goes on",
    };
    const { mayPass, lack, firstNumber } = judgeRound(replies, this.#lack, round);
    this.#lack = lack;
    this.#askedAtMs = round.nowMs;
    const lacking = replies.flatMap((reply) =>
      "answer" in reply && reply.answer.kind === "lacks"
        ? [{ address: reply.address, error: lackError(reply.address, missing.prepared, reply.answer) }]
        : []
    );
    this.#missing = {
      prepared: missing.prepared,
      errors: new Map(lacking.map(({ address, error }) => [address, error])),
    };
    const [host] = lacking;
    if (!mayPass || host === undefined) throw this.#wait(replies, host?.error);
    if (firstNumber === undefined) throw host.error;
    this.#passage = { endNumber: firstNumber, server: host.address, words: host.error.words };
  }

  /** All of it may take long: then the next round finds what came. */
  async #heal(
    gaps: readonly SegmentRun[],
    signal: AbortSignal,
  ): Promise<"ended" | "goes on" | "stands still"> {
    const late = Promise.withResolvers<"late">();
    const cancel = this.options.clock.setTimer(GAP_PATIENCE_MS, () => late.resolve("late"));
    try {
      const before = await this.#brought(gaps);
      const end = await Promise.race([this.options.heal(gaps, signal), late.promise]);
      if (end !== "late") return "ended";
      return await this.#brought(gaps) > before ? "goes on" : "stands still";
    } catch (error) {
      signal.throwIfAborted();
      this.options.log.warn("missing wal not brought in", { error: messageChain(error) });
      return "ended";
    } finally {
      cancel();
    }
  }

  async #brought(gaps: readonly SegmentRun[]): Promise<number> {
    let count = this.options.takenBytes();
    for (const run of joinedRuns(gaps)) {
      for (const number of numbersOf(run)) {
        if (await this.options.archive.hasSegment({ timeline: run.timeline, number })) count++;
      }
    }
    return count;
  }

  #wait(replies: readonly HostReply<SegmentAnswer>[], cause: WalGapError | undefined): NotYetError {
    const others = replies.filter((reply) => !("answer" in reply && reply.answer.kind === "lacks"));
    const texts = others.map((reply) =>
      `${reply.address}: ${"answer" in reply ? "it has that WAL" : messageChain(reply.error)}`
    );
    this.options.reporter.warnOnce("missing wal may be elsewhere", {
      hosts: others.map(({ address }) => address).join(" "),
      hint: "receiving waits for these hosts for a minute before it goes on behind what is missing",
    });
    return new NotYetError(`Cannot go on yet; not every host lacks what is missing: ${texts.join("; ")}`, {
      cause,
    });
  }

  /**
   * Writes down what is missing before the first segment that a host has, if that was found to be due; durable when it
   * resolves.
   *
   * @returns whether something was written down: then receiving begins elsewhere.
   */
  async record(source: WalSource, prepared: Prepared): Promise<boolean> {
    const [missing, passage] = [this.#missing, this.#passage];
    this.#passage = undefined;
    if (missing === undefined || passage === undefined || !isSameLine(missing.prepared, prepared)) {
      return false;
    }
    const { archive, clock, log, receiveTimeoutMs: timeoutMs } = this.options;
    const { plan, serverLineage: lineage, segmentSize } = prepared;
    const firstNumber = segmentNumberAt(plan.startLsn, segmentSize);
    // This one may be another host than those that were asked.
    const search = { lineage, segmentSize, clock, timeoutMs };
    if (await removalOf(source, firstNumber, search) === undefined) return false;
    const view = { contents: await archive.contents(), lineage, segmentSize };
    for (const run of missingWithin(view, { firstNumber, endNumber: passage.endNumber })) {
      await archive.recordGap({
        run,
        reason: "no server has it any more",
        server: passage.server,
        answer: passage.words,
      });
      this.#proven.add(keyOf({ kind: "recorded", run }));
      log.error("gap recorded", {
        ...gapFields(run, segmentSize),
        server: passage.server,
        hint:
          "receiving goes on behind it; it is filled by itself when a server, push or --peer brings it: walvault gap list",
      });
    }
    this.forget();
    return true;
  }

  /** What an earlier process wrote down may be lost in a power cut: nothing may count on it before it is written again. */
  async prove(claims: readonly LedgerClaim[]): Promise<void> {
    const unproven = claims.filter((claim) => !this.#proven.has(keyOf(claim)));
    // One write tells all that touches a stretch.
    for (const run of joinedRuns(unproven.map((claim) => claim.run))) {
      await this.options.archive.confirmGap(run);
    }
    for (const claim of unproven) this.#proven.add(keyOf(claim));
  }
}

/** The error of a host that has removed what is to be received next. */
export function lackError(
  address: string,
  { plan }: Pick<Prepared, "plan">,
  { words, cause }: { readonly words: string; readonly cause?: unknown },
): LackError {
  const text =
    `Cannot go on from ${formatLsn(plan.startLsn)} on timeline ${plan.timeline}: ${address} no longer has ` +
    `that WAL (${words}); bring the missing segments from the server's own archive or another host, ` +
    "or start a new archive in an empty directory and take a new base backup";
  return Object.assign(new WalGapError(text, { cause }), { words });
}

function isSameStart({ plan: one }: Prepared, { plan: other }: Prepared): boolean {
  return one.startLsn === other.startLsn && one.timeline === other.timeline;
}

/** Also for what follows: that may be in files of another timeline else. */
function isSameLine(one: Prepared, other: Prepared): boolean {
  return isSameStart(one, other) && one.serverLineage.timeline === other.serverLineage.timeline;
}

function keyOf({ kind, run: { timeline, firstNumber, endNumber } }: LedgerClaim): string {
  return `${kind} ${timeline} ${firstNumber} ${endNumber}`;
}
