/** Failovers of real servers under `receive`: nothing is overwritten, every history is here, and what is here restores. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
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

const timeout = 240_000;
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
      const { a, b, archive, start } = own;
      await using receiver = start();
      await receiver.next("streaming");
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
      const { a, b, archive, start } = own;
      const rewind = join(a.programs.binDirectory, "pg_rewind");
      if (!fs.existsSync(rewind)) return context.skip("this server comes without pg_rewind");
      await using receiver = start(["--slot=walvault", "--create-slot"]);
      await receiver.next("streaming");
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
      await using receiver = start();
      await receiver.next("streaming");
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

/** Fills WAL to a bit before the end of a page, then to the page itself, as nearly as a server lets us. */
async function writeToPageEnd(a: Cluster): Promise<void> {
  const PAGE = 8192n;
  for (let tries = 0; tries < 200; tries++) {
    const left = Number(PAGE - parseLsn(await currentLsn(a)) % PAGE) % Number(PAGE);
    if (left === 0) return;
    // A message's record: 24 of its own, 2 or 5 of the main data's head, and what stands before the text.
    const overhead = 24 + 2 + 25;
    const text = left > 400 ? Math.min(left - 200, 200) : left - overhead;
    if (text <= 0 || text > 200) {
      await a.sql("SELECT pg_logical_emit_message(false, 'p', repeat('x', 100))");
      continue;
    }
    await a.sql(`SELECT pg_logical_emit_message(false, 'p', repeat('x', ${text})); SELECT txid_current()`);
  }
}

test(
  "failover: at a page's boundary, or as near to it as a server writes",
  { timeout },
  (context) =>
    scene(async (own) => {
      const { a, b, receiver } = own;
      await using receiver = start();
      await receiver.next("streaming");
      await write(a);
      await writeToPageEnd(a);
      await replayed(b, await caughtUp(a, receiver));
      await a.kill();
      await b.promote();
      await receiver.next("streaming", { timeline: 2 });
      await write(b);
      const endLsn = parseLsn(await caughtUp(b, receiver));
      assert.equal(await receiver.stop(), 0);
      const [fork] = historyOf(own.archive, 2).entries;
      context.diagnostic(`the fork lies ${fork!.endLsn % 8192n} bytes behind a page's start`);
      await assertFollowed(own, b, { timeline: 2, endLsn });
    }),
);

test(
  "failover: inside a record that crosses pages and segments",
  { timeout },
  (context) =>
    scene(async (own) => {
      const { a, b, archive, start } = own;
      await using receiver = start();
      await receiver.next("streaming");
      await write(a);
      await caughtUp(a, receiver);
      const begin = await currentLsn(a);
      // One record of some megabytes, and the machine goes while it is written.
      const big = a.sql("SELECT pg_logical_emit_message(false, 'p', repeat(md5(random()::text), 1000000))")
        .catch(
          () => undefined,
        );
      await until("a part of the record", () => archive.endLsn() > parseLsn(begin) + BigInt(2 * segmentBytes))
        .catch(() => undefined);
      await a.kill();
      await big;
      await b.promote();
      await receiver.next("streaming", { timeline: 2 });
      await write(b);
      const endLsn = parseLsn(await caughtUp(b, receiver));
      assert.equal(await receiver.stop(), 0);
      const [fork] = historyOf(archive, 2).entries;
      context.diagnostic(`the record began near ${begin}; the fork is ${fork!.endLsn.toString(16)}`);
      await assertFollowed(own, b, { timeline: 2, endLsn });
    }),
);
