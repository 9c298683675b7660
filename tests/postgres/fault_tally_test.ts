import assert from "node:assert/strict";
import { test } from "node:test";
import { type FaultOutcome, FaultTally, longestRestMs } from "./fault_tally.ts";

const OUTCOME: FaultOutcome = {
  family: "cut",
  synchronous: true,
  acknowledged: 10,
  lost: 0,
  stallMs: 1240,
  recoveryMs: 300,
  cameOfIt: undefined,
  problem: undefined,
};

test("FaultTally counts commits and stalls of synchronous rounds, and survivors of all", () => {
  const tally = new FaultTally();
  tally.add(OUTCOME);
  tally.add({ ...OUTCOME, synchronous: false, acknowledged: 5, stallMs: 9000, recoveryMs: 2000 });
  tally.add({ ...OUTCOME, lost: 2, problem: "2 are gone" });
  tally.add({ ...OUTCOME, family: "full", synchronous: false, recoveryMs: undefined });
  assert.equal(tally.lost, 2);
  assert.deepEqual(tally.problems, ["2 are gone"]);
  assert.deepEqual(tally.table(["cut", "full", "never"]).slice(2), [
    "| cut | 3 | 2 | 2 | 20 | 2 | 1.2 s | 2.0 s |",
    "| full | 1 | 1 | 0 |  |  |  |  |",
    "| never | 0 | | | | | | |",
  ]);
});

test("longestRestMs() takes beginning and end for moments too, in any order", () => {
  const watched = { startedMs: 100, endedMs: 200 };
  assert.equal(longestRestMs([], watched), 100);
  assert.equal(longestRestMs([110, 150, 120], watched), 50);
  assert.equal(longestRestMs([150, 110, 195], watched), 45);
});
