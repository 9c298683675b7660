import process from "node:process";
import { test } from "node:test";
import { compareWalEnds } from "./wal_end.ts";

const MINUTE_MS = 60_000;
/** Another one each time; a failure tells it, and `WALVAULT_SOAK_SEED` sets it. */
const seed = Number(process.env["WALVAULT_SOAK_SEED"] ?? Date.now() % 1_000_000);

test(`after 100 times kill -9 valid WAL ends where the server itself goes on (seed ${seed})`, {
  timeout: 30 * MINUTE_MS,
}, async (t) => {
  const { ends, overwritten } = await compareWalEnds({ rounds: 100, seed });
  t.diagnostic?.(`${ends.join(", ")}; ${overwritten} open records given up`);
});
