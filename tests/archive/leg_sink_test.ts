import assert from "node:assert/strict";
import { test } from "node:test";
import { BUFFER_BYTES, LegSink, type LoanEnd, MAXIMUM_UNSYNCED_BYTES } from "../../lib/archive/leg_sink.ts";
import { RoomGuard } from "../../lib/archive/room_guard.ts";
import { SegmentWriter, type WriterRoadEnd } from "../../lib/archive/segment_writer.ts";
import { SYNC_BYTES } from "../../lib/archive/sync_policy.ts";
import { type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { MIB } from "../wal/wal_builder.ts";
import {
  IDENTITY,
  legAt,
  type Machine,
  MODES,
  NAMES,
  NAMING,
  onSimDisk,
  recordEvents,
  START,
  walOf,
} from "./on_sim_disk.ts";

const WAL = walOf({ bytes: 14 * MIB });
const MEMORY = new Uint8Array(BUFFER_BYTES);

async function open(machine: Machine, minimumFree?: number) {
  await machine.disk.makeDirectory("inprogress", 0o700);
  const options = {
    modes: MODES,
    naming: NAMING,
    events: recordEvents(),
    zeros: SegmentWriter.zeroPiece(machine.disk),
  };
  const writer = new SegmentWriter(machine.disk, IDENTITY, legAt(), options);
  const guard = minimumFree === undefined ? undefined : new RoomGuard({
    disk: machine.disk,
    clock: machine.clock,
    minimum: { kind: "bytes", bytes: minimumFree },
    segmentBytes: () => MIB,
  });
  const told = { progress: 0, full: 0, failures: [] as unknown[] };
  const sink = new LegSink(writer, {
    memory: MEMORY,
    clock: machine.clock,
    guard,
    listener: {
      onProgress: () => void told.progress++,
      onFailure: (error) => void told.failures.push(error),
      onDiskFull: () => void told.full++,
    },
  });
  /** As the receiver does it: some bytes, and then nothing more is at hand. */
  const receive = (start: number, end: number, serverEnd = end) => {
    sink.push(WAL.subarray(start, end));
    sink.setServerEnd(lsn(START + BigInt(serverEnd)));
    sink.drained();
  };
  return { sink, writer, told, receive };
}

function at(offset: number): bigint {
  return START + BigInt(offset);
}

test("what is received near the server's end is durable at once", () =>
  onSimDisk(async (machine) => {
    const { sink, receive } = await open(machine);
    assert.equal(sink.idle, true);
    receive(0, 500);
    assert.equal(sink.receivedLsn, at(500));
    assert.equal(sink.flushLsn, START);
    assert.equal(sink.idle, false);
    await machine.sleep(20);
    assert.equal(sink.flushLsn, at(500));
    assert.equal(sink.writeLsn, at(500));
    assert.equal(sink.idle, true);
    await sink.finish();
  }));

test("group commit: one sync is under way at a time, and what comes meanwhile is covered by the next", () =>
  onSimDisk(async (machine) => {
    machine.sim.slownessMs = 20;
    const { sink, receive } = await open(machine);
    receive(0, 100);
    await machine.sleep(200);
    assert.equal(sink.idle, true);
    machine.operations.length = 0;
    receive(100, 200);
    for (let i = 2; i < 50; i++) {
      await machine.sleep(4);
      receive(i * 100, i * 100 + 100);
    }
    await machine.sleep(500);
    assert.equal(sink.flushLsn, at(5000));
    const own = machine.operations.filter((line) =>
      line.includes(NAMES[0]!) && /^(write|sync)/.test(line) && !line.includes("+65536")
    );
    const syncs = own.filter((line) => line.startsWith("sync")).length;
    assert.ok(syncs >= 3 && syncs <= 25, own.join("\n"));
    for (const [index, line] of own.entries()) {
      assert.equal(line.startsWith("write"), index % 2 === 0, own.join("\n"));
    }
    await sink.finish();
  }));

test("far behind the server, few bytes that nothing follows are durable soon as well", () =>
  onSimDisk(async (machine) => {
    const { sink, receive } = await open(machine);
    for (let i = 0; i < 20; i++) {
      receive(i * 1000, i * 1000 + 1000, 10 * MIB);
      await machine.sleep(60);
      assert.equal(sink.flushLsn, at(i * 1000 + 1000), `after ${i + 1} times 1000 bytes`);
    }
    await sink.finish();
  }));

test("far behind the server, one sync covers much", () =>
  onSimDisk(async (machine) => {
    const { sink, receive } = await open(machine);
    machine.sim.slownessMs = 0.01;
    for (let offset = 0; offset < 900_000; offset += 1000) receive(offset, offset + 1000, 14 * MIB);
    await machine.sleep(50);
    const syncs = machine.operations.filter((line) => line.startsWith("sync inprogress")).length;
    assert.ok(syncs <= 3, `${syncs} syncs`);
    await sink.finish();
    assert.equal(sink.flushLsn, at(900_000));
  }));

test("a disk that stalls: the reader is told to pause, what it had read is kept, more is refused", () =>
  onSimDisk(async (machine) => {
    const { sink, receive, told } = await open(machine);
    receive(0, 100);
    await machine.sleep(50);
    // The buffer takes all that is not yet written.
    assert.equal(sink.idle, true);
    machine.sim.stalls.push({ fromOperation: 0, durationMs: 10_000 });
    // Up to the mark the reader may go on; what it had read by then is kept, in the buffer and a little beyond.
    let offset = 100;
    for (; !sink.congested; offset += 10_000) receive(offset, offset + 10_000);
    assert.ok(offset > BUFFER_BYTES / 2 && offset < BUFFER_BYTES, `${offset}`);
    const end = BUFFER_BYTES + 4 * MIB;
    receive(offset, end - 100);
    receive(end - 100, end);
    assert.throws(
      () => sink.push(WAL.subarray(end, end + 1000)),
      new RangeError("Cannot buffer 1000 bytes of WAL: the disk is too far behind"),
    );
    assert.equal(sink.receivedLsn, at(end));
    assert.equal(sink.congested, true);
    await sink.finish();
    assert.equal(sink.congested, false);
    assert.equal(sink.flushLsn, at(end));
    assert.deepEqual(told.failures, []);
    for (let index = 0; index < end / MIB; index++) {
      const name = `0000000100000000000000${(3 + index).toString(16).toUpperCase().padStart(2, "0")}`;
      const want = WAL.slice(index * MIB, (index + 1) * MIB);
      assert.deepEqual(machine.sim.file(name)?.content.slice(), want, name);
    }
  }));

for (const kind of ["create", "write", "link", "syncDirectory", "unlink"] as const) {
  test(`a disk that is full for a ${kind} is asked again each second, and nothing comes twice`, () =>
    onSimDisk(async (machine) => {
      const { sink, receive, told } = await open(machine);
      machine.fail(kind, "ENOSPC", 3500);
      for (let offset = 0; offset < 2 * MIB; offset += 50_000) {
        receive(offset, Math.min(offset + 50_000, 2 * MIB));
        await machine.sleep(30);
      }
      await sink.finish();
      assert.ok(told.full >= 1 && told.full <= 6, `${told.full} times`);
      assert.deepEqual(told.failures, []);
      assert.equal(sink.flushLsn, at(2 * MIB));
      for (const index of [0, 1]) {
        const want = WAL.slice(index * MIB, (index + 1) * MIB);
        assert.deepEqual(machine.sim.file(NAMES[index]!)?.content.slice(), want);
      }
    }));
}

test("a disk that fails ends the leg: its owner is told once, and nothing is acknowledged any more", () =>
  onSimDisk(async (machine) => {
    const { sink, receive, told } = await open(machine);
    receive(0, 100);
    await machine.sleep(50);
    machine.fail("sync", "EIO");
    receive(100, 200);
    await machine.sleep(50);
    assert.match(String(told.failures[0]), /EIO/);
    assert.equal(sink.flushLsn, at(100));
    receive(200, 300);
    await machine.sleep(5000);
    assert.equal(told.failures.length, 1);
    assert.equal(sink.flushLsn, at(100));
    assert.equal(sink.idle, false);
    await sink.finish();
  }));

test("finish() makes all durable that was received, also what nobody announced", () =>
  onSimDisk(async (machine) => {
    const { sink } = await open(machine);
    sink.push(WAL.subarray(0, 3 * MIB + 77));
    sink.setServerEnd(lsn(at(14 * MIB)));
    await sink.finish();
    assert.equal(sink.flushLsn, at(3 * MIB + 77));
    assert.equal(sink.idle, true);
    await sink.finish();
  }));

test("abandon() lets go as soon as the operation under way returns, also of a full disk", () =>
  onSimDisk(async (machine) => {
    const { sink, receive, told } = await open(machine);
    receive(0, 100);
    await machine.sleep(50);
    machine.fail("write", "ENOSPC", 1e9);
    receive(100, 200);
    await machine.sleep(3000);
    assert.ok(told.full > 0);
    await sink.abandon();
    assert.equal(sink.flushLsn, at(100));
    assert.equal(machine.sim.file(`inprogress/${NAMES[0]}`)?.content.length, MIB);
  }));

/** A writer that has all, and takes a lent socket: each loan ends as the list says. */
function lendableWriter(ends: Partial<WriterRoadEnd>[]) {
  const end = {
    nextLsn: START,
    rest: new Uint8Array(0),
    tornStatus: false,
    socketEnded: false,
    error: undefined,
  };
  return {
    writeLsn: START,
    flushLsn: START,
    spent: false,
    segmentFull: false,
    roadOpen: true,
    prepareAhead: () => Promise.resolve(false),
    close: () => Promise.resolve(),
    takeShortRoad: () => ({
      ended: Promise.resolve({ ...end, ...ends.shift() }),
      revoke: () => {},
      receivedLsn: START,
      serverEndLsn: lsn(START + 5n),
      heardCount: 3,
    }),
  } as unknown as SegmentWriter;
}

function lendTo(machine: Machine, ends: Partial<WriterRoadEnd>[]) {
  const given: LoanEnd[] = [];
  const failures: unknown[] = [];
  const counts = { loans: 0 };
  const sink = new LegSink(lendableWriter(ends), {
    memory: MEMORY,
    clock: machine.clock,
    listener: {
      onProgress: () => {},
      onFailure: (error) => void failures.push(error),
      onDiskFull: () => {},
      onIdle: () => {
        if (counts.loans === 5) return undefined;
        counts.loans++;
        return { descriptor: 9, giveBack: (end) => void given.push(end) };
      },
    },
  });
  return { sink, given, failures, counts };
}

test("an idle sink borrows the socket again and again, with a turn of the event loop in between", () =>
  onSimDisk(async (machine) => {
    const { given, counts, sink } = lendTo(machine, []);
    await Promise.resolve();
    await Promise.resolve();
    assert.ok(counts.loans <= 1, "not twice without anybody else having his turn");
    await machine.sleep(100);
    assert.equal(counts.loans, 5);
    assert.equal(given.length, 5);
    assert.equal(given[0]!.heardCount, 3);
    assert.equal(given[0]!.serverEndLsn, START + 5n);
    await sink.finish();
  }));

test("a socket that had ended is not borrowed again: the runtime finds out what it is", () =>
  onSimDisk(async (machine) => {
    const { counts, sink } = lendTo(machine, [{ socketEnded: true }]);
    await machine.sleep(1000);
    assert.equal(counts.loans, 1);
    await sink.finish();
  }));

test("a sync that failed while the socket was lent fails the leg, and the socket is given back", () =>
  onSimDisk(async (machine) => {
    const error = new Error("EIO");
    const { given, failures, sink } = lendTo(machine, [{ error }]);
    await machine.sleep(100);
    assert.equal(given.length, 1);
    assert.deepEqual(failures, [error]);
    await sink.finish();
  }));

test("with too little room the reader should pause, what was received is durable, and it goes on with enough", () =>
  onSimDisk(async (machine) => {
    const { sink, receive, told } = await open(machine, 100 * MIB);
    receive(0, 1000);
    await machine.sleep(2000);
    assert.equal(sink.shortOfRoom, undefined);
    machine.sim.freeBytes = 99 * MIB;
    receive(1000, 2000);
    await machine.sleep(50);
    assert.deepEqual(sink.shortOfRoom, { freeBytes: 99 * MIB, wantBytes: 110 * MIB });
    assert.equal(sink.congested, false);
    machine.operations.length = 0;
    // What the reader had at hand comes all the same.
    receive(2000, 3000);
    await machine.sleep(10_500);
    assert.equal(sink.flushLsn, at(3000));
    assert.equal(sink.idle, true);
    const looks = machine.operations.filter((line) => line.startsWith("space")).length;
    assert.ok(looks >= 9 && looks <= 11, `${looks} looks`);
    assert.ok(
      machine.operations.every((line) => !line.startsWith("create") && !line.includes("+65536")),
      "zeros are laid out where there is no room",
    );
    machine.sim.freeBytes = 109 * MIB;
    await machine.sleep(1500);
    assert.deepEqual(sink.shortOfRoom, { freeBytes: 109 * MIB, wantBytes: 110 * MIB });
    const before = told.progress;
    machine.sim.freeBytes = 110 * MIB;
    await machine.sleep(1500);
    assert.equal(sink.shortOfRoom, undefined);
    assert.ok(told.progress > before, "nobody was told");
    receive(3000, 4000);
    await machine.sleep(50);
    assert.equal(sink.flushLsn, at(4000));
    await sink.finish();
    assert.deepEqual(told.failures, []);
  }));

for (const end of ["finish", "abandon"] as const) {
  test(`with too little room ${end}() waits for nothing`, () =>
    onSimDisk(async (machine) => {
      const { sink, receive } = await open(machine, 100 * MIB);
      machine.sim.freeBytes = 0;
      receive(0, 1000);
      await machine.sleep(3000);
      assert.ok(sink.shortOfRoom !== undefined);
      const beforeMs = machine.clock.nowMs();
      await sink[end]();
      assert.ok(machine.clock.nowMs() - beforeMs < 100);
      assert.equal(sink.flushLsn, at(1000));
    }));
}

test("room is looked for after some bytes too, the sooner the less is left", () =>
  onSimDisk(async (machine) => {
    machine.sim.slownessMs = 0.01;
    const looksFor = async (freeBytes: number, start: number) => {
      machine.sim.freeBytes = freeBytes;
      await machine.sleep(1500);
      machine.operations.length = 0;
      for (let offset = start; offset < start + 6 * MIB; offset += MIB / 4) {
        receive(offset, offset + MIB / 4);
        await machine.sleep(1);
      }
      return machine.operations.filter((line) => line.startsWith("space")).length;
    };
    const { sink, receive } = await open(machine, 100 * MIB);
    const many = await looksFor(1000 * MIB, 0);
    assert.ok(many <= 1, `${many} looks`);
    const few = await looksFor(103 * MIB, 6 * MIB);
    assert.ok(few >= 3, `${few} looks`);
    await sink.finish();
  }));

test("a file system that does not tell its room is not watched", () =>
  onSimDisk(async (machine) => {
    machine.fail("space", "EIO", 1e9);
    const { sink, receive, told } = await open(machine, 100 * MIB);
    receive(0, 1000);
    await machine.sleep(3000);
    receive(1000, 2000);
    await machine.sleep(3000);
    assert.equal(sink.flushLsn, at(2000));
    await sink.finish();
    assert.deepEqual(told.failures, []);
  }));

test("however fast it comes, no more is ever unsynced than verify takes for a crash's loss", async () => {
  const piece = new Uint8Array(200_000);
  const totalBytes = 64 * MIB;
  let unsynced = 0;
  let most = 0;
  // A segment without an end: nothing else than the policy asks for a sync.
  const writer = {
    writeLsn: START as Lsn,
    get flushLsn() {
      return lsn(this.writeLsn - BigInt(unsynced));
    },
    spent: false,
    segmentFull: false,
    roadOpen: false,
    async append(bytes: Uint8Array, then: "sync" | "leave") {
      await new Promise((resolve) => setImmediate(resolve));
      feed();
      this.writeLsn = lsn(this.writeLsn + BigInt(bytes.length));
      unsynced += bytes.length;
      most = Math.max(most, unsynced);
      if (then === "sync") await this.sync();
    },
    async sync() {
      await new Promise((resolve) => setImmediate(resolve));
      feed();
      unsynced = 0;
    },
    prepareAhead: () => Promise.resolve(false),
    close: () => Promise.resolve(),
  };
  const failures: unknown[] = [];
  const sink = new LegSink(writer as unknown as SegmentWriter, {
    memory: new Uint8Array(BUFFER_BYTES),
    // It stands still: no sync is due for its time.
    clock: {
      nowMs: () => 0,
      setTimer: (_delayMs, call) => {
        const timer = setImmediate(call);
        return () => clearImmediate(timer);
      },
    },
    listener: { onProgress() {}, onFailure: (error) => void failures.push(error), onDiskFull() {} },
  });
  sink.setServerEnd(lsn(START + BigInt(10 * totalBytes)));
  let pushed = 0;
  /** A reader that does not heed `congested`, up to what is still taken. */
  function feed(): void {
    for (; pushed < totalBytes; pushed += piece.length) {
      try {
        sink.push(piece);
      } catch {
        break;
      }
    }
    sink.drained();
  }
  feed();
  while (pushed < totalBytes && failures.length === 0) await new Promise((resolve) => setImmediate(resolve));
  await sink.finish();
  assert.deepEqual(failures, []);
  assert.equal(sink.idle, true);
  assert.ok(most >= SYNC_BYTES, `${most}`);
  assert.ok(most <= MAXIMUM_UNSYNCED_BYTES, `${most}`);
});
