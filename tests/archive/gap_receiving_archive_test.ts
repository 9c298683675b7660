import assert from "node:assert/strict";
import { test } from "node:test";
import { Archive } from "../../lib/archive/archive.ts";
import { GapReceivingArchive } from "../../lib/archive/gap_receiving_archive.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import type { SegmentNumber } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { makeArchive } from "./brought_files.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";
import { NAMES, NAMING, onSimDisk, recordEvents, SEGMENT_SIZE, START } from "./on_sim_disk.ts";

const NAME = "000000010000000000000004";

async function put(disk: Disk, name: string, bytes: number): Promise<void> {
  const file = await disk.create(name, 0o600);
  await file.write(new Uint8Array(bytes), 0);
  await file.close();
}

/** What can stand under a segment's names, and whether that is the segment. */
const STANDING:
  readonly (readonly [what: string, make: (disk: Disk) => Promise<unknown>, isSegment: boolean])[] = [
    ["nothing", () => Promise.resolve(), false],
    ["a plain file of a segment's size", (disk) => put(disk, NAME, SEGMENT_SIZE), true],
    ["a plain file of another size", (disk) => put(disk, NAME, 1000), false],
    ["an empty file", (disk) => put(disk, NAME, 0), false],
    ["a directory", (disk) => disk.makeDirectory(NAME, 0o700), false],
    ["a compressed file of any size", (disk) => put(disk, `${NAME}.zst`, 1000), true],
    ["a directory by a compressed name", (disk) => disk.makeDirectory(`${NAME}.gz`, 0o700), false],
    ["a wrong plain file beside a compressed one", async (disk) => {
      await put(disk, NAME, 1000);
      await put(disk, `${NAME}.lz4`, 1000);
    }, true],
  ];

for (const [what, make, isSegment] of STANDING) {
  test(`hasSegment() says what the inventory says: ${what}`, () =>
    onSimDisk(async ({ disk, clock }) => {
      await makeArchive(disk);
      await make(disk);
      const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
      const receiving = new GapReceivingArchive(archive, {
        clock,
        events: recordEvents(),
        now: () => new Date(0),
      });
      const segment = { timeline: timelineId(1), number: 4n as SegmentNumber };
      assert.equal(await receiving.hasSegment(segment), isSegment);
      assert.equal((await receiving.contents()).runs.length === 1, isSegment);
    }));
}

test("unfinishedEnd() is where the records end in the copy that goes furthest", () =>
  onSimDisk(async ({ disk, clock }) => {
    await makeArchive(disk);
    const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
    const receiving = new GapReceivingArchive(archive, {
      clock,
      events: recordEvents(),
      now: () => new Date(0),
    });
    const segment = { timeline: timelineId(1), number: 3n as SegmentNumber };
    assert.equal(await receiving.unfinishedEnd(segment), undefined, "nothing is there");
    const plans = [3000, 9000, 500].map((totalBytes) => ({ totalBytes }));
    const { segments, records } = buildWal({ startLsn: START, segmentBytes: MIB, records: plans });
    const write = async (name: string, end: bigint) => {
      const file = await disk.create(`inprogress/${name}`, 0o600);
      await file.write(segments[0]!.subarray(0, Number(end - START)), 0);
      await file.close();
    };
    await write(NAMES[0]!, records[1]!.lsn + 100n);
    assert.equal(await receiving.unfinishedEnd(segment), records[0]!.endLsn);
    await write(`${NAMES[0]}.saved-1`, records[1]!.endLsn);
    await write(NAMES[1]!, records[2]!.endLsn);
    assert.equal(await receiving.unfinishedEnd(segment), records[1]!.endLsn);
  }));
