import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { find } from "../../lib/commands/find.ts";
import { findCommand, type FindCommandOptions } from "../../lib/commands/find_options.ts";
import { UsageError } from "../../lib/commands/context.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { IDENTITY, NAMES, START } from "../archive/on_sim_disk.ts";
import { NOON, restorePoint, transactionEnd } from "../wal/record_plans.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 120_000;
const [SEGMENT = "", NEXT = ""] = NAMES;

function walvault(words: readonly string[]) {
  const [command, ...first] = denoCommand();
  const { status, stdout, stderr } = spawnSync(
    command,
    [...first, "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts"), "find", ...words],
    { cwd: ROOT, encoding: "utf8", env: { ...process.env, WALVAULT_ARCHIVE: "", NO_COLOR: "1" } },
  );
  return { code: status, stdout, stderr };
}

/** Options as the command line gives them; a refusal comes as commander says it. */
async function parse(words: readonly string[]): Promise<FindCommandOptions> {
  let seen: FindCommandOptions = {};
  await findCommand((options) => {
    seen = { ...options };
    return Promise.resolve();
  }).exitOverride().configureOutput({ writeErr: () => {} }).parseAsync([...words], { from: "user" });
  return seen;
}

/** Runs it in this process. */
async function run(words: readonly string[]) {
  const text = { stdout: "", stderr: "" };
  const output = (name: "stdout" | "stderr") => ({
    isTerminal: false,
    write: (part: string) => void (text[name] += part),
  });
  const code = await find(await parse(words), {
    stdout: output("stdout"),
    stderr: output("stderr"),
    env: {},
    signal: new AbortController().signal,
  });
  return { code, ...text };
}

/** An archive of one complete segment and a tail; with a second timeline that left the first in the tail. */
class Scene {
  readonly path = mkdtempSync(join(tmpdir(), "wv-find-"));
  readonly records;

  constructor({ identity = true }: { readonly identity?: boolean } = {}) {
    const plans = [
      transactionEnd({ xid: 800, us: NOON }),
      restorePoint("here", NOON + 1n),
      transactionEnd({ xid: 801, us: NOON + 2_000_000n, subxids: [802] }),
      { totalBytes: MIB },
      transactionEnd({ xid: 803, us: NOON + 5_000_000n }),
      transactionEnd({ xid: 804, us: NOON + 6_000_000n, kind: "abort" as const }),
    ];
    const { segments, records } = buildWal({ startLsn: START, segmentBytes: MIB, records: plans });
    this.records = records;
    if (identity) {
      mkdirSync(join(this.path, "inprogress"));
      writeFileSync(join(this.path, "archive.json"), encodeIdentity(IDENTITY));
    }
    writeFileSync(join(this.path, SEGMENT), segments[0]!);
    const tail = identity ? `inprogress/${NEXT}` : `${NEXT}.partial`;
    writeFileSync(join(this.path, tail), segments[1]!);
  }

