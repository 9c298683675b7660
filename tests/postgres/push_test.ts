import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { zstdDecompressSync } from "node:zlib";
import { Random } from "../simulation/random.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  archiveCommand,
  archived,
  initArchive,
  pushAsServer,
  serverRun,
  startPush,
  walvault,
} from "./pusher.ts";
import {
  ArchiveFiles,
  caughtUp,
  checkRecords,
  fingerprint,
  MIB,
  restore,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { contentOf, Ledger, TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;
const settings = { wal_keep_size: "1GB", max_wal_size: "4GB", autovacuum: "off" };

async function write(cluster: Cluster, rows: number, who = "x"): Promise<void> {
  await cluster.sql(
    `INSERT INTO work SELECT '${who}' || gen_random_uuid(), repeat('${who}', 2000) FROM generate_series(1, ${rows})`,
  );
}

/** Makes the current segment a complete one, and tells its path in the data directory. */
async function nextSegment(cluster: Cluster, rows = 50): Promise<string> {
  await write(cluster, rows);
  const name = await cluster.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
  await cluster.sql("SELECT pg_switch_wal()");
  return `pg_wal/${name}`;
}

async function failures(cluster: Cluster): Promise<string> {
  return await cluster.value("SELECT failed_count FROM pg_stat_archiver");
}

/** Every complete segment is the server's, byte for byte. */
function assertSameAsServer(archive: ArchiveFiles, cluster: Cluster): number {
  const complete = archive.complete();
  for (const file of complete) {
    const server = fs.readFileSync(join(cluster.dataDirectory, "pg_wal", file.name));
    assert.equal(Buffer.compare(fs.readFileSync(file.path), server), 0, file.name);
  }
  return complete.length;
}

function inProgress(archive: ArchiveFiles): readonly string[] {
  return fs.readdirSync(join(archive.directory, "inprogress")).sort();
}

test("push alone, as archive_command: all segments and the backup label; a copy recovers from it", {
  timeout,
}, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes, settings: { ...settings, archive_mode: "on" } });
  const archive = initArchive(directory, cluster, segmentBytes);
  await cluster.configure({ archive_command: archiveCommand(archive) });
  await cluster.sql(TABLE);
  const backup = await cluster.backup(join(cluster.directory, "copy"));
  await write(cluster, 3000);
  await nextSegment(cluster);
  const content = await contentOf(cluster);
  await cluster.sql("SELECT pg_switch_wal()");
  await archived(cluster);
  assert.equal(await failures(cluster), "0", cluster.log());
  assert.ok(assertSameAsServer(archive, cluster) >= 6);
  assert.ok(checkRecords(archive) > 1000);
  const labels = fs.readdirSync(archive.directory).filter((name) => name.endsWith(".backup"));
  assert.equal(labels.length, 1);
  assert.deepEqual(inProgress(archive), []);
  fs.chmodSync(archive.directory, 0o700);
  await using restored = await restore({ backup, wal: archive.directory, major: cluster.major });
  assert.equal(await contentOf(restored), content);
});

/** A server under load that streams and pushes into one archive, until all of it is there; nothing was refused. */
async function streamAndPush(
  cluster: Cluster,
  directory: WorkDirectory,
  options: readonly string[] = [],
): Promise<ArchiveFiles> {
  const archive = initArchive(directory, cluster, segmentBytes);
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive: archive.directory,
    options,
    runBy: serverRun(),
  });
  await receiver.next("streaming");
  // After the receiver's start: that takes the temporary file of a push under way for one of a killed push.
  await cluster.configure({ archive_command: archiveCommand(archive, options) });
  await cluster.sql(TABLE);
  const startLsn = await cluster.value("SELECT pg_current_wal_lsn()");
  await using ledger = new Ledger(cluster, { clients: 3, payloadBytes: 12_000 });
  const writtenBytes = () => cluster.value(`SELECT pg_current_wal_lsn() - '${startLsn}'`);
  await until("some segments", async () => Number(await writtenBytes()) > 20 * segmentBytes);
  await ledger.stop();
  await cluster.sql("SELECT pg_switch_wal()");
  await caughtUp(cluster, receiver);
  await archived(cluster);
  assert.equal(await receiver.stop(), 0, receiver.stderr);
  assert.equal(await failures(cluster), "0", cluster.log());
  assert.deepEqual(archive.conflicts(), []);
  return archive;
}

