/** The Bun this project is tested and compiled with. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { installLocked } from "./install_locked.ts";

/**
 * The path of the pinned Bun, installed at the first call; on other machines `bun` from the `PATH`.
 *
 * Not by `npx bun`: the lock file beside its `deno.json` holds what we run to its checksum, and no install script runs.
 */
export function bunPath(): string {
  const directory = join(
    dirname(fileURLToPath(import.meta.url)),
    "bun",
    `${process.platform}-${process.arch}`,
  );
  if (!existsSync(directory)) return "bun";
  const name = process.arch === "arm64" ? "bun-linux-aarch64" : "bun-linux-x64";
  const path = join(directory, "node_modules", "@oven", name, "bin", "bun");
  if (!existsSync(path)) installLocked(directory);
  return path;
}
