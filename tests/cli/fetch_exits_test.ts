import { Buffer } from "node:buffer";
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { denoCommand } from "../../tasks/install_locked.ts";
import { FIRST, nameOf, Scene, scenery } from "../restore/restore_scene.ts";
import { MIB } from "../wal/wal_builder.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 120_000;
const TARGET = "pg_wal/RECOVERYXLOG";
const { segments } = scenery();
const LAST = FIRST + 3;

function environment(): Record<string, string | undefined> {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("WALVAULT_A"));
  return { ...Object.fromEntries(inherited), NO_COLOR: "1" };
}

const CLI = join(ROOT, "cli.ts");

function words(more: readonly string[], program = CLI): [string, string[]] {
  const [command, ...first] = denoCommand();
  return [command, [
    ...first,
    "run",
    "--allow-all",
    "--cached-only",
    `--config=${ROOT}/deno.json`,
    program,
    ...more,
  ]];
}

function run(cwd: string, more: readonly string[], program = CLI) {
  const [command, args] = words(more, program);
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: "utf8", env: environment() });
  return { code: status, stdout, stderr };
}

function started(cwd: string, more: readonly string[]) {
  const [command, args] = words(more);
  const child = spawn(command, args, { cwd, env: environment(), stdio: ["ignore", "pipe", "pipe"] });
  let stderr = "";
  child.stderr.on("data", (text) => stderr += text);
  const closed = once(child, "close");
  return {
    child,
    said: () => stderr,
    ended: async () => {
      const [code, signal] = await closed;
      return { code: (code ?? signal) as number | string, stderr };
    },
  };
}

test("fetch: 0 delivered, 1 proven absent, 200 else; in standby mode what may heal is 1", { timeout }, () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const fetch = (name: string) => run(scene.data, ["fetch", "-d", scene.archive, name, TARGET]);
  assert.deepEqual(fetch(nameOf(FIRST)), { code: 0, stdout: "", stderr: "" });
  const tail = fetch(nameOf(LAST));
  assert.equal(tail.code, 0);
  assert.match(
    tail.stderr,
    /^walvault: 000000010000000000000006 is delivered up to 0\/6[0-9A-F]+, where its timeline ends here \("inprogress\//,
  );
  assert.deepEqual(fetch(nameOf(LAST + 1)), { code: 1, stdout: "", stderr: "" });
  assert.equal(fetch("00000002.history").code, 1);
  scene.remove(nameOf(FIRST + 1));
  for (
    const [prepare, text] of [
      [() => {}, /000000010000000000000004 is not there, but .*\nhint: Bring the missing WAL back/],
      [() => scene.put(nameOf(FIRST + 1), new Uint8Array(MIB).fill(7)), /page address .*\nhint: /],
      [
        () => fs.renameSync(scene.archive, `${scene.archive}.away`),
        /no such directory\nhint: Look whether its disk/,
      ],
    ] as const
  ) {
    prepare();
    fs.rmSync(join(scene.data, "standby.signal"), { force: true });
    const alone = fetch(nameOf(FIRST + 1));
    assert.equal(alone.code, 200, alone.stderr);
    assert.match(alone.stderr, text);
    fs.writeFileSync(join(scene.data, "standby.signal"), "");
    const standby = fetch(nameOf(FIRST + 1));
    assert.equal(standby.code, 1, standby.stderr);
    assert.match(standby.stderr, text);
    assert.match(standby.stderr, /the standby goes on and asks again/);
  }
  fs.renameSync(`${scene.archive}.away`, scene.archive);
  const control = join(scene.data, "global/pg_control");
  fs.writeFileSync(control, new Uint8Array(8192));
  const wrong = fetch(nameOf(FIRST));
  assert.equal(wrong.code, 200, "a standby of another cluster");
  assert.match(
    wrong.stderr,
    /it belongs to the cluster with system identifier .*\nhint: Name the archive of this cluster/,
  );
});

