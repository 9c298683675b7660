import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { withPublished } from "../../lib/archive/published.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { type Outcome, realProgram, runOurs, runReal, temporaryDirectory } from "../compat/originals.ts";
import { type Cluster, startCluster } from "./cluster.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const NAME = "pg_receivewal";
const MIB = 1024 * 1024;
const skip = realProgram(NAME) === undefined;
const timeout = 300_000;

function startServer(): Promise<Cluster> {
  return startCluster({ major: 15, segmentBytes: MIB, settings: { wal_sender_timeout: "10s" } });
}

/** What stands in a directory: names, sizes, contents and permissions. */
function filesIn(directory: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    fs.readdirSync(directory).sort().map((name) => {
      const path = join(directory, name);
      const hash = createHash("sha256").update(fs.readFileSync(path)).digest("hex").slice(0, 16);
      const { size, mode } = fs.statSync(path);
      return [name, `${size} ${(mode & 0o777).toString(8)} ${hash}`];
    }),
  );
}

/** Makes some segments of WAL, and tells where it ends. */
async function makeWal(cluster: Cluster, segments = 3): Promise<string> {
  for (let count = 0; count < segments; count++) {
    await cluster.sql(
      `CREATE TABLE IF NOT EXISTS t (x text); INSERT INTO t SELECT repeat('x', 500) FROM generate_series(1, 300); SELECT pg_switch_wal()`,
    );
  }
  await cluster.sql("INSERT INTO t SELECT repeat('y', 500) FROM generate_series(1, 100)");
  return await cluster.value("SELECT pg_current_wal_flush_lsn()");
}

/** Both programs, each into a directory of its own. */
async function runBoth(
  cluster: Cluster,
  words: readonly string[],
  prepare: (directory: string, kind: "real" | "ours") => void = () => {},
) {
  const connection = ["-h", cluster.host, "-p", String(cluster.port), "-U", cluster.superuser];
  const outcomes: { outcome: Outcome; files: Readonly<Record<string, string>> }[] = [];
  for (const kind of ["real", "ours"] as const) {
    using temporary = temporaryDirectory();
    const directory = join(temporary.path, "wal");
    fs.mkdirSync(directory);
    prepare(directory, kind);
    const given = [...words.map((word) => word.replace("DIR", directory)), ...connection];
    const outcome = kind === "real" ? runReal(NAME, given) : await runOurs(NAME, given);
    outcomes.push({ outcome, files: filesIn(directory) });
  }
  const [real, ours] = outcomes;
  return { real: real!, ours: ours! };
}

test(`${NAME} leaves the same files and says the same as PostgreSQL's, from a slot to an end position`, {
  skip,
  timeout,
}, async () => {
  await using cluster = await startServer();
  await cluster.sql("SELECT pg_create_physical_replication_slot('kept', true)");
  const end = await makeWal(cluster);
  // What comes behind the end position shows that both have passed it.
  await makeWal(cluster, 1);
  for (const more of [["-v"], [], ["--synchronous", "-v"], ["--no-sync"], ["-s", "0"]]) {
    await cluster.sql("SELECT pg_copy_physical_replication_slot('kept', 'held')");
    const both = await runBoth(cluster, ["-D", "DIR", "-S", "held", "-E", end, "-n", ...more]);
    await cluster.sql("SELECT pg_drop_replication_slot('held')");
    const complete = (files: Readonly<Record<string, string>>) =>
      Object.fromEntries(Object.entries(files).filter(([name]) => !name.endsWith(".partial")));
    assert.deepEqual(both.ours.outcome, both.real.outcome);
    assert.equal(both.ours.outcome.code, 0);
    assert.deepEqual(complete(both.ours.files), complete(both.real.files));
    assert.deepEqual(Object.keys(both.ours.files), Object.keys(both.real.files));
    assert.ok(Object.keys(both.ours.files).length >= 3);
  }
});

