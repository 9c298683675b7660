/** Failovers of real servers under `receive`: nothing is overwritten, every history is here, and what is here restores. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { advanceSlotQuery } from "../../lib/protocol/commands.ts";
import { STANDBY_SLOTS_INTERVAL_MS } from "../../lib/receiver/standby_slots.ts";
import { parseHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { formatLsn, type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type BackupCopy, type Cluster, startCluster } from "./cluster.ts";
import { walvault } from "./pusher.ts";
import {
  ArchiveFiles,
  assertLineage,
  caughtUp,
  checkRecords,
  compareWithServer,
  fingerprint,
  layOut,
  MIB,
  type Receiver,
  restore,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { contentOf, TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;
const settings = { wal_keep_size: "1GB", autovacuum: "off", wal_log_hints: "on", full_page_writes: "on" };

/** The servers of a cluster as one connection string: whichever is the primary. */
function primaryOf(clusters: readonly Cluster[]): string {
  return clusters[0]!.conninfo({
    host: clusters.map((cluster) => cluster.host).join(","),
    port: clusters.map((cluster) => cluster.port).join(","),
    target_session_attrs: "primary",
  });
}

let rows = 0;
async function write(cluster: Cluster, count = 100): Promise<void> {
  const first = rows;
  rows += count;
  await cluster.sql(
    `INSERT INTO work SELECT n, repeat(md5(n::text), 100) FROM generate_series(${first}, ${rows - 1}) n`,
  );
}

async function replayed(standby: Cluster, lsn: string): Promise<void> {
  await until(
    `the replay of ${lsn}`,
    async () => await standby.value(`SELECT (pg_last_wal_replay_lsn() >= '${lsn}')::text`) === "true",
  );
}

async function currentLsn(cluster: Cluster): Promise<string> {
  return await cluster.value("SELECT pg_current_wal_flush_lsn()");
}

function historyOf(archive: ArchiveFiles, timeline: number): TimelineHistory {
  const name = `0000000${timeline}.history`;
  return parseHistory(timelineId(timeline), fs.readFileSync(join(archive.directory, name)));
}

interface Scene {
  readonly a: Cluster;
  readonly b: Cluster;
  readonly archive: ArchiveFiles;
  readonly directory: WorkDirectory;
  /** Of the primary, behind what is received first. */
  readonly backup: BackupCopy;
  /** Streams from the primary. */
  readonly receiver: Receiver;
  /** Starts another one, after the first was stopped. */
  start(): Receiver;
}

/** A primary with a standby, and a place to receive into. */
async function scene(
  use: (scene: Scene) => Promise<void>,
  options: readonly string[] = [],
): Promise<void> {
  using directory = new WorkDirectory();
  await using a = await startCluster({ segmentBytes, settings });
  await a.sql(TABLE);
  await using b = await a.createStandby({ name: "b" });
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  const start = () => startReceiver({ connection: primaryOf([a, b]), archive: archive.directory, options });
  await using receiver = start();
  await receiver.next("streaming");
  const backup = await a.backup(directory.file("backup"));
  await use({ a, b, archive, directory, backup, receiver, start });
}

/** Everything of the lineage is here, is the server's own, and leads a restore to the server's data. */
async function assertFollowed(
  { archive, directory, backup }: Scene,
  server: Cluster,
  { timeline, endLsn }: { readonly timeline: number; readonly endLsn: Lsn },
): Promise<void> {
  for (let each = 2; each <= timeline; each++) {
    const name = `0000000${each}.history`;
    const read = (path: string) => fs.readFileSync(join(path, name), "utf8");
    assert.equal(read(archive.directory), read(join(server.dataDirectory, "pg_wal")), name);
  }
  assertLineage(archive, historyOf(archive, timeline), endLsn);
  assert.ok(compareWithServer(archive, server, { timeline }).endLsn >= endLsn);
  for (let each = 1; each <= timeline; each++) checkRecords(archive, { timeline: each });
  assert.deepEqual(archive.conflicts(), []);
  const content = await contentOf(server);
  const wal = directory.file("wal");
  layOut(archive, wal);
  await using restored = await restore({
    backup,
    wal,
    major: server.major,
    settings: { recovery_target_timeline: String(timeline) },
  });
  assert.equal(await contentOf(restored), content);
}