test("stream and push into one archive: they agree on every segment", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes, settings: { ...settings, archive_mode: "on" } });
  const archive = await streamAndPush(cluster, directory);
  assert.ok(assertSameAsServer(archive, cluster) > 10);
  checkRecords(archive);
  assert.deepEqual(archive.saved(), []);
  assert.ok(!inProgress(archive).some((name) => name.includes("push")));
});

test("a promoted standby pushes on: history, partial segment, new timeline", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes, settings: { ...settings, archive_mode: "on" } });
  const archive = initArchive(directory, cluster, segmentBytes);
  await cluster.configure({ archive_command: archiveCommand(archive) });
  await cluster.sql(TABLE);
  await write(cluster, 1000);
  await using standby = await cluster.createStandby();
  await write(cluster, 100);
  const end = await cluster.value("SELECT pg_current_wal_flush_lsn()");
  await until(
    "the standby's catching up",
    async () => await standby.value(`SELECT (pg_last_wal_replay_lsn() >= '${end}')::text`) === "true",
  );
  await archived(cluster);
  await cluster.kill();
  await standby.promote();
  await write(standby, 1000, "y");
  await standby.sql("SELECT pg_switch_wal()");
  await archived(standby);
  assert.equal(await failures(standby), "0", standby.log());
  assert.deepEqual(archive.histories(), ["00000002.history"]);
  const [saved, ...more] = archive.saved();
  assert.ok(saved !== undefined && saved.timeline === 1);
  assert.deepEqual(more, []);
  assert.ok(archive.scan(saved).recordCount > 0);
  assert.ok(!archive.complete().some((file) => file.name === saved.name));
  const names = archive.complete().map((file) => file.name);
  assert.ok(names.includes(`00000002${saved.name.slice(8)}`), "the new timeline begins in the same segment");
  checkRecords(archive, { timeline: 2 });
});

test(
  "a standby that archives always pushes its padded tail: kept, never published",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await startCluster({ segmentBytes, settings });
    const archive = initArchive(directory, cluster, segmentBytes);
    await cluster.sql(TABLE);
    const copy = join(cluster.directory, "copy");
    await cluster.backup(copy);
    await write(cluster, 1200);
    await cluster.stop("fast");
    const wal = directory.file("wal");
    fs.mkdirSync(wal);
    const names = cluster.walFiles();
    for (const name of names) {
      fs.copyFileSync(join(cluster.dataDirectory, "pg_wal", name), join(wal, name));
      fs.chmodSync(join(wal, name), 0o644);
    }
    await using standby = await startCluster({
      from: copy,
      signal: "standby.signal",
      settings: {
        ...settings,
        restore_command: `cp "${wal}/%f" "%p"`,
        archive_mode: "always",
        archive_command: archiveCommand(archive),
      },
    });
    await until("the tail's coming", () => archive.saved().length > 0);
    await archived(standby);
    const [saved] = archive.saved();
    assert.ok(saved !== undefined);
    assert.ok(archive.scan(saved).recordCount > 0);
    assert.ok(!archive.complete().some((file) => file.name === saved.name));
    assert.equal(await failures(standby), "0", standby.log());
    assert.match(
      standby.log(),
      /warn +unfinished segment kept path=inprogress\/[0-9A-F]{24}\.saved-1 validEndLsn=0\//,
    );
    // The primary then pushes the whole one.
    await cluster.start();
    await cluster.sql("SELECT pg_switch_wal()");
    assert.deepEqual(pushAsServer(cluster, archive, `pg_wal/${saved.name}`).code, 0);
    assert.ok(archive.complete().some((file) => file.name === saved.name));
  },
);

