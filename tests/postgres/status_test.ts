/** `walvault status` beside real servers: what it tells is what the server knows. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { tellStatus } from "../commands/status_scene.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { walvault } from "./pusher.ts";
import { caughtUp, MIB, type Receiver, startReceiver, until, WorkDirectory } from "./receiver.ts";
import { Ledger, TABLE } from "./workload.ts";

const timeout = 300_000;
const segmentBytes = MIB;

/** The parts of the answer that these tests look at. */
interface Answer {
  readonly timelines: readonly {
    readonly timeline: number;
    readonly holes: readonly unknown[];
    readonly parent?: { readonly timeline: number; readonly forkLsn: string };
  }[];
  readonly latest: {
    readonly timeline: number;
    readonly lsn: string;
    readonly receivedLsn: string;
    readonly tail?: string;
  };
  readonly holes: readonly unknown[];
  readonly window: Window;
  readonly backups: readonly {
    readonly file: string;
    readonly recoverable: boolean;
    readonly stopLsn: string;
  }[];
  readonly recoverable?: Window & { readonly backup: string };
  readonly needsBackupFromLsn?: string;
  readonly lag?: { readonly bytes: number; readonly seconds: number };
  readonly receiver?: {
    readonly state: string;
    readonly connections?: readonly { readonly applicationName: string; readonly flushLsn: string }[];
  };
  readonly slot?: {
    readonly exists: boolean;
    readonly name: string;
    readonly walStatus?: string;
    readonly safeWalBytes?: number;
    readonly restartLsn?: string;
    readonly activePid?: number;
  };
  readonly server?: { readonly error?: string; readonly slotsError?: string; readonly flushLsn: string };
  readonly healthy?: boolean;
  readonly problems: readonly string[];
}

interface Window {
  readonly startLsn: string;
  readonly endLsn: string;
  readonly commits: string;
  readonly firstCommit?: Commit;
  readonly lastCommit?: Commit;
}

interface Commit {
  readonly lsn: string;
  readonly xid: number;
  readonly time: string;
}

async function answer(words: readonly string[], code = 0): Promise<Answer> {
  const told = await tellStatus([...words, "--json"]);
  assert.equal(told.code, code, told.stdout + told.stderr);
  return JSON.parse(told.stdout) as Answer;
}

async function start(settings: Readonly<Record<string, string>> = {}): Promise<Cluster> {
  return await startCluster({
    segmentBytes,
    settings: { wal_keep_size: "1GB", track_commit_timestamp: "on", autovacuum: "off", ...settings },
  });
}

function receive(cluster: Cluster, archive: string): Receiver {
  return startReceiver({
    connection: cluster.conninfo(),
    archive,
    options: ["--slot=walvault", "--create-slot", "--status-interval=1"],
  });
}

async function write(cluster: Cluster, rows = 500): Promise<void> {
  await cluster.sql(
    `INSERT INTO work SELECT gen_random_uuid(), repeat(md5(n::text), 100) FROM generate_series(1, ${rows}) n`,
  );
}

/** The server's own word on when a transaction was committed. */
async function commitTime(cluster: Cluster, xid: number): Promise<string> {
  const time = await cluster.value(
    `SELECT to_char(pg_xact_commit_timestamp('${xid}'::xid) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')`,
  );
  return time.replace(/\.?0+$/, "") + "+00";
}

