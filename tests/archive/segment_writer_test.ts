import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { FORMAT_OF_FORM, PieceCompressor } from "../../lib/archive/compression.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { type Leg, SegmentWriter } from "../../lib/archive/segment_writer.ts";
import { ArchiveConflictError, WrongClusterError } from "../../lib/wal/errors.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";
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

const [FIRST = "", SECOND = ""] = NAMES;
const WAL = walOf({ bytes: 2 * MIB + 100_000 });

async function prepare(disk: Disk): Promise<void> {
  await disk.makeDirectory("inprogress", 0o700);
  await disk.syncDirectory(".");
}

function open(
  disk: Disk,
  options: { leg?: Leg; naming?: { hardLinks: boolean }; identity?: typeof IDENTITY } = {},
) {
  const events = recordEvents();
  const { leg = legAt(), naming = NAMING, identity = IDENTITY } = options;
  const zeros = SegmentWriter.zeroPiece(disk);
  const writer = new SegmentWriter(disk, identity, leg, { modes: MODES, naming, events, zeros });
  return { writer, told: events.told };
}

/** Writes `WAL`, or other bytes, from `writeLsn` up to `end`, publishing on the way. */
async function write(writer: SegmentWriter, end: number, wal: Uint8Array = WAL): Promise<void> {
  for (let at = Number(writer.writeLsn - START); at < end; at = Number(writer.writeLsn - START)) {
    await writer.append(wal.subarray(at, Math.min(end, at + 60_000)), "sync");
    if (writer.segmentFull) await writer.publish();
  }
}

function content(machine: Machine, path: string): Uint8Array | undefined {
  return machine.sim.file(path)?.content;
}

test("P1: a segment is published once its data is synced, and acknowledged once its name is", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer, told } = open(machine.disk);
    await write(writer, MIB - 1);
    await writer.append(WAL.subarray(MIB - 1, MIB + 5), "sync");
    assert.equal(writer.writeLsn, START + BigInt(MIB));
    assert.ok(writer.flushLsn < writer.writeLsn);
    assert.equal(writer.segmentFull, true);
    machine.operations.length = 0;
    await writer.publish();
    assert.equal(writer.flushLsn, START + BigInt(MIB));
    const important = machine.operations.filter((line) => !/^(entry|read|open|bytes)/.test(line));
    assert.deepEqual(important, [
      `sync inprogress/${FIRST}`,
      `link inprogress/${FIRST} ${FIRST}`,
      "syncDirectory .",
      `close inprogress/${FIRST}`,
      `unlink inprogress/${FIRST}`,
    ]);
    assert.deepEqual(told, [`published ${FIRST}`]);
    assert.deepEqual(content(machine, FIRST), WAL.slice(0, MIB));
    await writer.close();
  }));

test("P2: flushLsn moves after the sync of the data and, the first time, of the name", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer } = open(machine.disk);
    await writer.append(WAL.subarray(0, 9000), "leave");
    assert.equal(writer.writeLsn, START + 9000n);
    assert.equal(writer.flushLsn, START);
    await writer.sync();
    assert.equal(writer.flushLsn, START + 9000n);
    const important = machine.operations.filter((line) => /^(write|sync)/.test(line));
    assert.deepEqual(important, [
      "syncDirectory .",
      `write inprogress/${FIRST} 0+9000`,
      `sync inprogress/${FIRST}`,
      "syncDirectory inprogress",
    ]);
    machine.operations.length = 0;
    await writer.append(WAL.subarray(9000, 9100), "sync");
    assert.deepEqual(machine.operations, [`write inprogress/${FIRST} 9000+100`, `sync inprogress/${FIRST}`]);
    await writer.close();
  }));

