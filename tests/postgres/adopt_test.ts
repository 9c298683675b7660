import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { realProgram } from "../compat/originals.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  assertLineage,
  caughtUp,
  checkRecords,
  MIB,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const PROGRAM = realProgram("pg_receivewal");
const skip = PROGRAM === undefined;
const timeout = 300_000;

async function write(cluster: Cluster): Promise<string> {
  await cluster.sql("CREATE TABLE IF NOT EXISTS t (x text)");
  await cluster.sql("INSERT INTO t SELECT repeat(md5(n::text), 30) FROM generate_series(1, 2500) n");
  return await cluster.value("SELECT pg_current_wal_flush_lsn()");
}

/** The real program fills a directory, and is killed. */
async function fillByReal(cluster: Cluster, directory: string, more: readonly string[]): Promise<void> {
  const words = [
    "-D",
    directory,
    "-h",
    cluster.host,
    "-p",
    String(cluster.port),
    "-U",
    cluster.superuser,
    ...more,
  ];
  const child = spawn(PROGRAM!, words, {
    argv0: "pg_receivewal",
    stdio: "ignore",
    env: { PATH: "/usr/bin:/bin" },
  });
  const ended = new Promise((resolve) => child.once("close", resolve));
  try {
    await until(
      "streaming",
      async () => await cluster.value("SELECT count(*) FROM pg_stat_replication") === "1",
    );
    const end = await write(cluster);
    await until(
      "catching up",
      async () =>
        await cluster.value(`SELECT count(*) FROM pg_stat_replication WHERE write_lsn >= '${end}'`) === "1",
    );
  } finally {
    child.kill("SIGKILL");
    await ended;
  }
  await until(
    "the slot's release",
    async () => await cluster.value("SELECT count(*) FROM pg_stat_replication") === "0",
  );
}

for (
  const [name, more, form] of [
    ["plain", [], ""],
    ["gzip", ["-Z", "gzip:1", "--synchronous"], ".gz"],
    ["lz4", ["-Z", "lz4", "--synchronous"], ".lz4"],
  ] as const
) {
  test(
    `receive goes on from a directory that a killed pg_receivewal filled: ${name}`,
    { skip, timeout },
    async () => {
      await using cluster = await startCluster({
        major: 15,
        segmentBytes: MIB,
        settings: { wal_keep_size: "1GB" },
      });
      using work = new WorkDirectory();
      const directory = work.archive();
      await fillByReal(cluster, directory, more);
      const before = fs.readdirSync(directory);
      const partial = before.find((file) => file.endsWith(".partial"));
      assert.ok(partial !== undefined && before.length > 2, before.join(" "));
      assert.equal(partial.slice(24), `${form}.partial`);

      await using receiver = startReceiver({ connection: cluster.conninfo(), archive: directory });
      const adopted = await receiver.next("directory became an archive");
      assert.deepEqual([adopted["segments"], adopted["partials"]], [before.length - 1, 1]);
      const kept = fs.readdirSync(join(directory, "inprogress"));
      assert.ok(kept.some((file) => file.startsWith(partial.slice(0, 24))), kept.join(" "));
      const started = await receiver.next("streaming");
      assert.equal(started["timeline"], 1);
      const end = await write(cluster);
      await caughtUp(cluster, receiver);
      assert.equal(await receiver.stop(), 0);

      const after = fs.readdirSync(directory);
      for (const file of before) {
        if (file !== partial) assert.ok(after.includes(file), `${file} is as it was`);
      }
      assert.ok(after.includes(partial.slice(0, 24)), "the unfinished segment is complete");
      assert.ok(
        !fs.readdirSync(join(directory, "inprogress")).some((file) => file.includes("saved")),
        "passed",
      );
      if (form === "") {
        const archive = new ArchiveFiles(directory, MIB);
        assert.ok(checkRecords(archive) > 100);
        assertLineage(archive, emptyHistory(timelineId(1)), parseLsn(end));
      } else {
        const unpack = form === ".gz" ? ["gzip", "-t"] : ["lz4", "-tq"];
        for (const file of after.filter((each) => each.endsWith(form))) {
          const run = spawnSync(unpack[0]!, [unpack[1]!, join(directory, file)]);
          if (run.error === undefined) assert.equal(run.status, 0, file);
        }
      }
    },
  );
}

test(
  "receive refuses another cluster's pg_receivewal directory, and changes nothing",
  { skip, timeout },
  async () => {
    await using one = await startCluster({ major: 15, segmentBytes: MIB });
    await using other = await startCluster({ segmentBytes: MIB });
    using work = new WorkDirectory();
    const directory = work.archive();
    await fillByReal(one, directory, []);
    const before = fs.readdirSync(directory).sort();
    await using receiver = startReceiver({ connection: other.conninfo(), archive: directory });
    assert.equal(await receiver.ended(), 3);
    assert.match(receiver.stderr, /belongs to the cluster with system identifier/);
    assert.deepEqual(fs.readdirSync(directory).sort(), [...before, "lock"].sort());
  },
);
