import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { denoCommand } from "../../tasks/install_locked.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";
import { runOurs, temporaryDirectory } from "./originals.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const NAME = "000000010000000000000003";
const timeout = 60_000;

function segment(number = 3): Uint8Array {
  const startLsn = BigInt(number * MIB);
  return buildWal({ startLsn, segmentBytes: MIB, records: [{ totalBytes: 5000 }] }).segments[0]!;
}

/** An archive with some files, and a place for the target. */
function setUp(files: Readonly<Record<string, Uint8Array | string>>) {
  const temporary = temporaryDirectory();
  const archive = join(temporary.path, "archive");
  fs.mkdirSync(archive);
  for (const [name, content] of Object.entries(files)) fs.writeFileSync(join(archive, name), content);
  const target = join(temporary.path, "RECOVERYXLOG");
  const trigger = join(temporary.path, "trigger");
  const run = (...words: readonly string[]) => runOurs("pg_standby", words);
  return { ...temporary, archive, target, trigger, run };
}

const HINT = 'Try "pg_standby --help" for more information.\n';

/** Texts and exit codes as in the source of PostgreSQL 13, the last one that had it. */
const WRONG: readonly (readonly [words: readonly string[], stderr: string])[] = [
  [[], "pg_standby: not enough command-line arguments\n"],
  [["-d"], `pg_standby: must specify archive location\n${HINT}`],
  [["a"], `pg_standby: must specify WAL file name as second non-option argument (use "%f")\n${HINT}`],
  [["a", "b"], `pg_standby: must specify xlog destination as third non-option argument (use "%p")\n${HINT}`],
  [["-k", "-1"], "pg_standby: -k keepfiles must be >= 0\n"],
  [["-r-1"], "pg_standby: -r maxretries must be >= 0\n"],
  [["-s", "0"], "pg_standby: -s sleeptime incorrectly set\n"],
  [["-s", "61"], "pg_standby: -s sleeptime incorrectly set\n"],
  [["-s", "x"], "pg_standby: -s sleeptime incorrectly set\n"],
  [["-w", "-2"], "pg_standby: -w maxwaittime incorrectly set\n"],
  [["-z"], `pg_standby: invalid option -- 'z'\n${HINT}`],
  [["-t"], `pg_standby: option requires an argument -- 't'\n${HINT}`],
  [["/nowhere", NAME, "t"], 'pg_standby: archive location "/nowhere" does not exist\n'],
];

for (const [words, stderr] of WRONG) {
  test(`pg_standby ${words.join(" ")} exits 2`, async () => {
    assert.deepEqual(await runOurs("pg_standby", words), { code: 2, stdout: "", stderr });
  });
}

test("pg_standby tells its help and version", async () => {
  const help = await runOurs("pg_standby", ["--help"]);
  assert.equal(help.code, 0);
  assert.match(help.stdout, /^pg_standby allows PostgreSQL warm standby servers to be configured\.\n/);
  // Where it differs from the original.
  assert.match(
    help.stdout,
    /^ {2}200 {2}the file is there and can't be delivered: recovery stops, where the\n +original's 1 has/m,
  );
  assert.match((await runOurs("pg_standby", ["-V"])).stdout, /^pg_standby \(PostgreSQL\) /);
});

test("pg_standby delivers a segment that is there, and leaves nothing else", { timeout }, async () => {
  using place = setUp({ [NAME]: segment() });
  fs.writeFileSync(place.target, "what stood there before");
  assert.deepEqual(await place.run("-c", "-l", place.archive, NAME, place.target), {
    code: 0,
    stdout: "",
    stderr: "",
  });
  assert.deepEqual(fs.readFileSync(place.target), Buffer.from(segment()));
  assert.deepEqual(fs.readdirSync(place.path).sort(), ["RECOVERYXLOG", "archive"]);
});

test("pg_standby waits until a segment has its full size", { timeout }, async () => {
  using place = setUp({ [NAME]: segment().subarray(0, MIB / 2) });
  const running = place.run("-s", "1", "-d", place.archive, NAME, place.target);
  await sleep(300);
  assert.ok(!fs.existsSync(place.target));
  fs.writeFileSync(join(place.archive, NAME), segment());
  const { code, stderr } = await running;
  assert.equal(code, 0);
  assert.match(stderr, /^Trigger file: {9}<not set>\nWaiting for WAL file: 000000010000000000000003\n/);
  assert.match(stderr, /Sleep interval: {7}1 second \nMax wait interval: {4}0 forever\n/);
  assert.match(stderr, /WAL file not present yet\.\n/);
  assert.match(stderr, /running restore\t\t: OK\nKeep archive history: no cleanup required\n$/);
});