test(`${NAME} goes on where the directory ends, with a partial and without`, { skip, timeout }, async () => {
  await using cluster = await startServer();
  await cluster.sql("SELECT pg_create_physical_replication_slot('held', true)");
  const first = await makeWal(cluster);
  const second = await makeWal(cluster);
  await makeWal(cluster, 1);
  using kept = temporaryDirectory();
  const connection = ["-h", cluster.host, "-p", String(cluster.port), "-U", cluster.superuser];
  assert.equal(runReal(NAME, ["-D", kept.path, "-S", "held", "-E", first, "-n", ...connection]).code, 0);
  const before = fs.readdirSync(kept.path).sort();
  assert.ok(before.some((name) => name.endsWith(".partial")));
  for (const without of [false, true]) {
    const both = await runBoth(cluster, ["-D", "DIR", "-E", second, "-n", "-v"], (directory) => {
      for (const name of before) {
        if (!without || !name.endsWith(".partial")) {
          fs.copyFileSync(join(kept.path, name), join(directory, name));
        }
      }
    });
    assert.deepEqual(both.ours.outcome, both.real.outcome);
    assert.deepEqual(Object.keys(both.ours.files), Object.keys(both.real.files));
    for (const [name, file] of Object.entries(both.real.files)) {
      if (!name.endsWith(".partial")) assert.equal(both.ours.files[name], file, name);
    }
  }
});

test(`${NAME} gives its files the permissions that the server's have, as PostgreSQL's does`, {
  skip,
  timeout,
}, async () => {
  await using cluster = await startCluster({
    major: 15,
    segmentBytes: MIB,
    initdb: ["--allow-group-access"],
  });
  await cluster.sql("SELECT pg_create_physical_replication_slot('held', true)");
  const end = await makeWal(cluster, 1);
  await makeWal(cluster, 1);
  const both = await runBoth(cluster, ["-D", "DIR", "-S", "held", "-E", end, "-n"]);
  const modes = (files: Readonly<Record<string, string>>) =>
    Object.values(files).map((file) => file.split(" ")[1]);
  assert.deepEqual(modes(both.ours.files), modes(both.real.files));
  assert.ok(modes(both.ours.files).every((mode) => mode === "640"));
});

test(`${NAME} makes and drops slots as PostgreSQL's does`, { skip, timeout }, async () => {
  await using cluster = await startServer();
  const connection = ["-h", cluster.host, "-p", String(cluster.port), "-U", cluster.superuser];
  const slots = () =>
    cluster.sql("SELECT slot_name, slot_type, restart_lsn, temporary FROM pg_replication_slots");
  const steps = [
    ["--create-slot", "-S", "one", "-v"],
    ["--create-slot", "-S", "one"],
    ["--create-slot", "-S", "one", "--if-not-exists"],
    ["--create-slot", "-S", "Bad-Name"],
    ["--drop-slot", "-S", "absent"],
    ["--drop-slot", "-S", "one", "-v"],
    ["--drop-slot", "-S", "one"],
  ];
  for (const step of steps) {
    const before = await slots();
    const real = runReal(NAME, [...step, ...connection]);
    const afterReal = await slots();
    // Back to what it was before.
    for (const { slot_name: name } of afterReal) {
      await cluster.sql(`SELECT pg_drop_replication_slot('${name}')`);
    }
    for (const { slot_name: name } of before) {
      await cluster.sql(`SELECT pg_create_physical_replication_slot('${name}')`);
    }
    const ours = await runOurs(NAME, [...step, ...connection]);
    assert.deepEqual(ours, real, step.join(" "));
    assert.deepEqual(await slots(), afterReal, step.join(" "));
  }
});

test(`${NAME} says what PostgreSQL's says about a server that will not do`, { skip, timeout }, async () => {
  await using cluster = await startServer();
  await makeWal(cluster, 1);
  await cluster.sql("CREATE ROLE weak LOGIN PASSWORD 'secret'");
  cluster.setHba([
    "host all all 127.0.0.1/32 trust",
    "host replication weak 127.0.0.1/32 scram-sha-256",
    "host replication all 127.0.0.1/32 trust",
  ]);
  await cluster.reload();
  const cases: readonly (readonly string[])[] = [
    ["-D", "DIR", "-n", "-S", "absent"],
    ["-D", "DIR", "-n", "-U", "nobody_of_that_name"],
    ["-D", "DIR", "-n", "-U", "weak", "-w"],
    ["-D", "DIR", "-n", "-d", "password=wrong", "-U", "weak"],
  ];
  for (const words of cases) {
    const connection = ["-h", cluster.host, "-p", String(cluster.port)];
    const user = words.includes("-U") ? [] : ["-U", cluster.superuser];
    const results: Outcome[] = [];
    for (const kind of ["real", "ours"] as const) {
      using temporary = temporaryDirectory();
      const given = [...words.map((word) => word.replace("DIR", temporary.path)), ...connection, ...user];
      results.push(kind === "real" ? runReal(NAME, given) : await runOurs(NAME, given));
    }
    assert.deepEqual(results[1], results[0], words.join(" "));
    assert.equal(results[1]?.code, 1);
  }
});

