/**
 * Runs one seed of the simulation again, and tells all that happens; with `--shrink` it finds the fewest of the
 * seed's disturbances with which it still fails, and the command that runs them alone.
 *
 * `deno run -A tests/simulation/replay.ts SEED [--only NAME,…|none] [--shrink]`
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { simulate } from "./simulation.ts";
import { tellShortest } from "./shortest.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { only: { type: "string" }, shrink: { type: "boolean", default: false } },
});
const seed = Number(positionals[0]);
const only = values.only?.split(",").filter((name) => name !== "none");
if (values.shrink) {
  process.stdout.write(`${await tellShortest(simulate, seed)}\n`);
} else {
  try {
    const result = await simulate(seed, {
      only: only === undefined ? undefined : new Set(only),
      trace: (line) => process.stdout.write(line + "\n"),
    });
    process.stdout.write(`seed ${seed} holds: ${JSON.stringify(result)}\n`);
  } catch (error) {
    process.stdout.write(`${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
