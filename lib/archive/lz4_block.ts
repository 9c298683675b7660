/**
 * Decodes one lz4 block into `target` from `start` on; returns where its content ends.
 *
 * A block is a row of sequences: a byte with two lengths of 4 bits, more bytes of the first length while they are 255,
 * so many literal bytes, 2 bytes of distance (little-endian), more bytes of the second length. The second length, plus
 * 4, counts bytes to be taken again from `distance` bytes before. The last sequence ends after its literals.
 *
 * What stands in `target` before `start` is content of blocks before this one, which it may refer to.
 *
 * Its source text runs in the compression thread too, so it uses nothing but its parameters and globals.
 * @throws {SyntaxError} when it is no block, or its content does not fit into `target`.
 * @see https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md
 */
export function decodeLz4Block(block: Uint8Array, target: Uint8Array, start: number): number {
  const end = block.length;
  const limit = target.length;
  /** A shorter repetition costs less byte by byte than by a call. */
  const LONG_COPY_BYTES = 48;
  const refuse = (problem: string): never => {
    throw new SyntaxError(`Cannot decode an lz4 block: ${problem}`);
  };
  let from = 0;
  let to = start;
  for (;;) {
    if (from >= end) return refuse("it ends inside a sequence");
    const token = block[from++]!;
    let literals = token >>> 4;
    if (literals === 15) {
      for (;;) {
        if (from >= end) return refuse("it ends inside a length");
        const more = block[from++]!;
        literals += more;
        if (more !== 255) break;
      }
    }
    if (literals > 0) {
      if (from + literals > end) return refuse("it ends inside its literals");
      if (to + literals > limit) return refuse("its content is longer than a block may be");
      if (literals < LONG_COPY_BYTES) {
        for (const until = from + literals; from < until;) target[to++] = block[from++]!;
      } else {
        target.set(block.subarray(from, from + literals), to);
        from += literals;
        to += literals;
      }
    }
    if (from === end) return to;
    if (from + 2 > end) return refuse("it ends inside a distance");
    const distance = block[from]! | block[from + 1]! << 8;
    from += 2;
    if (distance === 0 || distance > to) return refuse("it refers to what was never there");
    let repeated = (token & 15) + 4;
    if (repeated === 19) {
      for (;;) {
        if (from >= end) return refuse("it ends inside a length");
        const more = block[from++]!;
        repeated += more;
        if (more !== 255) break;
      }
    }
    if (to + repeated > limit) return refuse("its content is longer than a block may be");
    if (repeated < LONG_COPY_BYTES) {
      for (const until = to + repeated; to < until; to++) target[to] = target[to - distance]!;
    } else if (distance === 1) {
      target.fill(target[to - 1]!, to, to + repeated);
      to += repeated;
    } else {
      // What was just copied may itself be copied on: as much as there is at a time.
      const source = to - distance;
      for (let done = 0; done < repeated;) {
        const count = Math.min(repeated - done, distance + done);
        target.copyWithin(to + done, source, source + count);
        done += count;
      }
      to += repeated;
    }
  }
}

/** Encodes one block into `target`; returns its length, or `undefined` when it would not fit. */
export type EncodeLz4Block = (content: Uint8Array, target: Uint8Array) => number | undefined;

/**
 * An encoder of lz4 blocks that takes the first repetition it finds: fast, not thorough.
 *
 * Its source text runs in the compression thread too, so it uses nothing but globals.
 * @see https://github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md for the rules at a block's end
 */
export function lz4BlockEncoder(): EncodeLz4Block {
  const HASH_BITS = 15;
  const MINIMUM_REPETITION = 4;
  const MAXIMUM_DISTANCE = 65535;
  /** The last repetition begins at least so far before the end, and the last five bytes are literals. */
  const LAST_START_BYTES = 12;
  const LAST_LITERALS = 5;
  /** After so many places without a repetition the steps grow by one byte. */
  const PATIENCE_BITS = 6;
  /** By hash of four bytes: where they stood last, plus 1. */
  const places = new Int32Array(1 << HASH_BITS);
  return (content, target) => {
    const view = new DataView(content.buffer, content.byteOffset, content.length);
    const end = content.length;
    const limit = target.length;
    let to = 0;
    let anchor = 0;
    places.fill(0);
    const writeLength = (rest: number): void => {
      while (rest >= 255) {
        target[to++] = 255;
        rest -= 255;
      }
      target[to++] = rest;
    };
    /** The literals from `anchor` to `until`, and the byte of lengths before them. */
    const writeLiterals = (until: number, repeated: number): boolean => {
      const literals = until - anchor;
      // The lengths take a byte for each 255, the distance two.
      if (to + literals + Math.floor((literals + repeated) / 255) + 6 > limit) return false;
      target[to++] = Math.min(literals, 15) << 4 | Math.min(repeated, 15);
      if (literals >= 15) writeLength(literals - 15);
      if (literals < 32) {
        for (let at = anchor; at < until; at++) target[to++] = content[at]!;
      } else {
        target.set(content.subarray(anchor, until), to);
        to += literals;
      }
      return true;
    };
    const lastStart = end - LAST_START_BYTES;
    for (let at = 0, tries = 1 << PATIENCE_BITS; at <= lastStart;) {
      const four = view.getInt32(at, true);
      const slot = Math.imul(four, 0x9e3779b1) >>> (32 - HASH_BITS);
      let found = places[slot]! - 1;
      places[slot] = at + 1;
      if (found < 0 || at - found > MAXIMUM_DISTANCE || view.getInt32(found, true) !== four) {
        at += tries++ >>> PATIENCE_BITS;
        continue;
      }
      tries = 1 << PATIENCE_BITS;
      while (at > anchor && found > 0 && content[at - 1] === content[found - 1]) {
        at--;
        found--;
      }
      let until = at + MINIMUM_REPETITION;
      const distance = at - found;
      const last = end - LAST_LITERALS;
      while (until + 4 <= last && view.getInt32(until, true) === view.getInt32(until - distance, true)) {
        until += 4;
      }
      while (until < last && content[until] === content[until - distance]) until++;
      const repeated = until - at - MINIMUM_REPETITION;
      if (!writeLiterals(at, repeated)) return undefined;
      target[to++] = distance & 255;
      target[to++] = distance >>> 8;
      if (repeated >= 15) writeLength(repeated - 15);
      at = until;
      anchor = until;
      // Also the place just before the end, or long repetitions would hide what follows them.
      if (at <= lastStart) {
        places[Math.imul(view.getInt32(at - 2, true), 0x9e3779b1) >>> (32 - HASH_BITS)] = at - 1;
      }
    }
    return writeLiterals(end, 0) ? to : undefined;
  };
}
