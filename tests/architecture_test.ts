import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { architectureBreaches, readSource } from "./architecture.ts";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));

test("the program keeps to its import table", () => {
  const lib = readdirSync(join(ROOT, "lib"), { recursive: true, encoding: "utf8" });
  const paths = lib.filter((path) => path.endsWith(".ts")).map((path) => `lib/${path}`).sort();
  assert.ok(paths.length > 10);
  const root = readdirSync(ROOT).filter((name) => name.endsWith(".ts"));
  const breaches = [...paths, ...root].flatMap((path) =>
    architectureBreaches(path, readFileSync(join(ROOT, path), "utf8"))
  );
  assert.deepEqual(breaches, []);
});

test("every file of lib/ is TypeScript", () => {
  const lib = readdirSync(join(ROOT, "lib"), { recursive: true, withFileTypes: true });
  assert.deepEqual(
    lib.filter((entry) => entry.isFile() && !entry.name.endsWith(".ts")).map((entry) => entry.name),
    [],
  );
});

const ALLOWED: readonly (readonly [path: string, source: string])[] = [
  ["lib/wal/page.ts", 'import { lsn } from "./lsn.ts"; // Date.now() console.log'],
  [
    "lib/wal/page.ts",
    'const text = "Date.now() " + `async ${lsn} await`; const pattern = /console\\.log("/;',
  ],
  ["lib/wal/rmgr/heap.ts", 'import { lsn } from "../lsn.ts";'],
  ["lib/protocol/replication.ts", "export interface WalStream { readonly end: Promise<Lsn>; }"],
  ["lib/protocol/answers.ts", 'import type { Lsn } from "../wal/lsn.ts";'],
  ["lib/session/driver.ts", 'import postgres from "postgres"; import net from "node:net"; Date.now();'],
  [
    "lib/session/tls_options.ts",
    'import { readFile } from "node:fs/promises"; import { platform } from "node:process";',
  ],
  ["lib/archive/durable.ts", 'import * as fs from "node:fs"; import type { Log } from "../log.ts";'],
  ["lib/archive/flock.ts", "const file = Deno.openSync(path);"],
  [
    "lib/archive/disk_thread.ts",
    'new Worker(new URL("data:text/javascript," + source)); const source = `import fs from "x"`;',
  ],
  [
    "lib/receiver/loop.ts",
    'import { a } from "../wal/lsn.ts"; export async function run(clock: Clock) { await clock.sleep(1); }',
  ],
  [
    "lib/commands/receive.ts",
    'import { Command } from "commander"; import process from "node:process"; process.exitCode = 1;',
  ],
  [
    "lib/commands/receive.ts",
    'import a from "../session/connect.ts"; import b from "../archive/archive.ts"; Date.now();',
  ],
  ["cli.ts", 'import process from "node:process"; import { receive } from "./lib/commands/receive.ts";'],
  ["cli.ts", 'import manifest from "./deno.json" with { type: "json" };'],
  ["cli.ts", "if (hanging) process.exit();"],
  ["mod.ts", 'export { type Lsn, parseLsn } from "./lib/wal/lsn.ts";'],
];

for (const [path, source] of ALLOWED) {
  test(`${path} may say ${source}`, () => assert.deepEqual(architectureBreaches(path, source), []));
}

