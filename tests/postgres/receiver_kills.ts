/** Rounds of kill -9 under load; a few of them in the fast tests, many in the long ones. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { Random } from "../simulation/random.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  assertHolds,
  caughtUp,
  checkRecords,
  compareWithServer,
  fingerprint,
  layOut,
  MIB,
  restore,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { FlushWatch, Ledger, TABLE } from "./workload.ts";

const OPTIONS = ["--slot=walvault", "--create-slot"];

interface Rounds {
  readonly rounds: number;
  /** Decides when the kills come. */
  readonly seed: number;
}

/**
 * Kills the receiver at random moments: while it starts, moves files aside, streams, publishes.
 *
 * Whenever it is dead, everything that pg_stat_replication ever showed as flushed stands in the archive as the primary
 * has it, and no published segment has changed.
 */
export async function killReceiver({ rounds, seed }: Rounds): Promise<void> {
  const random = new Random(seed);
  const segmentBytes = MIB;
  using directory = new WorkDirectory();
  await using cluster = await startCluster({
    segmentBytes,
    settings: { wal_keep_size: "20GB", max_wal_size: "20GB" },
  });
  await cluster.sql(TABLE);
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  const start = () =>
    startReceiver({ connection: cluster.conninfo(), archive: archive.directory, options: OPTIONS });
  await using watch = new FlushWatch(cluster);
  await using load = new Ledger(cluster, { clients: 2, payloadBytes: 16_000, pauseMs: 2 });
  let published = new Map<string, string>();
  for (let round = 1; round <= rounds; round++) {
    const told = `round ${round} of seed ${seed}`;
    await using receiver = start();
    // Half of them from the moment it streams, so that there is something to lose; the others whenever it is.
    if (round === 1 || random.chance(0.5)) await receiver.next("streaming");
    await sleep(random.spread(5, 1500));
    await receiver.kill();
    // The last answer of its walsender may still be on its way to us.
    await sleep(20);
    const flushLsn = watch.highest;
    if (flushLsn > 0n) assertHolds(archive, cluster, { flushLsn });
    const now = new Map(
      [...fingerprint(archive.directory)].filter(([name]) => /^[0-9A-F]{24}$/.test(name)),
    );
    for (const [name, hash] of published) assert.equal(now.get(name), hash, `${name} changed in ${told}`);
    published = now;
  }
  await load.stop();
  assert.deepEqual(load.problems, []);

  await using receiver = start();
  await receiver.next("streaming");
  await caughtUp(cluster);
  assert.equal(await receiver.stop(), 0);
  await watch.stop();
  assert.ok(watch.observations > rounds, `the flush position was seen ${watch.observations} times`);
  assertHolds(archive, cluster, { flushLsn: watch.highest });
  compareWithServer(archive, cluster);
  checkRecords(archive);
  assert.deepEqual(archive.saved(), [], "saved copies stay behind");
  assert.deepEqual(archive.conflicts(), []);
}

const IS_SYNCHRONOUS =
  "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'";

async function synchronous(cluster: Cluster): Promise<void> {
  await until(
    "walvault being the synchronous standby",
    async () => await cluster.value(IS_SYNCHRONOUS) === "1",
  );
}

/**
 * Kills the primary and all its processes while clients commit with walvault as the synchronous standby; then restores
 * from the first base copy and the archive, and counts the commits that clients were told of.
 */
export async function killPrimary({ rounds, seed }: Rounds): Promise<void> {
  const random = new Random(seed);
  using directory = new WorkDirectory();
  const segmentBytes = MIB;
  await using primary = await startCluster({
    segmentBytes,
    settings: { synchronous_commit: "on", wal_keep_size: "20GB" },
  });
  await primary.sql(TABLE);
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await using receiver = startReceiver({
    connection: primary.conninfo(),
    archive: archive.directory,
    options: OPTIONS,
  });
  await receiver.next("streaming");
  const backup = await primary.backup(directory.file("backup"));
  await primary.configure({ synchronous_standby_names: "walvault" });
  const acknowledged: Ledger[] = [];
  let flushedLsn: Lsn = lsn(0n);
  for (let round = 1; round <= rounds; round++) {
    const told = `round ${round} of seed ${seed}`;
    await synchronous(primary);
    await using watch = new FlushWatch(primary);
    const ledger = new Ledger(primary, { clients: 4, payloadBytes: 3000, prefix: `${round}-` });
    acknowledged.push(ledger);
    await sleep(random.spread(100, 1500));
    await primary.kill();
    await ledger.stop();
    await watch.stop();
    if (watch.highest > flushedLsn) flushedLsn = watch.highest;
    assert.ok(ledger.acknowledged.size > 0, `no commit in ${told}`);
    // What is received may still be on its way to the disk; what was acknowledged is there.
    await receiver.next("disconnected");
    assertHolds(archive, primary, { flushLsn: flushedLsn });
    const wal = directory.file(`restore-${round}`);
    layOut(archive, wal);
    const [restored] = await Promise.all([
      restore({ backup, wal, major: primary.major, settings: { synchronous_standby_names: "" } }),
      primary.start(),
    ]);
    try {
      for (const ledger of acknowledged) {
        const missing = await ledger.missingOn(restored);
        assert.deepEqual(missing, [], `acknowledged commits are missing after ${told}`);
      }
    } finally {
      await restored.destroy();
    }
  }
  await synchronous(primary);
  await caughtUp(primary);
  assert.equal(await receiver.stop(), 0);
  compareWithServer(archive, primary);
  checkRecords(archive);
  assert.deepEqual(archive.conflicts(), []);
}
