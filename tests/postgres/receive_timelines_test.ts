import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { formatLsn, parseLsn } from "../../lib/wal/lsn.ts";
import { segmentFloor } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  assertLineage,
  caughtUp,
  checkRecords,
  compareWithServer,
  fingerprint,
  layOut,
  MIB,
  restore,
  runReceiver,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { contentOf, TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;
const settings = { wal_keep_size: "1GB", hot_standby_feedback: "on" };

/** A connection string that names several servers. */
function hosts(clusters: readonly Cluster[], changes: Readonly<Record<string, string>> = {}): string {
  return clusters[0]!.conninfo({
    host: clusters.map((cluster) => cluster.host).join(","),
    port: clusters.map((cluster) => cluster.port).join(","),
    ...changes,
  });
}

let rows = 0;
/** Rows that fill a bit more than two small segments. */
async function write(cluster: Cluster, count = 600): Promise<void> {
  const first = rows;
  rows += count;
  await cluster.sql(
    `INSERT INTO work SELECT n, repeat(md5(n::text), 100) FROM generate_series(${first}, ${rows - 1}) n`,
  );
}

async function replayed(standby: Cluster, lsn: string): Promise<void> {
  await until(
    `the replay of ${lsn}`,
    async () => await standby.value(`SELECT pg_last_wal_replay_lsn() >= '${lsn}'`) === "true",
  );
}

async function currentLsn(cluster: Cluster): Promise<string> {
  return await cluster.value("SELECT pg_current_wal_flush_lsn()");
}

function storedHistory(archive: ArchiveFiles, timeline: number): TimelineHistory {
  const name = `0000000${timeline}.history`;
  return parseHistory(timelineId(timeline), fs.readFileSync(join(archive.directory, name)));
}

/** The history is the server's, byte for byte. */
function compareHistory(archive: ArchiveFiles, cluster: Cluster, timeline: number): void {
  const name = `0000000${timeline}.history`;
  const read = (directory: string) => fs.readFileSync(join(directory, name), "utf8");
  assert.equal(read(archive.directory), read(join(cluster.dataDirectory, "pg_wal")));
}

test(
  "receive follows promotions: through several hosts, from a promoted standby, and two of them while away",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    await a.sql(TABLE);
    await using b = await a.createStandby({ name: "b" });
    await using c = await a.createStandby({ name: "c" });
    const start = (name: string, connection: string) => {
      const archive = new ArchiveFiles(directory.archive(name), segmentBytes);
      return { archive, receiver: startReceiver({ connection, archive: archive.directory }) };
    };
    const primary = start("primary", hosts([a, b], { target_session_attrs: "primary" }));
    const cascade = start("cascade", c.conninfo());
    const away = start("away", a.conninfo({ application_name: "away" }));
    await using followsPrimary = primary.receiver;
    await using followsStandby = cascade.receiver;
    await using _goesAway = away.receiver;
    for (const { receiver } of [primary, cascade, away]) await receiver.next("streaming");
    const backup = await a.backup(directory.file("backup"));
    await write(a);
    await caughtUp(a, away.receiver, "away");
    assert.equal(await away.receiver.stop(), 0);
    await write(a);
    const fork = await currentLsn(a);
    for (const standby of [b, c]) await replayed(standby, fork);
    await caughtUp(a, followsPrimary);

    await a.stop("fast");
    await b.promote();
    await until("the first history", () => primary.archive.histories().length === 1);
    await c.configure({ primary_conninfo: b.conninfo({ application_name: "c" }) });
    await write(b);
    await b.sql("SELECT pg_switch_wal()");
    await write(b);
    await caughtUp(b, followsPrimary);
    await replayed(c, await currentLsn(b));
    await followsStandby.next("streaming", { timeline: 2 });
    await caughtUp(c, followsStandby);
    compareWithServer(primary.archive, b, { timeline: 2 });
    compareHistory(primary.archive, b, 2);

    await b.stop("fast");
    assert.equal(await followsPrimary.stop(), 0);
    await c.promote();
    await followsStandby.next("streaming", { timeline: 3 });
    await write(c);
    await c.sql("SELECT pg_switch_wal()");
    await write(c);
    const end = parseLsn(await caughtUp(c, followsStandby));
    assert.equal(await followsStandby.stop(), 0);

    // The third one knows nothing of all that.
    await using returned = startReceiver({
      connection: c.conninfo({ application_name: "away" }),
      archive: away.archive.directory,
    });
    await returned.next("streaming", { timeline: 3 });
    await caughtUp(c, returned, "away");
    assert.equal(await returned.stop(), 0);

    for (const { archive } of [cascade, away]) {
      assert.deepEqual(archive.histories(), ["00000002.history", "00000003.history"]);
      for (const timeline of [2, 3]) compareHistory(archive, c, timeline);
      assertLineage(archive, storedHistory(archive, 3), end);
      assert.ok(compareWithServer(archive, c, { timeline: 3 }).endLsn >= end);
      for (const timeline of [1, 2, 3]) checkRecords(archive, { timeline });
      assert.deepEqual(archive.conflicts(), []);
    }
    compareWithServer(away.archive, a);
    compareWithServer(cascade.archive, b, { timeline: 2 });

    const content = await contentOf(c);
    const wal = directory.file("wal");
    layOut(away.archive, wal);
    await using restored = await restore({
      backup,
      wal,
      major: a.major,
      settings: { recovery_target_timeline: "latest" },
    });
    assert.equal(await contentOf(restored), content);
  },
);

