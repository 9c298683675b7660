import assert from "node:assert/strict";
import { test } from "node:test";
import { Archive } from "../../lib/archive/archive.ts";
import { GapReceivingArchive } from "../../lib/archive/gap_receiving_archive.ts";
import { giveSlotUp, missingUpTo } from "../../lib/commands/giving_up.ts";
import type { SlotSample } from "../../lib/observe/slot_forecast.ts";
import { PermanentError } from "../../lib/receiver/failure.ts";
import { emptyHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import type { SegmentRun } from "../../lib/wal/lineage.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { type SegmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { bring, makeArchive } from "../archive/brought_files.ts";
import { IDENTITY, NAMES, NAMING, onSimDisk, recordEvents, walOf } from "../archive/on_sim_disk.ts";
import { FakeClock, fakeLog, serverError, watched } from "../receiver/fakes.ts";

const MIB = 1024 * 1024;

const run = (timeline: number, first: number, end: number): SegmentRun => ({
  timeline: timelineId(timeline),
  firstNumber: BigInt(first) as SegmentNumber,
  endNumber: BigInt(end) as SegmentNumber,
});

function below(
  serverMiB: number,
  { runs, recorded = [], lineage = emptyHistory(timelineId(1)) }: {
    readonly runs: readonly SegmentRun[];
    readonly recorded?: readonly SegmentRun[];
    readonly lineage?: TimelineHistory;
  },
): readonly string[] {
  const contents = { runs, unfinished: [], gaps: { recorded, accepted: [], healed: [] } };
  return missingUpTo(lsn(BigInt(serverMiB * MIB)), { contents, lineage, segmentSize: segmentSize(MIB) })
    .map(({ timeline, firstNumber, endNumber }) => `${timeline}: ${firstNumber}-${endNumber}`);
}

test("missingUpTo() tells what lies between the archive's end and the server's segment", () => {
  assert.deepEqual(below(9.5, { runs: [run(1, 2, 5)] }), ["1: 5-9"]);
  assert.deepEqual(below(9, { runs: [run(1, 2, 5)] }), ["1: 5-9"]);
  assert.deepEqual(below(5.5, { runs: [run(1, 2, 5)] }), [], "the segment that the server writes comes anew");
  assert.deepEqual(below(4, { runs: [run(1, 2, 5)] }), [], "a server behind the archive");
  assert.deepEqual(below(9.5, { runs: [] }), [], "an empty archive has no gap");
});

test("missingUpTo() leaves out what is here above a hole, and what is recorded", () => {
  assert.deepEqual(below(12.5, { runs: [run(1, 2, 5), run(1, 7, 9)] }), ["1: 5-7", "1: 9-12"]);
  assert.deepEqual(below(12.5, { runs: [run(1, 2, 5)], recorded: [run(1, 5, 8)] }), ["1: 8-12"]);
});

test("missingUpTo() names each timeline's part", () => {
  const entries = [{ timeline: timelineId(1), endLsn: lsn(BigInt(6.5 * MIB)), reason: "" }];
  const lineage = { timeline: timelineId(2), entries };
  assert.deepEqual(below(9.5, { runs: [run(1, 2, 5)], lineage }), ["1: 5-6", "2: 6-9"]);
});

const SAMPLE: SlotSample = {
  atMs: 0,
  serverLsn: lsn(BigInt(100.5 * MIB)),
  restartLsn: lsn(BigInt(4 * MIB)),
  walStatus: "reserved",
  safeWalBytes: undefined,
};

/** Gives a slot up that an archive with segment 3 had; resolves to its error, and what the ledger told and tells. */
function giveUpOnSimDisk(
  drop: () => Promise<void>,
  see: (
    seen: {
      readonly error: Error;
      readonly before: readonly string[];
      readonly after: readonly string[];
      /** So often the slots of standbys were dropped. */
      readonly elsewhere: number;
    },
  ) => void,
): Promise<void> {
  return onSimDisk(async ({ disk }) => {
    await makeArchive(disk);
    await bring(disk, NAMES[0]!, { [NAMES[0]!]: walOf({ bytes: 2 * MIB }).slice(0, MIB) });
    const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
    const clock = new FakeClock();
    const told = async () =>
      (await archive.ledger()).records.map(({ startLsn, endLsn }) =>
        `${startLsn / BigInt(MIB)}-${endLsn / BigInt(MIB)}`
      );
    let before: readonly string[] = [];
    let elsewhere = 0;
    const guardian = {
      address: "db:5432",
      dropSlot: async (
        _systemIdentifier: bigint | undefined,
        beforeDrop: (last: SlotSample) => Promise<void>,
      ) => {
        await beforeDrop(SAMPLE);
        before = await told();
        await drop();
      },
    };
    const options = { clock, events: recordEvents(), now: () => new Date(0) };
    const receiving = new GapReceivingArchive(archive, options);
    const error = await giveSlotUp(guardian, {
      slot: "wv",
      archive: receiving,
      identity: IDENTITY,
      clock,
      log: fakeLog().log,
      dropElsewhere: () => {
        elsewhere++;
        return Promise.resolve(["db3:5432"]);
      },
    }).catch((cause) => cause);
    see({ error, before, after: await told(), elsewhere });
  });
}

test("giveSlotUp() records what will be missing before the slot goes", () =>
  giveUpOnSimDisk(() => Promise.resolve(), ({ error, before, after, elsewhere }) => {
    assert.ok(error instanceof PermanentError);
    assert.match(error.message, /is dropped as --halt-action says, but it may be left on db3:5432;/);
    assert.equal(elsewhere, 1);
    assert.deepEqual(before, ["4-100"]);
    assert.deepEqual(after, ["4-100"]);
  }));

test("giveSlotUp() takes the record back when the slot could not be dropped", () =>
  giveUpOnSimDisk(
    () => Promise.reject(serverError("55006", "it is in use")),
    ({ error, before, after, elsewhere }) => {
      assert.match(error.message, /Cannot drop replication slot "wv".* stays/);
      assert.equal(elsewhere, 0);
      assert.deepEqual(before, ["4-100"]);
      assert.deepEqual(after, [], "the slot still holds it: receiving goes on from there");
    },
  ));

test("giveSlotUp() lets the record stand when the answer is lost: the slot may be gone", () =>
  giveUpOnSimDisk(() => Promise.reject(new Error("ECONNRESET")), ({ error, after }) => {
    assert.match(error.message, /look whether it is gone/);
    assert.deepEqual(after, ["4-100"]);
  }));

test("giveSlotUp() leaves the slot where it is when nothing can be recorded in time", async () => {
  const clock = new FakeClock();
  let isDropped = false;
  const guardian = {
    address: "db:5432",
    dropSlot: async (
      _systemIdentifier: bigint | undefined,
      beforeDrop: (last: SlotSample) => Promise<void>,
    ) => {
      await beforeDrop(SAMPLE);
      isDropped = true;
    },
  };
  const archive = { contents: () => new Promise(() => {}) } as unknown as GapReceivingArchive;
  const end = watched(
    giveSlotUp(guardian, {
      slot: "wv",
      archive,
      identity: IDENTITY,
      clock,
      log: fakeLog().log,
      dropElsewhere: () => Promise.reject(new Error("The slot is still there")),
    }),
  );
  await clock.advance(29_000);
  assert.equal(end.done, false);
  await clock.advance(2000);
  assert.match(String(end.error), /could not be recorded in time, so it stays/);
  assert.equal(isDropped, false);
});
