import type { Transform } from "node:stream";
import { pipeline } from "node:stream/promises";

/** Where the bytes come from, and where the content goes. */
export interface DecoderEnds {
  /** The compressed bytes; each piece must stay untouched. */
  readonly pieces: AsyncIterable<Uint8Array>;
  /** Takes content; false when no more is wanted. */
  give(content: Uint8Array): Promise<boolean>;
}

/**
 * Runs a stream of `node:zlib` from end to end; memory stays bounded, whatever the lengths.
 *
 * Resolves to what the decoder itself has against the bytes; what the two ends throw is thrown.
 */
export async function decodeThrough(decoder: Transform, ends: DecoderEnds): Promise<Error | undefined> {
  let failure: { readonly error: unknown } | undefined;
  let stopped = false;
  const remember = (error: unknown): never => {
    failure ??= { error };
    throw error;
  };
  async function* input(): AsyncIterable<Uint8Array> {
    try {
      yield* ends.pieces;
    } catch (error) {
      remember(error);
    }
  }
  try {
    await pipeline(input, decoder, async (contents: AsyncIterable<Uint8Array>) => {
      for await (const content of contents) {
        if (await ends.give(content).catch(remember)) continue;
        stopped = true;
        return;
      }
    });
  } catch (error) {
    if (failure !== undefined) throw failure.error;
    // Nobody waits for the rest: that the way was cut off is what was wanted.
    if (!stopped) return error instanceof Error ? error : new Error(String(error));
  }
  return undefined;
}
