import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { initCommand } from "../../lib/commands/init_options.ts";
import { pushCommand } from "../../lib/commands/push_options.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { IDENTITY, NAMES, walOf } from "../archive/on_sim_disk.ts";
import { MIB } from "../wal/wal_builder.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 120_000;
const [SEGMENT = ""] = NAMES;

function walvault(words: readonly string[], cwd = ROOT) {
  const [command, ...first] = denoCommand();
  const { status, stdout, stderr } = spawnSync(
    command,
    [...first, "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts"), ...words],
    { cwd, encoding: "utf8", env: { ...process.env, WALVAULT_ARCHIVE: "", NO_COLOR: "1" } },
  );
  return { code: status, stdout, stderr };
}

/** A data directory with one segment in its pg_wal, and an archive for it. */
class Place {
  readonly path = mkdtempSync(join(tmpdir(), "wv-usage-"));
  readonly archive = join(this.path, "archive");

  constructor() {
    for (const name of ["pg_wal", "global", "archive", "archive/inprogress"]) {
      mkdirSync(join(this.path, name));
    }
    writeFileSync(join(this.path, "pg_wal", SEGMENT), walOf({ bytes: MIB }));
    writeFileSync(join(this.archive, "archive.json"), encodeIdentity(IDENTITY));
    const control = new Uint8Array(8192);
    new DataView(control.buffer).setBigUint64(0, IDENTITY.systemIdentifier, true);
    writeFileSync(join(this.path, "global", "pg_control"), control);
  }

