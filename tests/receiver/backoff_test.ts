import assert from "node:assert/strict";
import { test } from "node:test";
import { backoffMs } from "../../lib/receiver/backoff.ts";

test("backoffMs() doubles from 500 ms to 30 s", () => {
  const ceilings = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
  for (const [failures, ceiling] of ceilings.entries()) {
    assert.equal(backoffMs(failures, 0), ceiling / 2);
    assert.equal(backoffMs(failures, 0.5), ceiling * 0.75);
    assert.equal(backoffMs(failures, 1 - Number.EPSILON), ceiling);
  }
});

test("backoffMs() stays within its bounds after any number of failures", () => {
  for (const failures of [16, 17, 31, 32, 1023, 1024, 1_000_000, Number.MAX_SAFE_INTEGER]) {
    for (const random of [0, 0.25, 0.999]) {
      const delayMs = backoffMs(failures, random);
      assert.ok(
        Number.isInteger(delayMs) && delayMs >= 15_000 && delayMs <= 30_000,
        `${failures}: ${delayMs}`,
      );
    }
  }
});

test("backoffMs() never waits less than 250 ms: no hot loop", () => {
  for (let failures = 0; failures < 20; failures++) assert.ok(backoffMs(failures, 0) >= 250);
});