test(
  "pushes of one segment at the same time: one of them publishes it, none breaks it",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await startCluster({ segmentBytes, settings });
    const archive = initArchive(directory, cluster, segmentBytes);
    await cluster.sql(TABLE);
    for (let round = 0; round < 6; round++) {
      const path = await nextSegment(cluster);
      const runs = [1, 2, 3].map(() => startPush(cluster, archive, path));
      const ends = await Promise.all(runs.map((run) => run.end));
      assert.ok(ends.some(({ code }) => code === 0), ends.map(({ stderr }) => stderr).join(""));
      for (const { code, stderr } of ends) {
        if (code !== 0) assert.match(stderr, /^walvault: .*the server will ask again|ENOENT/);
      }
      assert.equal(pushAsServer(cluster, archive, path).code, 0);
      assert.equal(assertSameAsServer(archive, cluster), round + 1);
      assert.deepEqual(inProgress(archive), []);
      assert.deepEqual(archive.conflicts(), []);
    }
  },
);

test(
  "push killed at any moment leaves the segment whole or absent, and the next one succeeds",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await startCluster({ segmentBytes, settings });
    const archive = initArchive(directory, cluster, segmentBytes);
    await cluster.sql(TABLE);
    const random = new Random(7);
    let leftovers = 0;
    let killed = 0;
    for (let round = 0; round < 10; round++) {
      const path = await nextSegment(cluster, 20);
      const name = path.slice("pg_wal/".length);
      for (let attempt = 0; attempt < 4; attempt++) {
        const [left] = inProgress(archive);
        const { child, end } = startPush(cluster, archive, path);
        if (attempt % 2 === 0) {
          // From the moment it writes; what the one before left goes first.
          while (child.exitCode === null && !inProgress(archive).some((each) => each !== left)) {
            await sleep(1);
          }
          await sleep(random.integer(0, 5));
        } else await sleep(random.spread(5, 150));
        child.kill("SIGKILL");
        const { code } = await end;
        if (code === null) killed++;
        else assert.equal(code, 0);
        const published = archive.complete().filter((file) => file.name === name);
        if (code === 0) assert.equal(published.length, 1);
        assertSameAsServer(archive, cluster);
        leftovers += inProgress(archive).length;
        assert.ok(inProgress(archive).length <= 1);
        assert.deepEqual(archive.saved(), []);
      }
      const { code, stderr } = pushAsServer(cluster, archive, path);
      assert.equal(code, 0, stderr);
      assert.equal(stderr, "");
      assert.equal(assertSameAsServer(archive, cluster), round + 1);
      assert.deepEqual(inProgress(archive), []);
    }
    assert.ok(killed > 10, `${killed} were killed`);
    assert.ok(leftovers > 0, "none was killed while it wrote");
  },
);

test("push refuses another cluster's segment, and changes nothing", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes, settings });
  await using other = await startCluster({ segmentBytes, settings });
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  const here = ["--archive", archive.directory];
  assert.equal(walvault(["init", ...here, "--connection", cluster.conninfo()]).code, 0);
  const before = fingerprint(archive.directory);
  for (const each of [cluster, other]) await each.sql(TABLE);
  const path = await nextSegment(other);
  const inOther = walvault(["push", ...here, path], { cwd: other.dataDirectory });
  assert.equal(inOther.code, 1);
  assert.match(
    inOther.stderr,
    /this data directory is of the cluster with system identifier \d+, the archive of \d+/,
  );
  const elsewhere = walvault(["push", ...here, join(other.dataDirectory, path)]);
  assert.equal(elsewhere.code, 1);
  assert.match(elsewhere.stderr, /system identifier \d+, want \d+; the file is not what its name says/);
  assert.deepEqual(fingerprint(archive.directory), before);
  const init = walvault(["init", ...here, "--connection", other.conninfo()]);
  assert.equal(init.code, 3);
  assert.match(init.stderr, /belongs to the cluster with system identifier/);
  assert.deepEqual(fingerprint(archive.directory), before);
});

