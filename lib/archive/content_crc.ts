import process from "node:process";
import { zlib } from "./zlib.ts";

/** CRC-32 of the bytes; `previous` is that of the bytes before these, 0 at first. */
export type Crc32 = (bytes: Uint8Array, previous: number) => number;

let found: Crc32 | undefined;

/**
 * The runtime's own CRC-32, the one of zlib and gzip.
 *
 * Bun has it without `node:zlib` too, which takes longer to load than a segment takes to be checked.
 */
export function crc32(): Crc32 {
  return found ??= bunCrc32() ?? zlib().crc32;
}

function bunCrc32(): Crc32 | undefined {
  const bun = process.getBuiltinModule("bun" as "fs") as unknown as
    | { readonly hash?: { readonly crc32?: Crc32 } }
    | undefined;
  return bun?.hash?.crc32;
}
