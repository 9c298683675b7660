/**
 * Proves that the simulation can fail: breaks a copy of the program in one way after the other, and runs the sweep of
 * operations and the seeds.
 *
 * `deno task mutations [--seeds COUNT] [--shrink] [PART OF A TITLE]`; a mutation that is not noticed is a failure of
 * the simulation. `--shrink` also looks for the fewest disturbances that show it.
 */
import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { copyWith } from "./mutated_copy.ts";
import { type Mutation, MUTATIONS } from "./mutations.ts";
import { tellShortest } from "./shortest.ts";
import { FAST_SEEDS } from "./tiers.ts";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    seeds: { type: "string", default: String(FAST_SEEDS) },
    shrink: { type: "boolean", default: false },
    title: { type: "string" },
  },
});
const seeds = Number(values.seeds);

if (values.title !== undefined) {
  const mutation = MUTATIONS.find(({ title }) => title === values.title);
  if (mutation === undefined) throw new Error(`Cannot find a mutation "${values.title}"`);
  const result = await tryMutation(mutation);
  process.stdout.write(`${mutation.title}: ${result}\n`);
  process.exitCode = result.startsWith("noticed") ? 0 : 1;
} else {
  const part = positionals[0] ?? "";
  const left = MUTATIONS.filter(({ title }) => title.includes(part));
  const count = left.length;
  let unnoticed = 0;
  const work = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift()) {
      if (!await tryAlone(next)) unnoticed++;
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  process.stdout.write(`${count - unnoticed} of ${count} mutations were noticed\n`);
  process.exitCode = unnoticed > 0 ? 1 : 0;
}

/** In a process of its own: a copy that was loaded stays in memory, and one core is one mutation's. */
async function tryAlone({ title }: Mutation): Promise<boolean> {
  const options = ["--title", title, "--seeds", String(seeds), ...(values.shrink ? ["--shrink"] : [])];
  const command = ["run", "--allow-all", "--no-check", fileURLToPath(import.meta.url), ...options];
  const child = spawn(process.execPath, command, { stdio: ["ignore", "pipe", "inherit"] });
  const pieces: Uint8Array[] = [];
  child.stdout.on("data", (piece: Uint8Array) => pieces.push(piece));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  process.stdout.write(Buffer.concat(pieces));
  return code === 0;
}

async function tryMutation(mutation: Mutation): Promise<string> {
  await using copy = copyWith(mutation);
  if (mutation.by === "push") {
    const { simulatePush, planOf, sweepOperations, SINGLE_PUSHES } = await copy.pushes();
    try {
      for (const single of SINGLE_PUSHES) await sweepOperations(single);
      for (let seed = 0; seed < seeds; seed++) await simulatePush(planOf(seed));
    } catch (error) {
      return `noticed by ${firstLine(error)}`;
    }
    return `NOT NOTICED by ${seeds} seeds`;
  }
  const { simulate } = await copy.receiving();
  for (let seed = 0; seed < seeds; seed++) {
    try {
      await simulate(seed);
    } catch (error) {
      const script = values.shrink ? `\n${await tellShortest(simulate, seed)}` : "";
      return `noticed by ${firstLine(error)}${script}`;
    }
  }
  return `NOT NOTICED by ${seeds} seeds`;
}

function firstLine(error: unknown): string {
  return (error as Error).message.split("\n")[0]!;
}
