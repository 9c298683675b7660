import assert from "node:assert/strict";
import { test } from "node:test";
import { freePort } from "./cluster.ts";
import { received, receiveInto, recordsOf, removeWal, sceneOf, startGreedy } from "./gap_scene.ts";
import { until, WorkDirectory } from "./receiver.ts";

const timeout = 240_000;

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