test("fetch: what the command line gets wrong is 200, and told", { timeout }, () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const name = nameOf(FIRST);
  const cases: readonly (readonly [words: readonly string[], text: RegExp])[] = [
    [["fetch"], /missing required argument 'file'/],
    [["fetch", name, TARGET], /No archive is given/],
    [["fetch", "-d", scene.archive, name], /missing required argument 'target'/],
    [["fetch", "-d", scene.archive, TARGET, name], /%f and %p are swapped/],
    [["fetch", "-d", scene.archive, "%f", "%p"], /only PostgreSQL puts names/],
    [["fetch", "-d", scene.archive, `pg_wal/${name}`, TARGET], /want a file name, without a path/],
    [["fetch", "-d", scene.archive, "postgresql.conf", TARGET], /want the name of a WAL segment/],
    [["fetch", "-d", scene.archive, name, "pg_wal"], /it is a directory, want the path of a file/],
    [["fetch", "-d", scene.archive, name, "pg_wal/"], /want the path of a file/],
    [
      ["fetch", "-d", scene.archive, name, "pg_val/RECOVERYXLOG"],
      /no such directory, from the working directory "/,
    ],
    [["fetch", "-d", "elsewhere", name, TARGET], /a relative path counts from the working directory/],
    [["fetch", "-d", scene.archive, "--trigger", "x", name, TARGET], /--trigger is for --wait/],
    [["fetch", "-d", scene.archive, "--timeout", "3", name, TARGET], /--timeout is for --wait/],
    [["fetch", "-d", scene.archive, "--wait", "--timeout", "x", name, TARGET], /want seconds above 0/],
    [["fetch", "-d", scene.archive, "--bogus", name, TARGET], /unknown option '--bogus'/],
    [["fetch", "-d", scene.archive, name, TARGET, "more"], /too many arguments/],
    // No server must be promoted by a slip of the pen.
    [["fecth", "-d", scene.archive, name, TARGET], /unknown command 'fecth'/],
    [["-d", scene.archive, "fetch", name, TARGET], /unknown option '-d'/],
    [["receive", name, TARGET], /too many arguments for 'receive'/],
  ];
  for (const [line, text] of cases) {
    const { code, stdout, stderr } = run(scene.data, line);
    assert.equal(code, 200, `${line.join(" ")}: ${stderr}`);
    assert.match(stderr, text);
    assert.match(stderr, /^hint: [^\n]+\n$/m);
    assert.equal(stdout, "");
  }
  assert.deepEqual(scene.walNames, []);
});

test("fetch: a changed byte in a record is damage, unless records are not looked at", { timeout }, () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const bytes = segments[1]!.slice();
  bytes[500_000]! ^= 0x40;
  scene.put(nameOf(FIRST + 1), bytes);
  const line = ["fetch", "-d", scene.archive, nameOf(FIRST + 1), TARGET];
  const { code, stderr } = run(scene.data, line);
  assert.equal(code, 200);
  assert.match(stderr, /CRC 0x/);
  assert.equal(run(scene.data, [...line, "--no-verify"]).code, 0);
});

test(
  "fetch --absent-exit: what the server may take for an end has a code that no runtime has",
  { timeout },
  () => {
    using scene = new Scene();
    scene.fill(segments, 3);
    const line = ["fetch", "-d", scene.archive, "--absent-exit", "66"];
    assert.equal(run(scene.data, [...line, nameOf(FIRST), TARGET]).code, 0);
    assert.equal(run(scene.data, [...line, nameOf(LAST + 1), TARGET]).code, 66);
    scene.remove(nameOf(FIRST + 1));
    const hole = [...line, nameOf(FIRST + 1), TARGET];
    assert.equal(run(scene.data, hole).code, 200);
    fs.writeFileSync(join(scene.data, "standby.signal"), "");
    const standby = run(scene.data, hole);
    assert.equal(standby.code, 66);
    assert.match(standby.stderr, /the standby goes on and asks again/);
    for (const code of ["0", "126", "200", "x", "", "1.5"]) {
      const { code: exitCode, stderr } = run(scene.data, [
        ...["fetch", "-d", scene.archive, "--absent-exit", code, nameOf(FIRST), TARGET],
      ]);
      assert.equal(exitCode, 200, code);
      assert.match(stderr, /want an exit code from 1 to 125/);
    }
  },
);

test("fetch: help is no file", { timeout }, () => {
  using scene = new Scene();
  for (const option of ["--help", "-h", "--version", "-V"]) {
    for (
      const words of [["fetch", option, nameOf(FIRST), TARGET], [option, "fetch", nameOf(FIRST), TARGET]]
    ) {
      const { code, stdout, stderr } = run(scene.data, words);
      assert.equal(code, 200, `${words.join(" ")}: ${stdout} ${stderr}`);
    }
  }
  assert.equal(run(scene.data, ["fetch", "--help"]).code, 0);
});

test(
  "fetch: in a short outage a standby is not told that there is no newer timeline",
  { timeout },
  async () => {
    using scene = new Scene();
    scene.fill(segments, 3);
    scene.put("00000002.history", "1\t0/6000000\tno recovery target specified\n");
    fs.writeFileSync(join(scene.data, "standby.signal"), "");
    fs.renameSync(scene.archive, `${scene.archive}.away`);
    const asked = started(scene.data, [
      "fetch",
      "-d",
      scene.archive,
      "00000002.history",
      "pg_wal/RECOVERYHISTORY",
    ]);
    await sleep(2500);
    assert.equal(asked.child.exitCode, null, asked.said());
    fs.renameSync(`${scene.archive}.away`, scene.archive);
    assert.deepEqual(await asked.ended(), { code: 0, stderr: "" });
  },
);

