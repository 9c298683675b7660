/**
 * The program as one JavaScript file and a starter, for the container image: `tasks/bundle.ts --archive DIR [--read PATH]… --output DIR`.
 *
 * Writes OUTPUT/walvault.js, the modules of its threads below OUTPUT/lib, and OUTPUT/walvault. The starter is a shell script that runs the one beside it under Deno,
 * with the same permissions that `deno task compile:sandboxed --archive DIR` bakes in.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { denoCommand } from "./install_locked.ts";
import { permissionOptions } from "./permissions.ts";
import { THREAD_MODULES } from "./threads.ts";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const { values } = parseArgs({
  options: {
    archive: { type: "string" },
    read: { type: "string", multiple: true, default: [] },
    output: { type: "string", default: join(ROOT, "dist") },
  },
});
if (values.archive === undefined) throw new Error("Cannot bundle: --archive DIR is not given");

const output = resolve(values.output);
mkdirSync(output, { recursive: true });
const script = join(output, "walvault.js");
bundle("cli.ts", script);
// Threads find their modules beside the script, where they are in the source.
for (const path of THREAD_MODULES) bundle(path, join(output, path.replace(/\.ts$/, ".js")));

function bundle(entry: string, target: string): void {
  mkdirSync(dirname(target), { recursive: true });
  const [command, ...first] = denoCommand();
  const options = ["bundle", "--frozen", "--quiet", "--output", target, entry];
  const { status } = spawnSync(command, [...first, ...options], { cwd: ROOT, stdio: "inherit" });
  if (status !== 0) throw new Error(`Cannot bundle ${entry}`);
}

const readable = [join(output, "lib"), ...values.read.map((path) => resolve(path))];
const reach = { archive: resolve(values.archive), readable };
const quoted = [...permissionOptions(reach), script].map((word) => `'${word.replaceAll("'", "'\\''")}'`);
const starter = `#!/bin/sh\nexec deno run --no-code-cache --no-config --no-lock ${quoted.join(" ")} "$@"\n`;
writeFileSync(join(output, "walvault"), starter, { mode: 0o755 });
