import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { encodeGapAcceptance } from "../../lib/archive/gaps.ts";
import { formatLsn } from "../../lib/wal/lsn.ts";
import { bring } from "../archive/brought_files.ts";
import {
  received,
  receiveInto,
  recordsOf,
  removeWal,
  type Scene,
  sceneOf,
  startGreedy,
} from "./gap_scene.ts";
import { caughtUp, segmentOf, until, WorkDirectory } from "./receiver.ts";

const timeout = 300_000;

test("receive goes on behind WAL that the server removed, and has written that down before", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startGreedy();
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
  // It goes on where it was. What an earlier process wrote may not be durable: it is written once more, as it was.
  await using again = receiveInto(scene);
  await again.next("archive has open gaps");
  await again.next("streaming");
  await received(scene);
  for (const told of recordsOf(archive)) assert.deepEqual(told, record);
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
      await using cluster = await startGreedy({ max_slot_wal_keep_size: "1MB" });
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

/** The server writes more, and archives its newest whole segment by itself: behind what the receiver will get next. */
async function pushNewest({ cluster, archive }: Scene): Promise<void> {
  for (let i = 0; i < 6; i++) {
    await cluster.sql(
      "SET synchronous_commit = local; SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'later')",
    );
  }
  const current = await cluster.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
  const newest = cluster.walFiles().filter((name) => /^[0-9A-F]{24}$/.test(name) && name < current).toSorted()
    .at(-1)!;
  const wal = openDirectDisk(join(cluster.dataDirectory, "pg_wal"));
  await bring(openDirectDisk(archive.directory), newest, wal, { systemIdentifier: undefined });
}

for (const isPushed of [false, true]) {
  test(
    `receive behind a gap releases no commit that waits inside it before the gap is accepted${
      isPushed ? ", also when push brought a later segment" : ""
    }`,
    {
      timeout,
    },
    async () => {
      using directory = new WorkDirectory();
      await using cluster = await startGreedy();
      const scene = await sceneOf(directory, cluster);
      await cluster.configure({ synchronous_standby_names: "walvault" });
      const waiting = cluster.connect();
      try {
        let returned = false;
        const commit = waiting.unsafe("INSERT INTO work VALUES (gen_random_uuid(), 'waits')").then(() =>
          returned = true
        );
        const waiters = () =>
          cluster.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
        await until("the commit waiting", async () => await waiters() === "1");
        await removeWal(scene);
        if (isPushed) await pushNewest(scene);
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
        const [{ timeline, startLsn, endLsn } = assert.fail("nothing is recorded")] = recordsOf(
          scene.archive,
        );
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
    },
  );
}

test("receive that is killed between the gap's record and what comes behind it goes on behind it", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startGreedy();
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