const REFUSED: readonly (readonly [path: string, source: string, problem: RegExp])[] = [
  ["lib/wal/page.ts", 'import { Log } from "../log.ts";', /wal may not import from log/],
  ["lib/wal/page.ts", 'import type { A } from "../protocol/answers.ts";', /wal may not import from protocol/],
  ["lib/wal/page.ts", 'export { A } from "../protocol/answers.ts";', /wal may not import from protocol/],
  ["lib/wal/page.ts", 'export * from "../protocol/answers.ts";', /wal may not import from protocol/],
  ["lib/wal/page.ts", 'import { Buffer } from "node:buffer";', /wal may not touch "node:buffer"/],
  ["lib/wal/page.ts", "export async function decode() {}", /not pure/],
  ["lib/wal/page.ts", "const p = Promise.resolve();", /not pure/],
  ["lib/protocol/copy.ts", "for await (const x of y) {}", /not pure/],
  ["lib/conninfo/uri.ts", 'import { lsn } from "../wal/lsn.ts";', /conninfo may not import from wal/],
  ["lib/conninfo/passfile.ts", 'import { readFileSync } from "node:fs";', /conninfo may not touch "node:fs"/],
  ["lib/conninfo/environment.ts", "const user = process.env.PGUSER;", /uses the process/],
  ["lib/conninfo/environment.ts", 'import { env } from "node:process";', /conninfo may not touch/],
  ["lib/session/a.ts", 'import a from "../archive/archive.ts";', /session may not import from archive/],
  ["lib/session/a.ts", 'import { env } from "node:process";', /uses the process/],
  ["lib/archive/a.ts", 'import a from "../session/connect.ts";', /archive may not import from session/],
  ["lib/archive/a.ts", 'import postgres from "postgres";', /archive may not import "postgres"/],
  ["lib/archive/a.ts", 'import net from "node:net";', /archive may not touch "node:net"/],
  ["lib/archive/a.ts", "const now = Date.now();", /reads the clock/],
  ["lib/archive/a.ts", "const now = new Date();", /reads the clock/],
  ["lib/archive/a.ts", "const name = `${Math.random()}`;", /uses chance/],
  ["lib/archive/a.ts", "const file = Deno.openSync(path);", /Deno\. or Bun\./],
  ["lib/archive/a.ts", "const bun = globalThis.Bun;", /Deno\. or Bun\./],
  [
    "lib/archive/a.ts",
    'new Worker(new URL("../session/worker.ts", import.meta.url))',
    /may not import from session/,
  ],
  ["lib/receiver/loop.ts", 'import a from "../archive/archive.ts";', /receiver may not import from archive/],
  ["lib/receiver/loop.ts", 'import a from "../session/connect.ts";', /receiver may not import from session/],
  ["lib/receiver/loop.ts", "setTimeout(f, 1);", /waits by itself/],
  ["lib/receiver/loop.ts", 'import { setTimeout } from "node:timers/promises";', /receiver may not touch/],
  ["lib/backup/a.ts", 'import a from "../restore/a.ts";', /backup may not import from restore/],
  ["lib/commands/a.ts", 'import a from "../compat/a.ts";', /commands may not import from compat/],
  ["lib/commands/a.ts", "process.exit(1);", /ends the process/],
  ["lib/commands/a.ts", "if (hanging) process.exit();", /ends the process/],
  ["cli.ts", "process.exit();", /ends the process/],
  ["cli.ts", "if (hanging) process.exit(); if (hanging) process.exit();", /ends the process/],
  ["lib/commands/a.ts", 'console.log("x");', /console/],
  ["lib/commands/a.ts", 'import chalk from "chalk";', /commands may not import "chalk"/],
  ["lib/commands/a.ts", 'import a from "npm:commander@15";', /bare names/],
  ["lib/commands/a.ts", 'import a from "jsr:@std/fs";', /bare names/],
  ["lib/commands/a.ts", 'import a from "https://example.org/a.ts";', /bare names/],
  ["lib/commands/a.ts", "await import(name);", /not in the source/],
  ["lib/commands/a.ts", "const fs = require(name);", /not in the source/],
  ["lib/commands/a.ts", 'import a from "../../tests/a.ts";', /not part of the program/],
  ["lib/commands/a.ts", 'await import("../../tests/a.ts");', /not part of the program/],
  ["lib/commands/receiveAll.ts", "", /snake_case/],
  ["lib/wal/utils.ts", "", /says nothing/],
  ["lib/wal/helpers/a.ts", "", /says nothing/],
  ["lib/other.ts", "", /no place/],
  ["lib/other/a.ts", "", /no place/],
  ["cli.ts", 'import { a } from "./lib/wal/lsn.ts";', /cli.ts may not import from wal/],
  ["cli.ts", 'import fs from "node:fs";', /cli.ts may not touch "node:fs"/],
  ["mod.ts", "export const version = 1;", /re-export/],
  ["mod.ts", 'export * from "./lib/wal/lsn.ts";', /re-export/],
  ["server.ts", "", /no place/],
];

for (const [path, source, problem] of REFUSED) {
  test(`${path} may not say ${source}`, () => {
    const breaches = architectureBreaches(path, source);
    assert.match(breaches.join("\n"), problem);
  });
}

test("readSource() sees imports over several lines, and none in comments, strings and templates", () => {
  const source = `
    import a, {
      b, // from "not/this.ts"
      type C,
    } from "./one.ts";
    /* import d from "./not_this.ts"; */
    import "./two.ts";
    export type { E } from './three.ts';
    const text = "import f from './not_this.ts'";
    const template = \`import g from "./not_this.ts" \${ { h: await import("./four.ts") } } export * from "./nor_this.ts"\`;
    const pattern = /["'\`]/; const half = 1 / 2; const other = a / b;
    import i from "./five.ts";
    const important = from("./not_this.ts");
  `;
  assert.deepEqual(readSource(source).specifiers, [
    "./one.ts",
    "./two.ts",
    "./three.ts",
    "./four.ts",
    "./five.ts",
  ]);
});