for (const how of ["kill", "power cut"] as const) {
  test(`P3: after a ${how} what was durable stands aside until the new copy has passed it`, () =>
    onSimDisk(async (machine) => {
      await prepare(machine.disk);
      await write(open(machine.disk).writer, 300_000);
      const disk = machine.restart(how);
      const { writer, told } = open(disk);
      const saved = `inprogress/${FIRST}.saved-1`;
      await write(writer, 240_000);
      assert.deepEqual(told, [`kept ${saved}`]);
      assert.deepEqual(content(machine, saved)?.subarray(0, 300_000), WAL.slice(0, 300_000));
      await write(writer, 360_000);
      assert.deepEqual(told, [`kept ${saved}`, `passed ${saved}`]);
      assert.equal(content(machine, saved), undefined);
      await writer.close();
    }));
}

test("P3: a saved copy stays until the new one's name is safe, also when the segment comes in one piece", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    await write(open(machine.disk).writer, 300_000);
    const { writer } = open(machine.restart("kill"));
    await writer.append(WAL.subarray(0, MIB), "sync");
    machine.operations.length = 0;
    await writer.publish();
    const names = machine.operations.filter((line) => /^(syncDirectory|unlink)/.test(line));
    assert.deepEqual(names, [
      "syncDirectory inprogress",
      `unlink inprogress/${FIRST}.saved-1`,
      "syncDirectory .",
      `unlink inprogress/${FIRST}`,
    ]);
    await writer.close();
  }));

test("P3: other bytes below the end of valid WAL of the saved copy are a conflict, and both stay", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    await write(open(machine.disk).writer, 300_000);
    const { writer } = open(machine.restart("kill"));
    await assert.rejects(write(writer, 360_000, walOf({ bytes: MIB, seed: 3 })), (error: Error) => {
      assert.ok(error instanceof ArchiveConflictError);
      assert.match(
        error.message,
        new RegExp(
          `^Cannot go on with ${FIRST}: the server sends other bytes than were received before; they differ first at ` +
            "0/300028; there what came before has a record of Heap at 0/300028 \\(5000 bytes, .*\\), what comes now a " +
            `record of Heap at 0/300028 \\(5024 bytes, .*\\); both are kept: what came before, valid to 0/3483E0, as "/archive/inprogress/${FIRST}\\.saved-1", ` +
            `what comes now as "/archive/conflicts/${FIRST}-[0-9a-f]{8}"; two servers went on from one past`,
        ),
      );
      return true;
    });
    assert.equal(writer.spent, true);
    assert.equal(content(machine, `inprogress/${FIRST}.saved-1`)?.length, MIB);
    assert.equal(
      content(machine, `inprogress/${FIRST}`),
      undefined,
      "the right server must not find it in its place",
    );
    await writer.close();
    const again = open(machine.restart("kill"));
    await write(again.writer, MIB);
    assert.deepEqual(again.told.at(-1), `published ${FIRST}`, "the server that sends the same bytes goes on");
    await again.writer.close();
  }));

test("P4: what a server that went another way sends at each reconnect is kept once, however much of it comes", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    await write(open(machine.disk).writer, 300_000);
    const other = walOf({ bytes: MIB, seed: 3 });
    const tries: (readonly [received: number, files: number])[] = [
      [360_000, 1],
      [360_000, 1],
      [300_000, 1],
      [420_000, 2], // more than ever before
      [310_000, 2],
      [420_000, 2],
    ];
    for (const [received, files] of tries) {
      const { writer } = open(machine.restart("power cut"));
      let kept = "";
      await assert.rejects(writer.append(other.subarray(0, received), "sync"), ({ message }: Error) => {
        kept = /what comes now as "\/archive\/(conflicts\/[^"]+)"/.exec(message)?.[1] ?? "";
        return true;
      });
      await writer.close();
      assert.deepEqual(content(machine, kept)?.subarray(0, received), other.subarray(0, received), kept);
      assert.equal(machine.sim.names("conflicts").length, files, `after ${received} bytes`);
      assert.deepEqual(machine.sim.names("inprogress"), [`${FIRST}.saved-1`]);
    }
  }));