  find(...words: readonly string[]) {
    return run([`--archive=${this.path}`, ...words]);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

test("find's options are all parsed", async () => {
  assert.deepEqual(await parse([]), {});
  assert.deepEqual(
    await parse([
      "-d",
      "/a",
      "--time",
      "2026-11-25 12:00:00Z",
      "--timeline",
      "3",
      "--exclusive",
      "--json",
      "-q",
    ]),
    {
      archive: "/a",
      time: 848_923_200_000_000n,
      timeline: 3,
      exclusive: true,
      json: true,
      quiet: true,
    },
  );
  assert.deepEqual(await parse(["--xid", "18446744073709551615"]), { xid: (1n << 64n) - 1n });
  assert.deepEqual(await parse(["--lsn", "16/B374D848"]), { lsn: 0x16_b374_d848n });
  assert.deepEqual(await parse(["--name", ""]), { name: "" });
  assert.deepEqual(await parse(["--timeline", "0000000A"]), { timeline: 10 });
  assert.deepEqual(await parse(["--timeline", "0xa"]), { timeline: 10 });
});

test("find refuses values that can't be right", async () => {
  const table: readonly (readonly [readonly string[], RegExp])[] = [
    [["--time", "soon"], /want a time such as .*, got "soon"/],
    [["--xid", "0"], /want the number of a transaction, such as 48213, got "0"/],
    [["--xid", "4294967296"], /want the number of a transaction/],
    [["--xid", "-1"], /want the number of a transaction/],
    [["--xid", "18446744073709551616"], /want the number of a transaction/],
    [["--lsn", "0x1"], /want an LSN such as 16\/B374D848, got "0x1"/],
    [["--timeline", "0"], /want the number of a timeline, such as 2, got "0"/],
    [["--timeline", "4294967296"], /want the number of a timeline/],
  ];
  for (const [words, message] of table) await assert.rejects(parse(words), message, words.join(" "));
});

test("find wants one thing to look for, and an archive", async () => {
  const table: readonly (readonly [readonly string[], RegExp])[] = [
    [["-d", "/a"], /^Nothing to look for is given$/],
    [["-d", "/a", "--xid", "5", "--name", "a"], /^More than one thing to look for is given$/],
    [["--xid", "5"], /^No archive is given$/],
    [["-d", "/a", "--name", "a", "--exclusive"], /^--exclusive means nothing for --name$/],
  ];
  for (const [words, message] of table) {
    await assert.rejects(
      run(words),
      (error: Error) => error instanceof UsageError && message.test(error.message),
    );
  }
});

test("walvault find answers on stdout, and by its exit code", { timeout }, () => {
  using scene = new Scene();
  const { code, stdout, stderr } = walvault(["--archive", scene.path, "--time", "2026-11-25 12:00:01Z"]);
  const [commit800, , commit801] = scene.records;
  const at = (lsn: bigint) => `0/${lsn.toString(16).toUpperCase()}`;
  assert.equal(stderr, "");
  assert.equal(
    stdout,
    [
      `# 2026-11-25 12:00:01+00: recovery stops before the commit of transaction 801 at ${
        at(commit801!.lsn)
      }, 2026-11-25 12:00:02+00`,
      `# in ${SEGMENT}, byte ${commit801!.lsn - START}, timeline 1`,
      `# the last commit that is in: ${at(commit800!.lsn)}, transaction 800, 2026-11-25 12:00:00+00`,
      `# the first commit that is not in: ${at(commit801!.lsn)}, transaction 801, 2026-11-25 12:00:02+00`,
      `# needs a base backup that began at ${at(START)} or later and was complete before ${
        at(commit801!.lsn)
      }`,
      "recovery_target_time = '2026-11-25 12:00:01+00'",
      "recovery_target_inclusive = 'on'",
      "recovery_target_timeline = '1'",
      "",
    ].join("\n"),
  );
  assert.equal(code, 0);
  const later = walvault(["--archive", scene.path, "--time", "2027-01-01Z"]);
  assert.equal(later.code, 1);
  assert.match(later.stdout, /^# 2027-01-01 00:00:00\+00 is not yet reached on timeline 1/);
  assert.match(later.stdout, /^# {3}?recovery_target_lsn = '0\/[0-9A-F]+'$|^# recovery_target_lsn = /m);
  assert.doesNotMatch(later.stdout, /^recovery/m);
  assert.equal(walvault(["--archive", scene.path]).code, 2);
  const absent = walvault(["--archive", join(scene.path, "no"), "--xid", "5"]);
  assert.equal(absent.code, 3);
  assert.match(absent.stderr, /there is no such directory/);
});

test("find reads the tail, and a directory of pg_receivewal, to which it adds nothing", async () => {
  for (const identity of [true, false]) {
    using scene = new Scene({ identity });
    const { code, stdout } = await scene.find("--xid", "804", "--json");
    assert.equal(code, 0);
    const answer = JSON.parse(stdout);
    assert.equal(answer.path, identity ? `inprogress/${NEXT}` : `${NEXT}.partial`);
    assert.equal(answer.commitBefore.xid, 803);
    assert.equal((await scene.find("--name", "here")).code, 0);
    const sub = JSON.parse((await scene.find("--xid", "802", "--json")).stdout);
    assert.equal(sub.stop.xid, 801);
    assert.equal(sub.recovery.recovery_target_xid, "801");
    const { readdirSync } = await import("node:fs");
    assert.deepEqual(
      readdirSync(scene.path).sort(),
      (identity ? [SEGMENT, "archive.json", "inprogress", "index"] : [SEGMENT, `${NEXT}.partial`]).sort(),
    );
  }
});

test("find follows the newest timeline, and looks at others for a number or a name", async () => {
  using scene = new Scene();
  // Timeline 2 left timeline 1 before its second commit.
  const [, , second] = scene.records;
  const fork = `0/${second!.lsn.toString(16).toUpperCase()}`;
  writeFileSync(join(scene.path, "00000002.history"), `1\t${fork}\tno recovery target specified\n`);
  const inLineage = JSON.parse((await scene.find("--xid", "800", "--json")).stdout);
  assert.equal(inLineage.timeline, 2);
  assert.equal(inLineage.commitAfter, undefined);
  assert.equal(inLineage.recovery.recovery_target_timeline, "2");
  const onBranch = await scene.find("--xid", "801");
  assert.equal(onBranch.code, 0);
  assert.match(onBranch.stdout, /^# along timeline 1; the newest here is 2$/m);
  assert.match(onBranch.stdout, /^recovery_target_timeline = '1'$/m);
  assert.equal((await scene.find("--xid", "801", "--timeline", "2")).code, 1);
  assert.equal((await scene.find("--time", "2026-11-25 12:00:01Z")).code, 1);
  assert.equal((await scene.find("--time", "2026-11-25 12:00:01Z", "--timeline", "1")).code, 0);
  await assert.rejects(scene.find("--xid", "801", "--timeline", "7"), /nothing of timeline 7 is there/);
});

test("find tells when what it read can't be kept", async () => {
  using scene = new Scene();
  writeFileSync(join(scene.path, "index"), "in the way");
  const { code, stderr } = await scene.find("--xid", "800");
  assert.equal(code, 0);
  assert.match(stderr, /^walvault: what was read is not kept for the next time: /);
});
