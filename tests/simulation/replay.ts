/** Runs one seed of the simulation again, and tells all that happens: `deno run -A tests/simulation/replay.ts SEED`. */
import process from "node:process";
import { simulate } from "./simulation.ts";

const seed = Number(process.argv[2]);
try {
  const result = await simulate(seed, (line) => process.stdout.write(line + "\n"));
  process.stdout.write(`seed ${seed} holds: ${JSON.stringify(result)}\n`);
} catch (error) {
  process.stdout.write(`${(error as Error).message}\n`);
  process.exitCode = 1;
}