function assertKept(before: ReadonlyMap<string, string>, archive: ArchiveFiles): void {
  const now = fingerprint(archive.directory);
  const contents = new Set(now.values());
  for (const [name, hash] of before) {
    if (/^[0-9A-F]{24}$/.test(name)) assert.equal(now.get(name), hash, `${name} changed`);
    else if (name !== "lock" && !name.startsWith("index/")) assert.ok(contents.has(hash), `${name} is gone`);
  }
}

test(
  "failover: a standby that is promoted behind what was received leaves lost commits, and they are counted",
  {
    timeout,
  },
  () =>
    scene(async (own) => {
      const { a, b, archive, receiver, start } = own;
      await write(a);
      await replayed(b, await currentLsn(a));
      await b.stop("fast");
      // Acknowledged here and by the primary, and nowhere else.
      for (let count = 0; count < 7; count++) await write(a, 30);
      const lostLsn = await caughtUp(a, receiver);
      await a.kill();
      assert.equal(await receiver.stop(), 0);
      const before = fingerprint(archive.directory);
      await b.start();
      await b.promote();
      await using second = start();
      const warning = await second.next("archive is ahead of the fork");
      assert.match(String(warning["hint"]), /walvault status counts their commits/);
      await second.next("streaming", { timeline: 2 });
      await write(b);
      const endLsn = parseLsn(await caughtUp(b, second));
      assert.equal(await second.stop(), 0);
      assertKept(before, archive);
      await assertFollowed(own, b, { timeline: 2, endLsn });

      const status = walvault(["status", `--archive=${archive.directory}`, "--json"]);
      assert.equal(status.code, 0, status.stderr);
      const { lostTails } = JSON.parse(status.stdout);
      const [fork] = historyOf(archive, 2).entries;
      assert.equal(lostTails.length, 1);
      assert.equal(lostTails[0].timeline, 1);
      assert.equal(parseLsn(lostTails[0].forkLsn), fork!.endLsn);
      assert.ok(parseLsn(lostTails[0].endLsn) >= parseLsn(lostLsn));
      assert.equal(lostTails[0].commits, 7, status.stdout);
      assert.equal(lostTails[0].allCounted, true);
      assert.ok(parseLsn(lostTails[0].firstCommit.lsn) > fork!.endLsn);
      assert.ok(parseLsn(lostTails[0].lastCommit.lsn) > parseLsn(lostTails[0].firstCommit.lsn));
      const { stdout } = walvault(["status", `--archive=${archive.directory}`]);
      assert.match(
        stdout,
        /Beyond fork {2}\S+ to \S+ of timeline 1: 7 commits, not on timeline 2\n +first commit 20/,
      );
    }),
);