test("status tells the window of commits as the server knows it, and no lag beside a receiver that is well", {
  timeout,
}, async () => {
  await using cluster = await start();
  using directory = new WorkDirectory();
  const archive = directory.archive();
  await using receiver = receive(cluster, archive);
  await receiver.next("streaming");
  await cluster.sql(TABLE);
  const ledger = new Ledger(cluster, { clients: 2, payloadBytes: 2000 });
  await until("some hundred commits", () => ledger.acknowledged.size > 300);
  await ledger.stop();
  const [last] = await cluster.sql<{ xid: string }>("SELECT xid::text FROM pg_last_committed_xact()");
  await caughtUp(cluster, receiver);

  const words = ["-d", archive, "-c", cluster.conninfo()];
  const told = await answer(words);
  assert.equal(told.receiver?.state, "current", JSON.stringify(told));
  assert.equal(told.lag?.bytes, 0);
  assert.ok(told.lag.seconds < 2);
  assert.deepEqual(told.problems, []);
  assert.deepEqual(told.holes, []);
  assert.ok(parseLsn(told.latest.lsn) >= parseLsn(told.server!.flushLsn));
  assert.equal(told.window.commits, "known");
  const { firstCommit, lastCommit } = told.window;
  assert.equal(String(lastCommit?.xid), last?.xid);
  assert.equal(lastCommit?.time, await commitTime(cluster, lastCommit!.xid));
  // The archive begins where initdb was at work, of which the server keeps no times.
  assert.ok(firstCommit!.xid < lastCommit.xid && firstCommit!.time < lastCommit.time);
  assert.ok(parseLsn(firstCommit!.lsn) >= parseLsn(told.window.startLsn));
  assert.equal(told.needsBackupFromLsn, told.window.startLsn);

  assert.equal(told.slot?.name, "walvault");
  assert.equal(told.slot?.walStatus, "reserved");
  assert.ok(told.slot?.activePid !== undefined);
  assert.equal(told.receiver.connections?.length, 1);
  assert.equal(told.receiver.connections?.[0]?.applicationName, "walvault");
  const checked = await tellStatus([...words, "--check"]);
  assert.equal(checked.code, 0, checked.stdout);
  assert.match(checked.stdout, /^OK: [^\n]+\n$/);
});

test("status judges a receiver by what comes: one that stands still is stalled, though it is connected", {
  timeout,
}, async () => {
  await using cluster = await start();
  using directory = new WorkDirectory();
  const archive = directory.archive();
  await using receiver = receive(cluster, archive);
  await receiver.next("streaming");
  await cluster.sql(TABLE);
  await caughtUp(cluster, receiver);
  const words = ["-d", archive, "-c", cluster.conninfo()];
  receiver.signal("SIGSTOP");
  try {
    const idle = await answer(words);
    assert.equal(idle.receiver?.state, "current", "idle is healthy");
    await write(cluster);
    const stalled = await answer(words);
    assert.equal(stalled.receiver?.state, "stalled", JSON.stringify(stalled));
    assert.equal(stalled.receiver?.connections?.length, 1, "it is connected all the same");
    assert.ok(stalled.lag!.bytes > 1_000_000, String(stalled.lag!.bytes));
    assert.ok(stalled.lag!.seconds >= 2);
    const unhealthy = await tellStatus([...words, "--check", "--max-lag", "1"]);
    assert.equal(unhealthy.code, 1);
    assert.match(
      unhealthy.stdout,
      /^UNHEALTHY: [0-9.]+ s behind the server \(stalled\), want at most 1\.0 s\n$/,
    );
    const byBytes = await tellStatus([...words, "--check", "--max-lag-bytes", "1MB"]);
    assert.match(byBytes.stdout, /bytes behind the server/);
    const patient = await tellStatus([...words, "--check", "--max-lag", "3600"]);
    assert.equal(patient.code, 0, patient.stdout);
  } finally {
    receiver.signal("SIGCONT");
  }
  await caughtUp(cluster, receiver);
  assert.equal((await answer(words)).receiver?.state, "current");
  await receiver.kill();
  await write(cluster, 100);
  await until(
    "the end of the server's process for it",
    async () => await cluster.value("SELECT count(*) FROM pg_stat_replication") === "0",
  );
  const dead = await answer([...words, "--check", "--max-lag", "1"], 1);
  assert.equal(dead.healthy, false);
  assert.equal(dead.receiver?.state, "stalled");
  assert.deepEqual(dead.receiver?.connections, []);
  assert.equal(dead.slot?.name, "walvault", "the usual name stands in for one that is in use");
});

