import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  caughtUp,
  compareWithServer,
  fingerprint,
  MIB,
  runReceiver,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { advance, formatLsn, parseLsn } from "../../lib/wal/lsn.ts";
import { TABLE } from "./workload.ts";

const timeout = 300_000;
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

/** The archive ends with a segment, and has nothing behind it. */
async function receiveToSwitch(a: Cluster, archive: ArchiveFiles): Promise<string> {
  await using receiver = startReceiver({ connection: a.conninfo(), archive: archive.directory });
  await receiver.next("streaming");
  const switchLsn = await a.value("SELECT pg_switch_wal()");
  await until("the whole segment", () =>
    archive.complete().some((file) => {
      const startLsn = archive.startLsn(file);
      return startLsn < parseLsn(switchLsn) && startLsn + BigInt(segmentBytes) >= parseLsn(switchLsn);
    }));
  await a.stop("fast");
  await receiver.kill();
  for (const { path } of [...archive.growing(), ...archive.saved()]) fs.rmSync(path);
  return switchLsn;
}

test(
  "receive finds that a copy of the server has gone another way, though its records end at the same places",
  { timeout },
  async (context) => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    await using b = await split(a, archive);
    await write(a, "a", 50);
    await write(b, "b", 50);
    const switchLsn = await receiveToSwitch(a, archive);
    if (await b.value("SELECT pg_switch_wal()") !== switchLsn) {
      // Something of its own was written by one of them: that a server does by itself now and then.
      return context.skip("the records of the two do not end at the same places this time");
    }
    await write(b, "d", 100);
    const before = fingerprint(archive.directory);
    for (let time = 0; time < 2; time++) {
      const refused = await runReceiver({ connection: b.conninfo(), archive: archive.directory });
      assert.equal(await refused.ended(), 3, refused.stderr);
      assert.deepEqual(refused.linesOf("streaming"), []);
      const text = String(refused.linesOf("failed")[0]?.["error"]);
      assert.match(
        text,
        new RegExp(`^Cannot go on behind [0-9A-F]{24}: the server at ${b.host}:${b.port} has other WAL`),
      );
      assert.match(
        text,
        /they differ first at 0\/[0-9A-F]+; there the archive has a record of \w+ at .*, the server a record/,
      );
      assert.match(
        text,
        /the last commit before that, which both have, is of 20|no commit before that is near/,
      );
      assert.match(
        text,
        /the newest commit that the archive shows after it is of 20.*; the newest commit that the server shows/,
      );
      assert.equal(archive.conflicts().length, 1);
    }
    const [kept = ""] = archive.conflicts();
    const sent = fs.readFileSync(join(archive.directory, "conflicts", kept));
    const server = fs.readFileSync(join(b.dataDirectory, "pg_wal", kept.slice(0, 24)));
    const first = sent.findIndex((byte) => byte !== 0);
    const end = sent.length - sent.toReversed().findIndex((byte) => byte !== 0);
    assert.ok(first !== -1 && sent.subarray(first, end).equals(server.subarray(first, end)));
    const after = fingerprint(archive.directory);
    for (const [name, hash] of before) if (name !== "lock") assert.equal(after.get(name), hash, name);
    assert.deepEqual(archive.growing(), []);
    // The right one goes on, and what was kept of the other stays.
    await a.start();
    await write(a, "c", 100);
    await using receiver = startReceiver({
      connection: a.conninfo({ host: `${b.host},${a.host}`, port: `${b.port},${a.port}` }),
      archive: archive.directory,
    });
    await receiver.next("streaming", { server: `${a.host}:${a.port}` });
    await caughtUp(a, receiver);
    const [compared] = receiver.linesOf("server has the archive's last wal");
    context.diagnostic(`the same bytes: ${JSON.stringify(compared)}`);
    assert.ok(Number(compared?.["bytes"]) > 0);
    assert.equal(await receiver.stop(), 0);
    compareWithServer(archive, a);
    assert.deepEqual(archive.conflicts(), [kept]);
  },
);

test(
  "receive judges a server that no longer has the archive's last WAL by its first record",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings: { ...settings, wal_keep_size: "0" } });
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    await a.sql(TABLE);
    await receiveAll(a, archive);
    await write(a, "a", 50);
    await receiveToSwitch(a, archive);
    await a.start();
    const last = archive.complete().at(-1)!.name;
    await until("the removal of the archive's last segment on the server", async () => {
      await a.sql("CHECKPOINT");
      return !a.walFiles().includes(last);
    });
    await using receiver = startReceiver({ connection: a.conninfo(), archive: archive.directory });
    await receiver.next("streaming");
    await write(a, "b", 50);
    await caughtUp(a, receiver);
    assert.deepEqual(receiver.linesOf("server has the archive's last wal"), []);
    assert.equal(await receiver.stop(), 0);
    compareTail(archive, a);
  },
);

test(
  "receive tells damage of the archive's own last segment, and takes it anew once that is moved away",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    await a.sql(TABLE);
    await receiveAll(a, archive);
    await write(a, "a", 50);
    await receiveToSwitch(a, archive);
    await a.start();
    await write(a, "b", 50);
    const last = archive.complete().at(-1)!;
    const bytes = fs.readFileSync(last.path);
    const { firstRecordLsn, lastRecordLsn } = archive.scanBytes(last, bytes);
    const at = Number((firstRecordLsn! + lastRecordLsn!) / 2n - archive.startLsn(last));
    bytes[at]! ^= 4;
    fs.writeFileSync(last.path, bytes);
    for (let time = 0; time < 2; time++) {
      const refused = await runReceiver({ connection: a.conninfo(), archive: archive.directory });
      assert.equal(await refused.ended(), 3, refused.stderr);
      assert.deepEqual(refused.linesOf("streaming"), []);
      const text = String(refused.linesOf("failed")[0]?.["error"]);
      assert.ok(
        text.startsWith(`Cannot decode WAL at ${formatLsn(advance(archive.startLsn(last), at))}: `),
        text,
      );
      assert.match(text, /the archive's own file of [0-9A-F]{24} is damaged .*walvault verify --archive /);
      assert.doesNotMatch(text, /two servers/);
      assert.ok(fs.readFileSync(last.path).equals(bytes), "not overwritten");
      assert.equal(archive.conflicts().length, 1);
    }
    fs.renameSync(last.path, directory.file("damaged"));
    await receiveAll(a, archive);
    compareWithServer(archive, a);
  },
);

/** As far as the server still has it. */
function compareTail(archive: ArchiveFiles, cluster: Cluster): void {
  for (const file of archive.complete()) {
    const path = join(cluster.dataDirectory, "pg_wal", file.name);
    if (fs.existsSync(path)) assert.ok(fs.readFileSync(path).equals(fs.readFileSync(file.path)), file.name);
  }
}