/** A program that runs until something happens to it. */
function start(kind: "real" | "ours", words: readonly string[]) {
  const [command, ...first] = denoCommand();
  const ours = [...first, "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts"), "as", NAME];
  const child = kind === "real"
    ? spawn(realProgram(NAME)!, [...words], {
      argv0: NAME,
      env: { LC_ALL: "C", PATH: "/usr/bin:/bin" },
      stdio: ["ignore", "pipe", "pipe"],
    })
    : spawn(command, [...ours, ...words], {
      cwd: ROOT,
      env: ownEnvironment(),
      stdio: ["ignore", "pipe", "pipe"],
    });
  const said = { stderr: "" };
  child.stderr.setEncoding("utf8").on("data", (text: string) => said.stderr += text);
  const ended = new Promise<number | string>((resolve) =>
    child.once("close", (code, signal) => resolve(code ?? signal ?? "unknown"))
  );
  return {
    said,
    ended,
    kill: (signal: NodeJS.Signals): void => void process.kill(child.pid!, signal),
    [Symbol.dispose]: () => void child.kill("SIGKILL"),
  };
}

function ownEnvironment(): Record<string, string> {
  const { PATH = "", HOME = "", DENO_DIR } = process.env;
  return { PATH, HOME, NO_COLOR: "1", ...(DENO_DIR === undefined ? {} : { DENO_DIR }) };
}

async function until(what: string, done: () => Promise<boolean> | boolean): Promise<void> {
  for (const deadline = Date.now() + 30_000; !await done();) {
    if (Date.now() > deadline) throw new Error(`Cannot go on: ${what} did not happen`);
    await sleep(20);
  }
}

/** What may end a stream. */
const ENDS: readonly {
  readonly name: string;
  readonly act: (cluster: Cluster, program: ReturnType<typeof start>) => Promise<void> | void;
  readonly wait?: string;
}[] = [
  { name: "an interrupt", act: (_cluster, program) => program.kill("SIGINT") },
  {
    name: "its connection terminated",
    act: (cluster) => void cluster.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"),
  },
  { name: "a fast shutdown", act: (cluster) => cluster.stop("fast") },
  { name: "an immediate shutdown", act: (cluster) => cluster.stop("immediate") },
  { name: "a crash of the server", act: (cluster) => cluster.kill() },
];

for (const loop of [false, true]) {
  for (const { name, act } of ENDS) {
    // The others end no differently.
    if (loop && name !== "a fast shutdown" && name !== "a crash of the server") continue;
    test(`${NAME} ${loop ? "that loops" : "--no-loop"} says what PostgreSQL's says after ${name}`, {
      skip,
      timeout,
    }, async () => {
      const results: unknown[] = [];
      for (const kind of ["real", "ours"] as const) {
        await using cluster = await startServer();
        using temporary = temporaryDirectory();
        await cluster.sql("SELECT pg_create_physical_replication_slot('held', true)");
        const end = await makeWal(cluster, 2);
        const connection = ["-h", cluster.host, "-p", String(cluster.port), "-U", cluster.superuser];
        using program = start(kind, [
          "-D",
          temporary.path,
          "-S",
          "held",
          "-v",
          ...loop ? [] : ["-n"],
          ...connection,
        ]);
        const caughtUp = `SELECT count(*) FROM pg_stat_replication WHERE write_lsn >= '${end}'`;
        await until("catching up", async () => await cluster.value(caughtUp) === "1");
        await act(cluster, program);
        if (loop) {
          await until("the wait", () => program.said.stderr.includes("waiting 5 seconds to try again\n"));
          program.kill("SIGINT");
        }
        const code = await program.ended;
        results.push({ code, stderr: program.said.stderr, files: fs.readdirSync(temporary.path).sort() });
      }
      // A wait that is interrupted: the original tries once more, and says why it could not.
      const [real, ours] = results as { code: unknown; stderr: string; files: readonly string[] }[];
      const upToWait = (text: string) => loop ? text.slice(0, text.indexOf("waiting 5 seconds")) : text;
      assert.equal(upToWait(ours!.stderr), upToWait(real!.stderr));
      assert.equal(ours!.code, loop ? 0 : real!.code);
      assert.deepEqual(ours!.files, real!.files);
    });
  }
}

