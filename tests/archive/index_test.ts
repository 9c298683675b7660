import assert from "node:assert/strict";
import { test } from "node:test";
import { DamagedFileError } from "../../lib/archive/damaged_file.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import {
  buildIndex,
  buildPublishedIndex,
  readIndex,
  readIndexHead,
  writeIndex,
} from "../../lib/archive/index.ts";
import { directIndexWorker } from "../../lib/archive/index_worker.ts";
import { encodeSegmentIndex, type SegmentIndex } from "../../lib/archive/segment_index.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { filler, NOON, transactionEnd } from "../wal/record_plans.ts";
import { buildWal, MIB, type RecordPlan } from "../wal/wal_builder.ts";
import { IDENTITY, MODES, NAMES, onSimDisk, START } from "./on_sim_disk.ts";

const [NAME = "", SECOND = "", THIRD = ""] = NAMES;
const PATH = `index/${NAME}.idx`;
const SEGMENT = { name: NAME, identity: IDENTITY };

/** Two segments whose border lies within a commit, and the start of a third. */
function segments(): readonly Uint8Array[] {
  const records: RecordPlan[] = [transactionEnd({ xid: 800, us: NOON })];
  for (let bytes = 0; bytes < MIB - 40_000; bytes += 8000) records.push(filler(8000));
  const subxids = Array.from({ length: 20_000 }, (_, i) => 1000 + i);
  records.push(transactionEnd({ xid: 900, us: NOON + 1n, subxids }));
  for (let bytes = 0; bytes < MIB; bytes += 8000) records.push(filler(8000));
  return buildWal({ startLsn: START, segmentBytes: MIB, records }).segments;
}

async function put(disk: Disk, path: string, bytes: Uint8Array): Promise<void> {
  if (await disk.entry(path) !== undefined) await disk.unlink(path);
  const file = await disk.create(path, 0o600);
  await file.write(bytes, 0);
  await file.close();
}

async function made(disk: Disk): Promise<SegmentIndex> {
  for (const [i, name] of [NAME, SECOND, THIRD].entries()) await put(disk, name, segments()[i]!);
  return (await buildPublishedIndex(disk, SEGMENT, [SECOND]))!;
}

test("an index is written, read, and told apart from what it is not of", () =>
  onSimDisk(async ({ disk }) => {
    assert.equal(await readIndex(disk, SEGMENT), undefined);
    const index = await made(disk);
    assert.deepEqual([...index.xids], [800, 900]);
    assert.equal(index.openRecord, "settled");
    await writeIndex(disk, index, MODES);
    await writeIndex(disk, index, MODES); // over itself
    assert.deepEqual(await readIndex(disk, SEGMENT), index);
    assert.equal((await readIndexHead(disk, SEGMENT))?.contentCrc, index.contentCrc);
    assert.deepEqual(await disk.list("index"), [`${NAME}.idx`]);
    for (
      const other of [
        { ...IDENTITY, systemIdentifier: 1n },
        { ...IDENTITY, segmentSize: segmentSize(2 * MIB) },
      ]
    ) {
      const path = { name: NAME, identity: other };
      assert.equal(await readIndex(disk, path), undefined);
      assert.equal(await readIndexHead(disk, path), undefined);
    }
    // Renamed by somebody.
    await disk.rename(PATH, `index/${SECOND}.idx`);
    assert.equal(await readIndexHead(disk, { name: SECOND, identity: IDENTITY }), undefined);
  }));

test("a torn or damaged index is none", () =>
  onSimDisk(async ({ disk }) => {
    const index = await made(disk);
    await writeIndex(disk, index, MODES);
    const bytes = encodeSegmentIndex(index);
    for (const length of [0, 7, 383, 384, 385, bytes.length - 1]) {
      await put(disk, PATH, bytes.slice(0, length));
      assert.equal(await readIndex(disk, SEGMENT), undefined, `${length} bytes`);
      // Of a head, all that is asked is there.
      assert.equal(await readIndexHead(disk, SEGMENT) !== undefined, length >= 384, `${length} bytes`);
    }
    await put(disk, PATH, new Uint8Array(bytes.length));
    assert.equal(await readIndexHead(disk, SEGMENT), undefined);
  }));

