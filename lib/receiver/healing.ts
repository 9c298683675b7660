import { messageChain } from "../log.ts";
import { type SegmentRun, withoutRuns } from "../wal/lineage.ts";
import type { SegmentNumber } from "../wal/segment.ts";

/**
 * What vouches for a segment that is brought: what stands right behind it in the archive, or the one right before it.
 *
 * Whoever is asked with "before" has nothing complete of the last segment that is missing.
 */
export type Neighbour = "behind" | "before";

/** Somebody who may have WAL that is missing here. */
export interface HealingSource {
  /** For answers and log lines. */
  readonly name: string;
  beginRound(): Promise<void>;
  /** Lets go of what it holds. */
  endRound(): Promise<void>;
  /**
   * Brings what it has of these segments; `onBrought` is told of each when that is durable in the archive.
   *
   * @returns what is to be said of the rest; `undefined` when it brought all.
   * @throws when it can't be asked any more in this round.
   */
  bring(
    run: SegmentRun,
    onBrought: (number: SegmentNumber) => void,
    signal: AbortSignal,
    tiedTo: Neighbour,
  ): Promise<string | undefined>;
}

/** What one of those who were asked did for a gap. */
export interface HealingAnswer {
  readonly source: string;
  readonly segments: number;
  /** What it said of the rest; `undefined` when it brought all that was still missing. */
  readonly answer: string | undefined;
}

/** What a round did for a gap. */
export interface HealedGap {
  readonly gap: SegmentRun;
  /** What is still missing; nothing when the gap is healed. */
  readonly missing: readonly SegmentRun[];
  readonly answers: readonly HealingAnswer[];
}

/**
 * Asks everybody for what is missing, in order: the lowest gap first, and who comes next only for what is left.
 *
 * As long as something comes they are asked again: what one brought may be what another one's segments are tied to. One
 * who fails is not asked again in this round, and does not end it.
 * @param options.tiedTo one after the other.
 * @throws only what aborts it.
 */
export async function healGaps(
  gaps: readonly SegmentRun[],
  sources: readonly HealingSource[],
  options: {
    readonly onBrought?: ((run: SegmentRun, number: SegmentNumber) => void) | undefined;
    readonly tiedTo?: readonly Neighbour[];
    readonly signal: AbortSignal;
  },
): Promise<readonly HealedGap[]> {
  const lost = new Map<HealingSource, string>();
  const healed = gaps.map((gap) => new GapHealing(gap));
  for (const source of sources) await source.beginRound();
  try {
    for (const tiedTo of options.tiedTo ?? ["behind"] as const) {
      for (let came = true; came;) {
        came = false;
        for (const gap of healed) {
          if (await gap.askAll(sources, lost, { ...options, tiedTo })) came = true;
        }
      }
    }
    return healed.map(({ gap, missing, answers }) => ({ gap, missing, answers }));
  } finally {
    for (const source of sources) await source.endRound();
  }
}

/** One gap, in one round. */
class GapHealing {
  #missing: readonly SegmentRun[];
  readonly #answers = new Map<HealingSource, HealingAnswer>();

  constructor(readonly gap: SegmentRun) {
    this.#missing = [gap];
  }

  get missing(): readonly SegmentRun[] {
    return this.#missing;
  }

  get answers(): readonly HealingAnswer[] {
    return [...this.#answers.values()];
  }

  /** Whether something came. */
  async askAll(
    sources: readonly HealingSource[],
    lost: Map<HealingSource, string>,
    { onBrought, tiedTo, signal }: {
      readonly onBrought?: ((run: SegmentRun, number: SegmentNumber) => void) | undefined;
      readonly tiedTo: Neighbour;
      readonly signal: AbortSignal;
    },
  ): Promise<boolean> {
    let came = false;
    for (const source of sources) {
      if (this.#missing.length === 0) break;
      const before = this.#answers.get(source);
      let segments = before?.segments ?? 0;
      const take = (number: SegmentNumber) => {
        segments++;
        came = true;
        this.#missing = withoutSegment(this.#missing, number);
        onBrought?.(this.gap, number);
      };
      const said = await askOne(source, { missing: this.#missing, take, lost, tiedTo }, signal);
      // One that has nothing to add with "before" says nothing.
      const answer = this.#missing.length === 0 ? said : said ?? before?.answer;
      this.#answers.set(source, { source: source.name, segments, answer });
    }
    return came;
  }
}

async function askOne(
  source: HealingSource,
  { missing, take, lost, tiedTo }: {
    readonly missing: readonly SegmentRun[];
    take(number: SegmentNumber): void;
    readonly lost: Map<HealingSource, string>;
    readonly tiedTo: Neighbour;
  },
  signal: AbortSignal,
): Promise<string | undefined> {
  const before = lost.get(source);
  if (before !== undefined) return before;
  let said: string | undefined;
  try {
    for (const run of missing) said = await source.bring(run, take, signal, tiedTo) ?? said;
    return said;
  } catch (error) {
    signal.throwIfAborted();
    lost.set(source, messageChain(error));
    return messageChain(error);
  }
}

/** The same segments but one. */
export function withoutSegment(
  runs: readonly SegmentRun[],
  number: SegmentNumber,
): readonly SegmentRun[] {
  const endNumber = number + 1n as SegmentNumber;
  return runs.flatMap((run) => withoutRuns(run, [{ ...run, firstNumber: number, endNumber }]));
}
