import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { joinRuns, takeInventory } from "../../lib/archive/inventory.ts";
import { segmentName, segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const SIZE = segmentSize(1 << 20);

const segments = fc.array(
  fc.record({
    timeline: fc.integer({ min: 1, max: 3 }).map(timelineId),
    number: fc.integer({ min: 4090, max: 4120 }).map((value) => segmentNumber(BigInt(value))),
  }),
  { maxLength: 60 },
);

test("joinRuns() holds each segment once, in order, and no other", () => {
  fc.assert(fc.property(segments, (given) => {
    const runs = joinRuns(given);
    const held: string[] = [];
    for (const run of runs) {
      assert.ok(run.firstNumber < run.endNumber);
      for (let number = run.firstNumber as bigint; number < run.endNumber; number++) {
        held.push(`${run.timeline}/${number}`);
      }
    }
    const want = new Set(given.map(({ timeline, number }) => `${timeline}/${number}`));
    assert.equal(held.length, want.size);
    for (const one of held) assert.ok(want.has(one));
    for (const [index, run] of runs.entries()) {
      const before = runs[index - 1];
      if (before === undefined) continue;
      // Runs that touch would be one.
      assert.ok(before.timeline < run.timeline || before.endNumber < run.firstNumber);
    }
  }));
});

test("takeInventory() finds segments in every form, histories, unfinished segments and what is not ours", () => {
  const name = (timeline: number, number: bigint) =>
    segmentName(timelineId(timeline), segmentNumber(number), SIZE);
  const inventory = takeInventory({
    archive: [
      name(1, 5n),
      `${name(1, 4n)}.zst`,
      name(1, 4n),
      `${name(2, 6n)}.gz`,
      "00000003.history",
      "00000002.history",
      "archive.json",
      "archive.json.tmp",
      "notes.txt",
      "lost+found",
    ],
    inProgress: [`${name(2, 8n)}.saved-2`, name(2, 8n), `${name(2, 8n)}.saved-1`, name(1, 6n), "core"],
  }, SIZE);
  assert.deepEqual(inventory, {
    runs: [
      { timeline: 1, firstNumber: 4n, endNumber: 6n },
      { timeline: 2, firstNumber: 6n, endNumber: 7n },
    ],
    histories: [2, 3],
    unfinished: [{ timeline: 1, number: 6n }, { timeline: 2, number: 8n }],
    temporary: ["archive.json.tmp"],
    foreign: ["notes.txt"],
  });
});

test("takeInventory() of nothing is nothing", () => {
  const nothing = { runs: [], histories: [], unfinished: [], temporary: [], foreign: [] };
  assert.deepEqual(takeInventory({ archive: [], inProgress: [] }, SIZE), nothing);
});
