import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { formatLsn, type Lsn } from "../../lib/wal/lsn.ts";
import { isPrepared } from "../../lib/restore/prepared_file.ts";
import { type BackupCopy, type Cluster, startCluster } from "./cluster.ts";
import { ArchiveFiles, caughtUp, MIB, startReceiver, until, WorkDirectory } from "./receiver.ts";
import { readableArchive, RecoveringServer, type Recovery, restoreCommand } from "./restorer.ts";
import { contentOf, TABLE } from "./workload.ts";

const timeout = 300_000;
/** As servers have them: a reader needs as long for a small one, and a server does not. */
const segmentBytes = 16 * MIB;
const settings = { wal_keep_size: "1GB", checkpoint_timeout: "1h", max_wal_size: "2GB" };
const SEGMENTS = 12;
const skip = fs.existsSync("/proc/sys/kernel/random/boot_id") ? false : "needs /proc";

interface Received {
  readonly path: string;
  readonly backup: BackupCopy;
  /** Where the last received record ends. */
  readonly endLsn: Lsn;
  readonly content: string;
  /** Where the first half of the rows is committed, and what was there then. */
  readonly half: { readonly lsn: string; readonly content: string };
}

/** A base copy, and an archive of `SEGMENTS` behind it that goes on to somewhere inside a segment. */
async function receive(primary: Cluster, directory: WorkDirectory): Promise<Received> {
  await primary.sql(TABLE);
  const path = readableArchive(directory);
  const archive = new ArchiveFiles(path, segmentBytes);
  await using receiver = startReceiver({ connection: primary.conninfo(), archive: path });
  await receiver.next("streaming");
  const backup = await primary.backup(directory.file("backup"));
  let rows = 0;
  const write = async (segments: number) => {
    const wanted = archive.complete().length + segments;
    while (archive.complete().length < wanted) {
      await primary.sql(
        `INSERT INTO work SELECT n, repeat(md5(n::text), 100) FROM generate_series(${rows}, ${
          rows + 2999
        }) n`,
      );
      rows += 3000;
      await caughtUp(primary, receiver);
    }
  };
  await write(SEGMENTS / 2);
  const half = {
    lsn: await primary.value("SELECT pg_current_wal_insert_lsn()"),
    content: await contentOf(primary),
  };
  await write(SEGMENTS / 2);
  await caughtUp(primary, receiver);
  assert.equal(await receiver.stop(), 0);
  const ends = archive.growing().map((file) => archive.scan(file).endLsn);
  return {
    path,
    backup,
    endLsn: ends.reduce((a, b) => a > b ? a : b),
    content: await contentOf(primary),
    half,
  };
}

function fetchAhead(path: string): string {
  return restoreCommand(path, ["--ahead", "--verbose"]);
}

function start({ backup, path }: Received, more: Partial<Recovery> = {}): Promise<RecoveringServer> {
  return RecoveringServer.start({ backup, restoreCommand: fetchAhead(path), ...more });
}

/** In the server's directory: tells the processes that read ahead for it, one in a line. */
const READERS = `readers() {
  for file in $(grep -lsz -e --prepare=walvault-ahead- /proc/[0-9]*/cmdline); do
    pid=\${file#/proc/} pid=\${pid%/cmdline}
    [ "$(readlink "/proc/$pid/cwd")" = "$PWD" ] && echo "$pid"
  done
}
`;

/** Put before the command: as on a machine that reads a segment sooner than a server replays one, however slow this one is. */
const AWAIT_READERS = `for i in $(seq 600); do [ -n "$(readers)" ] || break; sleep 0.05; done`;

/** Put behind the command: kills whatever reads ahead for this server, every second one at once, any other sometime. */
const KILL_READERS = `code=$?
kill_readers() {
  for pid in $(readers); do kill -KILL "$pid" && echo "killed a reader" >&2; done
}
case $1 in
*[02468ACE]) kill_readers ;;
*) { sleep "0.0$(($$ % 6))"; kill_readers; } & ;;
esac
exit $code
`;

/** A shell's script in place of the command, for it alone takes more than one line. */
function scripted(
  received: Received,
  directory: WorkDirectory,
  { before = "", behind = "exit" }: { readonly before?: string; readonly behind?: string },
): string {
  const script = directory.file(before === "" ? "killing.sh" : "waiting.sh");
  const command = fetchAhead(received.path).replace("%f", '"$1"').replace("%p", '"$2"');
  fs.writeFileSync(script, [READERS, before, command, behind, ""].join("\n"), { mode: 0o644 });
  return `sh "${script}" "%f" "%p"`;
}

function filesAhead(server: RecoveringServer): readonly string[] {
  return fs.readdirSync(join(server.cluster.dataDirectory, "pg_wal")).filter(isPrepared);
}

/** All that was read ahead is used or gone, also what another process may still have been at. */
async function assertNothingLeft(server: RecoveringServer): Promise<void> {
  server.assertClean();
  await until("the end of whatever reads ahead", () => readers(server).length === 0);
  assert.deepEqual(filesAhead(server), []);
}