/** The content of a complete segment, in whatever form it stands. */
async function contentOf(directory: string, name: string): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  await withPublished(
    openDirectDisk(directory),
    { name: name.slice(0, 24), segmentSize: segmentSize(MIB) },
    (published) =>
      published.readThrough((bytes) => {
        pieces.push(bytes.slice());
        return "more";
      }),
  );
  return Buffer.concat(pieces);
}

for (
  const [method, form] of [["gzip", ".gz"], ["gzip:1", ".gz"], ["3", ".gz"], ["lz4", ".lz4"], [
    "lz4:9",
    ".lz4",
  ]] as const
) {
  test(`${NAME} -Z ${method} leaves what PostgreSQL's leaves, and each goes on from the other's`, {
    skip,
    timeout,
  }, async () => {
    await using cluster = await startServer();
    await cluster.sql("SELECT pg_create_physical_replication_slot('kept', true)");
    const end = await makeWal(cluster, 2);
    const later = await makeWal(cluster, 2);
    await makeWal(cluster, 1);
    const connection = ["-h", cluster.host, "-p", String(cluster.port), "-U", cluster.superuser];
    const run = async (kind: "real" | "ours", words: readonly string[]) => {
      const given = [...words, "-Z", method, "-n", "-v", ...connection];
      return kind === "real" ? runReal(NAME, given) : await runOurs(NAME, given);
    };
    using real = temporaryDirectory();
    using ours = temporaryDirectory();
    const complete = (directory: string) =>
      fs.readdirSync(directory).filter((name) => !name.includes("partial")).sort();
    const outcomes: Outcome[] = [];
    for (const [kind, { path }] of [["real", real], ["ours", ours]] as const) {
      await cluster.sql("SELECT pg_copy_physical_replication_slot('kept', 'held')");
      outcomes.push(await run(kind, ["-D", path, "-S", "held", "-E", end]));
      await cluster.sql("SELECT pg_drop_replication_slot('held')");
    }
    // The growing segment is plain here, so that none of its bytes is written twice.
    const likeOurs = (text: string) => text.replaceAll(`${form}.partial`, ".partial");
    assert.deepEqual(outcomes[1], { ...outcomes[0]!, stderr: likeOurs(outcomes[0]!.stderr) });
    assert.deepEqual(complete(ours.path), complete(real.path));
    assert.ok(complete(ours.path).every((name) => name.endsWith(form)));
    // Now each with the other's directory.
    const turned = [
      await run("ours", ["-D", real.path, "-E", later]),
      await run("real", ["-D", ours.path, "-E", later]),
    ];
    assert.equal(likeOurs(turned[1]!.stderr), turned[0]!.stderr);
    assert.equal(turned[0]!.code, 0);
    assert.deepEqual(complete(ours.path), complete(real.path));
    for (const name of complete(ours.path)) {
      const contents = [await contentOf(ours.path, name), await contentOf(real.path, name)];
      assert.equal(contents[0]!.length, MIB);
      assert.deepEqual(contents[0], contents[1], name);
    }
    assert.ok(!fs.readdirSync(real.path).some((name) => name.includes("saved")), "what was passed is gone");
    assert.equal(fs.readdirSync(real.path).filter((name) => name.includes("partial")).length, 1);
  });
}

test(`${NAME} -Z zstd compresses what PostgreSQL's does not`, { timeout }, async () => {
  await using cluster = await startServer();
  using directory = temporaryDirectory();
  await cluster.sql("SELECT pg_create_physical_replication_slot('held', true)");
  const end = await makeWal(cluster, 2);
  await makeWal(cluster, 1);
  const connection = ["-h", cluster.host, "-p", String(cluster.port), "-U", cluster.superuser];
  const { code, stderr } = await runOurs(NAME, [
    "-D",
    directory.path,
    "-S",
    "held",
    "-E",
    end,
    "-Z",
    "zstd",
    ...connection,
  ]);
  assert.equal(code, 0, stderr);
  const complete = fs.readdirSync(directory.path).filter((name) => !name.includes("partial"));
  assert.ok(complete.length >= 2 && complete.every((name) => name.endsWith(".zst")), complete.join(" "));
  for (const name of complete) assert.equal((await contentOf(directory.path, name)).length, MIB);
});
