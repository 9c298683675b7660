import process from "node:process";
import { test } from "node:test";
import { breakEverything, killPrimary, killReceiver } from "./receiver_kills.ts";

const MINUTE_MS = 60_000;
const timeout = 40 * MINUTE_MS;
/** Another one each time; a failure tells it, and `WALVAULT_SOAK_SEED` sets it. */
const seed = Number(process.env["WALVAULT_SOAK_SEED"] ?? Date.now() % 1_000_000);
const minutes = Number(process.env["WALVAULT_SOAK_MINUTES"] ?? "5");

test(`receive: 100 kills under load (seed ${seed})`, { timeout }, async () => {
  await killReceiver({ rounds: 100, seed });
});

test(`receive as the synchronous standby: 30 kills of the primary (seed ${seed})`, { timeout }, async () => {
  await killPrimary({ rounds: 30, seed });
});

test(`receive: everything that may happen, for ${minutes} minutes (seed ${seed})`, { timeout }, async () => {
  await breakEverything({ milliseconds: minutes * MINUTE_MS, seed });
});
