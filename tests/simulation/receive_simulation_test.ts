import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { simulate } from "./simulation.ts";
import { BUN_SEEDS, FAST_SEEDS } from "./tiers.ts";

const isBun = process.versions["bun"] !== undefined;
/** `WALVAULT_SIMULATION_SEEDS=100000` runs more; `deno task simulate` runs them on all cores. */
const SEEDS = Number(process.env["WALVAULT_SIMULATION_SEEDS"] ?? (isBun ? BUN_SEEDS : FAST_SEEDS));
/** One test for so many seeds, so that a failure leaves the others' results. */
const SEEDS_PER_TEST = Math.ceil(SEEDS / 8);

for (let first = 0; first < SEEDS; first += SEEDS_PER_TEST) {
  const end = Math.min(SEEDS, first + SEEDS_PER_TEST);
  test(`receiving keeps its promises over kills, power cuts and failovers: seeds ${first} to ${end - 1}`, async () => {
    let crashes = 0;
    for (let seed = first; seed < end; seed++) crashes += (await simulate(seed)).crashes;
    assert.ok(crashes > (end - first) / 2, `${crashes} crashes only`);
  });
}

test("the same seed does the same", async () => {
  for (const seed of [3, 29, 67, 107, 411, 968]) {
    const lines: string[][] = [[], []];
    for (const trace of lines) await simulate(seed, { trace: (line) => void trace.push(line) });
    assert.deepEqual(lines[0], lines[1]);
  }
});