test("pg_standby exits 3 when a segment is too long", { timeout }, async () => {
  using place = setUp({ [NAME]: Buffer.concat([segment(), Buffer.alloc(1)]) });
  const { code, stderr } = await place.run("-d", place.archive, NAME, place.target);
  assert.equal(code, 3);
  assert.match(stderr, /file size greater than expected\n$/);
  assert.ok(!fs.existsSync(place.target));
});

test("pg_standby exits 1 after -w seconds", { timeout }, async () => {
  using place = setUp({});
  const started = performance.now();
  const { code, stderr } = await place.run("-s1", "-w1", "-d", place.archive, NAME, place.target);
  assert.equal(code, 1);
  assert.match(stderr, /Timed out after 1 seconds: fast failover/);
  assert.ok(performance.now() - started >= 1500, "the first second does not count");
});

for (
  const { content, present, absent, left } of [
    { content: "", present: 0, absent: 1, left: "" },
    { content: "smart\n", present: 0, absent: 1, left: "smart\n" },
    { content: "fast\n", present: 1, absent: 1, left: "" },
  ]
) {
  test(`pg_standby with a trigger file of ${JSON.stringify(content)}`, { timeout }, async () => {
    using place = setUp({ [NAME]: segment() });
    const kind = content.startsWith("fast") ? "fast" : "smart";
    fs.writeFileSync(place.trigger, content);
    const there = await place.run("-t", place.trigger, place.archive, NAME, place.target);
    assert.deepEqual([there.code, there.stderr], [present, `trigger file found: ${kind} failover\n`]);
    assert.equal(fs.existsSync(place.target), present === 0);
    assert.equal(fs.readFileSync(place.trigger, "utf8"), left);

    fs.writeFileSync(place.trigger, content);
    const next = NAME.replace(/3$/, "4");
    const missing = await place.run("-t", place.trigger, place.archive, next, place.target);
    assert.equal(missing.code, absent);
    // What was triggered fast is a smart trigger now: the server gets once more what it has had.
    const again = await place.run("-t", place.trigger, place.archive, NAME, place.target);
    assert.equal(again.code, 0);
  });
}

test("pg_standby does not heed a trigger file that says something else", { timeout }, async () => {
  using place = setUp({});
  fs.writeFileSync(place.trigger, "slow");
  const { code, stderr } = await place.run(
    "-s1",
    "-w1",
    "-t",
    place.trigger,
    place.archive,
    NAME,
    place.target,
  );
  assert.equal(code, 1);
  assert.match(stderr, /^WARNING: invalid content in ".*trigger"\n/);
});

test("pg_standby never waits for a history", { timeout }, async () => {
  using place = setUp({ "00000002.history": "1\t0/300000\tno recovery target specified\n" });
  assert.equal((await place.run(place.archive, "00000003.history", place.target)).code, 1);
  assert.equal((await place.run(place.archive, "00000002.history", place.target)).code, 0);
  assert.match(fs.readFileSync(place.target, "utf8"), /^1\t/);
});

test("pg_standby delivers a backup label, and waits for one that is missing", { timeout }, async () => {
  const label = `${NAME}.00000028.backup`;
  using place = setUp({ [label]: "START WAL LOCATION: 0/300028\n" });
  assert.equal((await place.run(place.archive, label, place.target)).code, 0);
  const late = await place.run("-s1", "-w1", place.archive, `${NAME}.00000030.backup`, place.target);
  assert.equal(late.code, 1);
});