test("P1: a growing file that another process has exchanged is not published", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer } = open(machine.disk);
    await write(writer, MIB - 8192);
    await machine.disk.rename(`inprogress/${FIRST}`, `inprogress/${FIRST}.saved-1`);
    const theirs = await machine.disk.create(`inprogress/${FIRST}`, 0o600);
    await theirs.truncate(MIB);
    await assert.rejects(
      write(writer, MIB),
      /is no longer the file that was written; another process writes to this archive/,
    );
    assert.equal(content(machine, FIRST), undefined);
    assert.equal(writer.spent, true);
    await writer.close();
  }));

test("P3: damage in a saved copy hides no other record behind it, and none is no conflict", async () => {
  // The same up to the 30th record; all of its records lie at the same places.
  const records = Array.from(
    { length: 420 },
    (_, index) => ({ totalBytes: 5000, xid: index < 30 ? 700 + index : 9 }),
  );
  const other = buildWal({ startLsn: START, segmentBytes: MIB, records }).segments[0]!;
  /** As a power cut or a bad sector leaves it. */
  const damages: readonly ((bytes: Uint8Array) => void)[] = [
    (bytes) => void (bytes[50_000]! ^= 1),
    (bytes) => void bytes.fill(0, 49_152, 57_344),
    (bytes) => void bytes.fill(0xee, 49_152, 57_344),
  ];
  for (const damage of damages) {
    await onSimDisk(async (machine) => {
      await prepare(machine.disk);
      const kept = WAL.slice(0, 300_000);
      damage(kept);
      await write(open(machine.disk).writer, 300_000, kept);
      const { writer, told } = open(machine.restart("kill"));
      await write(writer, MIB);
      assert.deepEqual(told.at(-1), `published ${FIRST}`);
      await writer.close();
    });
    await onSimDisk(async (machine) => {
      await prepare(machine.disk);
      const kept = WAL.slice(0, 300_000);
      damage(kept);
      await write(open(machine.disk).writer, 300_000, kept);
      const { writer } = open(machine.restart("kill"));
      await assert.rejects(write(writer, MIB, other), (error: Error) => {
        assert.ok(error instanceof ArchiveConflictError);
        assert.match(
          error.message,
          /there what came before has a record of Heap at 0\/3[0-9A-F]+ \(5000 bytes, transaction 730, after /,
        );
        return true;
      });
      assert.deepEqual(content(machine, `inprogress/${FIRST}.saved-1`)?.subarray(0, 300_000), kept);
      await writer.close();
    });
  }
});

test("P3: other bytes in a record that was never whole are no conflict", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const torn = WAL.slice(0, 300_000);
    torn.fill(0xee, 299_990);
    await write(open(machine.disk).writer, 300_000, torn);
    const { writer, told } = open(machine.restart("kill"));
    await write(writer, MIB);
    assert.deepEqual(told.at(-1), `published ${FIRST}`);
    await writer.close();
  }));

test("P3: a hole that a power cut left in a record from the segment before is no conflict", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const records = [
      { totalBytes: MIB + 100_000 },
      ...Array.from({ length: 200 }, () => ({ totalBytes: 8000 })),
    ];
    const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records });
    const wal = segments[1]!;
    const leg = legAt(lsn(START + BigInt(MIB)));
    const before = open(machine.disk, { leg }).writer;
    const torn = wal.slice(0, 300_000);
    torn.fill(0, 51_200, 51_712);
    await before.append(torn, "sync");
    const { writer, told } = open(machine.restart("kill"), { leg });
    await writer.append(wal.subarray(0, 400_000), "sync");
    assert.deepEqual(told.at(-1), `passed inprogress/${SECOND}.saved-1`);
    assert.equal(writer.flushLsn, leg.startLsn + 400_000n);
    await writer.close();
  }));