test(
  "status --check is not well with an archive that nothing came to, nor with a file's time in the future",
  {
    timeout,
  },
  async () => {
    await using cluster = await start();
    using directory = new WorkDirectory();
    const archive = directory.archive();
    const made = walvault(["init", "-q", `--archive=${archive}`, `--connection=${cluster.conninfo()}`]);
    assert.equal(made.code, 0, made.stderr);
    await cluster.sql(TABLE);
    const words = ["-d", archive, "-c", cluster.conninfo(), "--check"];
    assert.equal((await tellStatus(words)).code, 0, "it is young");
    const set = (name: string, sinceSeconds: number) => {
      const seconds = Date.now() / 1000 - sinceSeconds;
      fs.utimesSync(join(archive, name), seconds, seconds);
    };
    set("archive.json", 90);
    const never = await tellStatus(words);
    assert.equal(never.code, 1, never.stdout);
    assert.match(never.stdout, /^UNHEALTHY: 9[0-9] s behind the server \(stalled\), want at most 60 s\n$/);

    await using receiver = receive(cluster, archive);
    await receiver.next("streaming");
    await caughtUp(cluster, receiver);
    await receiver.kill();
    await write(cluster);
    const tail = (await answer(words)).latest.tail!;
    set(tail, -3600);
    const dead = await answer(words, 1);
    assert.equal(dead.lag?.seconds, undefined);
    assert.match(dead.problems.join(), /bytes behind the server \(stalled\), nothing tells for how long/);
  },
);

test("status beside a receiver that publishes and compresses under load tells no hole and no error", {
  timeout,
}, async () => {
  await using cluster = await start();
  using directory = new WorkDirectory();
  const archive = directory.archive();
  await cluster.sql(TABLE);
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive,
    options: ["--slot=walvault", "--create-slot", "--compress=zstd"],
  });
  await receiver.next("streaming");
  await caughtUp(cluster, receiver);
  const ledger = new Ledger(cluster, { clients: 2, payloadBytes: 20_000 });
  let latest = 0n;
  let first = "";
  try {
    for (let look = 0; look < 40; look++) {
      const told = await answer([
        "-d",
        archive,
        ...(look % 2 === 0 ? ["-c", cluster.conninfo()] : []),
        "--check",
      ]);
      assert.deepEqual(told.holes, []);
      assert.notEqual(told.receiver?.state, "stalled", JSON.stringify(told));
      assert.equal(told.window.commits, "known", JSON.stringify(told.window));
      const lsn = parseLsn(told.latest.lsn);
      assert.ok(lsn >= latest, "it never goes back");
      latest = lsn;
      first ||= told.window.firstCommit!.lsn;
      assert.equal(told.window.firstCommit?.lsn, first);
    }
  } finally {
    await ledger.stop();
  }
  assert.ok(fs.readdirSync(archive).some((name) => name.endsWith(".zst")), "some were compressed meanwhile");
});

test("status tells a slot that loses its WAL", { timeout }, async () => {
  await using cluster = await start({
    wal_keep_size: "0",
    max_slot_wal_keep_size: "4MB",
    min_wal_size: "2MB",
    max_wal_size: "4MB",
  });
  using directory = new WorkDirectory();
  const archive = directory.archive();
  await using receiver = receive(cluster, archive);
  await receiver.next("streaming");
  await cluster.sql(TABLE);
  await caughtUp(cluster, receiver);
  const words = ["-d", archive, "-c", cluster.conninfo(), "--slot=walvault", "--check"];
  const well = await answer(words);
  assert.equal(well.slot?.walStatus, "reserved");
  assert.ok(well.slot?.safeWalBytes !== undefined);
  const near = await answer([...words, "--min-safe-wal=1GB"], 1);
  assert.match(near.problems.join(), /slot walvault has [0-9]+ bytes to its limit, want at least 1073741824/);
  await receiver.kill();
  for (let round = 0; round < 4; round++) {
    await write(cluster, 1000);
    await cluster.sql("CHECKPOINT");
  }
  const lost = await answer([...words, "--max-lag=3600"], 1);
  assert.match(lost.slot?.walStatus ?? "", /^(unreserved|lost)$/);
  assert.match(lost.problems.join(), /slot walvault is (unreserved|lost), want reserved or extended/);
  const absent = await answer([...words, "--max-lag=3600", "--slot=another"], 1);
  assert.equal(absent.slot?.exists, false);
});

