import assert from "node:assert/strict";
import { test } from "node:test";
import { isCatchingUp, planStep, wakeDue, type WriterStep } from "../../lib/archive/sync_policy.ts";

const MIB = 1 << 20;
const WRITE_SYNC: WriterStep = { kind: "write", then: "sync" };
const WRITE: WriterStep = { kind: "write", then: "leave" };
const SYNC: WriterStep = { kind: "sync" };
const wait = (waitMs: number | undefined): WriterStep => ({ kind: "wait", waitMs });

test("planStep() near the server's end writes and syncs whatever is there", () => {
  const cases: readonly (readonly [buffered: number, unsynced: number, want: WriterStep])[] = [
    [0, 0, wait(undefined)],
    [0, 1, SYNC],
    [1, 0, WRITE_SYNC],
    [1, 1, WRITE_SYNC],
    [8 * MIB, 0, WRITE_SYNC],
  ];
  for (const [bufferedBytes, unsyncedBytes, want] of cases) {
    for (const behindBytes of [-5, 0, 1, MIB]) {
      for (const sinceSyncMs of [0, 19, 20, 1e9]) {
        assert.deepEqual(planStep({ bufferedBytes, unsyncedBytes, behindBytes, sinceSyncMs }), want);
      }
    }
  }
});

test("planStep() far behind waits for larger pieces, but no byte longer than 20 ms", () => {
  const cases: readonly (readonly [buffered: number, unsynced: number, sinceMs: number, want: WriterStep])[] =
    [
      [0, 0, 0, wait(undefined)],
      [0, 0, 1000, wait(undefined)],
      [1, 0, 0, wait(20)],
      [0, 1, 5, wait(15)],
      [100_000, 0, 19, wait(1)],
      [1, 0, 20, WRITE_SYNC],
      [0, 1, 20, SYNC],
      [MIB, 0, 0, WRITE],
      [MIB, MIB, 19, WRITE],
      [MIB, 0, 20, WRITE_SYNC],
      [MIB, 7 * MIB, 0, WRITE_SYNC],
      [1, 8 * MIB - 1, 0, WRITE_SYNC],
      [0, 8 * MIB, 0, SYNC],
      [8 * MIB, 0, 0, WRITE_SYNC],
    ];
  for (const [bufferedBytes, unsyncedBytes, sinceSyncMs, want] of cases) {
    assert.deepEqual(planStep({ bufferedBytes, unsyncedBytes, behindBytes: MIB + 1, sinceSyncMs }), want);
  }
});

test("planStep() never waits without a limit while something is not durable", () => {
  for (const behindBytes of [0, MIB, MIB + 1, 1e9]) {
    for (const bufferedBytes of [0, 1, MIB - 1, MIB, 8 * MIB]) {
      for (const unsyncedBytes of [0, 1, MIB, 8 * MIB]) {
        for (const sinceSyncMs of [0, 10, 20, 1e6]) {
          const step = planStep({ bufferedBytes, unsyncedBytes, behindBytes, sinceSyncMs });
          if (step.kind !== "wait") continue;
          if (bufferedBytes + unsyncedBytes === 0) assert.equal(step.waitMs, undefined);
          else assert.ok(step.waitMs !== undefined && step.waitMs > 0 && step.waitMs <= 20);
        }
      }
    }
  }
});

test("isCatchingUp() and wakeDue() let few bytes wait only far behind the server", () => {
  assert.equal(isCatchingUp({ behindBytes: MIB }), false);
  assert.equal(isCatchingUp({ behindBytes: MIB + 1 }), true);
  assert.equal(wakeDue({ bufferedBytes: 0, behindBytes: 0 }), false);
  assert.equal(wakeDue({ bufferedBytes: 1, behindBytes: 0 }), true);
  assert.equal(wakeDue({ bufferedBytes: 100_000, behindBytes: MIB + 1 }), false);
  assert.equal(wakeDue({ bufferedBytes: MIB, behindBytes: MIB + 1 }), true);
});
