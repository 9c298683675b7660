import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { formatLsn, type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  caughtUp,
  checkRecords,
  compareWithServer,
  fingerprint,
  MIB,
  runReceiver,
  segmentOf,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { FlushWatch, Ledger, TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;
/** A person at the keyboard, or a failover manager, waits no longer; far above what it takes. */
const SHUTDOWN_MS = 20_000;

async function start(settings: Readonly<Record<string, string>> = {}): Promise<Cluster> {
  const cluster = await startCluster({ segmentBytes, settings: { wal_keep_size: "4GB", ...settings } });
  await cluster.sql(TABLE);
  return cluster;
}

/** Some WAL, with a switch in it. */
async function write(cluster: Cluster): Promise<void> {
  await cluster.sql(
    `INSERT INTO work SELECT gen_random_uuid(), repeat(md5(n::text), 100) FROM generate_series(1, 500) n`,
  );
  await cluster.sql(
    "SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'after the switch')",
  );
}

async function slotLsn(cluster: Cluster, slot: string): Promise<Lsn | undefined> {
  const rows = await cluster.sql<{ lsn: string | null }>(
    `SELECT restart_lsn::text AS lsn FROM pg_replication_slots WHERE slot_name = '${slot}'`,
  );
  const text = rows[0]?.lsn;
  return text === undefined || text === null ? undefined : parseLsn(text);
}

async function currentLsn(cluster: Cluster): Promise<Lsn> {
  return parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()"));
}

test("receive: slots are made, used from their position, dropped, and refused", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await start({ wal_level: "logical" });
  const connection = cluster.conninfo();
  const endpos = async () => `--endpos=${formatLsn(await currentLsn(cluster))}`;

  // --create-slot reserves at once, and what is written before the first byte is received is not lost.
  const made = new ArchiveFiles(directory.archive("made"), segmentBytes);
  const options = ["--slot=made", "--create-slot"];
  const first = await runReceiver({
    connection,
    archive: made.directory,
    options: [...options, "--endpos=0/1"],
  });
  assert.equal(await first.ended(), 3, first.stderr); // an end before the beginning
  const reservedLsn = await slotLsn(cluster, "made");
  assert.ok(reservedLsn !== undefined, "the slot reserves nothing");
  await write(cluster);
  await write(cluster);
  const second = await runReceiver({
    connection,
    archive: made.directory,
    options: [...options, await endpos()],
  });
  assert.equal(await second.ended(), 0, second.stderr);
  assert.equal(made.complete()[0]?.name, segmentOf(reservedLsn, made));
  compareWithServer(made, cluster);

  // A slot that was there before the archive decides where it begins.
  await cluster.sql("SELECT pg_create_physical_replication_slot('early', true)");
  const earlyLsn = await slotLsn(cluster, "early");
  await write(cluster);
  await write(cluster);
  const early = new ArchiveFiles(directory.archive("early"), segmentBytes);
  const third = await runReceiver({
    connection,
    archive: early.directory,
    options: ["--slot=early", await endpos()],
  });
  assert.equal(await third.ended(), 0, third.stderr);
  assert.equal(early.complete()[0]?.name, segmentOf(earlyLsn!, early));
  assert.ok(compareWithServer(early, cluster).endLsn >= (await slotLsn(cluster, "early"))!);
  checkRecords(early);
  assert.ok((await slotLsn(cluster, "early"))! > earlyLsn!, "the slot did not move");

  // The end is where we are: nothing is waited for, and nothing is asked of the server.
  const again = await runReceiver({
    connection,
    archive: early.directory,
    options: ["--slot=early", await endpos(), "--json"],
  });
  assert.equal(await again.ended(), 0, again.stderr);
  assert.equal(JSON.parse(again.stdout).end, "end-reached");

  // Gone means gone.
  const drop = ["--slot=early", "--drop-slot"];
  const dropped = await runReceiver({ connection, archive: early.directory, options: drop });
  assert.equal(await dropped.ended(), 0, dropped.stderr);
  assert.equal(await slotLsn(cluster, "early"), undefined);
  const droppedTwice = await runReceiver({ connection, archive: early.directory, options: drop });
  assert.equal(await droppedTwice.ended(), 3);
  assert.match(droppedTwice.stderr, /replication slot \\"early\\": the server has none of that name/);

  const empty = directory.archive("empty");
  const missing = await runReceiver({ connection, archive: empty, options: ["--slot=none"] });
  assert.equal(await missing.ended(), 3);
  assert.match(missing.stderr, /replication slot \\"none\\".*none of that name; add --create-slot/);

  await cluster.sql("SELECT pg_create_logical_replication_slot('logical', 'test_decoding')").catch(() =>
    cluster.sql("SELECT pg_create_logical_replication_slot('logical', 'pgoutput')")
  );
  for (const more of [[], ["--create-slot"]]) {
    const logical = await runReceiver({ connection, archive: empty, options: ["--slot=logical", ...more] });
    assert.equal(await logical.ended(), 3);
    assert.match(logical.stderr, /replication slot \\"logical\\".*logical slot, want a physical one/);
  }
  const kept = await runReceiver({
    connection,
    archive: empty,
    options: ["--slot=logical", "--drop-slot", "--slot-on-standbys"],
  });
  assert.equal(await kept.ended(), 3);
  assert.match(kept.stderr, /Cannot drop replication slot \\"logical\\": it is a logical slot/);
  assert.equal(
    await cluster.value("SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'logical'"),
    "1",
  );
});

test("receive: a slot in use is waited for, an archive in use is refused", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await start();
  const options = ["--slot=shared", "--create-slot"];
  const connection = cluster.conninfo();
  const archive = directory.archive("first");
  await using first = startReceiver({ connection, archive, options });
  await first.next("streaming");
  const other = await runReceiver({ connection: cluster.conninfo(), archive });
  assert.equal(await other.ended(), 3);
  assert.match(other.stderr, /another walvault receives into it/);

  const second = new ArchiveFiles(directory.archive("second"), segmentBytes);
  await using waiting = startReceiver({ connection, archive: second.directory, options });
  const told = await waiting.next("disconnected", { level: "error" });
  assert.match(String(told["error"]), /55006/);
  await waiting.next("disconnected", { level: "debug" });
  assert.equal(await first.stop(), 0);
  await waiting.next("streaming");
  await write(cluster);
  await caughtUp(cluster, waiting);
  assert.equal(await waiting.stop(), 0);
  compareWithServer(second, cluster);
  assert.equal(waiting.linesOf("disconnected").filter((line) => line.level === "error").length, 1);
});

