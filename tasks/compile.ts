/**
 * One executable with Deno: `deno task compile`, or `deno task compile:sandboxed --archive DIR [--read PATH]…`.
 *
 * The plain one may use the network, files and its environment, and start systemd-notify, but load no library, import no
 * code and start nothing else. The sandboxed one can write below DIR and nowhere else, whatever options or bugs it meets, and read nothing but
 * DIR and the PATHs. What is baked in can't be widened when it is run. `--output FILE` puts it elsewhere than dist/walvault.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, renameSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { denoCommand } from "./install_locked.ts";
import { permissionOptions, type Reach } from "./permissions.ts";
import { THREAD_MODULES } from "./threads.ts";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const { values } = parseArgs({
  options: {
    sandboxed: { type: "boolean", default: false },
    archive: { type: "string" },
    read: { type: "string", multiple: true, default: [] },
    output: { type: "string", default: join(ROOT, "dist", "walvault") },
  },
});

if (values.sandboxed !== (values.archive !== undefined)) {
  process.stderr.write("Cannot compile: --archive DIR belongs to compile:sandboxed, and it to that\n");
  process.exitCode = 2;
} else {
  const startedIn = process.env["INIT_CWD"] ?? process.cwd(); // where `deno task` was called
  const at = (path: string) => resolve(startedIn, path);
  const reach: Reach = values.archive === undefined
    ? {}
    : { archive: at(values.archive), readable: values.read.map(at) };
  const output = at(values.output);
  mkdirSync(dirname(output), { recursive: true });
  // Beside it first: a compile that fails must not take away the program that is there.
  const fresh = `${output}.new`;
  const [command, ...first] = denoCommand();
  const threads = THREAD_MODULES.flatMap((path) => ["--include", path]);
  const options = [
    "compile",
    "--frozen",
    ...permissionOptions(reach),
    ...threads,
    "--output",
    fresh,
    "cli.ts",
  ];
  process.exitCode = spawnSync(command, [...first, ...options], { cwd: ROOT, stdio: "inherit" }).status ?? 1;
  if (process.exitCode === 0) renameSync(fresh, output);
  else rmSync(fresh, { force: true });
}
