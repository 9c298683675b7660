import type { Disturbance } from "./script.ts";
import { type Failure, shrink } from "./shrink.ts";
import type { simulate as Simulate } from "./simulation.ts";

/** What of a failing seed's disturbances matters. */
export interface ShortestScript {
  readonly before: Failure<Disturbance>;
  readonly after: Failure<Disturbance>;
  readonly tries: number;
}

/** Looks for the fewest disturbances with which a seed breaks the same promise; `undefined` when it holds. */
export async function findShortest(
  simulate: typeof Simulate,
  seed: number,
): Promise<ShortestScript | undefined> {
  const play = async (only?: ReadonlySet<string>) => {
    try {
      await simulate(seed, { only });
      return undefined;
    } catch (error) {
      // A copy of the program has a class of its own.
      if ((error as Error).name !== "SimulationFailure") throw error;
      const { message, played } = error as Error & { readonly played: readonly Disturbance[] };
      return { message, played };
    }
  };
  const before = await play();
  if (before === undefined) return undefined;
  const { failure, tries } = await shrink(before, {
    play: (some) => play(new Set(some.map(({ name }) => name))),
    isSame: ({ message }) => promiseOf(message) === promiseOf(before.message),
  });
  return { before, after: failure, tries };
}

/** The same for a reader. */
export async function tellShortest(simulate: typeof Simulate, seed: number): Promise<string> {
  const found = await findShortest(simulate, seed);
  if (found === undefined) return `seed ${seed} holds`;
  const { before, after, tries } = found;
  return [
    `${after.played.length} of ${before.played.length} disturbances are enough (${tries} tries):`,
    ...after.played.map(({ name, atMs, detail }) => `${atMs.toFixed(0).padStart(8)} ms ${name} ${detail}`),
    after.message,
  ].join("\n");
}

/** Which promise a failure is about: "seed 7: P2: …" and "seed 7: progress: …". */
function promiseOf(message: string): string {
  return /^seed \d+: ([^:]*)/.exec(message)?.[1] ?? message;
}