test("fetch --wait: the file, a trigger, or the time limit", { timeout }, async () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const trigger = join(scene.path, "promote");
  const wait = (name: string, ...more: string[]) =>
    started(scene.data, [
      ...["fetch", "-d", scene.archive, "--wait", "--trigger", trigger, "--poll-interval", "0.05", ...more],
      ...[name, TARGET],
    ]);
  const late = await wait(nameOf(LAST), "--timeout", "0.3").ended();
  assert.equal(late.code, 200, late.stderr);
  assert.match(late.stderr, /did not come within 0\.3 s/);
  assert.deepEqual(scene.walNames, [], "a tail is for a triggered server only");

  const arriving = wait(nameOf(LAST));
  await sleep(500);
  fs.linkSync(join(scene.archive, nameOf(FIRST)), join(scene.archive, "unfinished"));
  fs.writeFileSync(join(scene.archive, "arriving"), scenery({ segments: 5 }).segments[3]!);
  fs.renameSync(join(scene.archive, "arriving"), join(scene.archive, nameOf(LAST)));
  assert.deepEqual(await arriving.ended(), { code: 0, stderr: "" });
  scene.remove(nameOf(LAST));

  const smart = wait(nameOf(LAST));
  await sleep(300);
  fs.writeFileSync(trigger, "sma");
  await sleep(300);
  assert.ok(smart.child.exitCode === null, "half a word is no trigger");
  fs.writeFileSync(trigger, "smart\n");
  const tail = await smart.ended();
  assert.equal(tail.code, 0);
  assert.match(tail.stderr, /is delivered up to/);
  assert.equal((await wait(nameOf(LAST + 1)).ended()).code, 1);
  fs.writeFileSync(trigger, "");
  assert.equal((await wait(nameOf(FIRST)).ended()).code, 0, "what is there still comes");
  fs.writeFileSync(trigger, "fast");
  assert.equal((await wait(nameOf(FIRST)).ended()).code, 1);
  fs.rmSync(trigger);
  // These come before what they tell of, or never.
  assert.equal((await wait("00000002.history").ended()).code, 1);

  const hole = nameOf(FIRST + 1);
  scene.remove(hole);
  const healed = wait(hole);
  while (!healed.said().includes("waiting")) await sleep(20);
  scene.put(hole, segments[1]!);
  assert.equal((await healed.ended()).code, 0);
  scene.remove(hole);
  fs.writeFileSync(trigger, "");
  const refused = await wait(hole).ended();
  assert.equal(refused.code, 200, "a hole is no end, whoever says so");
  fs.rmSync(trigger);

  const killed = wait(hole);
  while (!killed.said().includes("waiting")) await sleep(20);
  killed.child.kill("SIGTERM");
  assert.equal((await killed.ended()).code, "SIGTERM");
});

test("fetch: an error that nobody caught is 200, whatever the runtime would say", { timeout }, () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const program = join(scene.path, "program.ts");
  for (const fault of ['throw new Error("from nowhere")', 'Promise.reject(new Error("from nowhere"))']) {
    fs.writeFileSync(program, `setTimeout(() => { ${fault}; }, 1500); import(${JSON.stringify(CLI)});`);
    const { code, stderr } = run(
      scene.data,
      ["fetch", "-d", scene.archive, "--wait", "--timeout", "20", nameOf(LAST), TARGET],
      program,
    );
    assert.equal(code, 200, stderr);
    assert.match(stderr, /^walvault: from nowhere$/m);
  }
});

test("fetch: closed or full standard streams change no exit code, and get into no file", { timeout }, () => {
  using scene = new Scene();
  scene.fill(segments, 3);
  const [command, args] = words(["fetch", "-v", "-d", scene.archive]);
  const line = [command, ...args].map((word) => `'${word}'`).join(" ");
  for (const redirection of ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "2> >(exit 0)"]) {
    for (const [name, wanted] of [[nameOf(FIRST), 0], [nameOf(LAST), 0], [nameOf(LAST + 1), 1]] as const) {
      fs.rmSync(join(scene.data, TARGET), { force: true });
      const { status } = spawnSync("bash", ["-c", `${line} ${name} ${TARGET} ${redirection}`], {
        cwd: scene.data,
        env: environment(),
        stdio: "ignore",
      });
      assert.equal(status, wanted, redirection);
      if (wanted === 0) {
        const want = segments[name === nameOf(FIRST) ? 0 : 3]!;
        assert.ok(Buffer.compare(scene.target!, want) === 0, `${redirection}: other bytes`);
      }
    }
  }
});
