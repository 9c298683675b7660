import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runOurs, temporaryDirectory } from "../compat/originals.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { ArchiveFiles, checkRecords, MIB, until } from "./receiver.ts";

const NAME = "pg_streamrecv";
const timeout = 300_000;

async function write(cluster: Cluster): Promise<string> {
  await cluster.sql("CREATE TABLE IF NOT EXISTS t (x text)");
  await cluster.sql("INSERT INTO t SELECT repeat('x', 900) FROM generate_series(1, 2500)");
  return await cluster.value("SELECT pg_current_wal_flush_lsn()");
}

for (
  const { name, code, act } of [
    { name: "0 when the server shuts down", code: 0, act: (cluster: Cluster) => cluster.stop("fast") },
    { name: "1 when the server crashes", code: 1, act: (cluster: Cluster) => cluster.kill() },
  ]
) {
  test(`${NAME} fills a directory with inprogress/ in it, and exits ${name}`, { timeout }, async () => {
    await using cluster = await startCluster({ segmentBytes: MIB });
    using directory = temporaryDirectory();
    const running = runOurs(NAME, ["-c", cluster.conninfo(), "-d", directory.path, "-v"]);
    await until(
      "streaming",
      async () => await cluster.value("SELECT count(*) FROM pg_stat_replication") === "1",
    );
    const end = await write(cluster);
    await until(
      "catching up",
      async () =>
        await cluster.value(`SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= '${end}'`) === "1",
    );
    await act(cluster);
    const outcome = await running;
    assert.equal(outcome.code, code, outcome.stderr);
    assert.equal(outcome.stdout, "");
    assert.equal(fs.readdirSync(join(directory.path, "inprogress")).length, 1);
    assert.ok(checkRecords(new ArchiveFiles(directory.path, MIB)) > 100);
  });
}