test(
  "failover: the old primary comes back by pg_rewind, and is gone back to",
  { timeout },
  (context) =>
    scene(async (own) => {
      const { a, b, archive, receiver } = own;
      const rewind = join(a.programs.binDirectory, "pg_rewind");
      if (!fs.existsSync(rewind)) return context.skip("this server comes without pg_rewind");
      await write(a);
      await replayed(b, await caughtUp(a, receiver));
      // It writes on, alone, while the standby is promoted.
      await b.promote();
      await write(a, 20);
      await a.stop("fast");
      await receiver.next("streaming", { timeline: 2 });
      await write(b);
      await b.sql("CHECKPOINT");
      const rewound = spawnSync(rewind, [
        `--target-pgdata=${a.dataDirectory}`,
        `--source-server=${b.conninfo({ dbname: "postgres" })}`,
      ], { ...accountOf(a), encoding: "utf8" });
      assert.equal(rewound.status, 0, rewound.stdout + rewound.stderr);
      a.writeDataFile("standby.signal", "");
      a.writeDataFile(
        "postgresql.auto.conf",
        `primary_conninfo = '${b.conninfo({ application_name: "a" })}'\n`,
      );
      await a.start();
      await replayed(a, await currentLsn(b));
      await write(b);
      await replayed(a, await caughtUp(b, receiver));
      await b.stop("fast");
      await a.promote();
      await receiver.next("streaming", { timeline: 3, server: `${a.host}:${a.port}` });
      await write(a);
      const endLsn = parseLsn(await caughtUp(a, receiver));
      assert.equal(await receiver.stop(), 0);
      await assertFollowed(own, a, { timeline: 3, endLsn });
      assert.deepEqual(archive.histories(), ["00000002.history", "00000003.history"]);
    }),
);

/** Whoever may touch a server's files. */
function accountOf(cluster: Cluster): { uid: number; gid: number } {
  const { uid, gid } = fs.statSync(cluster.dataDirectory);
  return { uid, gid };
}

test(
  "failover: two of them while the receiver is away, the second at a segment's boundary",
  { timeout },
  () =>
    scene(async (own) => {
      const { a, b, archive, receiver } = own;
      await using c = await a.createStandby({ name: "c" });
      await write(a);
      await caughtUp(a, receiver);
      assert.equal(await receiver.stop(), 0);
      await write(a);
      for (const standby of [b, c]) await replayed(standby, await currentLsn(a));
      await a.kill();
      await b.promote();
      await c.configure({ primary_conninfo: b.conninfo({ application_name: "c" }) });
      await write(b);
      const switchLsn = await b.value("SELECT pg_switch_wal()");
      await replayed(c, switchLsn);
      await b.kill();
      await c.promote();
      await write(c);
      await using returned = startReceiver({ connection: primaryOf([a, b, c]), archive: archive.directory });
      await returned.next("streaming", { timeline: 3 });
      const endLsn = parseLsn(await caughtUp(c, returned));
      assert.equal(await returned.stop(), 0);
      const [, second] = historyOf(archive, 3).entries;
      assert.equal(second!.endLsn % BigInt(segmentBytes), 0n, "not at a boundary");
      await assertFollowed(own, c, { timeline: 3, endLsn });
    }),
);

/** Ends the last record of a server's WAL exactly where a page ends, and has it on the disk. */
async function writeToPageEnd(a: Cluster): Promise<boolean> {
  const position = async () => parseLsn(await a.value("SELECT pg_current_wal_insert_lsn()"));
  const emit = (text: number) => a.sql(`SELECT pg_logical_emit_message(false, 'p', repeat('x', ${text}))`);
  const atPage = (lsn: Lsn) => [24n, 40n].includes(lsn % 8192n);
  for (let tries = 0; tries < 20 && !atPage(await position()); tries++) {
    const left = 8192 - Number(await position() % 8192n);
    // A message's record: its header, that of the data (2 bytes, of more than 255 bytes 5), 24 of its own, the prefix.
    if (left >= 300) await emit(left - 55);
    else if (left >= 52 && left <= 280) await emit(left - 52);
    else await emit(1);
  }
  const end = await position();
  if (!atPage(end)) return false;
  // Nothing waits for such a record; the WAL writer writes whole pages by itself.
  const pageLsn = end - end % 8192n;
  await until("the WAL writer", async () => parseLsn(await currentLsn(a)) >= pageLsn);
  return parseLsn(await currentLsn(a)) % 8192n === 0n;
}

