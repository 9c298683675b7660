import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { SegmentCompressor } from "../../lib/archive/compress.ts";
import {
  type CompressionFormat,
  FORM_OF_FORMAT,
  openPieceEncoder,
  PieceCompressor,
} from "../../lib/archive/compression.ts";
import { openCompressionThread } from "../../lib/archive/compression_thread.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { PIECE_BYTES } from "../../lib/archive/piece_encoder.ts";
import { openDirectPieceWorker, OUTPUT_BYTES, type PieceWorker } from "../../lib/archive/piece_worker.ts";
import { SegmentWriter } from "../../lib/archive/segment_writer.ts";
import { withPublished } from "../../lib/archive/published.ts";
import { type SegmentSize, segmentSize } from "../../lib/wal/segment.ts";
import { MIB } from "../wal/wal_builder.ts";
import {
  IDENTITY,
  legAt,
  type Machine,
  MODES,
  NAMES,
  NAMING,
  onSimDisk,
  SEGMENT_SIZE,
  START,
  walOf,
} from "./on_sim_disk.ts";

/** Two pieces. */
const SIZE = segmentSize(2 * MIB);
const SEGMENTS = NAMES.slice(0, 3);

function contentOf(name: string): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  // Not more than a simulation of many runs has time for.
  const seed = name.charCodeAt(23);
  for (let at = 0; at < SIZE; at += 64 * 1024) {
    for (let i = 0; i < 600; i++) bytes[at + i] = Math.imul(at + i + seed, 0x9e3779b1) >>> 11 & 255;
  }
  return bytes;
}

const CONTENTS = new Map(SEGMENTS.map((name) => [name, contentOf(name)]));

async function put(disk: Disk, path: string, bytes: Uint8Array): Promise<void> {
  const file = await disk.create(path, 0o600);
  await file.write(bytes, 0);
  await file.sync();
  await file.close();
}

/** Published as the segment writer does it. */
async function publish(disk: Disk, name: string): Promise<void> {
  await put(disk, `inprogress/${name}`, CONTENTS.get(name) ?? new Uint8Array(0));
  await disk.link(`inprogress/${name}`, name);
  await disk.unlink(`inprogress/${name}`);
  await disk.syncDirectory(".");
}

async function prepare(disk: Disk, names: readonly string[] = SEGMENTS): Promise<void> {
  await disk.makeDirectory("inprogress", 0o700);
  await disk.syncDirectory(".");
  for (const name of names) await publish(disk, name);
}

function memory() {
  return { content: new Uint8Array(PIECE_BYTES), output: new Uint8Array(OUTPUT_BYTES) };
}

function start(
  machine: Machine,
  disk: Disk,
  options: {
    readonly resting?: boolean;
    readonly size?: SegmentSize;
    readonly format?: CompressionFormat;
    readonly worker?: PieceWorker;
    readonly hardLinks?: boolean;
  } = {},
) {
  const { format = "zstd", hardLinks = true, resting = true, size = SIZE } = options;
  const worker = options.worker ??
    openDirectPieceWorker(() => openPieceEncoder({ format, level: 1 }), memory());
  const told: string[] = [];
  const archive = { disk, segmentSize: size, modes: MODES, naming: { ...NAMING, hardLinks } };
  const compressor = new SegmentCompressor(archive, worker, {
    format,
    resting,
    clock: machine.clock,
    events: {
      segmentCompressed: ({ path }) => void told.push(`compressed ${path}`),
      compressionHeldUp: ({ error }) => void told.push(`held up: ${(error as Error).message}`),
      compressionGoesOn: () => void told.push("goes on"),
      segmentLeftAlone: ({ segment, problem }) => void told.push(`left ${segment}: ${problem}`),
    },
  });
  return { compressor, told };
}

async function until(machine: Machine, condition: () => boolean): Promise<void> {
  for (let rounds = 0; !condition(); rounds++) {
    assert.ok(rounds < 100_000, "it does not come to an end");
    await machine.sleep(1);
  }
}

/** Every segment is there, in some form, as its reader finds it. */
async function assertAllThere(disk: Disk, names: readonly string[] = SEGMENTS): Promise<void> {
  for (const name of names) await assertThere(disk, name, CONTENTS.get(name) ?? new Uint8Array(SIZE));
}

