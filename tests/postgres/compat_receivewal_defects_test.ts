/** Where `pg_receivewal` loses data, loops for ever or says nothing, ours has the same interface and another end. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { SegmentScanner } from "../../lib/wal/scanner.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { parseSegmentName, segmentSize, segmentStart } from "../../lib/wal/segment.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { type Outcome, runOurs, temporaryDirectory } from "../compat/originals.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { until } from "./receiver.ts";

const NAME = "pg_receivewal";
const MIB = 1024 * 1024;
const SIZE = segmentSize(MIB);
const timeout = 300_000;
const settings = { wal_keep_size: "1GB" };

function start(settingsToo: Readonly<Record<string, string>> = {}): Promise<Cluster> {
  return startCluster({ segmentBytes: MIB, settings: { ...settings, ...settingsToo } });
}

function connection(cluster: Cluster): readonly string[] {
  return ["-h", cluster.host, "-p", String(cluster.port), "-U", cluster.superuser];
}

/** Writes about `segments` segments; returns the end of WAL. */
async function write(cluster: Cluster, segments = 2): Promise<string> {
  await cluster.sql("CREATE TABLE IF NOT EXISTS t (x text)");
  await cluster.sql(`INSERT INTO t SELECT repeat('x', 900) FROM generate_series(1, ${segments * 1100})`);
  return await cluster.value("SELECT pg_current_wal_flush_lsn()");
}

/** A run that is stopped by us. */
function running(words: readonly string[]) {
  const stop = new AbortController();
  const ended = runOurs(NAME, words, { signal: stop.signal });
  return { ended, stop: () => (stop.abort(), ended) };
}

async function caughtUp(cluster: Cluster, end: string): Promise<void> {
  const query =
    `SELECT count(*) FROM pg_stat_replication WHERE application_name = '${NAME}' AND write_lsn >= '${end}'`;
  await until(`writing up to ${end}`, async () => await cluster.value(query) === "1");
}

/** What is written before the first run streams is not its own. */
async function streaming(cluster: Cluster): Promise<void> {
  const query = "SELECT count(*) FROM pg_stat_replication WHERE application_name = '" + NAME +
    "' AND state = 'streaming'";
  await until("streaming", async () => await cluster.value(query) === "1");
}

function names(directory: string): readonly string[] {
  return fs.readdirSync(directory).sort();
}

/** The end of valid WAL in a file of the directory. */
function scan(directory: string, file: string) {
  const { number } = parseSegmentName(file.slice(0, 24), SIZE)!;
  const scanner = new SegmentScanner({ startLsn: segmentStart(number, SIZE), segmentSize: SIZE });
  scanner.push(fs.readFileSync(join(directory, file)));
  return scanner.result();
}

test(`${NAME} follows a fork at exactly a segment's boundary`, { timeout }, async () => {
  await using primary = await start();
  await using standby = await primary.createStandby();
  using directory = temporaryDirectory();
  const first = running(["-D", directory.path, ...connection(primary)]);
  await streaming(primary);
  await write(primary);
  await primary.sql("SELECT pg_switch_wal()");
  const boundary = await primary.value("SELECT pg_current_wal_flush_lsn()");
  await caughtUp(primary, boundary);
  await until(
    "the standby's end",
    async () => await standby.value("SELECT pg_last_wal_replay_lsn()") === boundary,
  );
  await primary.kill();
  assert.equal((await first.stop()).code, 0);
  await standby.promote();
  const forked = fs.readFileSync(join(standby.dataDirectory, "pg_wal", "00000002.history"), "utf8");
  assert.ok(forked.includes(boundary), forked);
  const second = running(["-D", directory.path, "-v", ...connection(standby)]);
  await caughtUp(standby, await write(standby));
  const { code, stderr } = await second.stop();
  assert.equal(code, 0, stderr);
  assert.ok(names(directory.path).includes("00000002.history"), stderr);
  assert.ok(names(directory.path).some((name) => /^00000002[0-9A-F]{16}$/.test(name)), stderr);
});

test(`${NAME} leaves the old timeline when its directory is ahead of the fork`, { timeout }, async () => {
  await using primary = await start();
  await using standby = await primary.createStandby();
  using directory = temporaryDirectory();
  const first = running(["-D", directory.path, ...connection(primary)]);
  await streaming(primary);
  await write(primary);
  const shared = await primary.value("SELECT pg_current_wal_flush_lsn()");
  await until(
    "the replay",
    async () => await standby.value(`SELECT pg_last_wal_replay_lsn() >= '${shared}'`) === "true",
  );
  await standby.stop("fast");
  await caughtUp(primary, await write(primary, 3));
  await primary.kill();
  await first.stop();
  await standby.start();
  await standby.promote();
  const second = running(["-D", directory.path, "-v", ...connection(standby)]);
  await caughtUp(standby, await write(standby));
  const { code, stderr } = await second.stop();
  assert.equal(code, 0, stderr);
  assert.match(
    stderr,
    /warning: timeline 1 goes on to [0-9A-F/]+ here, but the server left it at [0-9A-F/]+\n/,
  );
  assert.ok(names(directory.path).some((name) => /^00000002[0-9A-F]{16}$/.test(name)), stderr);
});

