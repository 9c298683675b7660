/** `walvault fetch` as the restore_command of real servers. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { randomUUID } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseHistory } from "../../lib/wal/history.ts";
import type { Lsn } from "../../lib/wal/lsn.ts";
import { historyFileName, timelineId } from "../../lib/wal/timeline.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { type BackupCopy, Cluster, type Settings } from "./cluster.ts";
import { until, type WorkDirectory } from "./receiver.ts";
import { findServerPrograms, serverAccount, TEST_MAJOR } from "./servers.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

let built: string | undefined;

/**
 * One executable that the server's account can run: a checkout and Deno's cache may be closed for it.
 *
 * Built once: for all that `tasks/test.ts` starts, in the directory that it names in `WALVAULT_TEST_BUILD`; else in a
 * process, and removed with it. `WALVAULT_EXECUTABLE` with a path takes its place.
 */
export function executable(): string {
  const given = process.env["WALVAULT_EXECUTABLE"];
  if (given !== undefined && given.includes("/")) return given;
  if (built !== undefined) return built;
  const shared = process.env["WALVAULT_TEST_BUILD"];
  const directory = shared ?? fs.mkdtempSync(join(tmpdir(), "wv-executable-"));
  if (shared === undefined) removeAfterUs(directory);
  fs.chmodSync(directory, 0o755);
  const finished = join(directory, "walvault");
  if (fs.existsSync(finished)) return built = finished;
  // Others may build it as well just now: it gets its name when it is whole.
  const path = join(directory, `walvault-${randomUUID()}`);
  const [command, ...first] = denoCommand();
  const words = [...first, "run", "--allow-all", join("tasks", "compile_bun.ts"), `--output=${path}`];
  const run = spawnSync(command, words, { cwd: ROOT, encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  fs.chmodSync(path, 0o755);
  fs.renameSync(path, finished);
  return built = finished;
}

/** A shell that sees the end of the pipe that only we hold: test runners run no handlers at their end. */
function removeAfterUs(directory: string): void {
  const words = ["-c", 'read -r _; rm -rf "$1"', "sh", directory];
  const shell = spawn("sh", words, { cwd: "/", stdio: ["pipe", "ignore", "ignore"], detached: true });
  shell.unref();
}

/** The setting; `options` stand before the two names. */
export function restoreCommand(archive: string, options: readonly string[] = []): string {
  return [executable(), "fetch", `--archive=${archive}`, ...options, "%f", "%p"].join(" ");
}

/** A new directory for an archive that the server's account may read, whoever writes it. */
export function readableArchive(directory: WorkDirectory, name = "archive"): string {
  const path = directory.archive(name);
  const account = serverAccount();
  if (account === undefined) return path;
  fs.chownSync(path, process.getuid!(), account.gid);
  // What is made in it belongs to the directory's group, and its own mode decides for all below it.
  fs.chmodSync(path, 0o2750);
  return path;
}

/** Lets the server's account read a file of the archive that a test has put there. */
export function makeReadable(path: string): void {
  fs.chmodSync(path, 0o644);
}

/** How a server is to be recovered. */
export interface Recovery {
  readonly backup: BackupCopy;
  readonly restoreCommand: string;
  /** `TEST_MAJOR` by default. */
  readonly major?: number;
  readonly signal?: "recovery.signal" | "standby.signal";
  readonly settings?: Settings;
  /** Changes the data directory before the start. */
  readonly prepare?: (dataDirectory: string) => void;
}

/** A server that recovers from a base copy and an archive; started, if it comes up. */
export class RecoveringServer {
  private constructor(readonly cluster: Cluster) {}

  static async start(recovery: Recovery): Promise<RecoveringServer> {
    const programs = findServerPrograms(recovery.major ?? TEST_MAJOR);
    const directory = fs.mkdtempSync(join(fs.realpathSync(tmpdir()), "wv-"));
    const cluster = new Cluster(programs, directory, {
      from: recovery.backup.directory,
      signal: recovery.signal ?? "recovery.signal",
      settings: {
        restore_command: recovery.restoreCommand,
        wal_retrieve_retry_interval: "200ms",
        ...recovery.settings,
      },
    });
    const server = new RecoveringServer(cluster);
    try {
      await cluster.make();
      recovery.prepare?.(cluster.dataDirectory);
      // A server that can't recover ends before it takes connections.
      await cluster.start().catch(() => {});
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
    return server;
  }

  get log(): string {
    return this.cluster.log();
  }

  /** How often a command of the server has said this. */
  countInLog(text: string): number {
    return this.log.split(text).length - 1;
  }

  async recovered(): Promise<void> {
    await until("the end of recovery", async () => {
      if (this.cluster.pid === undefined) throw new Error(`The server ended\n${this.log}`);
      return await this.cluster.value("SELECT pg_is_in_recovery()::text") === "false";
    });
  }

  async ended(): Promise<void> {
    await until("the server's end", () => this.cluster.pid === undefined);
  }

  get isUp(): boolean {
    return this.cluster.pid !== undefined;
  }

  #wal(name: string): string {
    return join(this.cluster.dataDirectory, "pg_wal", name);
  }

  /** It did not become a primary, and asks for recovery again at its next start. */
  assertNotPromoted(signal = "recovery.signal"): void {
    const names = fs.readdirSync(this.#wal(""));
    assert.deepEqual(
      names.filter((name) => /^(0000000[2-9]\.history|0000000[2-9][0-9A-F]{16})/.test(name)),
      [],
    );
    assert.ok(fs.existsSync(join(this.cluster.dataDirectory, signal)), `${signal} is gone`);
    assert.doesNotMatch(this.log, /selected new timeline ID|archive recovery complete/);
  }

  /** Where it left its old timeline. */
  switchPoint(timeline: number): Lsn {
    const bytes = fs.readFileSync(this.#wal(historyFileName(timelineId(timeline))));
    return parseHistory(timelineId(timeline), bytes).entries.at(-1)!.endLsn;
  }

  /** Nothing of ours is left in its pg_wal. */
  assertClean(): void {
    assert.deepEqual(fs.readdirSync(this.#wal("")).filter((name) => /tmp|RECOVERY/.test(name)), []);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.cluster.destroy();
  }
}
