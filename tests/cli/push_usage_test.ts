import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { initCommand } from "../../lib/commands/init_options.ts";
import { PUSH_TABLE } from "../../lib/commands/push_options.ts";
import { tableCommand } from "../../lib/commands/table_command.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { PushPlace, SEGMENT } from "./push_place.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 120_000;

function walvault(words: readonly string[], cwd = ROOT) {
  const [command, ...first] = denoCommand();
  const { status, stdout, stderr } = spawnSync(
    command,
    [...first, "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts"), ...words],
    { cwd, encoding: "utf8", env: { ...process.env, WALVAULT_ARCHIVE: "", NO_COLOR: "1" } },
  );
  return { code: status, stdout, stderr };
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
    /^walvault: Cannot archive into "none": there is no such directory; is its disk mounted\?$/m,
    /^hint: To make an archive of an empty directory: walvault init --archive none --connection '/m,
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
    using place = new PushPlace();
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

test("walvault push: help archives nothing", { timeout }, () => {
  using place = new PushPlace();
  for (const option of ["--help", "-h", "--version", "-V"]) {
    for (
      const file of [FILE, "pg_wal/00000002.history", `${SEGMENT}.partial`, `${SEGMENT}.00000028.backup`]
    ) {
      assert.equal(
        walvault(["push", option, "-d", "archive", file], place.path).code,
        1,
        `${option} ${file}`,
      );
    }
    assert.notEqual(walvault([option, "push", "-d", "archive", FILE], place.path).code, 0);
  }
});

test("walvault push is silent when all is well, and tells with --verbose", { timeout }, () => {
  using place = new PushPlace();
  const words = ["push", "--archive", "archive", FILE];
  assert.deepEqual(walvault(words, place.path), { code: 0, stdout: "", stderr: "" });
  assert.deepEqual(walvault(words, place.path), { code: 0, stdout: "", stderr: "" });
  assert.match(walvault([...words, "-v"], place.path).stderr, /debug file present path=0+10+3$/m);
  assert.deepEqual(readdirSync(place.archive).sort(), [SEGMENT, "archive.json", "inprogress"]);
});

test("walvault push replaces a damaged compressed segment, and tells even with --quiet", { timeout }, () => {
  using place = new PushPlace();
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

test("walvault push logs as JSON when told so", { timeout }, () => {
  using place = new PushPlace();
  const { code, stderr } = walvault(["push", "-d", "pg_wal", "--log-format", "json", FILE], place.path);
  assert.equal(code, 1);
  const line = JSON.parse(stderr);
  assert.equal(line.event, "failed");
  assert.match(line.error, /it is no archive/);
  assert.match(line.hint, /walvault init/);
});

for (
  const command of [
    tableCommand(PUSH_TABLE, () => Promise.resolve()),
    initCommand(() => Promise.resolve()),
  ]
) {
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
