import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { encodeGapAcceptance, type GapRecord, parseLedger } from "../../lib/archive/gaps.ts";
import { formatLsn, type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { segmentFloor } from "../../lib/wal/segment.ts";
import { type Cluster, freePort, type Settings, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  caughtUp,
  MIB,
  type ReceiveOptions,
  type Receiver,
  segmentOf,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { TABLE } from "./workload.ts";

const timeout = 240_000;
const segmentBytes = MIB;
const GREEDY = { min_wal_size: "2MB", max_wal_size: "2MB", wal_keep_size: "0" };

/** A server, and an archive that has its WAL up to where a receiver was stopped. */
interface Scene {
  readonly cluster: Cluster;
  readonly archive: ArchiveFiles;
  /** The segment that the archive needs next begins here. */
  readonly missingLsn: Lsn;
}

async function sceneOf(
  directory: WorkDirectory,
  cluster: Cluster,
  options: readonly string[] = [],
): Promise<Scene> {
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await cluster.configure({ wal_keep_size: "4GB" });
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive: archive.directory,
    options,
  });
  await receiver.next("streaming");
  await cluster.sql(TABLE);
  await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'here')");
  const end = parseLsn(await caughtUp(cluster, receiver));
  assert.equal(await receiver.stop(), 0);
  return { cluster, archive, missingLsn: segmentFloor(end, archive.segmentSize) };
}

/** The server writes and removes WAL until it lacks what the archive needs. */
async function removeWal({ cluster, archive, missingLsn }: Scene): Promise<void> {
  await cluster.configure({ wal_keep_size: "0" });
  await until("the removal of the next segment", async () => {
    for (let i = 0; i < 4; i++) {
      await cluster.sql(
        "SET synchronous_commit = local; SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'missing')",
      );
    }
    await cluster.sql("CHECKPOINT");
    return !cluster.walFiles().includes(segmentOf(missingLsn, archive));
  });
  // What is left shall stay until it is received.
  await cluster.configure({ wal_keep_size: "4GB" });
}

function recordsOf(archive: ArchiveFiles): readonly GapRecord[] {
  const path = join(archive.directory, "gaps.jsonl");
  return fs.existsSync(path) ? parseLedger(fs.readFileSync(path)).records : [];
}

function receiveInto({ cluster, archive }: Scene, options: Partial<ReceiveOptions> = {}): Receiver {
  return startReceiver({ connection: cluster.conninfo(), archive: archive.directory, ...options });
}

/** Everything behind the gap is here, up to where the server is now. */
async function received({ cluster, archive }: Scene): Promise<void> {
  const end = parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()"));
  await until(`WAL up to ${formatLsn(end)}`, () => archive.endLsn() >= end);
}

function start(settings: Settings = {}): Promise<Cluster> {
  return startCluster({ segmentBytes, settings: { ...GREEDY, ...settings } });
}

test("receive goes on behind WAL that the server removed, and has written that down before", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await start();
  const scene = await sceneOf(directory, cluster);
  const { archive, missingLsn } = scene;
  await removeWal(scene);
  await using receiver = receiveInto(scene);
  const line = await receiver.next("gap recorded");
  assert.equal(line.level, "error");
  await receiver.next("streaming");
  await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'behind')");
  await received(scene);
  const [record, ...others] = recordsOf(archive);
  assert.deepEqual(others, []);
  assert.equal(formatLsn(record!.startLsn), formatLsn(missingLsn));
  assert.match(record!.answer, /has already been removed/);
  // It begins again with the server's oldest segment, and nothing of that is lost.
  const oldest = archive.complete().find((file) => archive.startLsn(file) >= missingLsn);
  assert.equal(
    oldest === undefined ? undefined : formatLsn(archive.startLsn(oldest)),
    formatLsn(record!.endLsn),
  );
  assert.ok(!cluster.walFiles().includes(segmentOf(record!.startLsn, archive)));
  // The flush position is told: nobody waits for what comes behind the gap.
  await caughtUp(cluster, receiver);
  assert.equal(await receiver.stop(), 0);
  // It goes on where it was, and does not write the same down again.
  await using again = receiveInto(scene);
  await again.next("archive has open gaps");
  await again.next("streaming");
  await received(scene);
  assert.equal(recordsOf(archive).length, 1);
  assert.equal(await again.stop(), 0);
});

for (const createSlot of [true, false]) {
  test(
    `receive whose slot was invalidated goes on behind what is missing (${
      createSlot ? "makes slots" : "makes none"
    })`,
    {
      timeout,
    },
    async () => {
      using directory = new WorkDirectory();
      await using cluster = await start({ max_slot_wal_keep_size: "1MB" });
      const options = ["--slot=wv", ...createSlot ? ["--create-slot"] : []];
      if (!createSlot) await cluster.sql("SELECT pg_create_physical_replication_slot('wv', true)");
      const scene = await sceneOf(directory, cluster, options);
      await removeWal(scene);
      assert.equal(await cluster.value("SELECT wal_status FROM pg_replication_slots"), "lost");
      await using receiver = receiveInto(scene, { options });
      await receiver.next("gap recorded");
      if (cluster.major >= 18 && !createSlot) {
        assert.equal(await receiver.ended(), 3);
        assert.match(receiver.stderr, /can no longer access replication slot/);
        return;
      }
      assert.equal(receiver.linesOf("invalidated slot dropped").length, 0);
      await receiver.next("streaming");
      await cluster.sql("INSERT INTO work VALUES (gen_random_uuid(), 'behind')");
      await received(scene);
      await caughtUp(cluster, receiver);
      assert.equal(recordsOf(scene.archive).length, 1);
      assert.equal(receiver.linesOf("invalidated slot dropped").length, cluster.major >= 18 ? 1 : 0);
      assert.equal(await receiver.stop(), 0);
    },
  );
}