test("many restarts leave one saved copy, and no durable byte hangs on a sync that may have failed", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    await write(open(machine.disk).writer, 300_000);
    let disk = machine.restart("kill");
    // The second process writes further; its sync fails, and Linux calls the next one a success.
    const second = open(disk).writer;
    await second.append(WAL.subarray(0, 200_000), "leave");
    machine.fail("sync", "EIO");
    await assert.rejects(second.append(WAL.subarray(200_000, 400_000), "sync"), /EIO/);
    assert.equal(second.spent, true);
    await assert.rejects(second.sync(), /an earlier sync of it failed/);
    disk = machine.restart("kill");
    const third = open(disk).writer;
    await third.append(WAL.subarray(0, 10), "leave");
    const saved = machine.sim.names("inprogress").filter((name) => name.includes(".saved-"));
    assert.equal(saved.length, 1, saved.join());
    machine.restart("power cut");
    const kept = machine.sim.names("inprogress").map((name) => content(machine, `inprogress/${name}`)!);
    assert.ok(
      kept.some((bytes) =>
        bytes.length >= 300_000 && bytes.slice(0, 300_000).join() === WAL.slice(0, 300_000).join()
      ),
    );
  }));

test("P4: the same bytes under the name are success, whoever put them there", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer } = open(machine.disk);
    await write(writer, MIB);
    await writer.close();
    const again = open(machine.disk);
    await write(again.writer, MIB);
    assert.deepEqual(again.told, [`published ${FIRST}`]);
    assert.equal(again.writer.flushLsn, START + BigInt(MIB));
    assert.deepEqual(machine.sim.names("inprogress"), []);
    await again.writer.close();
  }));

test("P4: other bytes under the name are a conflict: nothing is overwritten, both are kept", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer } = open(machine.disk);
    await write(writer, MIB);
    await writer.close();
    const other = walOf({ bytes: MIB, seed: 2 });
    const again = open(machine.disk).writer;
    await assert.rejects(write(again, MIB, other), (error: Error) => {
      assert.ok(error instanceof ArchiveConflictError);
      assert.match(
        error.message,
        new RegExp(
          `^Cannot publish ${FIRST}: the archive has other bytes under this name; they differ first at 0/300028; ` +
            "there the archive's file has a record of Heap at 0/300028 .*, what comes now a record of Heap .*; " +
            `the archive's file is unchanged, the server's is kept as "/archive/conflicts/${FIRST}-[0-9a-f]{8}"$`,
        ),
      );
      return true;
    });
    assert.ok(again.flushLsn < START + BigInt(MIB));
    assert.equal(again.spent, true);
    assert.deepEqual(content(machine, FIRST), WAL.slice(0, MIB));
    const [kept] = machine.sim.names("conflicts");
    assert.deepEqual(content(machine, `conflicts/${kept}`), other);
    await again.close();
  }));

async function putCompressed(disk: Disk, form: ".zst" | ".lz4", bytes: Uint8Array): Promise<void> {
  const compressor = new PieceCompressor({ format: FORMAT_OF_FORM[form], level: 1 });
  const file = await disk.create(FIRST + form, 0o600);
  await file.write(Buffer.concat([...compressor.push(bytes), ...compressor.end()]), 0);
  await file.sync();
  await file.close();
}