test(
  "failover: at a page's boundary",
  { timeout },
  (context) =>
    scene(async (own) => {
      const { a, b, receiver } = own;
      await write(a);
      if (!await writeToPageEnd(a)) return context.skip("the server wrote something of its own");
      await replayed(b, await caughtUp(a, receiver));
      await a.kill();
      await b.promote();
      await receiver.next("streaming", { timeline: 2 });
      await write(b);
      const endLsn = parseLsn(await caughtUp(b, receiver));
      assert.equal(await receiver.stop(), 0);
      const [fork] = historyOf(own.archive, 2).entries;
      assert.equal(fork!.endLsn % 8192n, 0n, "not at a page's boundary");
      await assertFollowed(own, b, { timeline: 2, endLsn });
    }),
);

/** A primary that is killed while it writes one record of many segments; a part of that was received. */
async function killInRecord({ a, archive, receiver }: Scene): Promise<void> {
  await write(a);
  const begin = parseLsn(await caughtUp(a, receiver));
  let ended = false;
  const record = a.sql("SELECT pg_logical_emit_message(false, 'p', repeat(md5(random()::text), 2000000))")
    .catch(() => undefined).finally(() => ended = true);
  // The end of what was received lies inside the record: a page that goes on from the one before.
  await until("a part of the record", () => ended || archive.endLsn() > begin + BigInt(2 * segmentBytes));
  await a.kill();
  await record;
}

test(
  "failover: inside a record that crosses pages and segments: the new primary has none of it",
  { timeout },
  (context) =>
    scene(async (own) => {
      const { b, archive, receiver } = own;
      await killInRecord(own);
      // All that came is on the disk by then, and nobody else has more.
      await receiver.next("disconnected");
      const before = fingerprint(archive.directory);
      await b.promote();
      await receiver.next("streaming", { timeline: 2 });
      await write(b);
      const endLsn = parseLsn(await caughtUp(b, receiver));
      assert.equal(await receiver.stop(), 0);
      const [fork] = historyOf(archive, 2).entries;
      context.diagnostic(
        `received to ${formatLsn(archive.endLsn(1))}, the fork is at ${formatLsn(fork!.endLsn)}`,
      );
      assertKept(before, archive);
      await assertFollowed(own, b, { timeline: 2, endLsn });
    }),
);

test(
  "failover: a primary that gave up a record in a crash goes on behind it, and then its standby is promoted",
  { timeout },
  (context) =>
    scene(async (own) => {
      const { a, b, archive, receiver } = own;
      await killInRecord(own);
      const received = archive.endLsn(1);
      await a.start();
      await write(a);
      await replayed(b, await caughtUp(a, receiver));
      compareWithServer(archive, a);
      const gaveUp = archive.complete().some((file) =>
        archive.scan(file).firstPage?.overwritesContrecord === true
      );
      context.diagnostic(`received to ${formatLsn(received)}; gave up at a segment's start: ${gaveUp}`);
      await a.kill();
      await b.promote();
      await receiver.next("streaming", { timeline: 2 });
      await write(b);
      const endLsn = parseLsn(await caughtUp(b, receiver));
      assert.equal(await receiver.stop(), 0);
      await assertFollowed(own, b, { timeline: 2, endLsn });
    }),
);

async function slotOf(cluster: Cluster): Promise<Lsn | undefined> {
  const [slot] = await cluster.sql<{ restart_lsn: string }>(
    "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'walvault'",
  );
  return slot === undefined ? undefined : parseLsn(slot.restart_lsn);
}

