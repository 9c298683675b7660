import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { realProgram, runOurs, runReal, temporaryDirectory, unordered } from "./originals.ts";

const NAME = "pg_archivecleanup";
const skip = realProgram(NAME) === undefined;

/** Every kind of name that may stand in an archive, ours and other people's. */
const FILES = [
  "000000010000000000000001",
  "000000010000000000000002.gz",
  "000000010000000000000002.partial",
  "000000010000000000000003.gz.partial",
  "00000001000000000000000F",
  "000000010000000000000010",
  "000000010000000000000010.00000028.backup",
  "000000010000000000000011",
  "000000010000000000000001.00000028.backup",
  "000000010000000000000001.00000028.backup.gz",
  "000000020000000000000001",
  "0000000A0000000000000009.lz4",
  "000000010000000100000000",
  "00000002.history",
  "00000000000000000000000a",
  "00000001000000000000000",
  "0000000100000000000000011",
  "archive.json",
];

function fill(directory: string): void {
  for (const name of FILES) fs.writeFileSync(join(directory, name), "");
  fs.mkdirSync(join(directory, "inprogress"));
}

const OLDEST = "000000010000000000000010";

/** Command lines that both programs know; `DIR` is an archive. */
const COMMAND_LINES: readonly (readonly string[])[] = [
  ["DIR", OLDEST],
  ["-n", "DIR", OLDEST],
  ["-d", "DIR", OLDEST],
  ["-dn", "DIR", OLDEST],
  ["DIR", "-d", OLDEST, "-n"],
  ["DIR/", OLDEST],
  ["DIR", `${OLDEST}.partial`],
  ["DIR", `${OLDEST}.00000028.backup`],
  ["DIR", "000000020000000100000001"],
  ["DIR", "0000000100000000000000FF"],
  ["-x", ".gz", "DIR", OLDEST],
  ["-x.gz", "DIR", `${OLDEST}.gz`],
  ["-x", ".gz.partial", "-d", "DIR", OLDEST],
  ["-x", "", "DIR", OLDEST],
  ["-x", ".lz4", "-x", ".gz", "-n", "DIR", OLDEST],
  ["-x", "gz", "DIR", OLDEST],
  ["--", "DIR", OLDEST],
  [],
  ["-d"],
  ["DIR"],
  ["DIR", OLDEST, "more"],
  ["DIR/absent", OLDEST],
  ["DIR/archive.json", OLDEST],
  ["DIR", "00000002.history"],
  ["DIR", ""],
  ["DIR", `${OLDEST}.gz`],
  ["DIR", OLDEST.toLowerCase().replace("10", "1a")],
  ["DIR", `${OLDEST}.backup`],
  ["DIR", `${OLDEST}.x.backup`],
  ["DIR", `${OLDEST}.partial.gz`],
  ["-x"],
  ["-q", "DIR", OLDEST],
  ["DIR", "-V"],
  ["DIR", "-?"],
];

for (const words of COMMAND_LINES) {
  test(`${NAME} ${words.join(" ")} does what PostgreSQL's does`, { skip }, async () => {
    using temporary = temporaryDirectory();
    const results = [];
    for (const kind of ["real", "ours"]) {
      const directory = join(temporary.path, "archive");
      fs.mkdirSync(directory);
      fill(directory);
      const given = words.map((word) => word.replace("DIR", directory));
      const { code, stdout, stderr } = kind === "real" ? runReal(NAME, given) : await runOurs(NAME, given);
      const left = fs.readdirSync(directory).sort();
      results.push({ code, stdout: unordered(stdout), stderr: unordered(stderr), left });
      fs.rmSync(directory, { recursive: true });
    }
    assert.deepEqual(results[1], results[0]);
  });
}

test(`${NAME} tells its version and help as PostgreSQL's does`, { skip }, async () => {
  for (const word of ["--version", "-V"]) {
    const [real, ours] = [runReal(NAME, [word]), await runOurs(NAME, [word])];
    assert.equal(ours.code, real.code);
    assert.match(ours.stdout, /^pg_archivecleanup \(PostgreSQL\) [0-9]+\.[0-9]+ \(.+\)\n$/);
    assert.match(real.stdout, /^pg_archivecleanup \(PostgreSQL\) [0-9]+\.[0-9]+/);
    assert.equal(ours.stderr, real.stderr);
  }
  for (const word of ["--help", "-?"]) {
    const [real, ours] = [runReal(NAME, [word]), await runOurs(NAME, [word])];
    assert.equal(ours.code, real.code);
    assert.equal(ours.stderr, real.stderr);
    const optionsOf = (text: string) => new Set(text.match(/^ {2}-[a-zA-Z?]/gm));
    for (const option of optionsOf(real.stdout)) assert.ok(optionsOf(ours.stdout).has(option), option);
    const beforeOptions = (text: string) => text.slice(0, text.indexOf("Options:"));
    assert.equal(beforeOptions(ours.stdout), beforeOptions(real.stdout));
  }
});

