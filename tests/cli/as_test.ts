import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { originalCall, ORIGINALS } from "../../lib/compat/originals.ts";
import { bunPath } from "../../tasks/bun.ts";
import { denoCommand } from "../../tasks/install_locked.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 120_000;

/** Words for the program, and what it is called when that is not its own name. */
type Call = readonly [words: readonly string[], argv0?: string];

function run([words, argv0]: Call, command: readonly string[]) {
  const [program = "", ...first] = command;
  const { status, stdout, stderr } = spawnSync(program, [...first, ...words], {
    cwd: ROOT,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
    ...(argv0 === undefined ? {} : { argv0 }),
  });
  return { code: status, stdout, stderr };
}

function withDeno(call: Call) {
  return run(call, [...denoCommand(), "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts")]);
}

const CALLS: readonly (readonly [argv0: string, words: readonly string[], expected: unknown])[] = [
  ["walvault", ["receive"], undefined],
  ["deno", ["as", "pg_waldump"], undefined],
  ["deno", ["as"], undefined],
  ["", ["pg_standby"], undefined],
  ["deno", ["as", "pg_standby", "as", "-d"], {
    name: "pg_standby",
    calledAs: "pg_standby",
    words: ["as", "-d"],
  }],
  ["/a b/pg_receivewal", ["as", "pg_standby"], {
    name: "pg_receivewal",
    calledAs: "/a b/pg_receivewal",
    words: ["as", "pg_standby"],
  }],
  ["pg_receivewal", [], { name: "pg_receivewal", calledAs: "pg_receivewal", words: [] }],
  ["/pg_receivewal/x", [], undefined],
];

for (const [argv0, words, expected] of CALLS) {
  test(`originalCall() of "${argv0}" with ${JSON.stringify(words)}`, () =>
    assert.deepEqual(originalCall({ argv0, argv: ["runtime", "program", ...words] }), expected));
}

test("walvault as NAME acts as that program, and so does a link of its name", { timeout }, () => {
  for (const name of ORIGINALS) {
    const { code, stdout, stderr } = withDeno([["as", name, "--version"]]);
    assert.equal(code, 0, stderr);
    assert.match(stdout, new RegExp(`^${name} \\(PostgreSQL\\) [0-9]+\\.[0-9]+ `));
    assert.equal(stderr, "");
  }
  const called = withDeno([["-q"], "/usr/local/bin/pg_archivecleanup"]);
  assert.equal(called.code, 2);
  assert.equal(
    called.stderr,
    "/usr/local/bin/pg_archivecleanup: invalid option -- 'q'\n" +
      'pg_archivecleanup: hint: Try "pg_archivecleanup --help" for more information.\n',
  );
});

test("walvault as tells which programs there are, and refuses others", { timeout }, () => {
  const help = withDeno([["as", "--help"]]);
  assert.equal(help.code, 0);
  for (const name of ORIGINALS) assert.match(help.stdout, new RegExp(name));
  for (const words of [["as"], ["as", "pg_dump"]]) {
    const refused = withDeno([words]);
    assert.equal(refused.code, 2);
    assert.match(refused.stderr, /hint: Try "walvault as --help"/);
  }
});

test("an executable made by Bun sees the name of the link it is called by", { timeout }, () => {
  const directory = fs.mkdtempSync(join(tmpdir(), "wv-as-"));
  try {
    const executable = join(directory, "walvault");
    const build = ["build", "--compile", "--minify", `--outfile=${executable}`, join(ROOT, "cli.ts")];
    const built = spawnSync(bunPath(), build, { cwd: ROOT, encoding: "utf8" });
    assert.equal(built.status, 0, built.stderr);
    const link = join(directory, "pg_archivecleanup");
    fs.symlinkSync("walvault", link);
    const called = run([["-V"]], [link]);
    assert.equal(called.code, 0, called.stderr);
    assert.match(called.stdout, /^pg_archivecleanup \(PostgreSQL\) /);
    assert.match(run([["--version"]], [executable]).stdout, /^walvault /);
  } finally {
    fs.rmSync(directory, { recursive: true });
  }
});
