import assert from "node:assert/strict";
import { test } from "node:test";
import {
  encodeGapAcceptance,
  encodeGapHealing,
  encodeGapRecord,
  gapOfSegments,
} from "../../lib/archive/gaps.ts";
import { GapReceivingArchive } from "../../lib/archive/gap_receiving_archive.ts";
import { KeptWalLook } from "../../lib/commands/kept_wal.ts";
import { emptyHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { segmentName, type SegmentNumber } from "../../lib/wal/segment.ts";
import { type TimelineId, timelineId } from "../../lib/wal/timeline.ts";
import { makeArchive } from "../archive/brought_files.ts";
import { onSimDisk, recordEvents, SEGMENT_SIZE } from "../archive/on_sim_disk.ts";
import { at } from "../receiver/fakes.ts";

const FIRST = timelineId(1);
const SECOND: TimelineHistory = {
  timeline: timelineId(2),
  entries: [{ timeline: FIRST, endLsn: at(9.5), reason: "" }],
};

/** An archive whose segments are put there and removed by number, and how often it was looked through. */
function withArchive(
  use: (scene: {
    readonly count: { surveys: number };
    put(...numbers: number[]): Promise<void>;
    remove(...numbers: number[]): Promise<void>;
    record(first: number, end: number): Promise<void>;
    accept(first: number, end: number): Promise<void>;
    heal(first: number, end: number): Promise<void>;
    keptAt(segments: number, timeline?: TimelineId): Promise<number>;
  }) => Promise<void>,
): Promise<void> {
  return onSimDisk(async ({ disk, clock }) => {
    const archive = await makeArchive(disk);
    const options = { clock, events: recordEvents(), now: () => new Date(0) };
    const receiving = new GapReceivingArchive(archive, options);
    const count = { surveys: 0 };
    const look = new KeptWalLook({
      lineage: (timeline) => Promise.resolve(timeline === 1 ? emptyHistory(timeline) : SECOND),
      gapMark: () => receiving.gapMark(),
      survey: async () => {
        count.surveys++;
        return { contents: await archive.contents(), ledger: await archive.ledger() };
      },
    });
    const nameOf = (number: number) => segmentName(FIRST, BigInt(number) as SegmentNumber, SEGMENT_SIZE);
    const range = (first: number, end: number) =>
      gapOfSegments({
        timeline: FIRST,
        firstNumber: BigInt(first) as SegmentNumber,
        endNumber: BigInt(end) as SegmentNumber,
      }, SEGMENT_SIZE);
    await use({
      count,
      async put(...numbers) {
        for (const number of numbers) {
          const file = await disk.create(nameOf(number), 0o600);
          await file.truncate(SEGMENT_SIZE);
          await file.close();
        }
      },
      async remove(...numbers) {
        for (const number of numbers) await disk.unlink(nameOf(number));
      },
      record: (first, end) => {
        const told = { recordedAt: "", reason: "", server: "", answer: "" };
        return archive.appendToLedger(encodeGapRecord({ ...range(first, end), ...told }));
      },
      accept: (first, end) => {
        const told = { acceptedAt: "", acceptedBy: "", reason: "" };
        return archive.appendToLedger(encodeGapAcceptance({ ...range(first, end), ...told }));
      },
      heal: (first, end) => archive.appendToLedger(encodeGapHealing({ ...range(first, end), healedAt: "" })),
      async keptAt(segments, timeline = FIRST) {
        const { flushLsn, gapLsn } = await look.at({
          timeline,
          flushLsn: at(segments),
          segmentSize: SEGMENT_SIZE,
        });
        assert.equal(gapLsn, flushLsn < at(segments) ? flushLsn : undefined);
        return Number(flushLsn) / SEGMENT_SIZE;
      },
    });
  });
}

test("KeptWalLook never looks through an archive without a recorded gap", () =>
  withArchive(async ({ count, put, keptAt }) => {
    await put(3, 4);
    assert.equal(await keptAt(5.5), 5.5);
    assert.equal(await keptAt(6), 6);
    assert.equal(count.surveys, 0);
  }));

test("KeptWalLook looks through an archive once, whatever is received behind its gap", () =>
  withArchive(async ({ count, put, record, keptAt }) => {
    await put(3, 4, 7);
    await record(5, 7);
    assert.deepEqual(await Promise.all([keptAt(8), keptAt(4.5)]), [5, 4.5]);
    for (let number = 8; number < 12; number++) {
      assert.equal(await keptAt(number), 5);
      await put(number);
    }
    assert.equal(count.surveys, 1);
  }));

test("KeptWalLook sees what is healed of a gap, what is given up, and what is recorded", () =>
  withArchive(async ({ count, put, record, accept, heal, keptAt }) => {
    await put(3, 4, 7);
    await record(5, 7);
    assert.equal(await keptAt(8), 5);
    await put(5);
    assert.equal(await keptAt(8), 5, "its name alone proves nothing");
    await heal(5, 6);
    assert.equal(await keptAt(8), 6);
    await accept(6, 7);
    assert.equal(await keptAt(8), 8);
    assert.equal(count.surveys, 3);
    assert.equal(await keptAt(9), 9);
    assert.equal(count.surveys, 3, "nothing is missing");
    await record(8, 9);
    assert.equal(await keptAt(9), 8);
    assert.equal(count.surveys, 4);
  }));

test("KeptWalLook keeps a gap that nobody saw healed, whatever is removed below it", () =>
  withArchive(async ({ put, remove, record, keptAt }) => {
    await put(3, 4, 7);
    await record(5, 7);
    assert.equal(await keptAt(8), 5);
    await remove(3, 4);
    assert.equal(await keptAt(8), 5);
    await record(9, 10);
    assert.equal(await keptAt(9), 5);
  }));

test("KeptWalLook looks anew on another timeline", () =>
  withArchive(async ({ count, put, record, keptAt }) => {
    await put(3, 4, 7, 8);
    await record(5, 7);
    assert.equal(await keptAt(9), 5);
    assert.equal(await keptAt(10, SECOND.timeline), 5);
    assert.equal(await keptAt(11, SECOND.timeline), 5);
    assert.equal(count.surveys, 2);
  }));
