/** A repetition whose length takes another byte. */
const LONG_REPETITION_BYTES = 18;

/**
 * Decodes what PostgreSQL's own compression made; the content must be exactly `contentBytes` long.
 *
 * A control byte says of each of the next eight items, lowest bit first, what it is: 0 one byte as it is, 1 a repetition.
 *
 * | byte | bits | field of a repetition                                              |
 * | ---: | ---: | ------------------------------------------------------------------ |
 * |    0 |  0-3 | length - 3; 15 means 18 or more                                    |
 * |    0 |  4-7 | high bits of the distance                                          |
 * |    1 |      | low bits of the distance: so many bytes before                     |
 * |    2 |      | only if the length is 18 or more: how many more                    |
 *
 * A repetition may reach into itself; one that goes beyond the content is cut there.
 * @throws {SyntaxError} when it is no such thing, or its content has another length.
 * @see pglz_decompress(), src/common/pg_lzcompress.c
 */
export function decodePglz(bytes: Uint8Array, contentBytes: number): Uint8Array {
  const content = new Uint8Array(contentBytes);
  const end = bytes.length;
  let from = 0;
  let to = 0;
  while (from < end && to < contentBytes) {
    let control = bytes[from++]!;
    for (let item = 0; item < 8 && from < end && to < contentBytes; item++, control >>>= 1) {
      if ((control & 1) === 0) {
        content[to++] = bytes[from++]!;
        continue;
      }
      if (from + 2 > end) throw refused("it ends inside a repetition");
      const first = bytes[from++]!;
      const distance = (first & 0xf0) << 4 | bytes[from++]!;
      let length = (first & 0x0f) + 3;
      if (length === LONG_REPETITION_BYTES) {
        if (from >= end) throw refused("it ends inside a length");
        length += bytes[from++]!;
      }
      if (distance === 0 || distance > to) {
        throw refused(`a distance of ${distance} at ${to}, want 1 to ${to}`);
      }
      const until = Math.min(contentBytes, to + length);
      while (to < until) {
        content[to] = content[to - distance]!;
        to++;
      }
    }
  }
  if (from !== end || to !== contentBytes) {
    const left = end - from;
    throw refused(`${to} bytes of content and ${left} bytes left over, want ${contentBytes} and none`);
  }
  return content;
}

function refused(problem: string): SyntaxError {
  return new SyntaxError(`Cannot decode pglz: ${problem}`);
}
