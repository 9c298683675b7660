/** Every command's `--json` is as docs/json.md says: each field described, of its type, and there when it should be. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { encodeGapRecord } from "../../lib/archive/gaps.ts";
import { formatLsn, lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type Cluster, startCluster } from "../postgres/cluster.ts";
import { walvault } from "../postgres/pusher.ts";
import { caughtUp, MIB, runReceiver, startReceiver, until, WorkDirectory } from "../postgres/receiver.ts";
import { TABLE } from "../postgres/workload.ts";
import { type Shape, shapesOf } from "./json_shapes.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 240_000;
const shapes = shapesOf(join(ROOT, "docs", "json.md"));

function shape(name: string): Shape {
  const found = shapes.get(name);
  assert.ok(found !== undefined, `docs/json.md describes "${name}"`);
  return found;
}

/** Runs a command with `--json` and holds its answer to the page; the exit code must be one of `codes`. */
function ask(name: string, words: readonly string[], codes: readonly number[] = [0]): void {
  const { code, stdout, stderr } = walvault([...words, "--json"]);
  assert.ok(code !== null && codes.includes(code), `${words.join(" ")}: exit ${code}: ${stdout}${stderr}`);
  hold(name, stdout, words);
}

function hold(name: string, stdout: string, words: readonly string[]): void {
  assert.match(stdout, /^\{[^\n]*\}\n$/, `${words.join(" ")}: one object on one line`);
  assert.deepEqual(shape(name).problemsOf(JSON.parse(stdout)), [], words.join(" "));
}

async function write(cluster: Cluster, rows = 300): Promise<void> {
  await cluster.sql(
    `INSERT INTO work SELECT gen_random_uuid(), repeat(md5(n::text), 100) FROM generate_series(1, ${rows}) n`,
  );
}