test(
  "push refuses the segments of a copy that went another way, and explains both sides",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using a = await startCluster({ segmentBytes, settings });
    const archive = new ArchiveFiles(directory.archive(), segmentBytes);
    const here = ["--archive", archive.directory];
    assert.equal(walvault(["init", ...here, "--connection", a.conninfo()]).code, 0);
    await a.sql(TABLE);
    const push = (cluster: Cluster, path: string) =>
      walvault(["push", ...here, path], { cwd: cluster.dataDirectory });
    const shared = await nextSegment(a);
    assert.deepEqual(push(a, shared), { code: 0, stdout: "", stderr: "" });
    await write(a, 30);
    await a.stop("fast");
    await using b = await startCluster({ from: a.dataDirectory, segmentBytes, settings });
    await a.start();
    const pathA = await nextSegment(a, 100);
    const pathB = await nextSegment(b, 90);
    assert.equal(pathA, pathB);
    assert.deepEqual(push(a, pathA), { code: 0, stdout: "", stderr: "" });
    // The same system identifier, the same name, the same past.
    const before = fingerprint(archive.directory);
    const conflict = push(b, pathB);
    assert.equal(conflict.code, 1);
    assert.match(
      conflict.stderr,
      /the archive has other bytes under this name .*they differ first at 0\/[0-9A-F]+; there the archive's file has a record of [A-Za-z0-9]+ at/,
    );
    const [kept = ""] = archive.conflicts();
    assert.ok(kept.startsWith(pathB.slice("pg_wal/".length)));
    // The next one does not continue the archive.
    const nextB = await nextSegment(b, 90);
    const broken = push(b, nextB);
    assert.equal(broken.code, 1, broken.stderr);
    assert.match(broken.stderr, /it does not continue this archive's [0-9A-F]{24}: its first record at/);
    const nextA = await nextSegment(a, 90);
    assert.equal(nextA, nextB);
    assert.deepEqual(push(a, nextA), { code: 0, stdout: "", stderr: "" });
    for (const [name, hash] of before) {
      if (/^[0-9A-F]{24}$/.test(name)) assert.equal(fingerprint(archive.directory).get(name), hash);
    }
  },
);

test(
  "push on a full disk fails and leaves nothing; it succeeds when there is room",
  { timeout },
  async (t) => {
    using directory = new WorkDirectory();
    const disk = directory.file("disk");
    fs.mkdirSync(disk);
    const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=3m,mode=700", "none", disk]).status === 0;
    if (!mounted) return t.skip("needs the right to mount");
    try {
      await using cluster = await startCluster({ segmentBytes, settings });
      const archive = new ArchiveFiles(disk, segmentBytes);
      const here = ["--archive", disk];
      assert.equal(walvault(["init", ...here, "--connection", cluster.conninfo()]).code, 0);
      await cluster.sql(TABLE);
      const push = (path: string) => walvault(["push", ...here, path], { cwd: cluster.dataDirectory });
      const first = await nextSegment(cluster);
      assert.equal(push(first).code, 0);
      fs.writeFileSync(join(disk, ".snapshot"), new Uint8Array(1.5 * MIB).fill(1));
      const second = await nextSegment(cluster);
      const before = fingerprint(disk);
      const full = push(second);
      assert.equal(full.code, 1);
      assert.match(full.stderr, /^walvault: Cannot archive [0-9A-F]{24} into ".*": (ENOSPC|No space left)/m);
      assert.deepEqual(fingerprint(disk), before);
      fs.rmSync(join(disk, ".snapshot"));
      assert.equal(push(second).code, 0);
      assert.equal(assertSameAsServer(archive, cluster), 2);
    } finally {
      spawnSync("umount", [disk]);
    }
  },
);