test(`${NAME} keeps what is durable when it receives a segment again`, { timeout }, async () => {
  await using cluster = await start();
  using directory = temporaryDirectory();
  const end = await write(cluster);
  const first = running(["-D", directory.path, ...connection(cluster)]);
  await streaming(cluster);
  await caughtUp(cluster, end);
  await first.stop();
  const partial = names(directory.path).find((name) => name.endsWith(".partial"))!;
  const before = fs.readFileSync(join(directory.path, partial));
  const validEnd = scan(directory.path, partial).endLsn;
  assert.ok(validEnd > parseLsn("0/0"));
  // A server that dies before it sends anything: nothing of what was here may be gone.
  await cluster.stop("fast");
  const { code } = await runOurs(NAME, ["-D", directory.path, "-n", ...connection(cluster)]);
  assert.equal(code, 1);
  assert.deepEqual(fs.readFileSync(join(directory.path, partial)), before);
  await cluster.start();
  const more = await write(cluster, 3);
  const second = running(["-D", directory.path, ...connection(cluster)]);
  await caughtUp(cluster, more);
  await second.stop();
  const after = names(directory.path);
  assert.ok(after.includes(partial.slice(0, 24)), "the segment is complete now");
  assert.ok(!after.some((name) => name.includes("saved")), `passed, and gone: ${after.join(" ")}`);
});

test(`${NAME} refuses another cluster's directory, and an archive`, { timeout }, async () => {
  await using one = await start();
  await using other = await start();
  using directory = temporaryDirectory();
  const end = await write(one);
  const first = running(["-D", directory.path, ...connection(one)]);
  await streaming(one);
  await caughtUp(one, end);
  await first.stop();
  await write(other, 8);
  const before = names(directory.path);
  const refused: Outcome = await runOurs(NAME, ["-D", directory.path, ...connection(other)]);
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    /^pg_receivewal: error: segment file ".*" belongs to the cluster with system identifier [0-9]+, the server has [0-9]+\n$/,
  );
  assert.deepEqual(names(directory.path), before);

  using archive = temporaryDirectory();
  const identity = { systemIdentifier: 1n, segmentSize: SIZE };
  fs.writeFileSync(join(archive.path, "archive.json"), encodeIdentity(identity));
  const foreign = await runOurs(NAME, ["-D", archive.path, ...connection(one)]);
  assert.equal(foreign.code, 1);
  assert.match(foreign.stderr, /is an archive of walvault/);
  assert.deepEqual(names(archive.path), ["archive.json"]);
});

test(`${NAME} is the only one in its directory`, { timeout }, async () => {
  await using cluster = await start();
  using directory = temporaryDirectory();
  const end = await write(cluster);
  const first = running(["-D", directory.path, ...connection(cluster)]);
  await streaming(cluster);
  await caughtUp(cluster, end);
  const second = await runOurs(NAME, ["-D", directory.path, ...connection(cluster)]);
  assert.equal(second.code, 1);
  assert.match(second.stderr, /^pg_receivewal: error: directory ".*" is in use by another pg_receivewal\n$/);
  assert.equal((await first.stop()).code, 0);
});

test(`${NAME} tells a hole that nobody can fill, and goes on behind it`, { timeout }, async () => {
  await using cluster = await start({ max_wal_size: "2MB", min_wal_size: "2MB" });
  using directory = temporaryDirectory();
  const first = running(["-D", directory.path, ...connection(cluster)]);
  await streaming(cluster);
  await caughtUp(cluster, await write(cluster, 6));
  await first.stop();
  const complete = names(directory.path).filter((name) => /^[0-9A-F]{24}$/.test(name));
  const hole = complete.at(-2)!;
  fs.rmSync(join(directory.path, hole));
  const newest = complete.at(-1)!;
  // Only now: before, the server could remove what the first run had not received yet.
  await cluster.configure({ wal_keep_size: "0" });
  await cluster.sql("CHECKPOINT");
  await cluster.sql("CHECKPOINT");
  const removed = !cluster.walFiles().includes(hole);
  const { code, stderr } = await (async () => {
    const run = running(["-D", directory.path, "-v", ...connection(cluster)]);
    await until(
      "going on",
      async () =>
        await cluster.value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") === "1",
    );
    await caughtUp(cluster, await cluster.value("SELECT pg_current_wal_flush_lsn()"));
    return await run.stop();
  })();
  assert.equal(code, 0, stderr);
  assert.ok(names(directory.path).includes(newest));
  if (removed) {
    assert.match(stderr, /warning: write-ahead log from .* to .* is missing in ".*": requested WAL segment/);
  } else assert.ok(names(directory.path).includes(hole), stderr);
});

test(`${NAME} leaves the slot at the end when it is stopped, and without one tells no flush position`, {
  timeout,
}, async () => {
  await using cluster = await start();
  using directory = temporaryDirectory();
  await cluster.sql("SELECT pg_create_physical_replication_slot('one', true)");
  const end = await write(cluster);
  const slotless = running(["-D", directory.path, ...connection(cluster)]);
  await caughtUp(cluster, end);
  const flush = await cluster.value("SELECT flush_lsn IS NULL FROM pg_stat_replication");
  assert.equal(flush, "true");
  await slotless.stop();
  for (const more of [[], ["--no-sync"]]) {
    const held = running(["-D", directory.path, "-S", "one", ...more, ...connection(cluster)]);
    const later = await write(cluster);
    await caughtUp(cluster, later);
    assert.equal((await held.stop()).code, 0);
    const restart = parseLsn(await cluster.value("SELECT restart_lsn FROM pg_replication_slots"));
    const newest = names(directory.path).filter((name) => /^[0-9A-F]{24}$/.test(name)).at(-1)!;
    const completeEnd = segmentStart(parseSegmentName(newest, SIZE)!.number, SIZE) + BigInt(MIB);
    if (more.length === 0) assert.ok(restart >= parseLsn(later), "all that was received is told");
    else assert.equal(restart, completeEnd, "what is not synced is not told");
  }
});
