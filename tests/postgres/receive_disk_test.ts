import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { type GapRecord, parseLedger } from "../../lib/archive/gaps.ts";
import { lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { segmentName, segmentNumberAt, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  assertHolds,
  caughtUp,
  checkRecords,
  compareWithServer,
  MIB,
  programWords,
  runReceiver,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { SmallDisk, whyNoDisk } from "./small_disk.ts";
import { FlushWatch, TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;
const SHUTDOWN_MS = 20_000;
const OPTIONS = ["--slot=walvault", "--create-slot", "--min-free=0"];

/** The name of the first timeline's segment that holds this byte. */
function segmentAt(byte: bigint): string {
  const size = segmentSize(segmentBytes);
  return segmentName(timelineId(1), segmentNumberAt(lsn(byte), size), size);
}

const problem = whyNoDisk();
const why = problem === undefined ? "" : ` (skipped: ${problem})`;
const options = { timeout, skip: problem !== undefined };

async function start(): Promise<Cluster> {
  const cluster = await startCluster({ segmentBytes, settings: { wal_keep_size: "4GB" } });
  await cluster.sql(TABLE);
  return cluster;
}

/** About so many MiB of WAL. */
async function write(cluster: Cluster, mebibytes: number): Promise<void> {
  await cluster.sql(
    `INSERT INTO work SELECT gen_random_uuid(), repeat(md5(n::text), 320) FROM generate_series(1, ${
      mebibytes * 90
    }) n`,
  );
}

async function streamingReceivers(cluster: Cluster): Promise<number> {
  return Number(
    await cluster.value(
      "SELECT count(*) FROM pg_stat_replication WHERE state IN ('catchup', 'streaming')",
    ),
  );
}

test(`receive waits on a full disk, and goes on by itself when there is room${why}`, options, async () => {
  using directory = new WorkDirectory();
  using disk = new SmallDisk(directory);
  await using cluster = await start();
  const archive = new ArchiveFiles(disk.path, segmentBytes);
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive: disk.path,
    options: OPTIONS,
  });
  await receiver.next("streaming");
  disk.fill();
  await using watch = new FlushWatch(cluster);
  await write(cluster, 20);
  await receiver.next("archive disk full", { level: "error" });
  await sleep(3000); // longer than a few tries
  assert.ok(receiver.alive);
  assert.equal(receiver.lines.filter((line) => line.level === "error").length, 1, receiver.stderr);
  const end = parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()"));
  assert.ok(watch.highest < end, "the disk took it all");
  assertHolds(archive, cluster, { flushLsn: watch.highest });
  const slotLsn = await cluster.value("SELECT restart_lsn::text FROM pg_replication_slots");
  assert.ok(parseLsn(slotLsn) <= watch.highest);

  disk.makeRoom();
  await caughtUp(cluster, receiver);
  assert.equal(
    receiver.linesOf("streaming").length,
    1,
    "it reconnected, though the disk was full only shortly",
  );
  assert.equal(await receiver.stop(), 0);
  assert.ok(compareWithServer(archive, cluster).endLsn >= end);
  checkRecords(archive);
});

test(`receive leaves a primary that shuts down while the disk is full${why}`, options, async () => {
  using directory = new WorkDirectory();
  using disk = new SmallDisk(directory);
  await using cluster = await start();
  const archive = new ArchiveFiles(disk.path, segmentBytes);
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive: disk.path,
    options: [...OPTIONS, "--stall-timeout=2"],
  });
  await receiver.next("streaming");
  disk.fill();
  await using watch = new FlushWatch(cluster);
  await write(cluster, 22);
  await receiver.next("archive disk full");
  await until("the receiver leaving", async () => await streamingReceivers(cluster) === 0);
  await watch.stop();
  assertHolds(archive, cluster, { flushLsn: watch.highest });
  const asked = performance.now();
  await cluster.stop("fast");
  assert.ok(performance.now() - asked < SHUTDOWN_MS);
  await cluster.start();
  await sleep(1000);
  assert.ok(receiver.alive, receiver.stderr);
  disk.makeRoom();
  await caughtUp(cluster, receiver);
  assert.equal(await receiver.stop(), 0);
  compareWithServer(archive, cluster);
  checkRecords(archive);
});

