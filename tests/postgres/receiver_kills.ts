/** Rounds of kill -9 under load; a few of them in the fast tests, many in the long ones. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import process from "node:process";
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
  layOut,
  MIB,
  type Receiver,
  restore,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { FlushWatch, Ledger, missingOn, TABLE } from "./workload.ts";

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
  let published = new Set<string>();
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
    // Byte for byte the server's: so none has changed since the last round either.
    compareWithServer(archive, cluster);
    const now = new Set(archive.complete().map((file) => file.name));
    for (const name of published) assert.ok(now.has(name), `${name} is gone in ${told}`);
    published = now;
  }
  await load.stop();
  assert.deepEqual(load.problems, []);

  await using receiver = start();
  await receiver.next("streaming");
  await caughtUp(cluster, receiver);
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
  await using receivers = new AsyncDisposableStack();
  const start = () =>
    receivers.use(
      startReceiver({ connection: primary.conninfo(), archive: archive.directory, options: OPTIONS }),
    );
  let receiver = start();
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
    // Streams that break after a second each are failures in a row, and a new process knows of none.
    if (round % 3 === 0) {
      assert.equal(await receiver.stop(), 0);
      receiver = start();
    }
    const wal = directory.file(`restore-${round}`);
    layOut(archive, wal);
    const starting = primary.start(); // the receiver comes back to it meanwhile
    starting.catch(() => {}); // awaited below
    const restored = await restore({
      backup,
      wal,
      major: primary.major,
      settings: { synchronous_standby_names: "" },
    }).finally(() => starting);
    try {
      const missing = await missingOn(restored, acknowledged);
      assert.deepEqual(missing, [], `acknowledged commits are missing after ${told}`);
    } finally {
      await restored.destroy();
      fs.rmSync(wal, { recursive: true });
    }
  }
  await synchronous(primary);
  await caughtUp(primary, receiver);
  assert.equal(await receiver.stop(), 0);
  compareWithServer(archive, primary);
  checkRecords(archive);
  assert.deepEqual(archive.conflicts(), []);
}

/**
 * One misfortune after the other, drawn at random: kills and stops of both sides, switches, long records, frozen
 * processes, failovers to a standby that becomes the new primary.
 *
 * After each, nothing that was shown as flushed on the timeline at hand is missing; at the end the whole is replayed.
 */
export async function breakEverything(
  { milliseconds, seed }: { readonly milliseconds: number; readonly seed: number },
): Promise<void> {
  const random = new Random(seed);
  const segmentBytes = MIB;
  using directory = new WorkDirectory();
  const settings = { synchronous_commit: "on", wal_keep_size: "20GB", max_wal_size: "20GB" };
  const clusters: Cluster[] = [];
  const receivers: Receiver[] = [];
  try {
    let primary = await startCluster({ segmentBytes, settings });
    clusters.push(primary);
    await primary.sql(TABLE);
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    const startNew = () => {
      const next = startReceiver({
        connection: primary.conninfo(),
        archive: archive.directory,
        options: OPTIONS,
      });
      receivers.push(next);
      return next;
    };
    let receiver = startNew();
    await receiver.next("streaming");
    const backup = await primary.backup(directory.file("backup"));
    await primary.configure({ synchronous_standby_names: "walvault" });
    const ledgers: Ledger[] = [];
    let timeline = 1;
    let flushedLsn: Lsn = lsn(0n);
    const endsAt = performance.now() + milliseconds;
    for (let round = 1; performance.now() < endsAt; round++) {
      await synchronous(primary);
      const watch = new FlushWatch(primary);
      const ledger = new Ledger(primary, { clients: 3, payloadBytes: 4000, prefix: `${round}-`, pauseMs: 1 });
      ledgers.push(ledger);
      await sleep(random.spread(20, 2000));
      const event = random.pick(
        [
          "kill receiver",
          "stop receiver",
          "kill primary",
          "stop primary",
          "long record",
          "freeze",
          "fail over",
        ] as const,
      );
      const told = `"${event}" in round ${round} of seed ${seed}`;
      try {
        switch (event) {
          case "kill receiver":
            await receiver.kill();
            receiver = startNew();
            break;
          case "stop receiver":
            assert.equal(await receiver.stop(random.pick(["SIGTERM", "SIGINT"])), 0);
            receiver = startNew();
            break;
          case "kill primary":
            await primary.kill();
            break;
          case "stop primary":
            await primary.stop(random.pick(["fast", "immediate"]));
            break;
          case "long record":
            await primary.sql(
              `SELECT pg_logical_emit_message(false, 'w', repeat('w', ${
                random.integer(1, 4 * MIB)
              })); SELECT pg_switch_wal()`,
            );
            break;
          case "freeze":
            process.kill(receiver.pid, "SIGSTOP");
            await sleep(random.integer(100, 2000));
            process.kill(receiver.pid, "SIGCONT");
            break;
          case "fail over": {
            // The standby must not lack what was acknowledged: it is one of two synchronous ones for that time.
            const standby = await primary.createStandby({ name: "next", settings });
            clusters.push(standby);
            await primary.configure({ synchronous_standby_names: "2 (walvault, next)" });
            await sleep(random.integer(100, 1000));
            await primary.kill();
            await ledger.stop();
            await receiver.stop();
            await watch.stop();
            if (watch.highest > flushedLsn) flushedLsn = watch.highest;
            assertHolds(archive, primary, { flushLsn: flushedLsn, timeline });
            await standby.promote();
            timeline++;
            flushedLsn = lsn(0n);
            await primary.destroy();
            primary = standby;
            await primary.configure({ synchronous_standby_names: "walvault" });
            receiver = startNew();
            break;
          }
        }
        await ledger.stop();
        await watch.stop();
        if (event !== "fail over") {
          if (watch.highest > flushedLsn) flushedLsn = watch.highest;
          if (primary.pid === undefined) await primary.start();
          await synchronous(primary);
          await caughtUp(primary, receiver);
          if (flushedLsn > 0n) assertHolds(archive, primary, { flushLsn: flushedLsn, timeline });
        }
      } catch (error) {
        throw new Error(`Cannot go on after ${told}: ${(error as Error).message}\n${receiver.stderr}`, {
          cause: error,
        });
      } finally {
        await ledger.stop();
        await watch.stop();
      }
    }
    await synchronous(primary);
    await caughtUp(primary, receiver);
    assert.equal(await receiver.stop(), 0);
    for (let number = 1; number <= timeline; number++) checkRecords(archive, { timeline: number });
    compareWithServer(archive, primary, { timeline });
    assert.deepEqual(archive.conflicts(), []);
    const wal = directory.file("wal");
    layOut(archive, wal);
    const restored = await restore({
      backup,
      wal,
      major: primary.major,
      settings: { synchronous_standby_names: "" },
    });
    clusters.push(restored);
    assert.deepEqual(
      await missingOn(restored, ledgers),
      [],
      `acknowledged commits are missing, seed ${seed}`,
    );
  } finally {
    for (const receiver of receivers) await receiver.kill();
    for (const cluster of clusters) await cluster.destroy();
  }
}