test(
  "receive without gaps: WAL that the server removed is named, and never skipped",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    const settings = { min_wal_size: "2MB", max_wal_size: "2MB" };
    await using cluster = await start(settings);
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    await using receiver = startReceiver({ connection: cluster.conninfo(), archive: archive.directory });
    await receiver.next("streaming");
    await write(cluster);
    const end = parseLsn(await caughtUp(cluster, receiver));
    assert.equal(await receiver.stop(), 0);
    // Only now: before, the server could remove what the first run had not received yet.
    await cluster.configure({ wal_keep_size: "0" });
    await until("the removal of the next segment", async () => {
      for (let i = 0; i < 4; i++) {
        await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'x')");
      }
      await cluster.sql("CHECKPOINT");
      return !cluster.walFiles().includes(segmentOf(end, archive));
    });
    const before = fingerprint(archive.directory);
    for (const option of ["--no-gaps", "--no-loop", `--endpos=${formatLsn(await currentLsn(cluster))}`]) {
      const late = await runReceiver({
        connection: cluster.conninfo(),
        archive: archive.directory,
        options: [option],
      });
      assert.equal(await late.ended(), 3, option);
      assert.match(late.stderr, /no longer has that WAL/);
      assert.ok(late.stderr.includes(segmentOf(end, archive)), late.stderr);
      assert.deepEqual(fingerprint(archive.directory), before);
    }
  },
);