  [Symbol.dispose](): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

const HINT =
  /^hint: In postgresql\.conf the line reads: archive_command = 'walvault push --archive archive %p'$/m;
const FILE = `pg_wal/${SEGMENT}`;

/** What was typed in a data directory, the message, and the line that helps. */
const USAGE_ERRORS: readonly (readonly [words: readonly string[], message: RegExp, hint: RegExp])[] = [
  [["-d", "archive"], /^walvault: No file is given$/m, HINT],
  [["-d", "archive", ""], /^walvault: No file is given$/m, HINT],
  [
    ["-d", "archive", FILE, SEGMENT],
    /^walvault: Cannot archive 2 files: "pg_wal\/.*" "0.*", want the one that %p names$/m,
    HINT,
  ],
  [["-d", "archive", SEGMENT], /^walvault: Cannot archive "0.*": there is no such file in "\/.*"$/m, HINT],
  [["-d", "archive", "%p"], /^walvault: Cannot archive "%p": there is no such file/m, HINT],
  [["-d", "archive", "pg_wal"], /^walvault: Cannot archive "pg_wal": it is a directory, want a file$/m, HINT],
  [["-d", "archive", "link"], /^walvault: Cannot archive "link": it is a symlink, want a file$/m, HINT],
  [
    ["-d", "archive", "global/pg_control"],
    /by its name it is no segment, history or backup label$/m,
    /^hint: A server hands over/m,
  ],
  [
    [FILE],
    /^walvault: No archive is given$/m,
    /^hint: Name the archive directory with --archive, or in WALVAULT_ARCHIVE$/m,
  ],
  [
    ["-d", "none", FILE],
    /^walvault: Cannot open the archive "none": there is no such directory; make it with/m,
    /^/,
  ],
  [
    ["-d", "pg_wal", FILE],
    /^walvault: Cannot archive into "pg_wal": it is no archive, as there is no archive\.json in it; is its disk mounted\?$/m,
    /^hint: To make an archive of an empty directory: walvault init --archive pg_wal --connection '/m,
  ],
  [["-d", FILE, FILE], /it is no archive|ENOTDIR|Not a directory/, /^/],
  [
    ["-d", "archive", "-v", "-q", FILE],
    /^walvault: --verbose and --quiet exclude each other$/m,
    /^hint: Give one of them$/m,
  ],
  [
    ["-d", "archive", "--timeout", "0", FILE],
    /--timeout.*want seconds above 0/,
    /^hint: Try "walvault push --help"$/m,
  ],
  [
    ["-d", "archive", "--compress", "bzip2", FILE],
    /--compress.*zstd, gzip/,
    /^hint: Try "walvault push --help"$/m,
  ],
  [["--bogus"], /^error: unknown option '--bogus'$/m, /^hint: Try "walvault push --help"$/m],
];

for (const [words, message, hint] of USAGE_ERRORS) {
  test(`walvault push ${words.join(" ")} exits 1 and helps`, { timeout }, () => {
    using place = new Place();
    symlinkSync(FILE, join(place.path, "link"));
    const { code, stdout, stderr } = walvault(["push", ...words], place.path);
    assert.equal(code, 1, stderr);
    assert.equal(stdout, "", "stdout is for answers");
    assert.match(stderr, message);
    assert.match(stderr, hint);
    assert.doesNotMatch(stderr, /\bat .*\.ts:\d+/, "no stack trace");
    assert.deepEqual(readdirSync(place.archive).sort(), ["archive.json", "inprogress"]);
    assert.deepEqual(readdirSync(join(place.archive, "inprogress")), []);
  });
}

test("walvault push is silent when all is well, and tells with --verbose", { timeout }, () => {
  using place = new Place();
  const words = ["push", "--archive", "archive", FILE];
  assert.deepEqual(walvault(words, place.path), { code: 0, stdout: "", stderr: "" });
  assert.deepEqual(walvault(words, place.path), { code: 0, stdout: "", stderr: "" });
  assert.match(walvault([...words, "-v"], place.path).stderr, /debug file present path=0+10+3$/m);
  assert.deepEqual(readdirSync(place.archive).sort(), [SEGMENT, "archive.json", "inprogress"]);
});

test("walvault push replaces a damaged compressed segment, and tells even with --quiet", { timeout }, () => {
  using place = new Place();
  writeFileSync(join(place.archive, `${SEGMENT}.zst`), "nothing of the kind", { mode: 0o600 });
  const words = ["push", "--archive", "archive", "--quiet", FILE];
  const { code, stderr } = walvault(words, place.path);
  assert.equal(code, 0, stderr);
  const line =
    /error damaged file moved aside, the server had a good one path=0+10+3\.zst kept=conflicts\/0+10+3\.zst-/;
  assert.match(stderr, line);
  assert.deepEqual(walvault(words, place.path), { code: 0, stdout: "", stderr: "" });
  assert.deepEqual(readdirSync(place.archive).sort(), [SEGMENT, "archive.json", "conflicts", "inprogress"]);
});

test("walvault push gives up in time when the archive's disk does not answer", { timeout }, () => {
  using place = new Place();
  const identity = join(place.archive, "archive.json");
  rmSync(identity);
  // To open it for reading blocks until somebody writes.
  assert.equal(spawnSync("mkfifo", [identity]).status, 0);
  chmodSync(identity, 0o600);
  const started = performance.now();
  const { code, stderr } = walvault(["push", "-d", "archive", "--timeout", "0.5", FILE], place.path);
  assert.equal(code, 1);
  assert.match(stderr, /^walvault: Cannot archive 0+10+3 in 0\.5 s: the disk of "archive" does not answer$/m);
  assert.ok(performance.now() - started < 15_000);
});

test("walvault push logs as JSON when told so", { timeout }, () => {
  using place = new Place();
  const { code, stderr } = walvault(["push", "-d", "pg_wal", "--log-format", "json", FILE], place.path);
  assert.equal(code, 1);
  const line = JSON.parse(stderr);
  assert.equal(line.event, "failed");
  assert.match(line.error, /it is no archive/);
  assert.match(line.hint, /walvault init/);
});

for (const command of [pushCommand(() => Promise.resolve()), initCommand(() => Promise.resolve())]) {
  test(`walvault ${command.name()} --help lists every option, examples and exit codes`, { timeout }, () => {
    const { code, stdout, stderr } = walvault([command.name(), "--help"]);
    assert.equal(code, 0);
    assert.equal(stderr, "");
    for (const { flags, description } of command.options) {
      assert.ok(stdout.includes(flags), flags);
      assert.ok(stdout.replaceAll(/\s+/g, " ").includes(description), description);
    }
    for (const part of ["Examples:", "Exit codes:", "WALVAULT_ARCHIVE"]) {
      assert.ok(stdout.includes(part), part);
    }
    assert.ok(stdout.split("\n").every((line) => line.length <= 120), "lines fit a wide terminal");
  });
}
