import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { BROUGHT, planOf, type PushPlan, simulatePush } from "./push_simulation.ts";

/** The fast tier's seeds; `WALVAULT_SIMULATION_SEEDS=100000` runs more. */
const SEEDS = Number(process.env["WALVAULT_SIMULATION_SEEDS"] ?? 400);

async function play(plan: PushPlan): Promise<number> {
  try {
    return (await simulatePush(plan)).operations;
  } catch (cause) {
    throw new Error(`Cannot keep the promises: ${JSON.stringify(plan)}`, { cause });
  }
}

const SINGLE: readonly (readonly [name: string, compress: boolean])[] = [
  ...BROUGHT.map((name) => [name, false] as const),
  [BROUGHT[0]!, true],
];

for (const [name, compress] of SINGLE) {
  const how = compress ? ", compressed," : "";
  test(`a push of ${name}${how} may be stopped at each operation, by a kill or a power cut`, async () => {
    const quiet = {
      pushes: [name],
      receiver: false,
      compress,
      stopAt: undefined,
      stopWhen: "before",
      stop: "all",
    } as const;
    const operations = await play({ ...quiet, seed: 0 });
    assert.ok(operations > 15);
    for (let stopAt = 1; stopAt <= operations; stopAt++) {
      for (const stop of ["all", "power cut"] as const) {
        for (const stopWhen of ["before", "after"] as const) {
          await play({ ...quiet, seed: stopAt, stopAt, stop, stopWhen });
        }
      }
    }
  });
}

test("pushes and a receiver at the same time keep their promises over kills and power cuts", async () => {
  for (let seed = 0; seed < SEEDS; seed++) await play(planOf(seed));
});
