import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { joinRuns } from "../../lib/archive/inventory.ts";
import { segmentRuns } from "../../lib/observe/segment_runs.ts";
import { segmentName, segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const SIZES = [20, 24, 30].map((bits) => segmentSize(2 ** bits));

test("segmentRuns() finds the runs that joining all segments gives, in any order and form", () => {
  const segment = fc.record({
    timeline: fc.integer({ min: 1, max: 3 }).map(timelineId),
    // Over the edge of a 4 GiB log, in each size.
    number: fc.oneof(fc.bigInt(0n, 20n), fc.bigInt(4090n, 4100n), fc.bigInt(250n, 260n)).map(segmentNumber),
    form: fc.constantFrom("", ".zst", ".gz", ".lz4"),
  });
  fc.assert(fc.property(fc.array(segment), fc.constantFrom(...SIZES), (segments, size) => {
    const names = segments.map(({ timeline, number, form }) => segmentName(timeline, number, size) + form);
    assert.deepEqual(segmentRuns(names, size), joinRuns(segments));
  }));
});

test("segmentRuns() passes over all other names", () => {
  const size = segmentSize(2 ** 24);
  const others = [
    "archive.json",
    "00000002.history",
    "000000010000000000000001.partial",
    "000000010000000000000001.gz.partial",
    "000000010000000000000001.bz2",
    "00000001000000000000000a",
    "000000000000000000000001",
    "000000010000000000000100",
    "000000010000000000000002.00000028.backup",
    "0000000100000000000000010",
    "",
  ];
  assert.deepEqual(segmentRuns(others, size), []);
  assert.equal(segmentRuns([...others, "0000000100000000000000FF"], size).length, 1);
});

test("segmentRuns() knows the highest numbers and timelines", () => {
  const size = segmentSize(2 ** 20);
  const [run] = segmentRuns(["FFFFFFFFFFFFFFFF00000FFE"], size);
  assert.deepEqual(run, {
    timeline: 0xffff_ffff,
    firstNumber: 2n ** 44n - 2n,
    endNumber: 2n ** 44n - 1n,
  });
});
