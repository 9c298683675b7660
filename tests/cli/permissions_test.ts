import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { denoCommand } from "../../tasks/install_locked.ts";
import { permissionOptions } from "../../tasks/permissions.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const timeout = 60_000;

/** A server that takes connections, counts them, and closes each at once. */
async function listen() {
  let connections = 0;
  const server = createServer((socket) => {
    connections++;
    socket.destroy();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("Cannot listen");
  return {
    port: address.port,
    connections: () => connections,
    [Symbol.asyncDispose]: async () => {
      server.close();
      await once(server, "close");
    },
  };
}

/** Runs `walvault receive --no-loop` as the README's line does: under Deno, held to `allowed`. */
async function receive(
  { allowed, port, archive }: {
    readonly allowed: { readonly port: number; readonly archive: string };
    readonly port: number;
    readonly archive: string;
  },
) {
  const [command, ...first] = denoCommand();
  const options = permissionOptions({ servers: [`127.0.0.1:${allowed.port}`], archive: allowed.archive });
  const words = [
    "receive",
    "--connection",
    `host=127.0.0.1 port=${port} user=postgres sslmode=disable connect_timeout=5`,
    "--archive",
    archive,
    "--no-loop",
  ];
  const child = spawn(command, [...first, "run", ...options, join(ROOT, "cli.ts"), ...words], {
    cwd: tmpdir(), // not where a deno.json of ours could say more
    env: { ...withoutPgVariables(), NO_COLOR: "1" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => output += text);
  const [code] = await once(child, "close");
  return { code, output };
}

/** A test file that runs at the same time may have set some: they share one environment. */
function withoutPgVariables() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PG")));
}

function temporaryDirectory() {
  const path = mkdtempSync(join(tmpdir(), "wv-permissions-"));
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true }) };
}

test("receive under the README's permissions reaches its server", { timeout }, async () => {
  using directory = temporaryDirectory();
  await using server = await listen();
  const archive = join(directory.path, "archive");
  mkdirSync(archive);
  const { code, output } = await receive({
    allowed: { port: server.port, archive },
    port: server.port,
    archive,
  });
  assert.ok(server.connections() > 0, output);
  assert.equal(code, 3, output); // it is no PostgreSQL
  assert.doesNotMatch(output, /NotCapable|Requires \w+ access/, output);
});

test("receive under the README's permissions can't connect elsewhere", { timeout }, async () => {
  using directory = temporaryDirectory();
  await using server = await listen();
  const archive = join(directory.path, "archive");
  mkdirSync(archive);
  const { code, output } = await receive({ allowed: { port: 1, archive }, port: server.port, archive });
  assert.equal(server.connections(), 0);
  assert.notEqual(code, 0);
  assert.match(output, /net access/);
});

test("receive under the README's permissions can't write outside the archive", { timeout }, async () => {
  using directory = temporaryDirectory();
  await using server = await listen();
  const archive = join(directory.path, "archive");
  const other = join(directory.path, "other");
  mkdirSync(archive);
  mkdirSync(other);
  const { code, output } = await receive({
    allowed: { port: server.port, archive },
    port: server.port,
    archive: other,
  });
  assert.notEqual(code, 0);
  assert.match(output, /(read|write) access/);
  assert.deepEqual(readdirSync(other), []);
});

test("the README's deno run line grants what the tests grant, and no more", () => {
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  const line = readme.replaceAll("\\\n", " ").split("\n").find((text) =>
    /^deno run .*cli\.ts receive/.test(text)
  );
  assert.ok(line !== undefined, 'README.md has no line "deno run … cli.ts receive …"');
  const words = line.replaceAll(/["']/g, "").split(/\s+/);
  const granted = words.filter((word) => /^--(allow|deny|ignore|no-prompt)/.test(word));
  const server = granted.find((word) => word.startsWith("--allow-net="))?.slice("--allow-net=".length);
  const archive = granted.find((word) => word.startsWith("--allow-write="))?.slice("--allow-write=".length);
  assert.ok(server !== undefined && /^[^,]+:\d+$/.test(server), "one server, with its port");
  assert.ok(archive !== undefined && !archive.includes(","), "one archive");
  assert.deepEqual([...granted].sort(), [...permissionOptions({ servers: [server], archive })].sort());
});