test(
  "receive holds up no shutdown, archives the shutdown checkpoint, and comes back by itself",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await start();
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    await using receiver = startReceiver({
      connection: cluster.conninfo(),
      archive: archive.directory,
      options: ["--slot=walvault", "--create-slot"],
    });
    await receiver.next("streaming");
    for (const mode of ["fast", "smart", "fast"] as const) {
      const ledger = new Ledger(cluster, { clients: 2, payloadBytes: 3000, pauseMs: 2 });
      await sleep(500);
      if (mode === "smart") await ledger.stop();
      const asked = performance.now();
      await cluster.stop(mode);
      const took = performance.now() - asked;
      assert.ok(took < SHUTDOWN_MS, `the ${mode} shutdown took ${took} ms`);
      await ledger.stop();
      // The server says so only when it was told that its last byte is safe.
      await receiver.next("server shut down");
      const files = [...archive.growing()].filter((file) => archive.scan(file).recordCount > 0);
      const growing = files.at(-1);
      if (growing !== undefined) {
        const wal = new ArchiveFiles(`${cluster.dataDirectory}/pg_wal`, segmentBytes);
        const server = wal.complete().find((file) => file.name === growing.name);
        assert.ok(server !== undefined);
        assert.equal(formatLsn(archive.scan(growing).endLsn), formatLsn(wal.scan(server).endLsn));
      }
      compareWithServer(archive, cluster);
      await cluster.start();
      await receiver.next("streaming");
    }
    // A crash is different only in what the server leaves.
    await cluster.stop("immediate");
    await receiver.next("disconnected");
    await cluster.start();
    await receiver.next("streaming");
    await write(cluster);
    await caughtUp(cluster, receiver);
    assert.equal(await receiver.stop(), 0);
    compareWithServer(archive, cluster);
    checkRecords(archive);
  },
);

test(
  "receive: SIGTERM and SIGINT under load end it quickly, and the slot has moved",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await start();
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      await using receiver = startReceiver({
        connection: cluster.conninfo(),
        archive: archive.directory,
        options: ["--slot=walvault", "--create-slot", "--json"],
      });
      await receiver.next("streaming");
      const watch = new FlushWatch(cluster);
      const ledger = new Ledger(cluster, { clients: 3, payloadBytes: 30_000 });
      await sleep(1000);
      const shown = watch.highest;
      const asked = performance.now();
      assert.equal(await receiver.stop(signal), 0);
      const took = performance.now() - asked;
      assert.ok(took < SHUTDOWN_MS, `${signal} took ${took} ms`);
      await ledger.stop();
      await watch.stop();
      const flushLsn = parseLsn(JSON.parse(receiver.stdout).flushLsn);
      const told = (await slotLsn(cluster, "walvault"))!;
      assert.ok(shown > 0n && told >= shown, `the slot is at ${formatLsn(told)}, was at ${formatLsn(shown)}`);
      assert.ok(told <= flushLsn, `the slot is at ${formatLsn(told)}, durable is ${formatLsn(flushLsn)}`);
      assert.ok(
        flushLsn - told < 8n * BigInt(MIB),
        `${formatLsn(flushLsn)} is safe, told was ${formatLsn(told)}`,
      );
      assert.ok(archive.endLsn() >= told);
      compareWithServer(archive, cluster);
    }
  },
);

test("receive answers an idle server that waits for 2 s only", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await start({ wal_sender_timeout: "2s" });
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive: directory.archive(),
    options: ["--slot=walvault", "--create-slot"],
  });
  await receiver.next("streaming");
  await sleep(6000);
  assert.equal(receiver.linesOf("streaming").length, 1);
  assert.deepEqual(receiver.linesOf("disconnected"), []);
  assert.equal(await receiver.stop(), 0);
  assert.doesNotMatch(cluster.log(), /terminating walsender/);
});
