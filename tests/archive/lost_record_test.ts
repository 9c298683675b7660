import assert from "node:assert/strict";
import { test } from "node:test";
import { linkProblem } from "../../lib/archive/back_link.ts";
import type { SegmentBytes } from "../../lib/archive/segment_bytes.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { SegmentScanner } from "../../lib/wal/scanner.ts";
import { type SegmentNumber, segmentStart } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { Random } from "../simulation/random.ts";
import { SEGMENT_BYTES, SEGMENT_SIZE, Writer } from "../simulation/sim_wal.ts";

const TIMELINE = timelineId(1);
const END = 4n * BigInt(SEGMENT_BYTES);

/** WAL up to a record that goes on in segment 4. */
function writerAcross(): Writer {
  const writer = new Writer(new Random(1), 3n, emptyHistory(TIMELINE));
  while (writer.position < END) writer.any();
  assert.ok(writer.last < END && writer.position > END + 8192n);
  return writer;
}

function bytesOf(content: Uint8Array): SegmentBytes {
  return async (start, take) => {
    for (let at = start; at < content.length; at += 1000) {
      if (await take(content.subarray(at, at + 1000), at) === "enough") return;
    }
  };
}

async function problemOf([before, after]: readonly Uint8Array[]): Promise<string | undefined> {
  const number = 4n as SegmentNumber;
  const scanner = new SegmentScanner({
    startLsn: segmentStart(number, SEGMENT_SIZE),
    segmentSize: SEGMENT_SIZE,
  });
  scanner.push(after!);
  const scan = scanner.result();
  const linked = { timeline: TIMELINE, number, lineage: undefined, scan, bytes: bytesOf(after!) };
  return await linkProblem(linked, bytesOf(before!));
}

test("a segment continues the one before it, whose last record is followed by one that a crash left without its rest", async () => {
  const writer = writerAcross();
  writer.tear();
  writer.overwriteContrecord();
  writer.grow(2 * SEGMENT_BYTES);
  assert.equal(await problemOf(writer.segments), undefined);
});

test("a segment continues the one before it, whose last record a crash left without its rest further on", async () => {
  const writer = new Writer(new Random(2), 3n, emptyHistory(TIMELINE));
  while (writer.position < END - 30_000n) writer.any();
  assert.ok(writer.position < END - 8192n);
  // Over the segment's end, and some pages further.
  writer.tear();
  assert.ok(writer.position > END);
  writer.overwriteContrecord();
  writer.grow(2 * SEGMENT_BYTES);
  assert.equal(await problemOf(writer.segments), undefined);
});

test("one that goes on from a record before the last one does not continue it, whatever it overwrites", async () => {
  const writer = writerAcross();
  const before = writer.records.at(-2)!.start;
  writer.tear();
  const other = writer.fork(writer.position, before);
  other.overwriteContrecord();
  other.grow(2 * SEGMENT_BYTES);
  assert.match(await problemOf(other.segments) ?? "", /follows there/);
});
