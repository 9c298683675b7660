import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { Archive } from "../../lib/archive/archive.ts";
// Loaded before time is simulated.
import "../../lib/archive/compression.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { GapReceivingArchive } from "../../lib/archive/gap_receiving_archive.ts";
import { encodeLz4Frame } from "../../lib/archive/lz4_frame.ts";
import { lz4BlockEncoder } from "../../lib/archive/lz4_block.ts";
import { xxHash32 } from "../../lib/archive/xx_hash32.ts";
import { realClock } from "../../lib/commands/clock.ts";
import { segmentNumber } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";
import { bring, makeArchive } from "./brought_files.ts";
import { onDisk } from "./on_disk.ts";
import { type Machine, NAMES, NAMING, onSimDisk, recordEvents, START, walOf } from "./on_sim_disk.ts";

const WAL = walOf({ bytes: 5 * MIB });
const segmentOf = (index: number, wal = WAL) => wal.slice(index * MIB, (index + 1) * MIB);
const [FIRST = "", SECOND = "", THIRD = "", FOURTH = ""] = NAMES;
/** Segments 4 and 5. */
const RANGE = { timeline: timelineId(1), firstNumber: segmentNumber(4n), endNumber: segmentNumber(6n) };

/** As somebody copies a file by hand: nothing is synced. */
async function copy(disk: Disk, name: string, content: Uint8Array): Promise<void> {
  const file = await disk.create(name, 0o600);
  await file.write(content, 0);
  await file.close();
}

async function withRange(
  use: (archive: GapReceivingArchive, machine: Machine) => Promise<void>,
): Promise<void> {
  await onSimDisk(async (machine) => {
    const archive = await makeArchive(machine.disk);
    await bring(machine.disk, FIRST, { [FIRST]: segmentOf(0) });
    await bring(machine.disk, FOURTH, { [FOURTH]: segmentOf(3) });
    const options = { clock: machine.clock, events: recordEvents(), now: () => new Date(0) };
    await use(new GapReceivingArchive(archive, options), machine);
  });
}

const lz4Of = (bytes: Uint8Array) =>
  encodeLz4Frame(bytes, { hash: xxHash32, encodeBlock: lz4BlockEncoder() });

test("proveSegments() believes no name alone", async () => {
  const clone = walOf({ bytes: 5 * MIB, seed: 3 });
  const damaged = segmentOf(2).fill(1, 500_000, 500_010);
  for (
    const [form, content] of [
      ["", new Uint8Array(MIB)],
      ["", segmentOf(2).subarray(0, MIB / 2)],
      ["", segmentOf(2).fill(0, MIB / 2)],
      ["", segmentOf(1)],
      ["", segmentOf(2, clone)],
      ["", damaged],
      ["", walOf({ bytes: 5 * MIB }).slice(2 * MIB, 3 * MIB + 8192)],
      [".lz4", new Uint8Array(1)],
      [".lz4", lz4Of(segmentOf(2)).subarray(0, -100)],
      [".lz4", lz4Of(damaged)],
      ["missing", segmentOf(2)],
    ] as const
  ) {
    await withRange(async (archive, { disk }) => {
      await copy(disk, SECOND, segmentOf(1));
      if (form !== "missing") await copy(disk, THIRD + form, content);
      const unproven = await archive.proveSegments(RANGE);
      assert.ok(unproven.some(({ name }) => name === THIRD), `${form} ${content.length}`);
      assert.ok(unproven.every(({ problem }) => problem !== ""));
      assert.deepEqual(await archive.proveSegments(RANGE), unproven);
      if (form !== "missing") await disk.unlink(THIRD + form);
      await copy(disk, THIRD, segmentOf(2));
      assert.deepEqual(await archive.proveSegments(RANGE), []);
    });
  }
});

test("P1: what proveSegments() has proven survives a power cut, whoever put it there", () =>
  withRange(async (archive, machine) => {
    await copy(machine.disk, SECOND, segmentOf(1));
    await copy(machine.disk, `${THIRD}.lz4`, lz4Of(segmentOf(2)));
    assert.deepEqual(await archive.proveSegments(RANGE), []);
    const disk = machine.restart("power cut");
    assert.deepEqual(machine.sim.file(SECOND)?.content, segmentOf(1));
    assert.deepEqual(machine.sim.file(`${THIRD}.lz4`)?.content, lz4Of(segmentOf(2)));
    await assert.doesNotReject(Archive.open(disk, { naming: NAMING, userId: undefined }));
  }));

test("proveSegments() reads nothing twice, before a file is another one", () =>
  withRange(async (archive, machine) => {
    for (const [name, index] of [[SECOND, 1], [THIRD, 2]] as const) {
      await copy(machine.disk, name, segmentOf(index));
    }
    const kindsOf = async () => {
      const before = machine.kinds.length;
      assert.deepEqual(await archive.proveSegments(RANGE), []);
      return new Set(machine.kinds.slice(before));
    };
    assert.ok((await kindsOf()).has("read"));
    assert.ok(!(await kindsOf()).has("read"));
    await machine.disk.unlink(THIRD);
    await copy(machine.disk, THIRD, segmentOf(2));
    assert.ok((await kindsOf()).has("read"));
  }));

test("proveSegments() reads what is wrong again only when it was written to", () =>
  withRange(async (archive, machine) => {
    await copy(machine.disk, SECOND, segmentOf(1));
    await copy(machine.disk, THIRD, segmentOf(2).fill(0, MIB / 2));
    const [first] = await archive.proveSegments(RANGE);
    assert.equal(first?.name, THIRD);
    const before = machine.kinds.length;
    assert.deepEqual(await archive.proveSegments(RANGE), [first]);
    assert.ok(!machine.kinds.slice(before).includes("read"));
    // Longer now, it is looked at again.
    const file = await machine.disk.append(THIRD, 0o600);
    await file.write(new Uint8Array(1), MIB);
    await file.close();
    assert.notDeepEqual(await archive.proveSegments(RANGE), [first]);
    await machine.disk.unlink(THIRD);
    await copy(machine.disk, THIRD, segmentOf(2));
    assert.deepEqual(await archive.proveSegments(RANGE), []);
  }));