test(
  "status follows a promotion: the new timeline, where it came from, and an old primary that is none any more",
  {
    timeout,
  },
  async () => {
    await using primary = await start();
    using directory = new WorkDirectory();
    const archive = directory.archive();
    await primary.sql(TABLE);
    await using standby = await primary.createStandby();
    await using receiver = receive(primary, archive);
    await receiver.next("streaming");
    await write(primary);
    const end = await caughtUp(primary, receiver);
    await until(
      "the standby having all",
      async () => await standby.value(`SELECT (pg_last_wal_replay_lsn() >= '${end}')::text`) === "true",
    );
    await receiver.stop();
    await primary.stop();
    await until(
      "the standby having the shutdown",
      async () => await standby.value("SELECT count(*) FROM pg_stat_wal_receiver") === "0",
    );
    await standby.promote();
    const connection = standby.conninfo();
    // The archive has nothing of timeline 2 yet: what it lacks is told by the server's own history.
    await write(standby);
    const before = await answer(["-d", archive, "-c", connection]);
    assert.equal(before.latest.timeline, 1);
    assert.ok(before.lag!.bytes > 0);
    await using second = receive(standby, archive);
    await second.next("streaming");
    await write(standby);
    await caughtUp(standby, second);
    const told = await answer(["-d", archive, "-c", connection]);
    assert.equal(told.latest.timeline, 2);
    assert.equal(told.lag?.bytes, 0, JSON.stringify(told));
    assert.deepEqual(told.holes, []);
    const [, forkLsn] = fs.readFileSync(join(archive, "00000002.history"), "utf8").split("\t");
    assert.deepEqual(told.timelines.at(-1)?.parent, { timeline: 1, forkLsn });
    assert.equal(told.window.commits, "known");
    const [last] = await standby.sql<{ xid: string }>("SELECT xid::text FROM pg_last_committed_xact()");
    assert.equal(String(told.window.lastCommit?.xid), last?.xid);
    await second.stop();
    await primary.start();
    const old = await answer(["-d", archive, "-c", primary.conninfo(), "--check"], 1);
    assert.match(old.problems.join(), /is on timeline 1, the archive on 2: an old primary/);
    assert.equal(old.lag, undefined);
  },
);

test(
  "status tells what can be recovered from the base backups it has labels of, as far as no hole comes between",
  {
    timeout,
  },
  async () => {
    await using cluster = await start({ archive_mode: "on", archive_command: "false" });
    using directory = new WorkDirectory();
    const archive = directory.archive();
    await using receiver = receive(cluster, archive);
    await receiver.next("streaming");
    await cluster.sql(TABLE);
    await write(cluster, 200);
    const early = await cluster.backup(directory.file("early"));
    await write(cluster);
    await cluster.sql("SELECT pg_switch_wal()");
    await write(cluster);
    await caughtUp(cluster, receiver);
    const words = ["-d", archive, "-c", cluster.conninfo()];
    assert.equal((await answer(words)).recoverable, undefined, "no label is here yet");
    assert.equal((await tellStatus([...words, "--check", "--require-backup"])).code, 1);
    const pushLabels = () => {
      for (const name of fs.readdirSync(join(cluster.dataDirectory, "pg_wal"))) {
        if (!name.endsWith(".backup")) continue;
        const pushed = walvault(["push", "-q", "-d", archive, `pg_wal/${name}`], {
          cwd: cluster.dataDirectory,
        });
        assert.equal(pushed.code, 0, pushed.stderr);
      }
    };
    pushLabels();
    const told = await answer([...words, "--check", "--require-backup"]);
    assert.equal(told.backups.length, 1);
    assert.equal(told.backups[0]?.recoverable, true);
    assert.equal(told.backups[0]?.stopLsn, early.endLsn);
    assert.equal(told.recoverable?.startLsn, early.endLsn);
    assert.equal(told.needsBackupFromLsn, undefined);
    const [last] = await cluster.sql<{ xid: string }>("SELECT xid::text FROM pg_last_committed_xact()");
    assert.equal(String(told.recoverable?.lastCommit?.xid), last?.xid);
    const first = told.recoverable!.firstCommit!;
    assert.ok(parseLsn(first.lsn) >= parseLsn(early.endLsn));
    assert.equal(first.time, await commitTime(cluster, first.xid));
    // No transaction before it was committed behind the backup's end.
    assert.ok(first.xid <= Number(last?.xid));

    const late = await cluster.backup(directory.file("late"));
    await write(cluster, 100);
    await caughtUp(cluster, receiver);
    pushLabels();
    // A hole between the two: only the newer one leads to the end, and the hole is in nobody's way.
    const complete = fs.readdirSync(archive).filter((name) => /^[0-9A-F]{24}$/.test(name)).sort();
    const [begin, end] = [early.endLsn, late.startLsn].map((text) =>
      Number(parseLsn(text) / BigInt(segmentBytes))
    );
    const lost = complete.find((name) =>
      parseInt(name.slice(8, 16), 16) * 4096 + parseInt(name.slice(16), 16) > begin! + 1
    );
    assert.ok(lost !== undefined && parseInt(lost.slice(16), 16) < end!);
    fs.renameSync(join(archive, lost), directory.file(lost));
    const holed = await answer([...words, "--check", "--require-backup"]);
    assert.equal(holed.holes.length, 1);
    assert.deepEqual(holed.backups.map(({ recoverable }) => recoverable), [true, true]);
    assert.equal(holed.recoverable?.startLsn, late.endLsn);
    const text = (await tellStatus(words)).stdout;
    assert.match(text, new RegExp(`^Hole +.*1 segment missing, from ${lost} on$`, "m"));
    assert.match(text, /only to [0-9A-F/]+ on timeline 1$/m);
  },
);

