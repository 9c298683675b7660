import assert from "node:assert/strict";
import { test } from "node:test";
import { OutageError } from "../../lib/restore/obstacle.ts";
import { outlastOutage } from "../../lib/restore/outlast_outage.ts";
import { WalGapError } from "../../lib/wal/errors.ts";

function patience() {
  let nowMs = 0;
  return {
    nowMs: () => nowMs,
    sleep: (ms: number) => {
      nowMs += ms;
      return Promise.resolve();
    },
    limitMs: 5000,
    intervalMs: 300,
  };
}

test("outlastOutage() looks again until the outage is over, or the limit is reached", async () => {
  const outage = new OutageError("away", "mount it");
  let given = patience();
  const look = () => given.nowMs() < 4000 ? Promise.reject(outage) : Promise.resolve("there");
  assert.equal(await outlastOutage(look, given), "there");
  given = patience();
  await assert.rejects(outlastOutage(() => Promise.reject(outage), given), outage);
  assert.equal(given.nowMs(), 5000);
  given = patience();
  const gap = new WalGapError("a hole");
  await assert.rejects(outlastOutage(() => Promise.reject(gap), given), gap);
  assert.equal(given.nowMs(), 0);
});
