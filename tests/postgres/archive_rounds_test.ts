import process from "node:process";
import { test } from "node:test";
import { runArchiveRounds } from "./archive_rounds.ts";

test(
  "stream, push and fetch: 20 rounds of kills, each ended by a recovery",
  { timeout: 600_000 },
  async () => {
    await runArchiveRounds({ rounds: 20, seed: 7, tell: (line) => process.stdout.write(`${line}\n`) });
  },
);