test("receive behind a gap releases no commit that waits inside it before the gap is accepted", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await start();
  const scene = await sceneOf(directory, cluster);
  await cluster.configure({ synchronous_standby_names: "walvault" });
  const waiting = cluster.connect();
  try {
    let returned = false;
    const commit = waiting.unsafe("INSERT INTO work VALUES (gen_random_uuid(), 'waits')").then(() =>
      returned = true
    );
    const waiters = () => cluster.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
    await until("the commit waiting", async () => await waiters() === "1");
    await removeWal(scene);
    await using receiver = receiveInto(scene);
    await receiver.next("gap recorded");
    const hint = await receiver.next("archive has open gaps");
    assert.match(String(hint["hint"]), /go on waiting/);
    await receiver.next("streaming");
    await received(scene);
    await sleep(12_000); // longer than the interval of statuses
    const flushed = () =>
      cluster.value(
        "SELECT coalesce(flush_lsn::text, 'none') FROM pg_stat_replication WHERE write_lsn IS NOT NULL",
      );
    assert.equal(await flushed(), "none");
    assert.deepEqual([returned, await waiters()], [false, "1"]);
    // So it stays over a reconnect.
    await cluster.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
    await receiver.next("streaming");
    await sleep(3000);
    assert.deepEqual([returned, await waiters()], [false, "1"]);
    const [{ timeline, startLsn, endLsn } = assert.fail("nothing is recorded")] = recordsOf(scene.archive);
    const said = {
      acceptedAt: new Date().toISOString(),
      acceptedBy: "test",
      reason: "a new base backup is taken",
    };
    fs.appendFileSync(
      join(scene.archive.directory, "gaps.jsonl"),
      encodeGapAcceptance({ timeline, startLsn, endLsn, ...said }),
    );
    const acceptedAtMs = performance.now();
    await receiver.next("gap accepted");
    await commit;
    const took = performance.now() - acceptedAtMs;
    assert.ok(took < 6000, `the commit returned after ${took} ms`);
    await caughtUp(cluster, receiver);
    assert.equal(await receiver.stop(), 0);
  } finally {
    await cluster.configure({ synchronous_standby_names: "" });
    await waiting.end({ timeout: 5 });
  }
});

test("receive that is killed between the gap's record and what comes behind it goes on behind it", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await start();
  const scene = await sceneOf(directory, cluster);
  await removeWal(scene);
  const before = scene.archive.complete().length;
  const killed = receiveInto(scene);
  const path = join(scene.archive.directory, "gaps.jsonl");
  while (!fs.existsSync(path) || fs.statSync(path).size === 0) await sleep(1);
  await killed.kill();
  assert.equal(scene.archive.complete().length, before);
  await using again = receiveInto(scene);
  await again.next("streaming");
  await received(scene);
  assert.equal(again.linesOf("gap recorded").length, 0);
  const records = recordsOf(scene.archive).map(({ startLsn, endLsn }) => `${startLsn} ${endLsn}`);
  assert.equal(new Set(records).size, 1);
  assert.ok(records.length <= 2);
  assert.equal(await again.stop(), 0);
});

test("receive takes what its server removed from another host that has it, or waits for that one", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await start();
  await cluster.configure({ wal_keep_size: "4GB" });
  await using standby = await cluster.createStandby();
  const scene = await sceneOf(directory, cluster);
  await removeWal(scene);
  const end = await cluster.value("SELECT pg_current_wal_flush_lsn()");
  await until(
    "the standby having it",
    async () => await standby.value(`SELECT pg_last_wal_receive_lsn() >= '${end}'`) === "true",
  );
  const connection = cluster.conninfo({
    host: `${cluster.host},${standby.host}`,
    port: `${cluster.port},${standby.port}`,
  });
  // The standby would not do for streaming, and is asked all the same.
  await using picky = receiveInto(scene, { connection: `${connection} target_session_attrs=primary` });
  const line = await picky.next("missing wal may be elsewhere");
  assert.equal(line["hosts"], `${standby.host}:${standby.port}`);
  assert.match(picky.stderr, /it has that WAL/);
  await sleep(3000);
  assert.equal(await picky.stop(), 0);
  assert.deepEqual(recordsOf(scene.archive), []);
  await using receiver = receiveInto(scene, { connection });
  await received(scene);
  assert.deepEqual(recordsOf(scene.archive), []);
  assert.equal(await receiver.stop(), 0);
});

test("receive waits a minute for a host that is away before it goes on behind what the other removed", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await start();
  const scene = await sceneOf(directory, cluster);
  await removeWal(scene);
  const connection = cluster.conninfo({
    host: `${cluster.host},${cluster.host}`,
    port: `${cluster.port},${await freePort()}`,
  });
  const startedAtMs = performance.now();
  await using receiver = receiveInto(scene, { connection });
  await receiver.next("missing wal may be elsewhere");
  await until("the record", () => recordsOf(scene.archive).length > 0, 120_000);
  const waited = performance.now() - startedAtMs;
  assert.ok(waited >= 60_000, `recorded after ${waited} ms`);
  await received(scene);
  assert.equal(receiver.linesOf("missing wal may be elsewhere").length, 1);
  assert.equal(await receiver.stop(), 0);
});