for (const kept of [true, false]) {
  test(
    `failover: ${
      kept ? "with --slot-on-standbys nothing is missing" : "without it WAL is"
    } when the receiver was away`,
    { timeout },
    async () => {
      using directory = new WorkDirectory();
      // Nobody keeps WAL but by a slot.
      const small = { ...settings, wal_keep_size: "0", min_wal_size: "2MB", max_wal_size: "4MB" };
      await using a = await startCluster({ segmentBytes, settings: small });
      await a.sql(TABLE);
      await using b = await a.createStandby({ name: "b" });
      const archive = new ArchiveFiles(directory.archive(), segmentBytes);
      const options = ["--slot=walvault", "--create-slot", ...kept ? ["--slot-on-standbys"] : []];
      const start = () =>
        startReceiver({ connection: primaryOf([a, b]), archive: archive.directory, options });
      await using receiver = start();
      await receiver.next("streaming");
      if (kept) {
        await until("the slot on the standby", async () => await slotOf(b) !== undefined);
        const made = await slotOf(b);
        await write(a, 600);
        await caughtUp(a, receiver);
        await until("the slot moved along", async () => (await slotOf(b) ?? made!) > made!, 30_000);
        const moved = (await slotOf(b))!;
        const flush = await a.value(
          "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'walvault'",
        );
        assert.ok(moved <= parseLsn(flush), "the slot is past what is durable here");
      }
      assert.equal(await receiver.stop(), 0);
      const began = archive.endLsn();
      for (let count = 0; count < 6; count++) {
        await write(a, 300);
        await replayed(b, await currentLsn(a));
        // A standby removes WAL at its own restart points.
        await a.sql("CHECKPOINT");
        await replayed(b, await currentLsn(a));
        await b.sql("CHECKPOINT");
      }
      await a.kill();
      await b.promote();
      for (let count = 0; count < 3; count++) {
        await write(b, 300);
        await b.sql("CHECKPOINT");
      }
      await using returned = start();
      if (!kept) {
        await until(
          "what is said about the missing WAL",
          () => /already been removed|gap/.test(returned.stderr),
        );
        return;
      }
      await returned.next("streaming");
      const endLsn = parseLsn(await caughtUp(b, returned));
      assert.ok(endLsn > began + BigInt(3 * segmentBytes));
      assert.equal(await returned.stop(), 0);
      assertLineage(archive, historyOf(archive, 2), endLsn);
      for (const timeline of [1, 2]) checkRecords(archive, { timeline });
      assert.deepEqual(returned.linesOf("gap recorded"), []);
    },
  );
}

test("--slot-on-standbys moves the primary's slot along while a standby streams", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using a = await startCluster({ segmentBytes, settings });
  await a.sql(TABLE);
  await using b = await a.createStandby({ name: "b" });
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  for (const cluster of [a, b]) {
    await cluster.sql("SELECT pg_create_physical_replication_slot('walvault', true)");
  }
  const made = (await slotOf(a))!;
  await using receiver = startReceiver({
    connection: primaryOf([a, b]).replace("target_session_attrs=primary", "target_session_attrs=standby"),
    archive: archive.directory,
    options: ["--slot=walvault", "--slot-on-standbys"],
  });
  assert.equal((await receiver.next("streaming"))["server"], `${b.host}:${b.port}`);
  await write(a, 600);
  const written = parseLsn(await currentLsn(a));
  await until("all of it is here", () => archive.endLsn() >= written);
  await until("the slot of the primary is moved", async () => (await slotOf(a))! >= written, 30_000);
  assert.ok(made < written);
  const flush = await b.value(
    "SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'walvault'",
  );
  assert.ok((await slotOf(a))! <= parseLsn(flush), "the slot is past what is durable here");
  assert.equal(await receiver.stop(), 0);
  assert.deepEqual(receiver.linesOf("slot is not moved along"), []);
});

test("--slot-on-standbys: a standby that says nothing holds up no stop", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using a = await startCluster({ segmentBytes, settings });
  await using b = await a.createStandby({ name: "b" });
  await using receiver = startReceiver({
    connection: primaryOf([b, a]),
    archive: directory.archive(),
    options: ["--slot=walvault", "--create-slot", "--slot-on-standbys"],
  });
  await receiver.next("streaming");
  await until("the slot on the standby", async () => await slotOf(b) !== undefined, 30_000);
  b.suspend();
  try {
    // The next look is under way.
    await sleep(STANDBY_SLOTS_INTERVAL_MS + 2000);
    const askedMs = performance.now();
    assert.equal(await receiver.stop(), 0);
    const tookMs = performance.now() - askedMs;
    assert.ok(tookMs < 5000, `the stop took ${tookMs} ms`);
  } finally {
    b.resume();
  }
});

