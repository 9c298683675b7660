import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { find } from "../../lib/commands/find.ts";
import { findCommand, type FindCommandOptions } from "../../lib/commands/find_options.ts";
import { formatLsn, type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { formatTimestamp, type Timestamp, timestamp } from "../../lib/wal/timestamp.ts";
import { type BackupCopy, type Cluster, startCluster } from "./cluster.ts";
import { caughtUp, MIB, startReceiver, until, WorkDirectory } from "./receiver.ts";
import { readableArchive, RecoveringServer, restoreCommand } from "./restorer.ts";
import { LEDGER_SETTINGS, runTransactions, type TransactionLedger } from "./transaction_ledger.ts";

const timeout = 300_000;
const settings = { ...LEDGER_SETTINGS, wal_keep_size: "1GB" };

/** What `find --json` says; LSNs and times as text. */
interface Mark {
  readonly lsn: string;
  readonly xid: number;
  readonly time: string;
}
interface Answer {
  readonly found: boolean;
  readonly where?: string;
  readonly stop: Mark & { readonly kind: string; readonly name?: string; readonly holds?: string };
  readonly commitBefore?: Mark;
  readonly commitAfter?: Mark;
  readonly nearest?: Mark & { readonly recovery: Readonly<Record<string, string>> };
  readonly window?: { readonly first: Mark; readonly last: Mark };
  readonly recovery: Readonly<Record<string, string>>;
  readonly restorePoints?: readonly string[];
}

/** `walvault find` in this process. */
async function run(archive: string, words: readonly string[]) {
  let options: FindCommandOptions = {};
  const command = findCommand((parsed) => {
    options = parsed;
    return Promise.resolve();
  });
  await command.parseAsync([`--archive=${archive}`, ...words], { from: "user" });
  let stdout = "";
  let stderr = "";
  const exitCode = await find(options, {
    stdout: { isTerminal: false, write: (text) => void (stdout += text) },
    stderr: { isTerminal: false, write: (text) => void (stderr += text) },
    env: {},
    signal: new AbortController().signal,
  });
  assert.equal(stderr, "");
  return { exitCode, stdout };
}

async function ask(archive: string, ...words: readonly string[]): Promise<Answer> {
  const { exitCode, stdout } = await run(archive, [...words, "--json"]);
  const answer = JSON.parse(stdout) as Answer;
  assert.equal(exitCode, answer.found ? 0 : 1);
  return answer;
}

/** A moment later or earlier. */
function moved(time: Timestamp, us: bigint): string {
  return formatTimestamp(timestamp(time + us));
}

interface Scene {
  readonly archive: string;
  readonly backup: BackupCopy;
  readonly ledger: TransactionLedger;
  /** Rows of `rows`, with the transaction that wrote each. */
  readonly rows: readonly { readonly n: number; readonly xid: number; readonly time: string }[];
}

async function makeScene(directory: WorkDirectory, primary: Cluster): Promise<Scene> {
  const archive = readableArchive(directory);
  await using receiver = startReceiver({ connection: primary.conninfo(), archive });
  await receiver.next("streaming");
  await primary.sql(
    "CREATE TABLE rows (n int, payload text); ALTER TABLE rows ALTER payload SET STORAGE EXTERNAL",
  );
  const backup = await primary.backup(directory.file("backup"));
  const ledger = await runTransactions(primary);
  const sql = primary.connect();
  for (let n = 1; n <= 60; n++) {
    await sql.unsafe(`INSERT INTO rows VALUES (${n}, repeat(md5('${n}'), 3000))`);
    if (n === 30) await sql.unsafe("SELECT pg_create_restore_point('half')");
  }
  const told = await sql.unsafe(
    `SELECT n, xmin::text AS xid, to_char(pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC',
       'YYYY-MM-DD HH24:MI:SS.US') AS time FROM rows ORDER BY n`,
  );
  await sql.end();
  const rows = told.map((row) => ({ n: row["n"], xid: Number(row["xid"]), time: row["time"] as string }));
  await caughtUp(primary, receiver);
  assert.equal(await receiver.stop(), 0);
  return { archive, backup, ledger, rows };
}

function assertKnowsAll(scene: Scene): Promise<void> {
  return assertLedger(scene.archive, scene.ledger);
}

async function assertLedger(archive: string, { ends, points }: TransactionLedger): Promise<void> {
  for (const [index, end] of ends.entries()) {
    const answer = await ask(archive, "--xid", String(end.xid));
    assert.equal(answer.found, true, end.what);
    assert.equal(answer.stop.kind, end.kind, end.what);
    assert.equal(answer.stop.xid, end.xid, end.what);
    const at = parseLsn(answer.stop.lsn);
    assert.ok(end.range[0] <= at && at < end.range[1], `${end.what}: ${answer.stop.lsn}`);
    if (end.time !== undefined) assert.equal(answer.stop.time, formatTimestamp(end.time), end.what);
    assertBetween(answer.stop.time, end.between, end.what);
    assert.deepEqual(answer.recovery, {
      recovery_target_xid: String(end.xid),
      recovery_target_inclusive: "on",
      recovery_target_timeline: "1",
    });
    for (const subxid of end.subxids.filter((_, i) => i % 100 === 0)) {
      const sub = await ask(archive, "--xid", String(subxid));
      assert.equal(sub.stop.lsn, answer.stop.lsn, `${end.what}: ${subxid}`);
      assert.equal(sub.recovery["recovery_target_xid"], String(end.xid));
    }
    if (end.kind === "commit") assert.deepEqual(answer.commitBefore, markOf(answer.stop), end.what);
    if (end.time === undefined) continue;
    const { time } = end;
    // At its time it is in; just before, it is the first that is not, as those before were told before it began.
    const at0 = await ask(archive, "--time", formatTimestamp(time));
    assert.deepEqual(at0.commitBefore, answer.commitBefore, end.what);
    const earlier = await ask(archive, "--time", moved(time, -1n));
    assert.deepEqual(earlier.stop, { kind: "commit", ...markOf(answer.stop) }, end.what);
    assert.deepEqual(
      await ask(archive, "--time", formatTimestamp(time), "--exclusive").then((it) => it.stop),
      earlier.stop,
    );
    const next = ends[index + 1];
    if (next !== undefined) assert.ok(parseLsn(at0.stop.lsn) < next.range[1], end.what);
    const byLsn = await ask(archive, "--lsn", answer.stop.lsn);
    assert.equal(byLsn.stop.lsn, answer.stop.lsn);
    assert.deepEqual(byLsn.commitBefore, answer.commitBefore, end.what);
    assert.deepEqual(byLsn.commitAfter, answer.commitAfter, end.what);
    const inside = await ask(archive, "--lsn", formatLsn(at + 8n as Lsn));
    assert.equal(inside.stop.holds, answer.stop.lsn);
    assert.ok(parseLsn(inside.stop.lsn) > at);
  }
  for (const point of points) {
    const answer = await ask(archive, "--name", point.name);
    assert.equal(answer.stop.name, point.name);
    assert.ok(parseLsn(answer.stop.lsn) < point.endLsn);
    assert.ok(parseLsn(answer.stop.lsn) > point.endLsn - 200n);
    assertBetween(answer.stop.time, point.between, point.name);
    assert.equal(answer.recovery["recovery_target_name"], point.name);
  }
}

function markOf({ lsn, xid, time }: Mark): Mark {
  return { lsn, xid, time };
}

function assertBetween(time: string, [from, to]: readonly [Timestamp, Timestamp], what: string): void {
  // The zone is the same in all: text of the same length would compare as the times do.
  const at = (text: string) => {
    const [seconds = "", fraction = ""] = text.replace("+00", "").split(".");
    return `${seconds}.${fraction.padEnd(6, "0")}`;
  };
  assert.ok(at(formatTimestamp(from)) <= at(time) && at(time) <= at(formatTimestamp(to)), `${what}: ${time}`);
}

test(
  "find tells what the server itself says of each transaction and restore point",
  { timeout },
  async () => {
    using directory = new WorkDirectory();
    await using primary = await startCluster({ segmentBytes: MIB, settings });
    const scene = await makeScene(directory, primary);
    const { archive, rows } = scene;
    await assertKnowsAll(scene);
    const last = rows.at(-1)!;
    const later = await ask(archive, "--time", "2100-01-01Z");
    assert.equal(later.where, "after");
    assert.equal(later.window?.last.xid, last.xid);
    assert.equal(later.nearest?.xid, last.xid);
    const atEnd = await ask(archive, "--time", `${last.time}Z`);
    // Nothing later has ended: the server would find no reason to stop.
    assert.equal(atEnd.where, "after");
    const early = await ask(archive, "--time", "2001-01-01Z");
    assert.equal(early.where, "before");
    assert.deepEqual(early.nearest && markOf(early.nearest), early.window?.first);
    assert.equal((await ask(archive, "--xid", "4000000000")).where, "absent");
    const nameless = await ask(archive, "--name", "nowhere");
    assert.equal(nameless.where, "absent");
    assert.deepEqual(nameless.restorePoints, [...scene.ledger.points.map(({ name }) => name), "half"]);
    assert.equal((await ask(archive, "--lsn", "FF/0")).where, "after");
    assert.equal((await ask(archive, "--lsn", "0/0")).where, "before");
  },
);

test("recovery with the lines of find stops where it said", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using primary = await startCluster({ segmentBytes: MIB, settings });
  const { archive, backup, rows } = await makeScene(directory, primary);
  const recover = async (
    words: readonly string[],
    expected: { readonly rows: number; readonly stop: "before" | "after" },
  ) => {
    const answer = await ask(archive, ...words);
    const { stdout } = await run(archive, words);
    const conf = stdout.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    const what = words.join(" ");
    await using server = await RecoveringServer.start({
      backup,
      restoreCommand: restoreCommand(archive),
      settings: { recovery_target_action: "promote", max_prepared_transactions: "10" },
      prepare: (dataDirectory) => appendSettings(dataDirectory, conf),
    });
    await server.recovered();
    const found = await server.cluster.value("SELECT count(*) || ' ' || max(n) FROM rows");
    assert.equal(found, `${expected.rows} ${expected.rows}`, what);
    const switchLsn = server.switchPoint(2);
    const stopLsn = parseLsn(answer.stop.lsn);
    if (expected.stop === "after") assert.ok(switchLsn > stopLsn, what);
    else assert.ok(switchLsn <= stopLsn, what);
    const before = answer.commitBefore;
    assert.ok(before !== undefined && parseLsn(before.lsn) < switchLsn, what);
    if (answer.commitAfter !== undefined) assert.ok(parseLsn(answer.commitAfter.lsn) >= switchLsn, what);
    // A record is at most some hundred bytes: the timeline was left right there, page headers and all.
    assert.ok(switchLsn - stopLsn < 400n && stopLsn - switchLsn < 400n, `${what}: ${formatLsn(switchLsn)}`);
    assert.equal(rows[expected.rows - 1]!.xid, before.xid, what);
  };
  const row = (n: number) => rows[n - 1]!;
  await recover(["--time", `${row(12).time}Z`], { rows: 12, stop: "before" });
  await recover(["--time", `${row(12).time}Z`, "--exclusive"], { rows: 11, stop: "before" });
  await recover(["--xid", String(row(41).xid)], { rows: 41, stop: "after" });
  await recover(["--xid", String(row(41).xid), "--exclusive"], { rows: 40, stop: "before" });
  const { stop } = await ask(archive, "--xid", String(row(25).xid));
  await recover(["--lsn", stop.lsn], { rows: 25, stop: "after" });
  await recover(["--lsn", stop.lsn, "--exclusive"], { rows: 24, stop: "before" });
  await recover(["--name", "half"], { rows: 30, stop: "after" });
  // Of the last commit in the tail, by the lines for the nearest place.
  const { nearest } = await ask(archive, "--time", "2100-01-01Z");
  await recover(["--lsn", nearest!.recovery["recovery_target_lsn"]!], { rows: 60, stop: "after" });
});