/** PostgreSQL 17 and 18 have these; the results are what their sources say. */
test(`${NAME} takes the long options of PostgreSQL 17`, async () => {
  using temporary = temporaryDirectory();
  fill(temporary.path);
  const dry = await runOurs(NAME, ["--dry-run", "--strip-ext=.gz", "--clean", temporary.path, OLDEST]);
  assert.deepEqual([dry.code, dry.stderr], [0, ""]);
  assert.deepEqual(
    unordered(dry.stdout.trimEnd()),
    [
      "000000010000000000000001",
      "000000010000000000000001.00000028.backup",
      "000000010000000000000001.00000028.backup.gz",
      "000000010000000000000002.gz",
      "000000010000000000000002.partial",
      "00000001000000000000000F",
      "000000020000000000000001",
    ].map((name) => `${temporary.path}/${name}`),
  );
  const wet = await runOurs(NAME, ["-b", "--debug", temporary.path, OLDEST]);
  assert.equal(wet.code, 0);
  assert.match(wet.stderr, /removing file "[^"]*\/000000010000000000000001\.00000028\.backup"\n/);
  assert.ok(fs.existsSync(join(temporary.path, "000000010000000000000001.00000028.backup.gz")));
  assert.ok(fs.existsSync(join(temporary.path, `${OLDEST}.00000028.backup`)));
  const unknown = await runOurs(NAME, ["--bogus"]);
  assert.equal(unknown.code, 2);
  assert.equal(
    unknown.stderr,
    "pg_archivecleanup: unrecognized option '--bogus'\npg_archivecleanup: hint: Try \"pg_archivecleanup --help\" for more information.\n",
  );
});

test(`${NAME} exits 1 when it can't remove a file, as PostgreSQL's does`, { skip }, async () => {
  const results = [];
  using temporary = temporaryDirectory();
  for (const kind of ["real", "ours"]) {
    const directory = join(temporary.path, "archive");
    fs.mkdirSync(join(directory, "000000010000000000000001"), { recursive: true });
    const { code, stderr } = kind === "real"
      ? runReal(NAME, [directory, OLDEST])
      : await runOurs(NAME, [directory, OLDEST]);
    results.push({ code, stderr });
    fs.rmSync(directory, { recursive: true });
  }
  assert.deepEqual(results[1], results[0]);
  assert.equal(results[1]?.code, 1);
});

test(`${NAME} on an archive of ours removes what was only begun before, and no more`, async () => {
  using directory = temporaryDirectory();
  fill(directory.path);
  const begun = [
    "000000010000000000000004",
    "000000010000000000000004.saved-2",
    "00000002000000000000000F",
    "000000010000000000000010",
    "000000010000000000000011.saved-1",
    "000000010000000000000005.push-abc",
  ];
  for (const name of begun) fs.writeFileSync(join(directory.path, "inprogress", name), "");
  const left = () => fs.readdirSync(join(directory.path, "inprogress")).sort();
  const run = (words: readonly string[]) => runOurs(NAME, words);
  // Nothing complete is kept: what was begun may be received just now.
  assert.equal((await run([directory.path, "0000000100000002000000FF"])).code, 0);
  assert.deepEqual(left(), [...begun].sort());
  for (const name of FILES) fs.writeFileSync(join(directory.path, name), "");
  const shown = await run(["-n", directory.path, OLDEST]);
  assert.match(shown.stdout, /inprogress\/000000010000000000000004\n/);
  assert.deepEqual(left(), [...begun].sort());
  assert.equal((await run([directory.path, OLDEST])).code, 0);
  assert.deepEqual(left(), [begun[3], begun[4], begun[5]].sort());
});

test(`${NAME} removes nothing of an archive of ours where it can't see what was only begun`, async () => {
  using directory = temporaryDirectory();
  fill(directory.path);
  fs.rmdirSync(join(directory.path, "inprogress"));
  fs.writeFileSync(join(directory.path, "inprogress"), "");
  const before = fs.readdirSync(directory.path).sort();
  const { code, stderr } = await runOurs(NAME, [directory.path, OLDEST]);
  assert.equal(code, 1);
  assert.match(stderr, /could not open archive location ".*\/inprogress": Not a directory\n$/);
  assert.deepEqual(fs.readdirSync(directory.path).sort(), before);
});
