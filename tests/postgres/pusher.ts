/** `walvault push` and `init` for tests against real servers: by the server itself, and by hand. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import type { Cluster } from "./cluster.ts";
import { ArchiveFiles, type ProgramRun, programWords, until, type WorkDirectory } from "./receiver.ts";
import { executable } from "./restorer.ts";
import { serverAccount } from "./servers.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** What a run of the program ended with. */
export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function environment(): Record<string, string> {
  const own = Object.entries(process.env).filter((entry): entry is [string, string] =>
    entry[1] !== undefined && !entry[0].startsWith("PG") && !entry[0].startsWith("WALVAULT_A")
  );
  return { ...Object.fromEntries(own), NO_COLOR: "1" };
}

/** Runs the program under test, as whoever runs the tests. */
export function walvault(words: readonly string[], options: { readonly cwd?: string } = {}): Outcome {
  const [command = "", ...first] = programWords();
  const { status, stdout, stderr } = spawnSync(command, [...first, ...words], {
    cwd: options.cwd ?? ROOT,
    encoding: "utf8",
    env: environment(),
  });
  return { code: status, stdout, stderr };
}

/** The executable, as the server's account runs it. */
export function serverRun(): ProgramRun {
  return { executable: executable(), account: serverAccount() };
}

/** Runs the executable as the server's account, in a data directory. */
export function pushAsServer(cluster: Cluster, archive: ArchiveFiles, path: string): Outcome {
  const { executable, account } = serverRun();
  const words = ["push", `--archive=${archive.directory}`, path];
  const { status, stdout, stderr } = spawnSync(executable, words, {
    ...account,
    cwd: cluster.dataDirectory,
    encoding: "utf8",
    env: { PATH: "/usr/bin:/bin" },
  });
  return { code: status, stdout, stderr };
}

/** Starts a push as the server would; the caller waits for its end, or kills it. */
export function startPush(cluster: Cluster, archive: ArchiveFiles, path: string) {
  const { executable, account } = serverRun();
  const child = spawn(executable, ["push", `--archive=${archive.directory}`, path], {
    ...account,
    cwd: cluster.dataDirectory,
    env: { PATH: "/usr/bin:/bin" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let stderr = "";
  child.stderr!.setEncoding("utf8").on("data", (text: string) => stderr += text);
  const end = new Promise<{ readonly code: number | null; readonly stderr: string }>((resolve) =>
    child.once("close", (code) => resolve({ code, stderr }))
  );
  return { child, end };
}

/** A new archive for the server, made by its own account. */
export function initArchive(directory: WorkDirectory, cluster: Cluster, segmentBytes: number): ArchiveFiles {
  const path = directory.archive();
  const { executable, account } = serverRun();
  if (account !== undefined) fs.chownSync(path, account.uid, account.gid);
  const words = ["init", "--quiet", `--archive=${path}`, `--connection=${cluster.conninfo()}`];
  const run = spawnSync(executable, words, {
    ...account,
    cwd: "/",
    encoding: "utf8",
    env: { PATH: "/usr/bin:/bin" },
  });
  assert.deepEqual({ code: run.status, stderr: run.stderr }, { code: 0, stderr: "" });
  return new ArchiveFiles(path, segmentBytes);
}

/** The server's setting that archives with `push`. */
export function archiveCommand(archive: ArchiveFiles, options: readonly string[] = []): string {
  return [serverRun().executable, "push", `--archive=${archive.directory}`, ...options, "%p"].join(" ");
}

/** Waits until the server has archived everything up to its last switch. */
export async function archived(cluster: Cluster): Promise<void> {
  const status = join(cluster.dataDirectory, "pg_wal", "archive_status");
  await until("the end of archiving", () => !fs.readdirSync(status).some((name) => name.endsWith(".ready")));
}
