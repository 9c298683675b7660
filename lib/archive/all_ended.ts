/**
 * Waits until all calls that were made together have ended, however they did; each then tells for itself.
 *
 * So they cost the time of one, nothing is under way behind an error, and the caller says whose error comes first.
 */
export async function allEnded<T extends readonly Promise<unknown>[] | []>(calls: T): Promise<T> {
  await Promise.allSettled(calls);
  return calls;
}
