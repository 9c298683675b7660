/** A hash of bytes that come in pieces. */
export interface RunningHash {
  update(bytes: Uint8Array): void;
  /** Of all bytes so far, unsigned. */
  digest(): number;
}

/**
 * xxHash with 32 bits and seed 0, the checksum of lz4 frames.
 *
 * Its source text runs in the compression thread too, so it uses nothing but globals.
 * @see https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
 */
export function xxHash32(): RunningHash {
  const PRIME_1 = 0x9e3779b1 | 0;
  const PRIME_2 = 0x85ebca77 | 0;
  const PRIME_3 = 0xc2b2ae3d | 0;
  const PRIME_4 = 0x27d4eb2f | 0;
  const PRIME_5 = 0x165667b1 | 0;
  const STRIPE_BYTES = 16;
  let lane1 = PRIME_1 + PRIME_2 | 0;
  let lane2 = PRIME_2;
  let lane3 = 0;
  let lane4 = -PRIME_1 | 0;
  let totalBytes = 0;
  /** The start of a stripe whose end has not come yet. */
  const rest = new Uint8Array(STRIPE_BYTES);
  const restView = new DataView(rest.buffer);
  let restBytes = 0;
  const rotate = (value: number, bits: number) => value << bits | value >>> (32 - bits);
  const takeStripes = (view: DataView, start: number, end: number): void => {
    let [a, b, c, d] = [lane1, lane2, lane3, lane4];
    for (let at = start; at < end; at += 16) {
      a = a + Math.imul(view.getInt32(at, true), PRIME_2) | 0;
      a = Math.imul(a << 13 | a >>> 19, PRIME_1);
      b = b + Math.imul(view.getInt32(at + 4, true), PRIME_2) | 0;
      b = Math.imul(b << 13 | b >>> 19, PRIME_1);
      c = c + Math.imul(view.getInt32(at + 8, true), PRIME_2) | 0;
      c = Math.imul(c << 13 | c >>> 19, PRIME_1);
      d = d + Math.imul(view.getInt32(at + 12, true), PRIME_2) | 0;
      d = Math.imul(d << 13 | d >>> 19, PRIME_1);
    }
    [lane1, lane2, lane3, lane4] = [a, b, c, d];
  };
  return {
    update(bytes) {
      totalBytes += bytes.length;
      let start = 0;
      if (restBytes > 0) {
        start = Math.min(STRIPE_BYTES - restBytes, bytes.length);
        rest.set(bytes.subarray(0, start), restBytes);
        restBytes += start;
        if (restBytes < STRIPE_BYTES) return;
        takeStripes(restView, 0, STRIPE_BYTES);
      }
      const end = start + Math.floor((bytes.length - start) / STRIPE_BYTES) * STRIPE_BYTES;
      takeStripes(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), start, end);
      rest.set(bytes.subarray(end));
      restBytes = bytes.length - end;
    },
    digest() {
      let hash = totalBytes < STRIPE_BYTES
        ? PRIME_5
        : rotate(lane1, 1) + rotate(lane2, 7) + rotate(lane3, 12) + rotate(lane4, 18) | 0;
      hash = hash + totalBytes | 0;
      let at = 0;
      for (; at + 4 <= restBytes; at += 4) {
        hash = hash + Math.imul(restView.getInt32(at, true), PRIME_3) | 0;
        hash = Math.imul(rotate(hash, 17), PRIME_4);
      }
      for (; at < restBytes; at++) {
        hash = hash + Math.imul(rest[at]!, PRIME_5) | 0;
        hash = Math.imul(rotate(hash, 11), PRIME_1);
      }
      hash = Math.imul(hash ^ hash >>> 15, PRIME_2);
      hash = Math.imul(hash ^ hash >>> 13, PRIME_3);
      return (hash ^ hash >>> 16) >>> 0;
    },
  };
}