test(
  "--drop-slot tells of slots on standbys, and with --slot-on-standbys drops them",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    await using b = await a.createStandby({ name: "b" });
    const make = (cluster: Cluster) =>
      cluster.sql("SELECT pg_create_physical_replication_slot('walvault', true)");
    for (const cluster of [a, b]) await make(cluster);
    const archive = directory.archive();
    const drop = async (more: readonly string[]) => {
      const receiver = startReceiver({
        connection: primaryOf([a, b]),
        archive,
        options: ["--slot=walvault", "--drop-slot", ...more],
      });
      return { code: await receiver.ended(), stderr: receiver.stderr };
    };
    const told = await drop([]);
    assert.equal(told.code, 0, told.stderr);
    assert.match(told.stderr, /slot is left on standby.*add --slot-on-standbys to --drop-slot/);
    assert.equal(await slotOf(a), undefined);
    assert.notEqual(await slotOf(b), undefined);

    await make(a);
    await b.stop();
    const unreachable = await drop(["--slot-on-standbys"]);
    assert.equal(unreachable.code, 3);
    assert.match(unreachable.stderr, new RegExp(`slot may be left.*${b.host}:${b.port}.*run there: SELECT`));
    assert.equal(await slotOf(a), undefined);

    await b.start();
    await make(a);
    const dropped = await drop(["--slot-on-standbys"]);
    assert.equal(dropped.code, 0, dropped.stderr);
    assert.deepEqual([await slotOf(a), await slotOf(b)], [undefined, undefined]);
  },
);

test("a slot is moved only by a server that has the role it is thought to have", { timeout }, async () => {
  await using a = await startCluster({ segmentBytes, settings });
  await a.sql(TABLE);
  await using b = await a.createStandby({ name: "b" });
  for (const cluster of [a, b]) {
    await cluster.sql("SELECT pg_create_physical_replication_slot('walvault', true)");
  }
  await write(a, 100);
  await replayed(b, await currentLsn(a));
  const toLsn = parseLsn("FFFFFFFF/0");
  for (const [cluster, role, other] of [[a, "primary", "standby"], [b, "standby", "primary"]] as const) {
    const before = await slotOf(cluster);
    assert.equal(await cluster.value(advanceSlotQuery("walvault", { toLsn, role: other })), "null");
    assert.equal(await slotOf(cluster), before);
    const movedTo = parseLsn(await cluster.value(advanceSlotQuery("walvault", { toLsn, role })));
    const end = role === "primary" ? "pg_current_wal_flush_lsn()" : "pg_last_wal_replay_lsn()";
    assert.ok(movedTo > before! && movedTo <= parseLsn(await cluster.value(`SELECT ${end}`)));
  }
});

test("--slot-on-standbys makes no slot that it can't move along, and says so once", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using a = await startCluster({ segmentBytes, settings });
  await a.sql(`${TABLE}; CREATE ROLE replicator LOGIN REPLICATION`);
  await using b = await a.createStandby({ name: "b" });
  b.setHba(["host replication all 127.0.0.1/32 trust", "host all replicator 127.0.0.1/32 reject"]);
  await b.reload();
  await using receiver = startReceiver({
    connection: primaryOf([a, b]).replace("user=postgres", "user=replicator"),
    archive: directory.archive(),
    options: ["--slot=walvault", "--create-slot", "--slot-on-standbys"],
  });
  await receiver.next("streaming");
  const warning = receiver.linesOf("slot is not moved along")[0] ??
    await receiver.next("slot is not moved along");
  assert.equal(warning["server"], `${b.host}:${b.port}`);
  assert.match(String(warning["hint"]), /pg_hba\.conf/);
  assert.equal(await slotOf(b), undefined);
  assert.equal(await receiver.stop(), 0);
  assert.equal(receiver.linesOf("slot is not moved along").length, 1);
});