async function assertThere(disk: Disk, name: string, content: Uint8Array): Promise<void> {
  const bytes = new Uint8Array(content.length);
  const size = segmentSize(content.length);
  const found = await withPublished(disk, { name, segmentSize: size }, async (published) => {
    await published.readThrough((piece, position) => {
      bytes.set(piece, position);
      return "more";
    });
    return published.path;
  });
  assert.ok(found !== undefined, `${name} is gone`);
  assert.ok(Buffer.compare(bytes, content) === 0, `${found} holds other bytes`);
}

// Streams run outside of simulated time, so no gzip.
for (const format of ["zstd", "lz4"] as const) {
  const form = FORM_OF_FORMAT[format];

  test(`SegmentCompressor replaces what is there, oldest first, and what is published later: ${format}`, () =>
    onSimDisk(async (machine) => {
      const [first = "", second = "", third = ""] = SEGMENTS;
      await prepare(machine.disk, [second, first]);
      const { compressor, told } = start(machine, machine.disk, { format });
      await until(machine, () => told.length === 2);
      await publish(machine.disk, third);
      compressor.published(third);
      await until(machine, () => told.length === 3);
      await compressor.stop();
      assert.deepEqual(told, SEGMENTS.map((name) => `compressed ${name}${form}`));
      const names = machine.sim.names(".").filter((name) => name !== "inprogress");
      assert.deepEqual(names.sort(), SEGMENTS.map((name) => name + form));
      assert.deepEqual(machine.sim.names("inprogress"), []);
      await assertAllThere(machine.disk);
    }));
}

for (const hardLinks of [true, false]) {
  const links = `with${hardLinks ? "" : "out"} hard links`;
  for (const how of ["kill", "power cut"] as const) {
    test(`a ${how} at any operation leaves a whole copy of each segment, ${links}`, async () => {
      const names = SEGMENTS.slice(0, 2);
      for (let stopAt = 0, ended = false; !ended; stopAt++) {
        for (let seed = 0; seed < (how === "kill" ? 1 : 3); seed++) {
          await onSimDisk(async (machine) => {
            await prepare(machine.disk, names);
            const before = machine.sim.operations;
            const { told } = start(machine, machine.disk, { hardLinks });
            while (machine.sim.operations < before + stopAt && told.length < names.length) {
              await machine.sleep(0.01);
            }
            ended = machine.sim.operations < before + stopAt;
            const disk = machine.restart(how);
            await assertAllThere(disk, names);
            // The next one makes an end of it.
            const next = start(machine, disk, { hardLinks });
            const plain = () => machine.sim.names(".").filter((name) => name.length === 24);
            await until(machine, () => plain().length === 0);
            await next.compressor.stop();
            await assertAllThere(disk, names);
            await assertAllThere(machine.restart("power cut"), names);
          }, seed * 1000 + stopAt);
        }
      }
    });
  }
}

test("beside the writer that publishes: what was acknowledged is there, wherever the power is cut", async () => {
  const wal = walOf({ bytes: 3 * MIB });
  let cutsBetween = 0;
  for (let stopAt = 1, ended = false; !ended; stopAt += 3) {
    await onSimDisk(async (machine) => {
      await machine.disk.makeDirectory("inprogress", 0o700);
      await machine.disk.syncDirectory(".");
      const before = machine.sim.operations;
      // Two threads, two ways to the one disk; both end with the process.
      const { compressor, told } = start(machine, machine.disk, { size: SEGMENT_SIZE });
      const zeros = SegmentWriter.zeroPiece(machine.disk);
      const writer = new SegmentWriter(machine.disk, IDENTITY, legAt(), {
        modes: MODES,
        naming: NAMING,
        zeros,
        events: {
          segmentPublished: ({ segment }) => compressor.published(segment),
          savedCopyKept: () => {},
          savedCopyPassed: () => {},
          unknownPageMagic: () => {},
        },
      });
      const receiving = (async () => {
        for (let at = 0; at < wal.length; at = Number(writer.writeLsn - START)) {
          await writer.append(wal.subarray(at, at + 300_000), "sync");
          if (writer.segmentFull) await writer.publish();
          await machine.sleep(3);
        }
      })();
      receiving.catch(() => {
        // It never ends when the process is killed.
      });
      while (machine.sim.operations < before + stopAt && told.length < 3) await machine.sleep(0.05);
      ended = told.length === 3;
      if (told.length > 0 && told.length < 3) cutsBetween++;
      const acknowledged = Math.floor(Number(writer.flushLsn - START) / MIB);
      const disk = machine.restart("power cut");
      for (let index = 0; index < acknowledged; index++) {
        await assertThere(disk, NAMES[index] ?? "", wal.subarray(index * MIB, (index + 1) * MIB));
      }
    }, stopAt);
  }
  assert.ok(cutsBetween > 10, `${cutsBetween} cuts between the first and the last segment`);
});

