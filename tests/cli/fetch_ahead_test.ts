import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { bunPath } from "../../tasks/bun.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { isPrepared } from "../../lib/restore/prepared_file.ts";
import { FIRST, nameOf, Scene, scenery } from "../restore/restore_scene.ts";

const CLI = join(dirname(dirname(dirname(fileURLToPath(import.meta.url)))), "cli.ts");
const TARGET = "pg_wal/RECOVERYXLOG";
const COUNT = 8;
const { segments } = scenery({ segments: COUNT });
const timeout = 120_000;
const skip = fs.existsSync("/proc/sys/kernel/random/boot_id") ? false : "needs /proc";

function environment(): Record<string, string | undefined> {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("WALVAULT_A"));
  return { ...Object.fromEntries(inherited), NO_COLOR: "1" };
}

/** Its streams are pipes: to read them to their end is to wait for all who hold them open. */
function run(scene: Scene, words: readonly string[], program: readonly string[] = [bunPath(), "run"]) {
  const [command = "", ...first] = program;
  const { status, stdout, stderr } = spawnSync(command, [...first, CLI, "fetch", ...words], {
    cwd: scene.data,
    encoding: "utf8",
    env: environment(),
  });
  return { code: status, stdout, stderr };
}

function fetch(scene: Scene, name: string, more: readonly string[] = ["--ahead"]) {
  return run(scene, [...more, "--verbose", "-d", scene.archive, name, TARGET]);
}

function assertTarget(scene: Scene, index: number): void {
  assert.ok(
    scene.target !== undefined && Buffer.compare(scene.target, segments[index]!) === 0,
    "other bytes",
  );
}

/** The processes that read ahead for this server. */
function readers(scene: Scene): readonly number[] {
  return fs.readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name)).map(Number).filter((pid) => {
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("\0--prepare=walvault-ahead-") &&
        fs.readlinkSync(`/proc/${pid}/cwd`) === scene.data;
    } catch {
      return false;
    }
  });
}

async function readersEnded(scene: Scene): Promise<void> {
  // For a moment a process that has just been started shows no command line.
  await sleep(30);
  while (readers(scene).length > 0) await sleep(5);
}

function signal(pids: readonly number[], name: "SIGSTOP" | "SIGCONT" | "SIGKILL"): void {
  for (const pid of pids) {
    try {
      process.kill(pid, name);
    } catch {
      // It has ended.
    }
  }
}

test("fetch --ahead: the next segment is there when it is asked for, and nothing at the end", {
  timeout,
  skip,
}, async () => {
  for (const options of [["--ahead"], ["--ahead", "--no-verify"], ["--ahead", "--wait", "--timeout", "20"]]) {
    using scene = new Scene();
    scene.fill(segments, COUNT - 1);
    for (let index = 0; index < 3; index++) {
      const name = nameOf(FIRST + index);
      const how = index === 0 ? "" : ", read ahead";
      assert.deepEqual(fetch(scene, name, options), {
        code: 0,
        stdout: "",
        stderr: `walvault: ${name} is delivered ("${name}")${how}\n`,
      });
      assertTarget(scene, index);
      await readersEnded(scene);
      const [prepared, ...more] = scene.walNames.filter(isPrepared);
      assert.match(prepared ?? "", new RegExp(`^walvault-ahead-${nameOf(FIRST + index + 1)}-[^.]+$`));
      assert.deepEqual(more, []);
    }
    // Not asked for: a server that has reached its target asks for histories next.
    const history = run(scene, [
      "--ahead",
      "-d",
      scene.archive,
      "00000002.history",
      "pg_wal/RECOVERYHISTORY",
    ]);
    assert.deepEqual(history, { code: 1, stdout: "", stderr: "" });
    assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
  }
});

/** Where a link leads to; nowhere when it is gone: not all threads stop at once. */
function leadsTo(path: string): string {
  try {
    return fs.readlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "";
    throw error;
  }
}

