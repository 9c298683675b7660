import process from "node:process";

/** What this program uses of Bun's own: `node:zlib` takes eight milliseconds to load there, `node:child_process` two. */
export interface BunBuiltins {
  readonly hash: { readonly crc32: (bytes: Uint8Array, previous: number) => number };
  /** Decodes one frame that tells its content's size, into memory of that size. */
  readonly zstdDecompressSync: (frame: Uint8Array) => Uint8Array;
  /** Throws when there is no such program. */
  readonly spawn: (command: readonly string[], options: {
    readonly stdio: readonly ["ignore", "ignore", "ignore"];
    /** In a session of its own. */
    readonly detached: boolean;
  }) => { unref(): void };
}

/** `undefined` in any other runtime. */
export function bunBuiltins(): BunBuiltins | undefined {
  return process.getBuiltinModule("bun" as "fs") as unknown as BunBuiltins | undefined;
}