test("a full disk holds compression up, is told once, and leaves the plain segments and no temporary file", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    machine.fail("write", "ENOSPC", 70_000);
    const { compressor, told } = start(machine, machine.disk);
    await machine.sleep(60_000);
    assert.deepEqual(machine.sim.names("inprogress"), []);
    await assertAllThere(machine.disk);
    await until(machine, () => told.length === 5);
    await compressor.stop();
    assert.match(told[0] ?? "", /^held up: ENOSPC/);
    assert.match(told[1] ?? "", /^(goes on|compressed)/);
    assert.equal(told.filter((line) => line.startsWith("held up")).length, 1);
    assert.equal(told.filter((line) => line.startsWith("compressed")).length, 3);
    await assertAllThere(machine.disk);
  }));

for (
  const kind of [
    "open",
    "create",
    "link",
    "unlink",
    "entry",
    "read",
    "sync",
    "close",
  ] as const
) {
  test(`after a failed ${kind} it is tried again, and nothing is lost`, () =>
    onSimDisk(async (machine) => {
      await prepare(machine.disk);
      machine.fail(kind, "EIO");
      const { compressor, told } = start(machine, machine.disk);
      const plain = () => machine.sim.names(".").filter((name) => name.length === 24);
      await until(machine, () => plain().length === 0 && told.includes("goes on"));
      await compressor.stop();
      await assertAllThere(machine.disk);
      await assertAllThere(machine.restart("power cut"));
    }));
}

test("after a failed syncDirectory the plain file stays, since a second one would prove nothing", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    machine.fail("syncDirectory", "EIO");
    const { compressor, told } = start(machine, machine.disk);
    const plain = () => machine.sim.names(".").filter((name) => name.length === 24);
    await until(machine, () => told.filter((line) => line.startsWith("compressed")).length === 2);
    await machine.sleep(700_000);
    await compressor.stop();
    assert.equal(plain().length, 1);
    assert.match(told.find((line) => line.startsWith("left")) ?? "", /a sync beside it failed \(EIO/);
    await assertAllThere(machine.disk);
    await assertAllThere(machine.restart("power cut"));
  }));

test("a compressed form that is there already is held against the plain one", () =>
  onSimDisk(async (machine) => {
    const [same = "", other = "", damaged = ""] = SEGMENTS;
    await prepare(machine.disk);
    const compressed = (content: Uint8Array) => {
      const compressor = new PieceCompressor({ format: "lz4", level: 1 });
      return Buffer.concat([...compressor.push(content), ...compressor.end()]);
    };
    await put(machine.disk, `${same}.lz4`, compressed(contentOf(same)));
    await put(machine.disk, `${other}.lz4`, compressed(contentOf(same)));
    await put(machine.disk, `${damaged}.lz4`, compressed(contentOf(damaged)).subarray(0, 700));
    const { compressor, told } = start(machine, machine.disk);
    await until(machine, () => told.length === 2);
    await machine.sleep(700_000);
    await compressor.stop();
    assert.match(
      told[0] ?? "",
      new RegExp(`^left ${other}: "${other}.lz4" holds other bytes, first at byte 0`),
    );
    assert.match(
      told[1] ?? "",
      new RegExp(`^left ${damaged}: Cannot read "/archive/${damaged}.lz4": it is cut off`),
    );
    assert.equal(told.length, 2);
    const names = machine.sim.names(".").filter((name) => name !== "inprogress").sort();
    assert.deepEqual(names, [`${same}.lz4`, other, `${other}.lz4`, damaged, `${damaged}.lz4`]);
    await assertAllThere(machine.disk);
  }));

test("a compressed file that does not read back as it was written is not used", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const worker = openDirectPieceWorker(() => openPieceEncoder({ format: "zstd", level: 1 }), memory());
    let calls = 0;
    const lying: PieceWorker = {
      ...worker,
      compress: async (contentBytes) => {
        // As if memory had flipped a bit between reading and compressing.
        if (++calls === 2) worker.memory.content[5]! ^= 1;
        return await worker.compress(contentBytes);
      },
    };
    const { compressor, told } = start(machine, machine.disk, { worker: lying });
    await until(machine, () => told.length === 3);
    await compressor.stop();
    const [first = ""] = SEGMENTS;
    assert.equal(told[0], `left ${first}: its compressed file does not read back as it was written`);
    assert.ok(machine.sim.names(".").includes(first));
    assert.ok(!machine.sim.names(".").includes(`${first}.zst`));
    assert.deepEqual(machine.sim.names("inprogress"), []);
    await assertAllThere(machine.disk);
  }));