test("receive follows a fork exactly at a segment's boundary", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using a = await startCluster({ segmentBytes, settings });
  await a.sql(TABLE);
  await using b = await a.createStandby({ name: "b" });
  const start = (name: string, connection: string) => {
    const archive = new ArchiveFiles(directory.archive(name), segmentBytes);
    return { archive, receiver: startReceiver({ connection, archive: archive.directory }) };
  };
  const both = start("both", hosts([a, b], { target_session_attrs: "primary" }));
  const cascade = start("cascade", b.conninfo());
  const away = start("away", a.conninfo({ application_name: "away" }));
  await using followsPrimary = both.receiver;
  await using followsStandby = cascade.receiver;
  await using _goesAway = away.receiver;
  for (const { receiver } of [both, cascade, away]) await receiver.next("streaming");
  const backup = await a.backup(directory.file("backup"));
  await write(a, 300);
  const fork = await a.value("SELECT pg_switch_wal()");
  // The rest of the segment is empty, and belongs to it.
  const boundary = segmentFloor(parseLsn(fork), both.archive.segmentSize) + BigInt(segmentBytes);
  const reached = () => [both, cascade, away].every(({ archive }) => archive.endLsn() === boundary);
  await until("everybody standing at the boundary", reached);
  await a.kill();
  assert.equal(await away.receiver.stop(), 0);
  await b.promote();

  await followsPrimary.next("streaming", { timeline: 2 });
  await followsStandby.next("streaming", { timeline: 2 });
  await using returned = startReceiver({
    connection: b.conninfo({ application_name: "away" }),
    archive: away.archive.directory,
  });
  await returned.next("streaming", { timeline: 2 });
  await write(b);
  const end = parseLsn(await currentLsn(b));
  for (const { archive } of [both, cascade, away]) {
    await until("everything on timeline 2", () => archive.endLsn(2) >= end);
    const history = storedHistory(archive, 2);
    assert.equal(formatLsn(history.entries[0]!.endLsn), formatLsn(boundary as never), "not at the boundary");
    compareWithServer(archive, a);
    compareWithServer(archive, b, { timeline: 2 });
    compareHistory(archive, b, 2);
    assertLineage(archive, history, end);
  }
  for (const receiver of [followsPrimary, followsStandby, returned]) assert.equal(await receiver.stop(), 0);
  const content = await contentOf(b);
  const wal = directory.file("wal");
  layOut(both.archive, wal);
  await using restored = await restore({ backup, wal, major: a.major });
  assert.equal(await contentOf(restored), content);
});

test(
  "receive ahead of the fork keeps the old timeline's end apart, and then refuses the old primary",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    await a.sql(TABLE);
    await using b = await a.createStandby({ name: "b" });
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    await using first = startReceiver({ connection: a.conninfo(), archive: archive.directory });
    await first.next("streaming");
    const backup = await a.backup(directory.file("backup"));
    await write(a);
    await replayed(b, await currentLsn(a));
    await b.stop("fast");
    // What only the old primary and the archive know.
    await write(a);
    await write(a);
    await caughtUp(a, first);
    await a.kill();
    assert.equal(await first.stop(), 0);
    const before = fingerprint(archive.directory);
    await b.start();
    await b.promote();

    await using second = startReceiver({
      connection: hosts([a, b]),
      archive: archive.directory,
    });
    await second.next("streaming", { timeline: 2 });
    await write(b);
    const end = parseLsn(await caughtUp(b, second));
    const history = storedHistory(archive, 2);
    assert.ok(
      history.entries[0]!.endLsn + BigInt(3 * segmentBytes) < archive.endLsn(1),
      "not ahead of the fork",
    );
    assert.equal(await second.stop(), 0);
    const after = fingerprint(archive.directory);
    for (const [name, hash] of before) {
      if (name !== "lock") assert.equal(after.get(name), hash, `${name} changed`);
    }
    compareWithServer(archive, a);
    compareWithServer(archive, b, { timeline: 2 });
    compareHistory(archive, b, 2);
    assertLineage(archive, history, end);
    const content = await contentOf(b);
    const wal = directory.file("wal");
    layOut(archive, wal);
    await using restored = await restore({ backup, wal, major: a.major });
    assert.equal(await contentOf(restored), content);

    // The old primary comes back as if nothing had been.
    await a.start();
    await write(a);
    const unchanged = fingerprint(archive.directory);
    const refused = await runReceiver({ connection: a.conninfo(), archive: archive.directory });
    assert.equal(await refused.ended(), 3);
    assert.match(refused.stderr, /on timeline 1, the archive on 2/);
    assert.match(refused.stderr, /pg_rewind/);
    assert.deepEqual(fingerprint(archive.directory), unchanged);
    await using third = startReceiver({ connection: hosts([a, b]), archive: archive.directory });
    await third.next("streaming", { timeline: 2, server: `${b.host}:${b.port}` });
    assert.equal(await third.stop(), 0);
  },
);
