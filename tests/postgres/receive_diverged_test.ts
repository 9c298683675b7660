import assert from "node:assert/strict";
import { test } from "node:test";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  caughtUp,
  compareWithServer,
  MIB,
  runReceiver,
  startReceiver,
  WorkDirectory,
} from "./receiver.ts";
import { TABLE } from "./workload.ts";

const timeout = 180_000;
const segmentBytes = MIB;
const settings = { wal_keep_size: "1GB", autovacuum: "off" };

/** Rows in segments of their own: what comes after them begins at a segment's start on every copy of the server. */
async function write(cluster: Cluster, who: string, rows: number): Promise<void> {
  await cluster.sql(
    `INSERT INTO work SELECT '${who}' || n, repeat('${who}', 1900) FROM generate_series(1, ${rows}) n`,
  );
}

async function receiveAll(cluster: Cluster, archive: ArchiveFiles): Promise<void> {
  await using receiver = startReceiver({ connection: cluster.conninfo(), archive: archive.directory });
  await receiver.next("streaming");
  await caughtUp(cluster, receiver);
  assert.equal(await receiver.stop(), 0);
}

/** Two servers that were one: the same system identifier, the same timeline, one past, two presents. */
async function split(a: Cluster, archive: ArchiveFiles): Promise<Cluster> {
  await a.sql(TABLE);
  await write(a, "p", 100);
  await receiveAll(a, archive);
  await a.stop("fast");
  const b = await startCluster({ from: a.dataDirectory, segmentBytes, settings });
  await a.start();
  for (const cluster of [a, b]) await cluster.sql("SELECT pg_switch_wal()");
  return b;
}

test("receive goes on from the right server after a copy of it was refused", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using a = await startCluster({ segmentBytes, settings });
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await using b = await split(a, archive);
  await write(a, "a", 50);
  await write(b, "b", 100);
  await receiveAll(a, archive);
  const refused = await runReceiver({ connection: b.conninfo(), archive: archive.directory });
  assert.equal(await refused.ended(), 3, refused.stderr);
  await write(a, "c", 200);
  await receiveAll(a, archive);
  compareWithServer(archive, a);
});
