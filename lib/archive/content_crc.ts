import { bunBuiltins } from "./bun_builtins.ts";
import { zlib } from "./zlib.ts";

/** CRC-32 of the bytes; `previous` is that of the bytes before these, 0 at first. */
export type Crc32 = (bytes: Uint8Array, previous: number) => number;

let found: Crc32 | undefined;

/** The runtime's own CRC-32, the one of zlib and gzip. */
export function crc32(): Crc32 {
  return found ??= bunBuiltins()?.hash.crc32 ?? zlib().crc32;
}
