import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  caughtUp,
  compareWithServer,
  fingerprint,
  MIB,
  type Receiver,
  runReceiver,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;
const settings = { wal_keep_size: "1GB", autovacuum: "off" };

async function write(cluster: Cluster, { who, rows, bytes }: {
  readonly who: string;
  readonly rows: number;
  readonly bytes: number;
}): Promise<void> {
  await cluster.sql(
    `INSERT INTO work SELECT '${who}' || gen_random_uuid(), repeat('${who}', ${bytes}) FROM generate_series(1, ${rows})`,
  );
}

/** Streams until the server knows that all it has is safe. */
async function receiveAll(cluster: Cluster, archive: ArchiveFiles): Promise<void> {
  await using receiver = startReceiver({ connection: cluster.conninfo(), archive: archive.directory });
  await receiver.next("streaming");
  await caughtUp(cluster, receiver);
  assert.equal(await receiver.stop(), 0);
}

/** Everything that was in the archive before is still there, under its own name or a safe one. */
function assertKept(before: ReadonlyMap<string, string>, archive: ArchiveFiles): void {
  const now = fingerprint(archive.directory);
  const contents = new Set(now.values());
  for (const [name, hash] of before) {
    if (/^[0-9A-F]{24}$/.test(name)) assert.equal(now.get(name), hash, `${name} changed`);
    else if (name !== "lock") assert.ok(contents.has(hash), `${name} is gone`);
  }
}

test("receive refuses the archive of another cluster, and touches nothing", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes, settings });
  await using other = await startCluster({ segmentBytes, settings });
  await cluster.sql(TABLE);
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await write(cluster, { who: "a", rows: 100, bytes: 3000 });
  await receiveAll(cluster, archive);
  const before = fingerprint(archive.directory);
  const refused = await runReceiver({ connection: other.conninfo(), archive: archive.directory });
  assert.equal(await refused.ended(), 3);
  const identifier = await other.value("SELECT system_identifier FROM pg_control_system()");
  assert.match(refused.stderr, /belongs to the cluster with system identifier/);
  assert.ok(refused.stderr.includes(identifier));
  assert.match(
    String(refused.linesOf("failed")[0]?.["error"]),
    new RegExp(`mkdir -m 700 "${archive.directory}-${identifier}"$`),
  );
  assert.deepEqual(fingerprint(archive.directory), before);
  await receiveAll(cluster, archive);
  compareWithServer(archive, cluster);
});

/** Two servers that were one: the same system identifier, the same timeline, one past, two presents. */
async function split(a: Cluster, archive: ArchiveFiles): Promise<Cluster> {
  await a.sql(TABLE);
  await write(a, { who: "a", rows: 100, bytes: 2000 });
  await receiveAll(a, archive);
  await a.stop("fast");
  const b = await startCluster({ from: a.dataDirectory, segmentBytes, settings });
  await a.start();
  return b;
}

async function refusal(b: Cluster, archive: ArchiveFiles): Promise<Receiver> {
  const receiver = await runReceiver({ connection: b.conninfo(), archive: archive.directory });
  assert.equal(await receiver.ended(), 3, receiver.stderr);
  return receiver;
}

test(
  "receive finds that a copy of the server has gone another way, inside the growing segment",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    await using b = await split(a, archive);
    await a.sql("SELECT pg_switch_wal()");
    await b.sql("SELECT pg_switch_wal()");
    await write(a, { who: "a", rows: 50, bytes: 2000 });
    await write(b, { who: "b", rows: 100, bytes: 2000 });
    await receiveAll(a, archive);
    const before = fingerprint(archive.directory);
    const end = archive.endLsn();
    assert.ok(parseLsn(await b.value("SELECT pg_current_wal_flush_lsn()")) > end, "the copy is behind");
    const { stderr } = await refusal(b, archive);
    assert.match(
      stderr,
      /the server at 127\.0\.0\.1:\d+ (sends other bytes than were received before|has other WAL there)|does not continue this archive/,
    );
    assertKept(before, archive);
  },
);