// Streams run outside of simulated time, so no gzip.
for (const form of [".zst", ".lz4"] as const) {
  test(`P4: the same segment as ${form} is success: nothing is stored twice`, () =>
    onSimDisk(async (machine) => {
      await prepare(machine.disk);
      await putCompressed(machine.disk, form, WAL.subarray(0, MIB));
      const { writer, told } = open(machine.disk);
      await write(writer, MIB + 10);
      assert.deepEqual(told, [`published ${FIRST}`]);
      assert.equal(content(machine, FIRST), undefined);
      assert.equal(content(machine, `inprogress/${FIRST}`), undefined);
      assert.ok(machine.operations.includes(`sync ${FIRST}${form}`));
      await writer.close();
    }));

  test(`P4: another segment as ${form} is a conflict, a damaged one is to be moved away`, () =>
    onSimDisk(async (machine) => {
      await prepare(machine.disk);
      await putCompressed(machine.disk, form, walOf({ bytes: MIB, seed: 2 }));
      const { writer } = open(machine.disk);
      await assert.rejects(
        write(writer, MIB),
        new RegExp(
          `other bytes under this name, compressed as "${FIRST}${form}"; they differ first at 0/300028; there .* kept as`,
        ),
      );
      assert.equal(content(machine, FIRST), undefined);
      assert.equal(machine.sim.names("conflicts").length, 1);
      await writer.close();
      await machine.disk.unlink(FIRST + form);
      await (await machine.disk.create(FIRST + form, 0o600)).close();
      const again = open(machine.disk).writer;
      await assert.rejects(write(again, MIB), (error: Error) => {
        assert.ok(error instanceof ArchiveConflictError);
        assert.match(
          error.message,
          /the archive's file of it is damaged; move that one away and start again/,
        );
        assert.match(String(error.cause), /it holds 0 bytes, want 1048576/);
        return true;
      });
      assert.equal(content(machine, FIRST), undefined);
      assert.deepEqual(content(machine, `inprogress/${FIRST}`), WAL.slice(0, MIB));
      await again.close();
    }));
}

test("P5: pages that are not this cluster's, segment's or timeline's are refused before they are acknowledged", async () => {
  const cases: readonly (readonly [patch: (bytes: Uint8Array, view: DataView) => void, problem: string])[] = [
    [(bytes) => void bytes.fill(0, 0, 40), "page address 0/0, want 0/300000"],
    [(_bytes, view) => view.setBigUint64(8, 0x400000n, true), "page address 0/400000, want 0/300000"],
    [(_bytes, view) => view.setUint16(2, 0, true), "its first page has no long header, want one at 0/300000"],
    [
      (_bytes, view) => view.setBigUint64(24, 5n, true),
      `system identifier 5, want ${IDENTITY.systemIdentifier}`,
    ],
    [(_bytes, view) => view.setUint32(32, 2 * MIB, true), `segments of ${2 * MIB} bytes, want ${MIB}`],
    [(_bytes, view) => view.setUint32(4, 2, true), "a page of timeline 2, want 1 or an ancestor of it"],
  ];
  for (const [patch, problem] of cases) {
    await onSimDisk(async (machine) => {
      await prepare(machine.disk);
      const bytes = WAL.slice(0, 10_000);
      patch(bytes, new DataView(bytes.buffer));
      const { writer } = open(machine.disk);
      await assert.rejects(
        writer.append(bytes, "sync"),
        (error: Error) =>
          error instanceof WrongClusterError &&
          error.message.startsWith(
            `Cannot archive ${FIRST}: ${problem}; the server's bytes are kept as "/archive/conflicts/`,
          ),
      );
      assert.equal(writer.flushLsn, START);
      assert.equal(writer.spent, true);
      await writer.close();
    });
  }
});

test("P5: a first record that does not follow the archive's last one is a conflict", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const before = START - 64n;
    const good = open(machine.disk, { leg: { ...legAt(), backLinks: [lsn(5n), lsn(before)] } }).writer;
    await good.append(WAL.subarray(0, 20_000), "sync");
    assert.equal(good.flushLsn, START + 20_000n);
    await good.close();
    const { writer } = open(machine.disk, { leg: { ...legAt(), backLinks: [lsn(START - 128n), lsn(5n)] } });
    await assert.rejects(
      writer.append(WAL.subarray(0, 20_000), "sync"),
      (error: Error) =>
        error instanceof ArchiveConflictError &&
        error.message.startsWith(
          `Cannot go on with ${FIRST} from the server: its first record at 0/300028 follows one at 0/2FFFC0, ` +
            "but the archive's last record before it is at 0/2FFF80 or 0/5: the server's WAL does not continue this archive; ",
        ),
    );
    assert.equal(writer.flushLsn, START);
    await writer.close();
  }));