test(
  "fetch --ahead: what is read ahead holds up nobody, and is not waited for",
  { timeout, skip },
  async () => {
    using scene = new Scene();
    scene.fill(segments, COUNT - 1);
    // Its own start takes longer than the caller's end.
    let pid: number | undefined;
    for (let tries = 0; tries < 20 && pid === undefined; tries++) {
      assert.equal(fetch(scene, nameOf(FIRST)).code, 0);
      for (let looks = 0; looks < 20 && readers(scene).length === 0; looks++) await sleep(1);
      [pid] = readers(scene);
      if (pid !== undefined) signal([pid], "SIGSTOP");
      // A busy machine may let it end first.
      if (!scene.walNames.some((name) => name.endsWith(".tmp"))) pid = undefined;
    }
    assert.ok(pid !== undefined, "it always ended before it could be stopped");
    const { stdin, session } = {
      stdin: fs.readlinkSync(`/proc/${pid}/fd/0`),
      session: Number(fs.readFileSync(`/proc/${pid}/stat`, "utf8").replace(/^.*\) /, "").split(" ")[3]),
    };
    assert.equal(stdin, "/dev/null");
    assert.equal(session, pid, "a server that ends its restore_command by its group does not mean this one");
    for (const name of fs.readdirSync(`/proc/${pid}/fd`)) {
      assert.doesNotMatch(leadsTo(`/proc/${pid}/fd/${name}`), /^pipe:/, "nobody's end is waited for");
    }
    assert.ok(scene.walNames.some((name) => name.endsWith(".tmp")));
    const next = fetch(scene, nameOf(FIRST + 1));
    assert.equal(next.stderr, `walvault: ${nameOf(FIRST + 1)} is delivered ("${nameOf(FIRST + 1)}")\n`);
    assertTarget(scene, 1);
    await sleep(0);
    signal([pid], "SIGCONT");
    await readersEnded(scene);
    assert.deepEqual(
      scene.walNames.filter((name) => name.includes(nameOf(FIRST + 1))),
      [],
      "what came too late is gone",
    );
    assert.match(fetch(scene, nameOf(FIRST + 2)).stderr, /, read ahead\n$/);
    await readersEnded(scene);
    assert.equal(fetch(scene, nameOf(FIRST + COUNT)).code, 1);
    assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
  },
);

test(
  "fetch --ahead: a reader that is killed at any moment leaves nothing for long",
  { timeout, skip },
  async () => {
    using scene = new Scene();
    scene.fill(segments, COUNT - 1);
    let ready = 0;
    for (let round = 0; round < 12; round++) {
      const index = round % 6;
      const { code, stderr } = fetch(scene, nameOf(FIRST + index));
      assert.equal(code, 0, stderr);
      if (stderr.includes("read ahead")) ready++;
      assertTarget(scene, index);
      await sleep(round * 12);
      // How much time it needs is the machine's affair; the last ones get all of it.
      if (round < 9) signal(readers(scene), "SIGKILL");
      await readersEnded(scene);
      assert.ok(scene.walNames.filter(isPrepared).length <= 1, scene.walNames.join(" "));
    }
    assert.ok(ready > 0 && ready < 12, `${ready} of 12`);
    assert.equal(fetch(scene, nameOf(FIRST + COUNT)).code, 1);
    assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
  },
);

test("fetch --ahead: every answer is the same as without it", { timeout, skip }, async () => {
  const answers = async (options: readonly string[]) => {
    using scene = new Scene();
    scene.fill(segments, 5);
    scene.put("00000002.history", "1\t0/600000\tno recovery target specified\n");
    const told: unknown[] = [];
    const ask = async (name: string) => {
      fs.rmSync(join(scene.data, TARGET), { force: true });
      const { code, stderr } = fetch(scene, name, options);
      await readersEnded(scene);
      told.push({
        name,
        code,
        stderr: stderr.replaceAll(scene.path, "").replace(", read ahead", ""),
        bytes: scene.target?.length,
      });
    };
    for (let index = 0; index < 7; index++) await ask(nameOf(FIRST + index));
    for (const name of ["00000002.history", "00000003.history", nameOf(FIRST, 2)]) await ask(name);
    await ask(nameOf(FIRST));
    // What is there by now, read ahead, is what nobody may get.
    scene.remove(nameOf(FIRST + 1));
    await ask(nameOf(FIRST + 1));
    await ask(nameOf(FIRST + 2));
    fs.writeFileSync(join(scene.data, "standby.signal"), "");
    await ask(nameOf(FIRST + 3));
    await ask(nameOf(FIRST + 1));
    await ask(nameOf(FIRST + 2));
    fs.writeFileSync(join(scene.data, "global/pg_control"), new Uint8Array(8192));
    await ask(nameOf(FIRST + 3));
    assert.deepEqual(scene.walNames.filter(isPrepared), []);
    return told;
  };
  assert.deepEqual(await answers(["--ahead"]), await answers([]));
});

