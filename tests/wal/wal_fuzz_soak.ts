import process from "node:process";
import { test } from "node:test";
import { fuzzWal } from "./wal_fuzz.ts";

const MINUTE_MS = 60_000;
/** Another one each time; a failure tells it, and `WALVAULT_SOAK_SEED` sets it. */
const seed = Number(process.env["WALVAULT_SOAK_SEED"] ?? Date.now() % 1_000_000);
const inputs = Number(process.env["WALVAULT_FUZZ_INPUTS"] ?? "10000000");

test(`${inputs} changed inputs: no crash, and no invented record (seed ${seed})`, {
  timeout: 55 * MINUTE_MS,
}, (t) => {
  const counts = fuzzWal({ inputs, seed, progress: (counts) => t.diagnostic?.(JSON.stringify(counts)) });
  t.diagnostic?.(JSON.stringify(counts));
});