test("receive keeps the indexes, and find makes the same", { timeout }, async () => {
  using directory = new WorkDirectory();
  await using primary = await startCluster({ segmentBytes: MIB, settings });
  const archive = readableArchive(directory);
  const indexes = () => {
    const path = join(archive, "index");
    const names = fs.existsSync(path) ? fs.readdirSync(path).filter((name) => name.endsWith(".idx")) : [];
    return new Map(names.map((name) => [name, fs.readFileSync(join(path, name)).toString("hex")]));
  };
  const published = () =>
    fs.readdirSync(archive).filter((name) => /^[0-9A-F]{24}(\.zst)?$/.test(name)).length;
  {
    await using receiver = startReceiver({
      connection: primary.conninfo(),
      archive,
      options: ["--compress=zstd"],
    });
    await receiver.next("streaming");
    await runTransactions(primary);
    await primary.sql(
      "CREATE TABLE filling AS SELECT repeat(md5(n::text), 30) FROM generate_series(1, 4000) n",
    );
    await primary.sql("SELECT pg_switch_wal()");
    await primary.sql("SELECT pg_logical_emit_message(true, 'a', 'b')");
    await caughtUp(primary, receiver);
    await until("an index of each segment", () => indexes().size === published());
    assert.equal(await receiver.stop(), 0);
  }
  const kept = indexes();
  assert.ok(kept.size >= 3);
  assert.equal((await ask(archive, "--name", "first point")).found, true);
  assert.deepEqual(indexes(), kept);
  // What is missing, torn or of another archive, find makes anew.
  const [first = "", second = "", third = ""] = [...kept.keys()];
  fs.rmSync(join(archive, "index", first));
  fs.writeFileSync(join(archive, "index", second), fs.readFileSync(join(archive, "index", third)));
  fs.truncateSync(join(archive, "index", third), 500);
  assert.equal((await ask(archive, "--name", "first point")).found, true);
  assert.equal(indexes().get(first), kept.get(first));
  assert.equal(indexes().get(second), kept.get(second));
  fs.rmSync(join(archive, "index"), { recursive: true });
  assert.equal((await ask(archive, "--name", "first point")).found, true);
  assert.deepEqual(indexes(), kept);
});

/** As `find … >> postgresql.conf` does. */
function appendSettings(dataDirectory: string, lines: readonly string[]): void {
  fs.appendFileSync(join(dataDirectory, "postgresql.conf"), `\n${lines.join("\n")}\n`);
}
