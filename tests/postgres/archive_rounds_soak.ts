import process from "node:process";
import { test } from "node:test";
import { runArchiveRounds } from "./archive_rounds.ts";

/** Another one each time; a failure tells it, and `WALVAULT_SOAK_SEED` sets it. */
const seed = Number(process.env["WALVAULT_SOAK_SEED"] ?? Date.now() % 1_000_000);
const rounds = Number(process.env["WALVAULT_SOAK_ROUNDS"] ?? "200");

test(`stream, push and fetch: ${rounds} rounds of kills, each ended by a recovery (seed ${seed})`, {
  timeout: 50 * 60_000,
}, async () => {
  await runArchiveRounds({ rounds, seed, tell: (line) => process.stdout.write(`${line}\n`) });
});
