/**
 * One executable with Bun: `deno task compile:bun [--output FILE]`, by default dist/walvault.
 *
 * It starts in a quarter of the time of Deno's and needs half its memory, but has no sandbox of its own. Bytecode is
 * for the start; without the two `autoload` options the program would run code from a `bunfig.toml` and take settings
 * from a `.env` in whatever directory it is started.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { bunPath } from "./bun.ts";
import { THREAD_MODULES } from "./threads.ts";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const { values } = parseArgs({
  options: { output: { type: "string", default: join(ROOT, "dist", "walvault") } },
});
const output = resolve(process.env["INIT_CWD"] ?? process.cwd(), values.output);
mkdirSync(dirname(output), { recursive: true });
const options = [
  "build",
  "cli.ts",
  ...THREAD_MODULES,
  "--compile",
  "--minify",
  "--bytecode",
  "--format=esm",
  "--splitting", // what `receive` alone needs, TLS above all, is not loaded for `--version`
  "--no-compile-autoload-dotenv",
  "--no-compile-autoload-bunfig",
  // Less memory for a little processor time: a small heap, and a garbage collector that the program can call.
  "--compile-exec-argv=--smol --expose-gc",
  `--outfile=${output}`,
];
process.exitCode = spawnSync(bunPath(), options, { cwd: ROOT, stdio: "inherit" }).status ?? 1;