test(
  "status works with a role that may only replicate, and says what it can't tell",
  { timeout },
  async () => {
    await using cluster = await startCluster({
      segmentBytes,
      hba: ["host replication replicator 127.0.0.1/32 trust", "host all replicator 127.0.0.1/32 reject"],
    });
    await cluster.sql("CREATE ROLE replicator LOGIN REPLICATION");
    using directory = new WorkDirectory();
    const archive = directory.archive();
    const connection = cluster.conninfo({ user: "replicator" });
    await using receiver = startReceiver({ connection, archive });
    await receiver.next("streaming");
    await cluster.sql(TABLE);
    await caughtUp(cluster, receiver);
    const told = await answer(["-d", archive, "-c", connection]);
    assert.equal(told.lag?.bytes, 0);
    assert.equal(told.receiver?.state, "current");
    assert.match(
      told.server?.slotsError ?? "",
      /^Cannot read the slots of 127\.0\.0\.1:[0-9]+: server says FATAL 28000/,
    );
    assert.equal(told.slot, undefined);
    const check = await tellStatus(["-d", archive, "-c", connection, "--check"]);
    assert.equal(check.code, 0);
  },
);

test("status refuses no archive because its server is another's, or away; --check says so in one line", {
  timeout,
}, async () => {
  await using cluster = await start();
  await using stranger = await startCluster({ segmentBytes });
  using directory = new WorkDirectory();
  const archive = directory.archive();
  await using receiver = receive(cluster, archive);
  await receiver.next("streaming");
  await cluster.sql(TABLE);
  await caughtUp(cluster, receiver);
  await receiver.stop();
  const wrong = await answer(["-d", archive, "-c", stranger.conninfo(), "--check"], 1);
  assert.match(wrong.problems.join(), /has system identifier [0-9]+, the archive [0-9]+: another cluster/);
  assert.equal(wrong.lag, undefined);
  await cluster.stop();
  const away = await tellStatus(["-d", archive, "-c", cluster.conninfo()]);
  assert.equal(away.code, 3);
  assert.match(away.stdout, /^Latest +0\//m);
  assert.match(away.stderr, /^walvault: Cannot connect to .*ECONNREFUSED/);
  const checked = await tellStatus(["-d", archive, "-c", cluster.conninfo(), "--check"]);
  assert.equal(checked.code, 1);
  assert.match(checked.stdout, /^UNHEALTHY: Cannot connect to [^\n]+\n$/);
});