for (const format of ["zstd", "gzip", "lz4"] as const) {
  test(`a piece with another bit than it was made with does not hold, wherever that is: ${format}`, async () => {
    const worker = openDirectPieceWorker(() => openPieceEncoder({ format, level: 1 }), memory());
    const content = contentOf(NAMES[0] ?? "").subarray(0, 700);
    const { memory: { output } } = worker;
    await worker.begin();
    worker.memory.content.set(content);
    const outputBytes = await worker.compress(content.length);
    const piece = { contentBytes: content.length, outputBytes, isFirst: true };
    assert.equal(await worker.holds(piece), true);
    for (let bit = 0; bit < 8 * outputBytes; bit++) {
      output[bit >>> 3]! ^= 1 << (bit & 7);
      assert.equal(await worker.holds(piece).catch(() => false), false, `bit ${bit}`);
      output[bit >>> 3]! ^= 1 << (bit & 7);
    }
    assert.equal(await worker.holds(piece), true);
  });
}

test("in a burst it rests, where it is told to, and works on when the burst is over", async () => {
  const took = new Map<boolean, number>();
  for (const resting of [false, true]) {
    await onSimDisk(async (machine) => {
      await prepare(machine.disk);
      const { compressor, told } = start(machine, machine.disk, { resting });
      const startedMs = machine.clock.nowMs();
      for (let rounds = 0; told.length < SEGMENTS.length; rounds++) {
        compressor.published(SEGMENTS[0] ?? "");
        await machine.sleep(0.5);
        assert.ok(rounds < 10_000, "it does not come to an end");
      }
      took.set(resting, machine.clock.nowMs() - startedMs);
      await compressor.stop();
      await assertAllThere(machine.disk);
    });
  }
  const [without = 0, withRest = 0] = [took.get(false), took.get(true)];
  assert.ok(withRest > 1.5 * without, `${withRest} ms with rests, ${without} without`);
});

test("stop() gives up between two pieces, and leaves the plain segment alone", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { compressor, told } = start(machine, machine.disk);
    await until(machine, () => machine.sim.names("inprogress").length > 0);
    await compressor.stop();
    assert.deepEqual(told, []);
    assert.deepEqual(machine.sim.names("inprogress"), []);
    assert.deepEqual(machine.sim.names(".").filter((name) => name.length === 24).sort(), [...SEGMENTS]);
    await assertAllThere(machine.disk);
  }));

for (const format of ["zstd", "gzip", "lz4"] as const) {
  test(`the compression thread makes the files that the calling thread makes: ${format}`, async () => {
    const shared = (bytes: number) => new Uint8Array(new SharedArrayBuffer(bytes));
    const compression = { format, level: 1 };
    const thread = openCompressionThread(compression, {
      content: shared(PIECE_BYTES),
      output: shared(OUTPUT_BYTES),
    });
    try {
      const direct = openDirectPieceWorker(() => openPieceEncoder(compression), memory());
      const content = contentOf(NAMES[0] ?? "");
      for (let round = 0; round < 2; round++) {
        for (const worker of [thread, direct]) await worker.begin();
        for (const [index, contentBytes] of [PIECE_BYTES, 1000].entries()) {
          for (const worker of [thread, direct]) worker.memory.content.set(content.subarray(0, contentBytes));
          const outputBytes = await thread.compress(contentBytes);
          assert.equal(outputBytes, await direct.compress(contentBytes));
          const [ours, theirs] = [thread, direct].map(({ memory }) => memory.output.slice(0, outputBytes));
          assert.deepEqual(ours, theirs);
          const piece = { contentBytes, outputBytes, isFirst: index === 0 };
          assert.equal(await thread.holds(piece), true);
          thread.memory.content[contentBytes - 1]! ^= 1;
          assert.equal(await thread.holds(piece), false);
        }
        assert.equal(await thread.end(), await direct.end());
      }
      thread.memory.output.fill(0);
      const zeros = thread.holds({ contentBytes: 9, outputBytes: 30, isFirst: true });
      assert.equal(await zeros.catch(() => false), false);
    } finally {
      await thread.close();
    }
    await assert.rejects(thread.begin(), /closed/);
  });
}
