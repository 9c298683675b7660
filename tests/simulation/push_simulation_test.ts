import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { planOf, type PushPlan, simulatePush, SINGLE_PUSHES, sweepOperations } from "./push_simulation.ts";

/** The fast tier's seeds; `WALVAULT_SIMULATION_SEEDS=100000` runs more. */
const SEEDS = Number(process.env["WALVAULT_SIMULATION_SEEDS"] ?? 400);

async function play(plan: PushPlan): Promise<{ readonly operations: number }> {
  try {
    return await simulatePush(plan);
  } catch (cause) {
    throw new Error(`Cannot keep the promises: ${JSON.stringify(plan)}`, { cause });
  }
}

for (const single of SINGLE_PUSHES) {
  const how = (single.compress ? ", compressed," : "") + (single.damaged ? " over a damaged form" : "");
  test(`a push of ${single.pushes[0]}${how} may be stopped at each operation, by a kill or a power cut`, async () => {
    const { operations } = await sweepOperations(single, play);
    assert.ok(operations > 15);
  });
}

test("pushes and a receiver at the same time keep their promises over kills and power cuts", async () => {
  for (let seed = 0; seed < SEEDS; seed++) await play(planOf(seed));
});
