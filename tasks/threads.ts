/** Modules that threads begin with: no other one imports them, so whatever packs the program has to be told. */
export const THREAD_MODULES: readonly string[] = [
  "lib/archive/index_thread.ts",
  "lib/archive/verify/proof_thread.ts",
];
