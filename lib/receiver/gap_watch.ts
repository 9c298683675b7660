import { type Log, messageChain } from "../log.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { holesOnLineage, type SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { Clock } from "./clock.ts";
import type { FlushGate } from "./flush_gate.ts";
import { holesBelow } from "./start.ts";
import type { GapArchive } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** So often it is looked whether a gap is still one: commits may wait for that. */
const LOOK_INTERVAL_MS = 2000;
/** So often what is missing is asked for, and whether anybody waits for what lies behind it. */
const ROUND_INTERVAL_MS = 60_000;

/** What a watch works with. */
export interface GapWatchOptions {
  readonly source: Pick<WalSource, "showAfresh">;
  readonly systemIdentifier: bigint;
  readonly archive: GapArchive;
  readonly clock: Clock;
  readonly log: Log;
  /** Of a server that has standbys to wait for. */
  readonly gate: FlushGate | undefined;
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
  /** Where streaming began: what is missing behind it is no matter of this watch. */
  readonly startLsn: Lsn;
  readonly openGaps: readonly SegmentRun[];
  /** Begins to ask for what is missing; what comes is seen here. */
  heal(gaps: readonly SegmentRun[]): void;
  /** The server may wait for nobody any more: a new connection has to decide. */
  onNobodyWaits(): void;
}

/** Watches the gaps before a stream while it runs: has them healed, and opens the gate when none is left. */
export class GapWatch {
  #openGaps: readonly SegmentRun[];
  /** What the ledger was when it was last read; it may have changed between the planning and now. */
  #mark: string | undefined;

  constructor(private readonly options: GapWatchOptions) {
    this.#openGaps = options.openGaps;
  }

  /** Until nothing is missing any more, or it is told to stop: then neither a disk nor a server is waited for. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.race([this.#watch(signal), untilAborted(signal)]);
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { clock, gate } = this.options;
    let roundAtMs = clock.nowMs();
    for (let rounds = 0;;) {
      await this.#quietly(() => this.#look(signal));
      if (signal.aborted || this.#openGaps.length === 0) return;
      if (clock.nowMs() >= roundAtMs) {
        roundAtMs = clock.nowMs() + ROUND_INTERVAL_MS;
        this.options.heal(this.#openGaps);
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
    const { archive, gate, log, lineage, segmentSize, startLsn } = this.options;
    const mark = await archive.gapMark();
    if (mark === this.#mark && !await this.#anyHere()) return;
    const view = { contents: await archive.contents(), lineage, segmentSize };
    const open = holesBelow(view, startLsn, "open");
    const all = holesOnLineage(view, "all");
    const closed = this.#openGaps.filter((gap) => !open.some((other) => overlap(gap, other)))
      .map((gap) => ({ gap, isAccepted: all.some((other) => overlap(gap, other)) }));
    // Who accepted it may not have brought that to the disk; and what is told because of it can't be taken back.
    for (const { gap } of closed.filter(({ isAccepted }) => isAccepted)) await archive.confirmGap(gap);
    for (const { gap, isAccepted } of closed) {
      log.info(isAccepted ? "gap accepted" : "gap healed", gapFields(gap, segmentSize));
    }
    if (signal.aborted) return;
    this.#openGaps = open;
    this.#mark = mark;
    if (open.length === 0) gate?.open();
  }

  /** The first segment of each: whoever heals begins there. */
  async #anyHere(): Promise<boolean> {
    for (const { timeline, firstNumber } of this.#openGaps) {
      if (await this.options.archive.hasSegment({ timeline, number: firstNumber })) return true;
    }
    return false;
  }

  /** Only a hint: the setting may change again before anything is done about it. */
  async #askWhoWaits(signal: AbortSignal): Promise<void> {
    const { source, systemIdentifier } = this.options;
    const names = await source.showAfresh("synchronous_standby_names");
    if (signal.aborted || names.systemIdentifier !== systemIdentifier || names.value !== "") return;
    this.options.onNobodyWaits();
  }
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

function overlap(one: SegmentRun, other: SegmentRun): boolean {
  return one.timeline === other.timeline && one.firstNumber < other.endNumber &&
    other.firstNumber < one.endNumber;
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** Some time, or less when told to stop. */
export function waitFor(delayMs: number, clock: Clock, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      cancel();
      signal.removeEventListener("abort", done);
      resolve();
    };
    const cancel = clock.setTimer(delayMs, done);
    if (signal.aborted) done();
    else signal.addEventListener("abort", done, { once: true });
  });
}
