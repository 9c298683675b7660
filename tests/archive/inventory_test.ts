import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { NamedEntry } from "../../lib/archive/disk.ts";
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

/** A plain file as large as a segment. */
function file(name: string): NamedEntry {
  return { name, kind: "file", bytes: 1 << 20, mode: 0o600, ownerId: 1000, inode: 1 };
}

test("takeInventory() holds no segment for complete that is no file of a segment's size", () => {
  const name = (number: bigint) => segmentName(timelineId(1), segmentNumber(number), SIZE);
  const inventory = takeInventory({
    archive: [
      file(name(1n)),
      { ...file(name(2n)), bytes: 0 },
      { ...file(name(3n)), kind: "directory" },
      { ...file(name(4n)), kind: "symlink" },
      { ...file(name(5n)), bytes: (1 << 20) - 1 },
      { ...file(`${name(6n)}.zst`), bytes: 100 },
      { ...file(`${name(7n)}.zst`), kind: "symlink" },
    ],
    inProgress: [],
  }, SIZE);
  assert.deepEqual(inventory.incomplete, [name(2n), name(3n), name(4n), name(5n), `${name(7n)}.zst`]);
  assert.deepEqual(inventory.runs, [
    { timeline: 1, firstNumber: 1n, endNumber: 2n },
    { timeline: 1, firstNumber: 6n, endNumber: 7n },
  ]);
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
    ].map(file),
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
    incomplete: [],
  });
});

test("takeInventory() of nothing is nothing", () => {
  const nothing = { runs: [], histories: [], unfinished: [], temporary: [], foreign: [], incomplete: [] };
  assert.deepEqual(takeInventory({ archive: [], inProgress: [] }, SIZE), nothing);
});