test("init makes an archive once, and agrees afterwards; also beside a receiver", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using cluster = await startCluster({ segmentBytes, settings });
  const path = directory.archive();
  const words = ["init", "--archive", path, "--connection", cluster.conninfo()];
  const made = walvault(words);
  assert.equal(made.code, 0, made.stderr);
  assert.equal(made.stdout, "");
  assert.match(made.stderr, /info +archive ready archive=.* systemIdentifier=\d+ segmentSize=1MB/);
  assert.deepEqual(fs.readdirSync(path).sort(), ["archive.json", "inprogress", "lock"]);
  const before = fingerprint(path);
  assert.equal(walvault(words).code, 0);
  assert.deepEqual(fingerprint(path), before);
  await using receiver = startReceiver({ connection: cluster.conninfo(), archive: path });
  await receiver.next("streaming");
  assert.equal(walvault(words).code, 0);
  const full = directory.archive("full");
  fs.writeFileSync(join(full, "x"), "");
  const refused = walvault(["init", "--archive", full, "--connection", cluster.conninfo()]);
  assert.equal(refused.code, 3);
  assert.match(refused.stderr, /it has no archive\.json but 1 other entry \("x"\); use an empty directory/);
});

test(
  "init stores the histories of a promoted server; beside a receiver that is its work",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await startCluster({ segmentBytes, settings });
    for (let promotions = 0; promotions < 2; promotions++) {
      await cluster.stop("fast");
      fs.writeFileSync(join(cluster.dataDirectory, "standby.signal"), "");
      fs.chmodSync(join(cluster.dataDirectory, "standby.signal"), 0o644);
      await cluster.start();
      await cluster.promote();
    }
    const path = directory.archive();
    const words = ["init", "--archive", path, "--connection", cluster.conninfo()];
    const made = walvault(words);
    assert.equal(made.code, 0, made.stderr);
    const histories = ["00000002.history", "00000003.history"];
    const assertStored = () => {
      for (const name of histories) {
        const server = fs.readFileSync(join(cluster.dataDirectory, "pg_wal", name));
        assert.deepEqual(fs.readFileSync(join(path, name)), server);
      }
    };
    assertStored();
    assert.match(made.stderr, /info +history archived history=00000003\.history/);
    // An archive that was made without them gets them.
    for (const name of histories) fs.rmSync(join(path, name));
    assert.equal(walvault(words).code, 0);
    assertStored();
    await using receiver = startReceiver({ connection: cluster.conninfo(), archive: path });
    await receiver.next("streaming");
    assert.equal(walvault(words).code, 0);
  },
);

test(
  "a receiver and push, both compressing, share one archive; the server's files are in it",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using cluster = await startCluster({ segmentBytes, settings: { ...settings, archive_mode: "on" } });
    const archive = await streamAndPush(cluster, directory, ["--compress=zstd"]);
    const published = fs.readdirSync(archive.directory).filter((name) => /^[0-9A-F]{24}/.test(name));
    const names = new Set(published.map((name) => name.slice(0, 24)));
    assert.ok(names.size > 10);
    for (const name of published) {
      const bytes = fs.readFileSync(join(archive.directory, name));
      const server = fs.readFileSync(join(cluster.dataDirectory, "pg_wal", name.slice(0, 24)));
      const own = name.endsWith(".zst") ? zstdDecompressSync(bytes) : bytes;
      assert.equal(Buffer.compare(own, server), 0, name);
    }
    // Also what stands there compressed is the same to a plain push.
    const [first = ""] = names;
    assert.deepEqual(pushAsServer(cluster, archive, `pg_wal/${first}`), { code: 0, stdout: "", stderr: "" });
  },
);