test("fetch --ahead: nothing is read ahead where the server is a container's first process", {
  timeout,
  skip,
}, async () => {
  using scene = new Scene();
  scene.fill(segments, COUNT - 1);
  fs.writeFileSync(join(scene.data, "postmaster.pid"), `1\n${scene.data}\n`);
  assert.equal(fetch(scene, nameOf(FIRST)).code, 0);
  await readersEnded(scene);
  assert.deepEqual(scene.walNames, ["RECOVERYXLOG"]);
  fs.writeFileSync(join(scene.data, "postmaster.pid"), `17\n${scene.data}\n1700000000\n`);
  assert.equal(fetch(scene, nameOf(FIRST)).code, 0);
  await readersEnded(scene);
  assert.equal(scene.walNames.filter(isPrepared).length, 1);
});

test("fetch --ahead: what a copy of a data directory brings along is not taken, torn as it may be", {
  timeout,
  skip,
}, async () => {
  const runs: Readonly<Record<string, (scene: Scene) => void>> = {
    "another process": ({ data }) =>
      fs.writeFileSync(join(data, "postmaster.pid"), `18\n${data}\n1700000000\n`),
    "another start": ({ data }) =>
      fs.writeFileSync(join(data, "postmaster.pid"), `17\n${data}\n1700000001\n`),
    "another directory": ({ path, data }) => {
      fs.cpSync(data, join(path, "copy"), { recursive: true, preserveTimestamps: true });
      fs.renameSync(data, join(path, "first"));
      fs.renameSync(join(path, "copy"), data);
    },
    "no server": ({ data }) => fs.rmSync(join(data, "postmaster.pid")),
  };
  for (const [what, change] of Object.entries(runs)) {
    using scene = new Scene();
    scene.fill(segments, COUNT - 1);
    assert.equal(fetch(scene, nameOf(FIRST)).code, 0);
    await readersEnded(scene);
    const [prepared] = scene.walNames.filter(isPrepared);
    // A crash of the file system under a copy: the middle was never written.
    const path = join(scene.data, "pg_wal", prepared!);
    const torn = fs.readFileSync(path);
    fs.writeFileSync(path, torn.fill(0, 8192, torn.length - 8192));
    change(scene);
    const { code, stderr } = fetch(scene, nameOf(FIRST + 1));
    assert.deepEqual({ code, readAhead: stderr.includes("read ahead") }, { code: 0, readAhead: false }, what);
    assertTarget(scene, 1);
    await readersEnded(scene);
  }
});

test(
  "fetch --ahead: Deno can't, and says so; what only the program itself may say is refused",
  { timeout },
  () => {
    using scene = new Scene();
    scene.fill(segments, 3);
    const deno = [...denoCommand(), "run", "--allow-all", "--cached-only"];
    const line = ["-d", scene.archive, nameOf(FIRST), TARGET];
    const { code, stderr } = run(scene, ["--ahead", ...line], deno);
    assert.equal(code, 200);
    assert.match(stderr, /^walvault: --ahead is not for Deno: .*\nhint: Use the executable/);
    for (
      const into of ["", "RECOVERYXLOG", "../x", "archive.json", `walvault-ahead-${nameOf(FIRST + 1)}-a.tmp`]
    ) {
      const refused = run(scene, [`--prepare=${into}`, ...line]);
      assert.equal(refused.code, 200, into);
      assert.match(refused.stderr, /that is no file for it\nhint: --prepare is for the program itself/);
    }
    // Whatever comes of it: PostgreSQL as the first process of a container takes any other end for a crash of its own.
    assert.equal(run(scene, [`--prepare=walvault-ahead-${nameOf(FIRST)}-a.tmp`, ...line]).code, 0);
    assert.deepEqual(scene.walNames, []);
  },
);
