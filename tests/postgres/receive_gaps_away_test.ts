import assert from "node:assert/strict";
import { test } from "node:test";
import { freePort } from "./cluster.ts";
import { received, receiveInto, recordsOf, removeWal, sceneOf, startGreedy } from "./gap_scene.ts";
import { until, WorkDirectory } from "./receiver.ts";

const timeout = 300_000;

test("receive waits a minute for a host that is away before it goes on behind what the other removed", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startGreedy();
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

test(
  "receive takes what its server removed from another host that has it, whatever its role, once WAL stands behind it",
  {
    timeout,
  },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await startGreedy();
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
    await using receiver = receiveInto(scene, { connection: `${connection} target_session_attrs=primary` });
    await until("the record", () => recordsOf(scene.archive).length > 0, 120_000);
    const recorded = await receiver.next("gap recorded", { level: "error" });
    await until("the healing", () => receiver.linesOf("gap healed").length > 0, 120_000);
    const line = await receiver.next("missing wal brought in");
    assert.equal(line["source"], `${standby.host}:${standby.port}`);
    const healed = await receiver.next("gap healed");
    assert.deepEqual([healed["startLsn"], healed["endLsn"]], [recorded["startLsn"], recorded["endLsn"]]);
    await received(scene);
    assert.equal(await receiver.stop(), 0);
  },
);
