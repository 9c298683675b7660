import { type Log, messageChain } from "../log.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { holesOnLineage, type SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { Clock } from "./clock.ts";
import type { FlushGate } from "./flush_gate.ts";
import type { GapArchive } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** So often it is looked whether a gap is still one, and whether anybody waits for what lies behind it. */
const LOOK_INTERVAL_MS = 10_000;

/** What a watch works with. */
export interface GapWatchOptions {
  readonly source: Pick<WalSource, "showAfresh">;
  readonly archive: GapArchive;
  readonly clock: Clock;
  readonly log: Log;
  readonly gate: FlushGate;
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
  /** Where streaming began: what is missing behind it is no matter of this watch. */
  readonly startLsn: Lsn;
  readonly openGaps: readonly SegmentRun[];
  /** What is durable now. */
  flushLsn(): Lsn;
}

/**
 * Watches the gaps before a stream while it runs: opens the gate when they are healed or given up, and until then lets
 * pass what no commit waits for.
 */
export class GapWatch {
  #openGaps: readonly SegmentRun[];
  #mark: string | undefined;

  constructor(private readonly options: GapWatchOptions) {
    this.#openGaps = options.openGaps;
  }

  /** Lowest first. */
  get openGaps(): readonly SegmentRun[] {
    return this.#openGaps;
  }

  /** Until nothing is missing any more, or it is told to stop: then neither a disk nor a server is waited for. */
  async run(signal: AbortSignal): Promise<void> {
    await Promise.race([this.#watch(signal), untilAborted(signal)]);
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const { archive, clock, log } = this.options;
    while (!signal.aborted && this.#openGaps.length > 0) {
      try {
        this.#mark ??= await archive.gapMark();
        await waitFor(LOOK_INTERVAL_MS, clock, signal);
        if (signal.aborted) return;
        await this.look(signal);
        if (this.#openGaps.length > 0) await this.#askWhoWaits(signal);
      } catch (error) {
        // The stream itself tells when the disk or the server is in trouble.
        log.debug("gaps not looked at", { error: messageChain(error) });
        if (this.#mark === undefined) await waitFor(LOOK_INTERVAL_MS, clock, signal);
      }
    }
  }

  /** Looks whether something of what was missing is here, or was given up. */
  async look(signal: AbortSignal): Promise<void> {
    const { archive, gate, log, lineage, segmentSize, startLsn } = this.options;
    const mark = await archive.gapMark();
    if (mark === this.#mark && !await this.#anyHere()) return;
    const contents = await archive.contents();
    if (signal.aborted) return;
    const open = holesOnLineage({ contents, lineage, segmentSize }, "open")
      .filter(({ endNumber }) => segmentStart(endNumber, segmentSize) <= startLsn);
    const all = holesOnLineage({ contents, lineage, segmentSize }, "all");
    for (const gap of this.#openGaps) {
      if (open.some((other) => overlap(gap, other))) continue;
      const event = all.some((other) => overlap(gap, other)) ? "gap accepted" : "gap healed";
      log.info(event, gapFields(gap, segmentSize));
    }
    this.#openGaps = open;
    this.#mark = mark;
    if (open.length === 0) gate.open();
  }

  /** The first segment of each: whoever heals begins there. */
  async #anyHere(): Promise<boolean> {
    for (const { timeline, firstNumber } of this.#openGaps) {
      if (await this.options.archive.hasSegment({ timeline, number: firstNumber })) return true;
    }
    return false;
  }

  async #askWhoWaits(signal: AbortSignal): Promise<void> {
    const { source, gate } = this.options;
    const durableLsn = this.options.flushLsn();
    const names = await source.showAfresh("synchronous_standby_names");
    if (names === "" && !signal.aborted) gate.permit(durableLsn);
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