test("an index that can't be written leaves the one that is there, and no temporary file", () =>
  onSimDisk(async (machine) => {
    const { disk } = machine;
    const index = await made(disk);
    await writeIndex(disk, index, MODES);
    machine.fail("write", "ENOSPC");
    await assert.rejects(writeIndex(disk, index, MODES), { code: "ENOSPC" });
    assert.deepEqual(await disk.list("index"), [`${NAME}.idx`]);
    assert.deepEqual(await readIndex(disk, SEGMENT), index);
  }));

test("a power cut leaves an index that is right, or none", async () => {
  for (let seed = 1; seed <= 20; seed++) {
    await onSimDisk(async (machine) => {
      const index = await made(machine.disk);
      await writeIndex(machine.disk, index, MODES);
      const after = machine.restart("power cut");
      const found = await readIndex(after, SEGMENT);
      if (found !== undefined) assert.deepEqual(found, index);
    }, seed);
  }
});

test("the next segment is read as far as it is needed, and an index waits for it", () =>
  onSimDisk(async ({ disk }) => {
    await put(disk, NAME, segments()[0]!);
    const alone = (await buildPublishedIndex(disk, SEGMENT, [SECOND, THIRD]))!;
    assert.equal(alone.openRecord, "unresolved");
    assert.deepEqual([...alone.xids], [800]);
    assert.equal(await buildPublishedIndex(disk, { name: SECOND, identity: IDENTITY }, []), undefined);
    // Its first bytes only: not yet all of the record.
    const start = segments()[1]!.slice(0, 16_384);
    const read = (bytes: Uint8Array) => async (take: (bytes: Uint8Array, at: number) => unknown) => {
      await take(bytes, 0);
    };
    const reads = [read(start)];
    const waiting = await buildIndex(SEGMENT, read(segments()[0]!), { next: () => reads.shift() });
    assert.equal(waiting.openRecord, "unresolved");
    assert.equal(waiting.contentCrc, alone.contentCrc);
  }));

test("the worker indexes what has no index, oldest first", () =>
  onSimDisk(async ({ disk }) => {
    const worker = directIndexWorker(disk, { identity: IDENTITY, modes: MODES });
    await made(disk);
    await put(disk, "archive.json", Uint8Array.of(1));
    assert.deepEqual(await worker.missing(2), [NAME, SECOND]);
    assert.equal(await worker.index(NAME), "settled");
    assert.deepEqual(await worker.missing(9), [SECOND, THIRD]);
    assert.equal(await worker.index("0000000100000000000000FF"), "gone");
    assert.deepEqual([...(await readIndex(disk, SEGMENT))!.xids], [800, 900]);
  }));

test("the worker settles an index of the same bytes, and never one of other bytes", () =>
  onSimDisk(async ({ disk }) => {
    const [first, second] = segments();
    const worker = directIndexWorker(disk, { identity: IDENTITY, modes: MODES });
    await put(disk, NAME, first!);
    assert.equal(await worker.index(NAME), "unresolved");
    const right = await readIndex(disk, SEGMENT);
    await put(disk, SECOND, second!);
    // A byte that no record has: the segment alone proves itself, and is not what it was.
    const changed = first!.slice();
    changed[8192 + 20]! ^= 1;
    await disk.unlink(NAME);
    await put(disk, NAME, changed);
    await assert.rejects(worker.index(NAME), DamagedFileError);
    assert.deepEqual(await readIndex(disk, SEGMENT), right);
    await disk.unlink(NAME);
    await put(disk, NAME, first!);
    assert.equal(await worker.index(NAME), "settled");
    assert.deepEqual([...(await readIndex(disk, SEGMENT))!.xids], [800, 900]);
  }));