test(`receive leaves the primary while the disk stalls, and comes back after it${why}`, options, async () => {
  using directory = new WorkDirectory();
  using disk = new SmallDisk(directory);
  await using cluster = await start();
  const archive = new ArchiveFiles(disk.path, segmentBytes);
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive: disk.path,
    options: [...OPTIONS, "--stall-timeout=3"],
  });
  await receiver.next("streaming");
  await write(cluster, 2);
  const safe = parseLsn(await caughtUp(cluster, receiver));
  disk.freeze();
  try {
    await using watch = new FlushWatch(cluster);
    await write(cluster, 4);
    const line = await receiver.next("disconnected", { level: "error" });
    assert.match(String(line["error"]), /nothing reached it for 3 s/);
    await until("the receiver leaving", async () => await streamingReceivers(cluster) === 0);
    await watch.stop();
    assert.ok(watch.highest >= safe);
    assertHolds(archive, cluster, { flushLsn: watch.highest });
    const asked = performance.now();
    await cluster.stop("fast");
    assert.ok(performance.now() - asked < SHUTDOWN_MS, `the shutdown took ${performance.now() - asked} ms`);
    await cluster.start();
    assert.ok(receiver.alive, receiver.stderr);
  } finally {
    disk.thaw();
  }
  await receiver.next("streaming");
  await write(cluster, 2);
  await caughtUp(cluster, receiver);
  assert.equal(await receiver.stop(), 0);
  compareWithServer(archive, cluster);
  checkRecords(archive);
});

test(`receive says that the file system is read-only${why}`, options, async () => {
  using directory = new WorkDirectory();
  using disk = new SmallDisk(directory);
  await using cluster = await start();
  const receive = () =>
    runReceiver({ connection: cluster.conninfo(), archive: disk.path, options: ["--endpos=0/1"] });
  disk.remount("ro");
  const refused = await receive();
  assert.equal(await refused.ended(), 3);
  assert.match(refused.stderr, /EROFS|[Rr]ead-only file system/);
  assert.match(refused.stderr, /mount it read-write/);
  disk.remount("rw");
  const archive = new ArchiveFiles(disk.path, segmentBytes);
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive: disk.path,
    options: OPTIONS,
  });
  await receiver.next("streaming");
  await write(cluster, 2);
  await caughtUp(cluster, receiver);
  assert.equal(await receiver.stop(), 0);
  disk.remount("ro");
  const again = await receive();
  assert.equal(await again.ended(), 3);
  assert.match(again.stderr, /mount it read-write/);
  compareWithServer(archive, cluster);
  disk.remount("rw");
});

test(
  `receive stops reading at --min-free, leaves what is left, and goes on by itself${why}`,
  options,
  async () => {
    using directory = new WorkDirectory();
    using disk = new SmallDisk(directory);
    await using cluster = await start();
    const archive = new ArchiveFiles(disk.path, segmentBytes);
    const minFree = "--min-free=14MB";
    await using receiver = startReceiver({
      connection: cluster.conninfo(),
      archive: disk.path,
      options: [...OPTIONS, minFree, "--stall-timeout=6"],
    });
    await receiver.next("streaming");
    disk.fill(30 * MIB);
    await sleep(1500); // room is looked for each second
    await using watch = new FlushWatch(cluster);
    await write(cluster, 12);
    const line = await receiver.next("archive disk low", { level: "error" });
    assert.ok(
      Number(line["freeBytes"]) < 14 * MIB && Number(line["wantBytes"]) > 14 * MIB,
      JSON.stringify(line),
    );
    await sleep(3000);
    assert.equal(await streamingReceivers(cluster), 1, "it left before its time");
    const replied = "SELECT count(*) FROM pg_stat_replication WHERE reply_time > now() - interval '2 s'";
    assert.equal(await cluster.value(replied), "1", "it does not answer");
    const [program, ...words] = programWords();
    const told = spawnSync(program!, [
      ...words,
      "status",
      `--archive=${disk.path}`,
      `--connection=${cluster.conninfo()}`,
      minFree,
    ], { encoding: "utf8" });
    assert.match(told.stdout, /Receiver +reading stops until the archive has room\n/, told.stderr);
    assert.match(told.stdout, / free, less than the 14[^ ]* ?M?B of --min-free\n/);
    await until("the receiver leaving", async () => await streamingReceivers(cluster) === 0);
    await watch.stop();
    assertHolds(archive, cluster, { flushLsn: watch.highest });
    const end = parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()"));
    assert.ok(watch.highest < end, "the disk took it all");
    await sleep(3000);
    const { bavail, bsize } = fs.statfsSync(disk.path);
    assert.ok(bavail * bsize > 2 * MIB, `${bavail * bsize} bytes are left`);
    assert.equal(receiver.linesOf("streaming").length, 1);

    disk.makeRoom();
    await receiver.next("archive disk has room again");
    await caughtUp(cluster, receiver);
    assert.equal(receiver.linesOf("streaming").length, 2);
    assert.equal(receiver.linesOf("archive disk low").length, 1);
    assert.equal(receiver.linesOf("archive disk full").length, 0);
    assert.equal(await receiver.stop(), 0);
    assert.ok(compareWithServer(archive, cluster).endLsn >= end);
    checkRecords(archive);
  },
);

