import assert from "node:assert/strict";
import { test } from "node:test";
import { countBunTests, countDenoTests, countScriptTests } from "../../tasks/test_counts.ts";

const cases = [
  [countDenoTests, "ok | 11 passed (4 steps) | 0 failed | 3 ignored (72ms)\n", { passed: 11, failed: 0 }],
  [countDenoTests, "FAILED | 12 passed (4 steps) | 1 failed (2 steps) (1s)\n\nerror: Test failed\n", {
    passed: 12,
    failed: 1,
  }],
  [countDenoTests, "ok | 1 passed | 0 failed (1s)\nok | 2 passed | 0 failed (1s)\n", {
    passed: 2,
    failed: 0,
  }],
  [countDenoTests, "error: Type checking failed.\n", undefined],
  [countBunTests, " 5 pass\n 2 fail\nRan 7 tests across 1 file. [12.95s]\n", { passed: 5, failed: 2 }],
  [countBunTests, " 5 pass\n 1 skip\n 0 fail\n 1 error\n", { passed: 5, failed: 1 }],
  [countBunTests, "Killed\n", undefined],
  [countScriptTests, "ok: a\n3 passed, 1 failed\n", { passed: 3, failed: 1 }],
  [countScriptTests, "base images\n", undefined],
] as const;

for (const [count, output, expected] of cases) {
  test(`${count.name}() of ${JSON.stringify(output)}`, () => assert.deepEqual(count(output), expected));
}
