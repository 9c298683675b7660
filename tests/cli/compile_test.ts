import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { denoCommand } from "../../tasks/install_locked.ts";
import { ENVIRONMENT, NOTIFIER, SYSTEM } from "../../tasks/permissions.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const VERSION: string = JSON.parse(readFileSync(join(ROOT, "deno.json"), "utf8")).version;
const timeout = 120_000;

function temporaryDirectory() {
  const path = mkdtempSync(join(tmpdir(), "wv-compile-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

function runTask(
  script: string,
  options: readonly string[],
  environment: Readonly<Record<string, string>> = {},
) {
  const [command, ...first] = denoCommand();
  return spawnSync(command, [...first, "run", "--allow-all", `tasks/${script}`, ...options], {
    cwd: ROOT,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1", ...environment },
  });
}

/**
 * What `deno compile` bakes in. The base executable it would download is replaced by /bin/true: everything else, types
 * and permissions included, is done as usual, and stands in the result as JSON.
 */
function bakedPermissions(options: readonly string[]): Record<string, unknown> {
  using directory = temporaryDirectory();
  const output = join(directory.path, "walvault");
  const run = runTask("compile.ts", [...options, "--output", output], { DENORT_BIN: "/bin/true" });
  assert.equal(run.status, 0, run.stderr);
  const baked = /"permissions":(\{.*?\}),"location":/s.exec(readFileSync(output, "latin1"))?.[1];
  assert.ok(baked !== undefined);
  return JSON.parse(baked);
}

/** `null` is nothing, `[]` everything. */
const ALWAYS = {
  prompt: false,
  allow_env: ENVIRONMENT,
  deny_env: null,
  ignore_env: [],
  allow_sys: SYSTEM,
  deny_sys: null,
  deny_run: null,
  allow_ffi: null,
  deny_ffi: null,
  allow_net: [],
  deny_net: null,
  deny_import: [],
  deny_read: null,
  ignore_read: null,
  deny_write: null,
};

test(
  "deno task compile bakes network, files and environment, and no way to run other code",
  { timeout },
  () => {
    const { allow_import: _, ...baked } = bakedPermissions([]); // all of it is denied
    assert.deepEqual(baked, { ...ALWAYS, allow_read: [], allow_write: [], allow_run: [NOTIFIER] });
  },
);

test("deno task compile:sandboxed bakes one archive and no other write access", { timeout }, () => {
  const options = [
    "--sandboxed",
    "--archive",
    "/srv/wal archive",
    "--read",
    "/etc/walvault",
    "--read",
    "/a,b",
  ];
  const { allow_import: _, ...baked } = bakedPermissions(options);
  assert.deepEqual(baked, {
    ...ALWAYS,
    allow_read: ["/srv/wal archive", "/etc/walvault", "/a,b"],
    allow_write: ["/srv/wal archive"],
    allow_run: null,
  });
});

test(
  "the compile tasks refuse a sandbox without an archive, and an archive without a sandbox",
  { timeout },
  () => {
    for (const options of [["--sandboxed"], ["--archive", "/srv/archive"]]) {
      const run = runTask("compile.ts", options, { DENORT_BIN: "/bin/true" });
      assert.equal(run.status, 2);
      assert.match(run.stderr, /--archive DIR/);
    }
  },
);

test("deno task compile:bun makes an executable that takes no orders from the directory it is started in", {
  timeout,
}, () => {
  using directory = temporaryDirectory();
  const walvault = join(directory.path, "walvault");
  const built = runTask("compile_bun.ts", ["--output", walvault]);
  assert.equal(built.status, 0, built.stderr);

  writeFileSync(join(directory.path, "bunfig.toml"), 'preload = ["./preload.ts"]\n');
  writeFileSync(join(directory.path, "preload.ts"), 'console.log("preloaded");\n');
  writeFileSync(join(directory.path, ".env"), "WALVAULT_ARCHIVE=/from/dotenv\n");
  const run = (options: readonly string[]) =>
    spawnSync(walvault, options, { cwd: directory.path, encoding: "utf8", env: { PATH: "/usr/bin:/bin" } });
  const version = run(["--version"]);
  assert.equal(version.stdout.trim().replace(/^walvault /, ""), VERSION);
  assert.equal(version.status, 0);
  const help = run(["receive", "--help"]);
  assert.equal(help.status, 0);
  assert.match(help.stdout, /--connection/);
  assert.match(help.stdout, /--archive/);
  assert.doesNotMatch(help.stdout, /dotenv|preloaded/);
  const unknown = run(["no-such-command"]);
  assert.equal(unknown.status, 2);
});
