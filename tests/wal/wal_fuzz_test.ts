import assert from "node:assert/strict";
import { test } from "node:test";
import { fuzzWal } from "./wal_fuzz.ts";

test("5,000 changed inputs: no crash, and no invented record", () => {
  const counts = fuzzWal({ inputs: 5000, seed: 1 });
  // That it was no empty exercise.
  assert.ok(counts.records > 20_000 && counts.moved < 100, JSON.stringify(counts));
  assert.ok(counts.refusedBodies > 500 && counts.refusedBodies < counts.bodies, JSON.stringify(counts));
  assert.ok(counts.images > 100, JSON.stringify(counts));
});
