import { test } from "node:test";
import { runFaultRounds } from "./fault_rounds.ts";
import { TEST_MAJOR } from "./servers.ts";

test("receive: each real fault once; no acknowledged commit is lost, and all is as before when it is over", {
  timeout: 600_000,
}, async () => {
  const told: string[] = [];
  try {
    await runFaultRounds({
      seed: 1,
      majors: [TEST_MAJOR],
      milliseconds: 0,
      longestMs: 1500,
      tell: (line) => told.push(line),
    });
  } catch (error) {
    throw new Error(`${(error as Error).message}\n${told.join("\n")}`, { cause: error });
  }
});