test("proveSegments() looks again when a segment or its neighbour was written over in its place, as cp does", () =>
  onDisk(openDirectDisk, async (disk, root) => {
    const archive = await makeArchive(disk);
    await bring(disk, FIRST, { [FIRST]: segmentOf(0) });
    await bring(disk, FOURTH, { [FOURTH]: segmentOf(3) });
    const options = { clock: realClock, events: recordEvents(), now: () => new Date(0) };
    const receiving = new GapReceivingArchive(archive, options);
    const unproven = async () => (await receiving.proveSegments(RANGE)).map(({ name }) => name);
    // It stays the same file, and as long.
    const writeOver = (name: string, content: Uint8Array) =>
      writeFileSync(join(root, name), content, { flag: "r+" });
    await copy(disk, SECOND, segmentOf(1));
    await copy(disk, THIRD, segmentOf(2, walOf({ bytes: 5 * MIB, seed: 3 })));
    assert.deepEqual(await unproven(), [SECOND, THIRD]);
    writeOver(THIRD, segmentOf(2));
    assert.deepEqual(await unproven(), [], "what the neighbour spoke against counts no more");
    writeOver(THIRD, segmentOf(2).fill(0, MIB / 2));
    assert.ok((await unproven()).includes(THIRD), "it is not what was proven");
  }));

test("isAnchored() tells whether a clone's WAL up to a range's end would be found out", () =>
  onSimDisk(async ({ disk, clock }) => {
    const wal = (partsAt: number) => {
      const records = Array.from(
        { length: 1000 },
        (_, index) => ({ totalBytes: index < partsAt ? 5000 : 5024 }),
      );
      const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records });
      return (index: number) => segments[index]!;
    };
    // It parted inside the range's first segment.
    const [right, clone] = [wal(Infinity), wal(300)];
    const archive = await makeArchive(disk);
    await bring(disk, FIRST, { [FIRST]: right(0) });
    await copy(disk, SECOND, clone(1));
    await copy(disk, THIRD, clone(2));
    const options = { clock, events: recordEvents(), now: () => new Date(0) };
    const receiving = new GapReceivingArchive(archive, options);
    assert.deepEqual(await receiving.proveSegments(RANGE), [], "nothing speaks against it yet");
    assert.equal(await receiving.isAnchored(RANGE), false);
    const file = await disk.create(`inprogress/${FOURTH}`, 0o600);
    await file.truncate(MIB);
    await file.write(right(3).slice(0, 2000), 0);
    assert.equal(await receiving.isAnchored(RANGE), false, "no whole record");
    await file.write(right(3).slice(0, 300_000), 0);
    await file.close();
    assert.equal(await receiving.isAnchored(RANGE), true);
    const later = new GapReceivingArchive(archive, options);
    assert.deepEqual((await later.proveSegments(RANGE)).map(({ name }) => name), [THIRD]);
  }));

test("proveSegments() ends soon when it is told to, and goes on where it was", () =>
  withRange(async (archive, machine) => {
    await copy(machine.disk, SECOND, segmentOf(1));
    await copy(machine.disk, THIRD, segmentOf(2));
    const abort = new AbortController();
    const proving = archive.proveSegments(RANGE, abort.signal);
    abort.abort(new Error("Receiving has ended"));
    await assert.rejects(proving, /Receiving has ended/);
    assert.deepEqual(await archive.proveSegments(RANGE, new AbortController().signal), []);
    assert.ok(machine.kinds.includes("syncDirectory"));
  }));

test("proveSegments() reads on the disk that it is given, not where WAL becomes durable", () =>
  onSimDisk(async (machine) => {
    const archive = await makeArchive(machine.disk);
    await bring(machine.disk, FIRST, { [FIRST]: segmentOf(0) });
    await copy(machine.disk, SECOND, segmentOf(1));
    await copy(machine.disk, THIRD, segmentOf(2));
    const opened: Archive[] = [];
    const receiving = new GapReceivingArchive(archive, {
      clock: machine.clock,
      events: recordEvents(),
      now: () => new Date(0),
      proofOn: async () => {
        opened.push(await Archive.open(machine.disk, { naming: NAMING, userId: undefined }));
        return opened.at(-1)!;
      },
    });
    assert.equal(opened.length, 0);
    assert.deepEqual(await receiving.proveSegments(RANGE), []);
    assert.deepEqual(await receiving.proveSegments(RANGE), []);
    assert.equal(opened.length, 1);
  }));

test("recordHealed() writes a line that is durable, and that later removals make no gap of", () =>
  withRange(async (archive, machine) => {
    await archive.recordGap({ run: RANGE, reason: "", server: "", answer: "" });
    await archive.recordHealed(RANGE);
    const disk = machine.restart("power cut");
    const { gaps } = await (await Archive.open(disk, { naming: NAMING, userId: undefined })).contents();
    assert.deepEqual(gaps, { recorded: [RANGE], accepted: [], healed: [RANGE] });
  }));

test("proveSegments() rejects what the disk says to a sync", () =>
  withRange(async (archive, machine) => {
    await copy(machine.disk, SECOND, segmentOf(1));
    machine.fail("sync", "EIO");
    await assert.rejects(
      archive.proveSegments(RANGE),
      (error) => (error as { code?: string }).code === "EIO",
    );
  }));