test(
  "receive finds that a copy of the server has gone another way, before the growing segment",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    await using b = await split(a, archive);
    await write(a, { who: "a", rows: 1000, bytes: 2000 });
    await write(b, { who: "b", rows: 2000, bytes: 2100 });
    await receiveAll(a, archive);
    const before = fingerprint(archive.directory);
    const { stderr } = await refusal(b, archive);
    assert.match(
      stderr,
      /the server at 127\.0\.0\.1:\d+ (sends other bytes than were received before|has other WAL there)|does not continue this archive/,
    );
    assertKept(before, archive);
  },
);

test("receive waits for a copy of the server that is behind, and changes nothing", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using a = await startCluster({ segmentBytes, settings });
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await using b = await split(a, archive);
  await write(a, { who: "a", rows: 1000, bytes: 2000 });
  await receiveAll(a, archive);
  const before = fingerprint(archive.directory);
  await using receiver = startReceiver({ connection: b.conninfo(), archive: archive.directory });
  const line = await receiver.next("disconnected", { level: "error" });
  assert.match(String(line["error"]), /its WAL ends at .*, the archive's at/);
  assert.equal(await receiver.stop(), 0);
  assert.deepEqual(fingerprint(archive.directory), before);
});

/** Runs a server's own program on its data directory, as its own user; `undefined` when it comes without that. */
function runOn(cluster: Cluster, program: string, options: readonly string[]): string | undefined {
  const path = join(cluster.programs.binDirectory, program);
  if (!fs.existsSync(path)) return undefined;
  const { uid, gid } = fs.statSync(cluster.dataDirectory);
  const run = spawnSync(path, [...options, `--pgdata=${cluster.dataDirectory}`], {
    uid,
    gid,
    cwd: cluster.directory,
    encoding: "utf8",
  });
  assert.equal(run.status, 0, run.stdout + run.stderr);
  return run.stdout;
}

test("receive refuses a cluster whose segments pg_resetwal has made larger, and names a new directory", {
  timeout,
}, async (context) => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes, settings: { ...settings, min_wal_size: "32MB" } });
  await cluster.sql(TABLE);
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await receiveAll(cluster, archive);
  await cluster.stop("fast");
  if (runOn(cluster, "pg_resetwal", ["--wal-segsize=8"]) === undefined) {
    return context.skip("this server comes without pg_resetwal");
  }
  await cluster.start();
  const before = fingerprint(archive.directory);
  const refused = await runReceiver({ connection: cluster.conninfo(), archive: archive.directory });
  assert.equal(await refused.ended(), 3);
  assert.match(
    String(refused.linesOf("failed")[0]?.["error"]),
    /its segments are of 1MB, the server's of 8MB; use a new directory .*: mkdir -m 700 "[^"]+-8MB"$/,
  );
  assert.deepEqual(fingerprint(archive.directory), before);
});

test("receive tells what is missing behind a pg_resetwal, which leaves the cluster's identifier as it was", {
  timeout,
}, async (context) => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes, settings });
  await cluster.sql(TABLE);
  await write(cluster, { who: "a", rows: 100, bytes: 2000 });
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await receiveAll(cluster, archive);
  const end = archive.endLsn();
  await cluster.stop("fast");
  if (runOn(cluster, "pg_resetwal", []) === undefined) {
    return context.skip("this server comes without pg_resetwal");
  }
  await cluster.start();
  await write(cluster, { who: "b", rows: 1000, bytes: 2000 });
  assert.ok(parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()")) > end);
  const before = fingerprint(archive.directory);
  await using receiver = startReceiver({ connection: cluster.conninfo(), archive: archive.directory });
  // It is refused, or written down as a gap: in any case it is not passed over in silence.
  await until("what is said of the hole", () => /already been removed|"gap recorded"/.test(receiver.stderr));
  assertKept(before, archive);
});
