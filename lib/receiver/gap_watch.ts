import { type Log, messageChain } from "../log.ts";
import { joinedRuns, numbersOf, type SegmentRun, withoutRuns } from "../wal/lineage.ts";
import { formatLsn } from "../wal/lsn.ts";
import { type SegmentNumber, type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { Clock } from "./clock.ts";
import type { FlushGate } from "./flush_gate.ts";
import { waitFor } from "./waiting.ts";
import type { GapArchive, UnprovenSegment } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** So often it is looked whether a gap is still one: commits may wait for that. */
const LOOK_INTERVAL_MS = 2000;
/** So often what is missing is asked for, and whether anybody waits for what lies behind it. */
const ROUND_INTERVAL_MS = 60_000;

/** What is not proven may be under way still. */
const PROOF_RETRY_MS = 10_000;
/** So many segments that are not proven are named; that many more are only counted. */
const MAXIMUM_NAMED = 5;

/** What a watch works with. */
export interface GapWatchOptions {
  readonly source: Pick<WalSource, "showAfresh">;
  readonly systemIdentifier: bigint;
  readonly archive: GapArchive;
  readonly clock: Clock;
  readonly log: Log;
  /** Of a server that has standbys to wait for. */
  readonly gate: FlushGate | undefined;
  readonly segmentSize: SegmentSize;
  /** Where streaming began. */
  readonly startNumber: SegmentNumber;
  /** Missing below there: what is missing behind that is no matter of this watch. */
  readonly openGaps: readonly SegmentRun[];
  /** Recorded to be missing there, and here by name: a gap until it is proven. */
  readonly unproven: readonly SegmentRun[];
  /** Segments that are to be proven and written down to have been here when they are, though nothing waits for that. */
  readonly passed: readonly SegmentRun[];
  /** Is told why a gap stays one though all of it is here by name. */
  onUnproven(gap: SegmentRun, segments: readonly UnprovenSegment[]): void;
  /** Begins to ask for what is missing; what comes is seen here. */
  heal(gaps: readonly SegmentRun[]): void;
  /** The server may wait for nobody any more: a new connection has to decide. */
  onNobodyWaits(): void;
}

/** A gap, and the end of it that nobody has seen yet. */
interface OpenGap {
  readonly gap: SegmentRun;
  readonly rest: SegmentRun;
}

/** What came of the proof of a gap of which all is here by name. */
interface Proof {
  readonly key: string;
  readonly ended: Promise<void>;
  state: "under way" | "proven" | "refused";
  endedAtMs: number;
}

/**
 * Watches the gaps before a stream while it runs: has them healed, and opens the gate when none is left.
 *
 * It looks only for the segments that are missing: to list a large archive would hold up what is to become durable. A
 * gap stays one when segments below it are removed, and until every byte that fills it was looked at.
 */
export class GapWatch {
  #open: readonly OpenGap[];
  /** What the ledger was when it was last read; it may have changed between the planning and now. */
  #mark: string | undefined;
  /** One at a time: it reads all of a gap. */
  #proof: Proof | undefined;
  /** Gaps that are proven and written down to be healed, whichever proof came after theirs before that was seen. */
  readonly #healed = new Set<string>();

  constructor(private readonly options: GapWatchOptions) {
    this.#open = [...options.openGaps, ...options.unproven].map((gap) => ({ gap, rest: gap }));
  }

  /** Until nothing is missing any more, or it is told to stop: then neither a disk nor a server is waited for. */
  async run(signal: AbortSignal): Promise<void> {
    // A gap may stay open for ever.
    const watching = Promise.all([this.#watch(signal), this.#passAll(signal)]);
    await Promise.race([watching, untilAborted(signal)]);
  }

  /** What is old may be removed some day: then this tells that nothing is missing before what is left. */
  async #passAll(signal: AbortSignal): Promise<void> {
    const { archive, clock, passed } = this.options;
    for (const { timeline, ...run } of passed) {
      for (const number of numbersOf(run)) {
        let isHere = false;
        while (!isHere && !signal.aborted) {
          await this.#quietly(async () => void (isHere = await archive.hasSegment({ timeline, number })));
          if (!isHere) await waitFor(ROUND_INTERVAL_MS, clock, signal);
        }
        const endNumber = number + 1n as SegmentNumber;
        await this.#quietly(() => this.#pass({ timeline, firstNumber: number, endNumber }, signal));
      }
    }
  }

  async #pass(run: SegmentRun, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const { archive } = this.options;
    const unproven = await archive.proveSegments(run, signal);
    if (unproven.length === 0 && !signal.aborted) await archive.recordHealed(run);
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { clock, gate } = this.options;
    let roundAtMs = clock.nowMs();
    for (let rounds = 0;;) {
      await this.#quietly(() => this.#look(signal));
      if (signal.aborted || this.#open.length === 0) return;
      if (clock.nowMs() >= roundAtMs) {
        roundAtMs = clock.nowMs() + ROUND_INTERVAL_MS;
        await this.#quietly(() => this.#healRest(signal));
        // This connection has just asked.
        if (gate !== undefined && rounds > 0) await this.#quietly(() => this.#askWhoWaits(signal));
        rounds++;
      }
      await waitFor(LOOK_INTERVAL_MS, clock, signal);
      if (signal.aborted) return;
    }
  }

  /** The stream itself tells when the disk or the server is in trouble. */
  async #quietly(act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      this.options.log.debug("gaps not looked at", { error: messageChain(error) });
    }
  }

  /** Looks whether something of what was missing is here, or was given up. */
  async #look(signal: AbortSignal): Promise<void> {
    const { archive, gate, log, segmentSize } = this.options;
    const mark = await archive.gapMark();
    const accepted = mark === this.#mark ? [] : (await archive.ledgerGaps()).accepted;
    const kept = this.#open.flatMap(({ gap, rest }) => {
      const left = withoutRuns(gap, accepted);
      return left.length === 1 && left[0]! === gap
        ? [{ gap, rest }]
        : left.map((run) => ({ gap: run, rest: run }));
    });
    const givenUp = joinedRuns(
      this.#open.flatMap(({ gap }) => withoutRuns(gap, kept.map((one) => one.gap))),
    );
    const open: OpenGap[] = [];
    const healed: OpenGap[] = [];
    for (const { gap, rest } of kept) {
      const seen = { gap, rest: await this.#unseenOf(rest) };
      // Soon the disk is closed: nothing may be begun on it any more.
      if (signal.aborted) return;
      if (seen.rest.firstNumber < seen.rest.endNumber) open.push(seen);
      else {
        const state = await this.#proofOf(gap, signal);
        if (state === "proven") healed.push(seen);
        // Something of it may be gone again.
        else open.push(state === "refused" ? { gap, rest: gap } : seen);
      }
    }
    // What is told because of them can't be taken back, and neither who accepted something nor who gave a segment its
    // name may have brought that to the disk.
    for (const gap of givenUp) await archive.confirmGap(gap);
    if (givenUp.length + healed.length > 0) await archive.syncNames();
    if (signal.aborted) return;
    for (const gap of givenUp) log.info("gap accepted", gapFields(gap, segmentSize));
    for (const { gap } of healed) log.info("gap healed", gapFields(gap, segmentSize));
    this.#open = open;
    this.#mark = mark;
    if (open.length === 0) gate?.open();
  }

  /** How far it is with the proof of a gap of which all is here by name; begins it if that is due. */
  async #proofOf(gap: SegmentRun, signal: AbortSignal): Promise<Proof["state"] | "waiting"> {
    const { archive, clock } = this.options;
    const key = keyOf(gap);
    if (this.#healed.has(key)) return "proven";
    let proof = this.#proof;
    const isFree = proof === undefined || proof.state !== "under way";
    const isDue = proof?.key !== key ||
      proof.state === "refused" && clock.nowMs() - proof.endedAtMs >= PROOF_RETRY_MS;
    if (isFree && isDue) {
      // What the server sends next tells whether it is the WAL that was missing, or another server's.
      if (gap.endNumber === this.options.startNumber && !await archive.isAnchored(gap)) return "waiting";
      if (signal.aborted) return "waiting";
      proof = this.#proof = this.#beginProof(gap, key, signal);
    }
    if (proof?.key !== key) return "waiting";
    // A short one is worth waiting for; what else is to be looked at does not wait for a long one.
    const late = new AbortController();
    try {
      await Promise.race([proof.ended, waitFor(LOOK_INTERVAL_MS, clock, late.signal)]);
    } finally {
      late.abort();
    }
    return proof.state;
  }

  #beginProof(gap: SegmentRun, key: string, signal: AbortSignal): Proof {
    const { archive, clock, log, onUnproven } = this.options;
    const prove = async (): Promise<Proof["state"]> => {
      try {
        const unproven = await archive.proveSegments(gap, signal);
        if (signal.aborted) return "refused";
        if (unproven.length > 0) {
          onUnproven(gap, unproven);
          return "refused";
        }
        await archive.recordHealed(gap);
        this.#healed.add(key);
        return "proven";
      } catch (error) {
        if (!signal.aborted) log.warn("gap not proven", { error: messageChain(error) });
        return "refused";
      }
    };
    const proof: Proof = {
      key,
      state: "under way",
      endedAtMs: 0,
      ended: prove().then((state) => {
        proof.state = state;
        proof.endedAtMs = clock.nowMs();
      }),
    };
    return proof;
  }

  /** What follows the first segment that is not here. */
  async #unseenOf(rest: SegmentRun): Promise<SegmentRun> {
    let { firstNumber } = rest;
    while (
      firstNumber < rest.endNumber &&
      await this.options.archive.hasSegment({ timeline: rest.timeline, number: firstNumber })
    ) firstNumber = firstNumber + 1n as SegmentNumber;
    return { ...rest, firstNumber };
  }

  /** Asks for what is missing, but not for what came behind the first missing segment. */
  async #healRest(signal: AbortSignal): Promise<void> {
    const missing: SegmentRun[] = [];
    for (const { rest } of this.#open) {
      const { timeline } = rest;
      for (const number of numbersOf(rest)) {
        if (signal.aborted) return;
        if (await this.options.archive.hasSegment({ timeline, number })) continue;
        missing.push({ timeline, firstNumber: number, endNumber: number + 1n as SegmentNumber });
      }
    }
    if (missing.length > 0) this.options.heal(joinedRuns(missing));
  }

  /** Only a hint: the setting may change again before anything is done about it. */
  async #askWhoWaits(signal: AbortSignal): Promise<void> {
    const { source, systemIdentifier } = this.options;
    const names = await source.showAfresh("synchronous_standby_names");
    if (signal.aborted || names.systemIdentifier !== systemIdentifier || names.value !== "") return;
    this.options.onNobodyWaits();
  }
}

function keyOf({ timeline, firstNumber, endNumber }: SegmentRun): string {
  return `${timeline} ${firstNumber} ${endNumber}`;
}

/** How log lines name what is not proven. */
export function unprovenText(segments: readonly UnprovenSegment[]): string {
  const named = segments.slice(0, MAXIMUM_NAMED).map(({ name, problem }) => `${name}: ${problem}`);
  const left = segments.length - named.length;
  return [...named, ...(left === 0 ? [] : [`and ${left} more`])].join("; ");
}

/** How log lines name a gap. */
export function gapFields({ timeline, firstNumber, endNumber }: SegmentRun, size: SegmentSize) {
  const startLsn = segmentStart(firstNumber, size);
  const endLsn = segmentStart(endNumber, size);
  return {
    timeline,
    startLsn: formatLsn(startLsn),
    endLsn: formatLsn(endLsn),
    segments: endNumber - firstNumber,
    bytes: endLsn - startLsn,
  };
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