test("pg_standby removes what is older than the restart point, timelines and forms left out", {
  timeout,
}, async () => {
  const older = [
    "000000010000000000000001",
    "000000020000000000000001.gz",
    "000000010000000000000001.zst",
    "000000010000000000000000.lz4",
  ];
  const kept = [
    "000000010000000000000001.partial",
    "000000010000000000000002",
    "000000010000000000000001.00000028.backup",
    "00000002.history",
    "archive.json",
  ];
  using place = setUp(Object.fromEntries([...older, ...kept].map((name) => [name, "x"])));
  fs.writeFileSync(join(place.archive, NAME), segment());
  const oldest = "000000010000000000000002";
  const failed = await place.run("-s1", "-w1", place.archive, NAME.replace(/3$/, "4"), place.target, oldest);
  assert.equal(failed.code, 1);
  assert.ok(fs.existsSync(join(place.archive, older[0]!)), "nothing delivered, nothing removed");
  const { code } = await place.run(place.archive, NAME, place.target, oldest);
  assert.equal(code, 0);
  assert.deepEqual(fs.readdirSync(place.archive).sort(), [...kept, NAME].sort());
});

test("pg_standby removes nothing when the restart point is later than the segment", { timeout }, async () => {
  using place = setUp({ [NAME]: segment(), "000000010000000000000001": "x" });
  const later = "000000010000000000000005";
  assert.equal((await place.run(place.archive, NAME, place.target, later)).code, 0);
  assert.equal(fs.readdirSync(place.archive).length, 2);
});

test("pg_standby -k keeps that many segments before the delivered one", { timeout }, async () => {
  const numbered = (number: number) =>
    `0000000100000000${number.toString(16).toUpperCase().padStart(8, "0")}`;
  using place = setUp(Object.fromEntries([0, 1, 2].map((number) => [numbered(number), "x"])));
  fs.writeFileSync(join(place.archive, NAME), segment());
  assert.equal((await place.run("-k", "0", place.archive, NAME, place.target)).code, 0);
  assert.equal(fs.readdirSync(place.archive).length, 4);
  assert.equal((await place.run("-k", "9", place.archive, NAME, place.target)).code, 0);
  assert.equal(fs.readdirSync(place.archive).length, 4);
  assert.equal((await place.run("-k", "1", place.archive, NAME, place.target)).code, 0);
  assert.deepEqual(fs.readdirSync(place.archive).sort(), [numbered(2), NAME]);
});

test("pg_standby stops a recovery when a segment is there and can't be delivered", { timeout }, async () => {
  using place = setUp({ [NAME]: segment() });
  const nowhere = join(place.path, "absent", "RECOVERYXLOG");
  const { code, stderr } = await place.run("-r", "0", place.archive, NAME, nowhere);
  assert.equal(code, 200);
  assert.match(stderr, /^pg_standby: could not copy ".*" to ".*": No such file or directory\n$/);
});

test("pg_standby delivers a compressed segment, and a damaged one never", { timeout }, async () => {
  const compressed = gzipSync(segment());
  using place = setUp({ [`${NAME}.gz`]: compressed });
  assert.equal((await place.run(place.archive, NAME, place.target)).code, 0);
  assert.deepEqual(fs.readFileSync(place.target), Buffer.from(segment()));
  fs.rmSync(place.target);
  fs.writeFileSync(join(place.archive, `${NAME}.gz`), compressed.subarray(0, compressed.length - 10));
  const { code, stderr } = await place.run("-r", "0", place.archive, NAME, place.target);
  assert.equal(code, 200, stderr);
  assert.deepEqual(fs.readdirSync(place.path).sort(), ["archive"]);
});

/** As the server calls it, in a process of its own. */
function start(words: readonly string[]) {
  const [command, ...first] = denoCommand();
  const cli = [...first, "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts"), "as", "pg_standby"];
  const child = spawn(command, [...cli, ...words], { cwd: ROOT, stdio: ["ignore", "ignore", "pipe"] });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => stderr += text);
  const ended = new Promise<number | string | null>((resolve) =>
    child.once("close", (code, signal) => resolve(code ?? signal))
  );
  return { child, ended, stderr: () => stderr };
}

for (
  const [signal, end] of [["SIGUSR1", 1], ["SIGINT", 1], ["SIGQUIT", "SIGINT"], [
    "SIGTERM",
    "SIGTERM",
  ]] as const
) {
  test(`pg_standby that waits ends with ${end} on ${signal}`, { timeout }, async () => {
    using place = setUp({});
    const { child, ended, stderr } = start(["-d", "-s", "60", place.archive, NAME, place.target]);
    try {
      for (let tries = 0; !stderr().includes("Command for restore") && tries < 500; tries++) await sleep(20);
      await sleep(200);
      process.kill(child.pid!, signal);
      assert.equal(await ended, end, stderr());
    } finally {
      child.kill("SIGKILL");
    }
  });
}