test("a leg of a newer timeline takes its ancestors' pages", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const timeline = timelineId(3);
    const lineage = {
      timeline,
      entries: [{ timeline: timelineId(1), endLsn: lsn(START + 500n), reason: "" }],
    };
    const { writer, told } = open(machine.disk, {
      leg: { timeline, startLsn: START, lineage, backLinks: [] },
    });
    await write(writer, MIB);
    assert.deepEqual(told, ["published 000000030000000000000003"]);
    await writer.close();
  }));

for (const kind of ["create", "write", "link", "syncDirectory", "unlink", "truncate"] as const) {
  test(`a full disk that refuses a ${kind} holds the writer up, and the same call goes on later`, () =>
    onSimDisk(async (machine) => {
      await prepare(machine.disk);
      await write(open(machine.disk).writer, 100_000);
      const { writer } = open(machine.restart("kill"));
      machine.fail(kind, "ENOSPC");
      let refused = 0;
      for (let at = 0; at < 2 * MIB; at = Number(writer.writeLsn - START)) {
        try {
          if (writer.segmentFull) await writer.publish();
          else await writer.append(WAL.subarray(at, Math.min(2 * MIB, at + 70_000)), "sync");
        } catch (error) {
          assert.equal((error as { code?: string }).code, "ENOSPC");
          assert.equal(writer.spent, false);
          refused++;
        }
      }
      if (writer.segmentFull) await writer.publish();
      assert.equal(refused, 1);
      assert.deepEqual(content(machine, FIRST), WAL.slice(0, MIB));
      assert.deepEqual(content(machine, SECOND), WAL.slice(MIB, 2 * MIB));
      await writer.close();
    }));
}

test("a sync that failed is never tried again", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer } = open(machine.disk);
    await writer.append(WAL.subarray(0, 9000), "leave");
    machine.fail("sync", "EIO");
    await assert.rejects(writer.sync(), /EIO/);
    assert.equal(writer.spent, true);
    assert.equal(writer.flushLsn, START);
    await assert.rejects(writer.sync(), new Error(`Cannot sync "${FIRST}": an earlier sync of it failed`));
    await assert.rejects(writer.append(WAL.subarray(9000, 9001), "sync"), /an earlier sync of it failed/);
    assert.equal(writer.flushLsn, START);
    await writer.close();
  }));

test("a write that failed with its sync under way acknowledges nothing", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer } = open(machine.disk);
    await writer.append(WAL.subarray(0, 9000), "sync");
    machine.fail("write", "EIO");
    await assert.rejects(writer.append(WAL.subarray(9000, 20_000), "sync"), /EIO/);
    assert.equal(writer.writeLsn, START + 9000n);
    assert.equal(writer.flushLsn, START + 9000n);
    await writer.close();
  }));

test("prepareAhead() lays zeros behind the data, then in the next segment, which then needs no new file", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer } = open(machine.disk);
    assert.equal(await writer.prepareAhead(), false);
    await writer.append(WAL.subarray(0, 9000), "sync");
    while (await writer.prepareAhead());
    assert.equal(await writer.prepareAhead(), false);
    assert.deepEqual(content(machine, `inprogress/${FIRST}`)?.subarray(0, 9000), WAL.slice(0, 9000));
    assert.equal(content(machine, `inprogress/${SECOND}`)?.length, MIB);
    const created = machine.kinds.filter((kind) => kind === "create").length;
    await write(writer, 2 * MIB);
    assert.equal(machine.kinds.filter((kind) => kind === "create").length, created);
    assert.deepEqual(content(machine, SECOND), WAL.slice(MIB, 2 * MIB));
    await writer.close();
    assert.deepEqual(machine.sim.names("inprogress"), []);
  }));

