import assert from "node:assert/strict";
import { test } from "node:test";
import { type Look, waitForFile } from "../../lib/restore/wait_for_file.ts";
import { WalGapError } from "../../lib/wal/errors.ts";

test("waitForFile() looks for holes once a minute, and tells each once", async () => {
  let nowMs = 0;
  const looks: (Look & { readonly atMs: number })[] = [];
  const told: string[] = [];
  const waited = waitForFile((look) => {
    looks.push({ ...look, atMs: nowMs });
    if (nowMs >= 200_000) return Promise.resolve({ kind: "delivered", path: "x" });
    if (look.how === "thorough" && nowMs > 0) return Promise.reject(new WalGapError("a hole"));
    return Promise.resolve({ kind: "absent", reason: "a tail is withheld" });
  }, {
    nowMs: () => nowMs,
    sleep: (ms) => {
      nowMs += ms;
      return Promise.resolve();
    },
    trigger: () => Promise.resolve(undefined),
    tell: (error) => told.push((error as Error).message),
    pollIntervalMs: 1000,
    timeoutMs: undefined,
  });
  assert.deepEqual(await waited, { kind: "delivered", path: "x" });
  const thorough = looks.filter((look) => look.how === "thorough");
  assert.deepEqual(thorough.map((look) => look.atMs), [0, 60_000, 120_000, 180_000]);
  assert.ok(thorough.every((look) => look.tail === "withheld"));
  assert.equal(looks.length, 201);
  assert.deepEqual(told, ["a hole"]);
});
