import process from "node:process";
import { test } from "node:test";
import { runFaultRounds } from "./fault_rounds.ts";

/** Another one each time; a failure tells it, and `WALVAULT_SOAK_SEED` sets it. */
const seed = Number(process.env["WALVAULT_SOAK_SEED"] ?? Date.now() % 1_000_000);
const seconds = Number(process.env["WALVAULT_SOAK_SECONDS"] ?? "3600");
/** The last round, and the restore behind it, take their time. */
const SPARE_MS = 10 * 60_000;

test(
  `receive: real faults for ${seconds} s (seed ${seed})`,
  { timeout: seconds * 1000 + SPARE_MS },
  async () => {
    process.stdout.write(
      `real faults for ${seconds} s; WALVAULT_SOAK_SEED=${seed} draws the same ones again\n`,
    );
    await runFaultRounds({
      seed,
      majors: [15, 18],
      milliseconds: seconds * 1000,
      longestMs: 8000,
      tell: (line) => process.stdout.write(`${line}\n`),
    });
  },
);