function readers(server: RecoveringServer): readonly number[] {
  return fs.readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name)).map(Number).filter((pid) => {
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("\0--prepare=walvault-ahead-") &&
        fs.readlinkSync(`/proc/${pid}/cwd`) === server.cluster.dataDirectory;
    } catch {
      return false;
    }
  });
}

test("recovery through fetch --ahead: to the end, to a target, stopped on the way, its readers killed", {
  timeout,
  skip,
}, async () => {
  using directory = new WorkDirectory();
  await using primary = await startCluster({ segmentBytes, settings });
  const received = await receive(primary, directory);
  const { content, endLsn, half } = received;

  // To the end, each segment asked for when it is prepared: but for the first one, all of them were read ahead.
  {
    await using server = await start(received, {
      restoreCommand: scripted(received, directory, { before: AWAIT_READERS }),
    });
    await server.recovered();
    assert.equal(await contentOf(server.cluster), content);
    assert.equal(formatLsn(server.switchPoint(2)), formatLsn(endLsn), server.log);
    const delivered = server.countInLog(' is delivered ("');
    assert.ok(delivered >= SEGMENTS / 2, server.log);
    assert.ok(server.countInLog("read ahead") >= delivered - 1, server.log);
    await assertNothingLeft(server);
  }
  // To a target.
  {
    await using server = await start(received, {
      settings: { recovery_target_lsn: half.lsn, recovery_target_action: "promote" },
    });
    await server.recovered();
    assert.equal(await contentOf(server.cluster), half.content);
    await assertNothingLeft(server);
  }
  // To a target, with a look around there.
  {
    await using server = await start(received, {
      settings: { recovery_target_lsn: half.lsn, recovery_target_action: "pause", hot_standby: "on" },
    });
    await until(
      "the pause",
      async () => await server.cluster.value("SELECT pg_is_wal_replay_paused()::text") === "true",
    );
    assert.equal(await contentOf(server.cluster), half.content);
    await server.cluster.promote();
    await server.recovered();
    await assertNothingLeft(server);
  }
  // Its readers killed.
  {
    await using server = await start(received, {
      restoreCommand: scripted(received, directory, { behind: KILL_READERS }),
    });
    await server.recovered();
    assert.equal(await contentOf(server.cluster), content);
    assert.equal(formatLsn(server.switchPoint(2)), formatLsn(endLsn));
    assert.ok(server.countInLog("killed a reader") > 3, server.log);
    await assertNothingLeft(server);
  }
  // Stopped on the way.
  {
    await using server = await start(received, {
      settings: { recovery_target_lsn: half.lsn, recovery_target_action: "shutdown" },
    });
    await server.ended();
    server.assertNotPromoted();
    await until("the end of whatever reads ahead", () => readers(server).length === 0);
    // A reader that was overtaken, and ended with its server before it noticed, leaves its own beside the next one's.
    assert.ok(filesAhead(server).length <= 2, filesAhead(server).join(" "));
    // What such a server may find when it comes again, and what a start of the machine makes of it.
    const wal = join(server.cluster.dataDirectory, "pg_wal");
    const name = `walvault-ahead-${received.backup.startLsn.length}`;
    fs.writeFileSync(join(wal, name), "not ours");
    for (const left of filesAhead(server)) {
      const other = left.replace(/-[0-9a-f]{32}-/, `-${"0".repeat(32)}-`);
      // One that a reader was still at has another name.
      if (other !== left) fs.copyFileSync(join(wal, left), join(wal, other));
    }
    const lines = "recovery_target_lsn = ''\nrecovery_target_action = 'promote'\n";
    server.cluster.writeDataFile("postgresql.auto.conf", lines);
    await server.cluster.start();
    await server.recovered();
    assert.equal(await contentOf(server.cluster), content);
    await assertNothingLeft(server);
    assert.ok(fs.existsSync(join(wal, name)), "a stranger's file");
  }
});

test(
  "a standby through fetch --ahead follows, and is promoted with nothing left",
  { timeout, skip },
  async () => {
    using directory = new WorkDirectory();
    await using primary = await startCluster({ segmentBytes, settings });
    const received = await receive(primary, directory);
    await using server = await start(received, { signal: "standby.signal" });
    await until(
      "the standby having replayed it",
      async () =>
        await server.cluster.value(`SELECT pg_last_wal_replay_lsn() >= '${formatLsn(received.endLsn)}'`) ===
          "true",
    );
    assert.equal(await contentOf(server.cluster), received.content);
    // It asks for more every now and then: what is not there ends all reading ahead.
    await assertNothingLeft(server);
    await server.cluster.promote();
    assert.equal(await contentOf(server.cluster), received.content);
    assert.equal(formatLsn(server.switchPoint(2)), formatLsn(received.endLsn));
    await assertNothingLeft(server);
  },
);