test("prepareAhead() leaves alone what an earlier run left of the next segment, and gives up on a full disk", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const left = await machine.disk.create(`inprogress/${SECOND}`, 0o600);
    await left.write(Uint8Array.of(1), 0);
    const { writer, told } = open(machine.disk);
    await writer.append(WAL.subarray(0, 9000), "sync");
    while (await writer.prepareAhead());
    assert.equal(content(machine, `inprogress/${SECOND}`)?.length, 1);
    await write(writer, MIB + 5000);
    assert.deepEqual(told, [
      `published ${FIRST}`,
      `kept inprogress/${SECOND}.saved-1`,
      `passed inprogress/${SECOND}.saved-1`,
    ]);
    machine.fail("write", "ENOSPC");
    assert.equal(await writer.prepareAhead(), false);
    assert.equal(await writer.prepareAhead(), false);
    await write(writer, 2 * MIB);
    await writer.close();
  }));

test("close() leaves no empty file, and what was received stays", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer } = open(machine.disk);
    await write(writer, MIB);
    await writer.append(new Uint8Array(0), "leave");
    await writer.close();
    assert.deepEqual(machine.sim.names("inprogress"), []);
    const next = open(machine.disk, { leg: legAt(lsn(START + BigInt(MIB))) }).writer;
    await next.append(WAL.subarray(MIB, MIB + 500), "leave");
    while (await next.prepareAhead());
    await next.close();
    assert.deepEqual(machine.sim.names("inprogress"), [SECOND]);
  }));

test("without hard links a segment is published by a rename", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const naming = { hardLinks: false };
    await write(open(machine.disk, { naming }).writer, 100_000);
    const { writer } = open(machine.restart("kill"), { naming });
    await write(writer, 2 * MIB);
    assert.equal(machine.kinds.includes("link"), false);
    assert.deepEqual(content(machine, FIRST), WAL.slice(0, MIB));
    assert.deepEqual(machine.sim.names("inprogress"), []);
    await writer.close();
  }));

/** Somebody comes as soon as the segment has its name, and has done with it before anybody looks. */
function afterRename(disk: Disk, act: () => Promise<void>): void {
  const rename = disk.rename.bind(disk);
  disk.rename = async (from, to) => {
    await rename(from, to);
    if (to === FIRST) await act();
  };
}

test("without hard links a segment that is compressed while it is published is published", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    afterRename(machine.disk, async () => {
      await putCompressed(machine.disk, ".zst", WAL.subarray(0, MIB));
      await machine.disk.syncDirectory(".");
      await machine.disk.unlink(FIRST);
    });
    const { writer, told } = open(machine.disk, { naming: { hardLinks: false } });
    await write(writer, MIB + 10);
    assert.deepEqual(told, [`published ${FIRST}`]);
    assert.ok(writer.flushLsn > START + BigInt(MIB));
    assert.deepEqual(machine.sim.names("."), ["inprogress", `${FIRST}.zst`]);
    await writer.close();
  }));

test("without hard links a segment whose new name could not be synced is published at the next try", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    const { writer, told } = open(machine.disk, { naming: { hardLinks: false } });
    await write(writer, MIB - 10);
    await writer.append(WAL.subarray(MIB - 10, MIB), "sync");
    machine.fail("syncDirectory", "ENOSPC");
    await assert.rejects(writer.publish(), { code: "ENOSPC" });
    assert.deepEqual(told, []);
    await writer.publish();
    assert.deepEqual(told, [`published ${FIRST}`]);
    assert.deepEqual(content(machine, FIRST), WAL.slice(0, MIB));
    await writer.close();
  }));

test("without hard links a segment keeps its name where another stands beside it, compressed", () =>
  onSimDisk(async (machine) => {
    await prepare(machine.disk);
    afterRename(
      machine.disk,
      () => putCompressed(machine.disk, ".zst", walOf({ bytes: MIB, seed: 2 })),
    );
    const { writer } = open(machine.disk, { naming: { hardLinks: false } });
    await assert.rejects(
      write(writer, MIB),
      new RegExp(`compressed as "${FIRST}.zst".* kept as "/archive/${FIRST}"`),
    );
    assert.deepEqual(content(machine, FIRST), WAL.slice(0, MIB));
    await writer.close();
  }));