test(
  `receive gives its slot up as --halt-action says, after it let go of it, and goes on from there${why}`,
  options,
  async () => {
    using directory = new WorkDirectory();
    using disk = new SmallDisk(directory);
    await using cluster = await start();
    const archive = new ArchiveFiles(disk.path, segmentBytes);
    const slots = () =>
      cluster.value("SELECT coalesce(string_agg(slot_name, ','), '') FROM pg_replication_slots");
    const limits = [...OPTIONS, "--min-free=14MB", "--stall-timeout=60", "--halt-after=4"];
    const startAnew = (more: readonly string[]) =>
      startReceiver({ connection: cluster.conninfo(), archive: disk.path, options: [...limits, ...more] });

    let flushLsn = parseLsn("0/0");
    {
      await using receiver = startAnew([]);
      await receiver.next("streaming");
      await caughtUp(cluster, receiver);
      disk.fill(30 * MIB);
      await sleep(1500); // room is looked for each second
      await write(cluster, 12);
      await receiver.next("archive disk low");
      const line = await receiver.next("slot holds up too much wal", { level: "error" });
      assert.equal(line["action"], "warn");
      await sleep(2500);
      assert.equal(receiver.linesOf("slot holds up too much wal").length, 1);
      assert.equal(await slots(), "walvault");
      assert.equal(await streamingReceivers(cluster), 1);
      assert.equal(await receiver.stop(), 0);
    }
    {
      disk.makeRoom();
      await using receiver = startAnew(["--halt-lag=1MB", "--halt-action=drop-slot"]);
      await receiver.next("streaming");
      await caughtUp(cluster, receiver);
      disk.fill(18 * MIB);
      await sleep(1500);
      await using watch = new FlushWatch(cluster);
      await write(cluster, 12);
      await receiver.next("archive disk low");
      assert.equal(await streamingReceivers(cluster), 1);
      assert.equal(await receiver.ended(), 3);
      await watch.stop();
      flushLsn = watch.highest;
      assert.match(receiver.stderr, /"gap recorded"[^\n]*\n[^\n]*"slot dropped"/);
      assert.match(
        receiver.stderr,
        /"walvault\\?" held up too much WAL, and is dropped as --halt-action says/,
      );
      assert.equal(await slots(), "");
      assertHolds(archive, cluster, { flushLsn });
      const { records } = parseLedger(fs.readFileSync(`${disk.path}/gaps.jsonl`));
      assert.equal(records.length, 1);
      const [{ startLsn, endLsn }] = records as [GapRecord];
      // The segments that are not complete here, up to the one that the server writes.
      assert.ok(flushLsn < startLsn + BigInt(segmentBytes));
      assert.equal(fs.existsSync(`${disk.path}/${segmentAt(startLsn - 1n)}`), true);
      assert.equal(fs.existsSync(`${disk.path}/${segmentAt(startLsn)}`), false);
      const serverLsn = parseLsn(await cluster.value("SELECT pg_current_wal_lsn()"));
      assert.ok(startLsn < endLsn && endLsn <= serverLsn && serverLsn < endLsn + BigInt(segmentBytes));
    }
    disk.makeRoom();
    // What is brought in leaves free what the stream keeps free.
    await using receiver = startAnew(["--min-free=1MB"]);
    await caughtUp(cluster, receiver);
    assert.equal(await slots(), "walvault");
    // The server still had it.
    await receiver.next("gap healed");
    assert.equal(await receiver.stop(), 0);
    compareWithServer(archive, cluster);
    checkRecords(archive);
  },
);

test(`receive gives up the slots on standbys with its own${why}`, options, async () => {
  using directory = new WorkDirectory();
  using disk = new SmallDisk(directory);
  await using cluster = await start();
  await using standby = await cluster.createStandby({ name: "b" });
  const slots = (of: Cluster) =>
    of.value("SELECT coalesce(string_agg(slot_name, ','), '') FROM pg_replication_slots");
  const both = [cluster, standby];
  await using receiver = startReceiver({
    connection: cluster.conninfo({
      host: both.map(({ host }) => host).join(),
      port: both.map(({ port }) => port).join(),
      target_session_attrs: "primary",
    }),
    archive: disk.path,
    options: [
      ...[...OPTIONS, "--slot-on-standbys", "--min-free=14MB", "--stall-timeout=60"],
      ...["--halt-after=4", "--halt-lag=1MB", "--halt-action=drop-slot"],
    ],
  });
  await receiver.next("streaming");
  await caughtUp(cluster, receiver);
  await until("the slot on the standby", async () => await slots(standby) === "walvault", 30_000);
  disk.fill(18 * MIB);
  await sleep(1500);
  await write(cluster, 12);
  assert.equal(await receiver.ended(), 3);
  assert.equal(await slots(cluster), "");
  assert.equal(await slots(standby), "");
  assert.equal(receiver.linesOf("slot dropped").length, 2);
});
