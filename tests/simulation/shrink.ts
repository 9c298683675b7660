/** What a run told that did not hold. */
export interface Failure<T> {
  readonly message: string;
  /** What happened in it: some of what was asked for. */
  readonly played: readonly T[];
}

/** No failing run is worth more tries. */
const MAX_TRIES = 400;

/**
 * Finds a short list of disturbances with which a run still fails, by leaving out halves, quarters, … and in the end
 * each one: without any of the list's the run holds, or it fails in another way than `isSame` means.
 *
 * @param failure The run with all of them.
 * @param play Runs it with some; `undefined` when it holds.
 * @see Zeller, Hildebrandt: Simplifying and isolating failure-inducing input (2002), `ddmin`
 */
export async function shrink<T>(
  failure: Failure<T>,
  { play, isSame }: {
    readonly play: (some: readonly T[]) => Promise<Failure<T> | undefined>;
    readonly isSame: (failure: Failure<T>) => boolean;
  },
): Promise<{ readonly failure: Failure<T>; readonly tries: number }> {
  let shortest = failure;
  let tries = 0;
  for (let parts = 1; shortest.played.length > 0 && tries < MAX_TRIES;) {
    const all = shortest.played;
    const size = Math.ceil(all.length / parts);
    let shorter: Failure<T> | undefined;
    for (let start = 0; start < all.length && tries < MAX_TRIES; start += size) {
      tries++;
      const found = await play([...all.slice(0, start), ...all.slice(start + size)]);
      if (found === undefined || !isSame(found)) continue;
      shorter = found;
      break;
    }
    if (shorter !== undefined) {
      shortest = shorter;
      parts = Math.max(1, Math.min(parts - 1, shortest.played.length));
    } else if (size === 1) break;
    else parts = Math.min(2 * parts, all.length);
  }
  return { failure: shortest, tries };
}