test("what the commands print with --json is as docs/json.md says", { timeout }, async () => {
  await using primary = await startCluster({
    segmentBytes: MIB,
    hba: [
      "host replication all 127.0.0.1/32 trust",
      "host all replicator 127.0.0.1/32 reject",
      "host all all 127.0.0.1/32 trust",
    ],
    settings: {
      wal_keep_size: "1GB",
      max_slot_wal_keep_size: "1GB",
      archive_mode: "on",
      archive_command: "false",
      autovacuum: "off",
    },
  });
  using directory = new WorkDirectory();
  const archive = directory.archive();
  const d = `--archive=${archive}`;
  const c = `--connection=${primary.conninfo()}`;
  await primary.sql(`CREATE ROLE replicator LOGIN REPLICATION; ${TABLE}`);
  const endpos = await primary.value("SELECT pg_current_wal_flush_lsn()");
  const reached = await runReceiver({
    connection: primary.conninfo(),
    archive,
    options: ["--json", `--endpos=${endpos}`, "--slot=walvault", "--create-slot"],
  });
  hold("receive", reached.stdout, ["receive"]);
  await using standby = await primary.createStandby({ settings: { archive_mode: "off" } });
  await using receiver = startReceiver({
    connection: primary.conninfo(),
    archive,
    options: ["--json", "--slot=walvault"],
  });
  await receiver.next("streaming");
  for (const name of ["before", "twice", "twice"]) {
    await primary.sql(`SELECT pg_create_restore_point('${name}')`);
  }
  await write(primary);
  const rolledBack = await primary.sql<{ xid: string; sub: string }>(`
    BEGIN; INSERT INTO work VALUES ('a', 'a'); SAVEPOINT s; INSERT INTO work VALUES ('b', 'b');
    RELEASE s; COMMIT;
    SELECT xmin::text AS sub, (SELECT xmin::text FROM work WHERE id = 'a') AS xid FROM work WHERE id = 'b'`);
  const [{ xid, sub } = { xid: "", sub: "" }] = rolledBack;
  ask("status", ["status", d]);
  const copy = await primary.backup(directory.file("copy"));
  await write(primary);
  for (const name of fs.readdirSync(join(primary.dataDirectory, "pg_wal"))) {
    if (!name.endsWith(".backup")) continue;
    const pushed = walvault(["push", "-q", d, `pg_wal/${name}`], { cwd: primary.dataDirectory });
    assert.equal(pushed.code, 0, pushed.stderr);
  }
  const end = await caughtUp(primary, receiver);

  ask("status", ["status", d]);
  ask("status", ["status", d, c]);
  ask("status", ["status", d, c, "--check"]);
  ask("status", ["status", d, `--connection=${primary.conninfo({ user: "replicator" })}`]);
  ask("status", ["status", d, c, "--slot=another"]);
  ask("status", ["status", d, c, "--slot=another", "--check"], [1]);
  ask("status", ["status", `--archive=${directory.file("nothing")}`, "--check"], [1]);
  ask("status", ["status", d, "--connection=host=127.0.0.1 port=1"], [3]);
  const files = fs.readdirSync(archive).filter((name) => /^[0-9A-F]{24}/.test(name)).map((name) =>
    join(archive, name)
  );
  ask("status of files", ["status", ...files], [1]);
  const cut = directory.file("cut");
  fs.writeFileSync(cut, fs.readFileSync(files[0]!).subarray(0, 50_000));
  ask("status of files", ["status", cut]);

  ask("verify", ["verify", d, "-q"]);
  for (
    const [words, codes] of [
      [[`--lsn=${copy.endLsn}`], [0]],
      [["--lsn=0/1"], [1]],
      [["--lsn=FF/1"], [1]],
      [[`--xid=${xid}`], [0]],
      [[`--xid=${sub}`], [0]],
      [["--xid=4000000000"], [1]],
      [[`--xid=${2n ** 32n + BigInt(xid)}`], [0, 1]],
      [["--name=before"], [0]],
      [["--name=twice"], [0]],
      [["--name=never"], [1]],
      [["--time=2001-01-01 00:00:00Z"], [0, 1]],
      [["--time=2101-01-01 00:00:00Z"], [1]],
    ] as const
  ) {
    ask("find", ["find", d, ...words, "-q"], codes);
  }

  // Another timeline, and a hole before the fork.
  await until(
    "the standby having all",
    async () => await standby.value(`SELECT (pg_last_wal_replay_lsn() >= '${end}')::text`) === "true",
  );
  // What only the archive has: the standby is promoted behind it.
  await standby.stop();
  await write(primary, 3);
  await caughtUp(primary, receiver);
  assert.equal(await receiver.stop(), 0);
  hold("receive", receiver.stdout, ["receive"]);
  await primary.stop();
  await standby.start();
  await standby.promote();
  await using second = startReceiver({ connection: standby.conninfo(), archive });
  await second.next("streaming");
  await write(standby);
  await caughtUp(standby, second);
  await second.stop();
  const names = fs.readdirSync(archive).filter((name) => /^[0-9A-F]{24}$/.test(name)).sort();
  const missing = names[2]!;
  fs.renameSync(join(archive, missing), directory.file(missing));
  // Where the backup begins: it can't be recovered any more.
  const label = fs.readdirSync(archive).find((name) => name.endsWith(".backup"));
  fs.rmSync(join(archive, label!.slice(0, 24)), { force: true });
  ask("status", ["status", d]);
  ask("status", ["status", d, "--check"], [0, 1]);
  ask("verify", ["verify", d, "-q"], [1]);
  ask("find", ["find", d, `--xid=${xid}`, "-q"], [0, 1]);

  const startLsn = lsn(BigInt(parseInt(missing.slice(16), 16) * MIB));
  const gap = { timeline: timelineId(1), startLsn, endLsn: lsn(startLsn + BigInt(MIB)) };
  ask("gap list", ["gap", "list", d], [1]);
  fs.appendFileSync(
    join(archive, "gaps.jsonl"),
    encodeGapRecord({
      ...gap,
      recordedAt: new Date().toISOString(),
      reason: "no server has it any more",
      server: "db:5432",
      answer: "it has been removed",
    }),
  );
  ask("gap heal", ["gap", "heal", d, "-q"], [1]);
  ask("status", ["status", d]);
  // A file under the name is not what is missing.
  fs.writeFileSync(join(archive, missing), new Uint8Array(MIB), { mode: 0o600 });
  ask("status", ["status", d]);
  ask("gap list", ["gap", "list", d], [1]);
  ask("gap heal", ["gap", "heal", d, "-q"], [1]);
  fs.rmSync(join(archive, missing));
  const given = [d, "--timeline=1", `--from=${formatLsn(startLsn)}`, `--to=${formatLsn(gap.endLsn)}`];
  const accepted = walvault(["gap", "accept", ...given, "--reason=a test"]);
  assert.equal(accepted.code, 0, accepted.stderr);
  ask("status", ["status", d]);
  ask("gap list", ["gap", "list", d], [0, 1]);
  fs.renameSync(directory.file(missing), join(archive, missing));
  ask("gap list", ["gap", "list", d], [0, 1]);

  for (const [name, { unseen }] of shapes) assert.deepEqual(unseen, [], `fields of ${name} never seen`);
});

test("an answer that is not as the page says is told", () => {
  const shape = shapesOf(join(ROOT, "docs", "json.md")).get("receive")!;
  assert.deepEqual(shape.problemsOf({ end: "stopped", flushLsn: "0/1" }), []);
  assert.deepEqual(shape.unseen, ["timeline"]);
  for (
    const [answer, problem] of [
      [{}, "end is missing"],
      [{ end: "over" }, 'end is "over", want one of `stopped`, `end-reached`'],
      [{ end: "stopped", flushLsn: 1 }, "flushLsn is 1, want lsn"],
      [{ end: "stopped", timeline: null }, "timeline is null, want number"],
      [{ end: "stopped", more: 1 }, "more is not described"],
      [[], "the answer is [], want an object"],
    ] as const
  ) {
    assert.deepEqual(shape.problemsOf(answer), [problem]);
  }
});
