import process from "node:process";

/** What this program uses of Bun's own: the same as in `node:zlib`, which takes eight milliseconds to load there. */
export interface BunBuiltins {
  readonly hash: { readonly crc32: (bytes: Uint8Array, previous: number) => number };
  /** Decodes one frame that tells its content's size, into memory of that size. */
  readonly zstdDecompressSync: (frame: Uint8Array) => Uint8Array;
}

/** `undefined` in any other runtime. */
export function bunBuiltins(): BunBuiltins | undefined {
  return process.getBuiltinModule("bun" as "fs") as unknown as BunBuiltins | undefined;
}
