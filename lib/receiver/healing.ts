import { messageChain } from "../log.ts";
import type { SegmentRun } from "../wal/lineage.ts";
import type { SegmentNumber } from "../wal/segment.ts";

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
 * Asks everybody once for what is missing, in order: the lowest gap first, and who comes next only for what is left.
 *
 * One who fails is not asked again in this round, and does not end it.
 * @throws only what aborts it.
 */
export async function healGaps(
  gaps: readonly SegmentRun[],
  sources: readonly HealingSource[],
  { onBrought, signal }: {
    readonly onBrought?: ((run: SegmentRun, number: SegmentNumber) => void) | undefined;
    readonly signal: AbortSignal;
  },
): Promise<readonly HealedGap[]> {
  const lost = new Map<HealingSource, string>();
  const results: HealedGap[] = [];
  for (const source of sources) await source.beginRound();
  try {
    for (const gap of gaps) {
      let missing: readonly SegmentRun[] = [gap];
      const answers: HealingAnswer[] = [];
      for (const source of sources) {
        if (missing.length === 0) break;
        let segments = 0;
        const take = (number: SegmentNumber) => {
          segments++;
          missing = withoutSegment(missing, number);
          onBrought?.(gap, number);
        };
        const answer = await askOne(source, { missing, take, lost }, signal);
        answers.push({ source: source.name, segments, answer });
      }
      results.push({ gap, missing, answers });
    }
    return results;
  } finally {
    for (const source of sources) await source.endRound();
  }
}

async function askOne(
  source: HealingSource,
  { missing, take, lost }: {
    readonly missing: readonly SegmentRun[];
    take(number: SegmentNumber): void;
    readonly lost: Map<HealingSource, string>;
  },
  signal: AbortSignal,
): Promise<string | undefined> {
  const before = lost.get(source);
  if (before !== undefined) return before;
  let said: string | undefined;
  try {
    for (const run of missing) said = await source.bring(run, take, signal) ?? said;
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
  return runs.flatMap((run) => {
    const { timeline, firstNumber, endNumber } = run;
    if (number < firstNumber || number >= endNumber) return [run];
    return [
      { timeline, firstNumber, endNumber: number },
      { timeline, firstNumber: number + 1n as SegmentNumber, endNumber },
    ].filter((part) => part.firstNumber < part.endNumber);
  });
}
