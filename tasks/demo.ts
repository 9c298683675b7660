/**
 * The main job, shown on a real PostgreSQL: stream, kill the primary, restore, and count what was acknowledged.
 *
 * `deno task demo`; `WALVAULT_DEMO_SECONDS` sets how long the workload runs. Exits with 1 if a commit is missing.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Cluster, startCluster } from "../tests/postgres/cluster.ts";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const CLIENTS = 4;
const SECONDS = Number(process.env["WALVAULT_DEMO_SECONDS"] ?? "10");
/** A commit's row is as large as this, so that the demo fills some segments. */
const PAYLOAD_BYTES = 2000;
const RECOVERY_TIMEOUT_MS = 30_000;

const started = performance.now();

function say(text: string): void {
  const seconds = ((performance.now() - started) / 1000).toFixed(1).padStart(5);
  process.stdout.write(`${seconds} s  ${text}\n`);
}

/** One line that is written over on a terminal, and once a second elsewhere. */
function progress(text: string): void {
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K         ${text}`);
  else process.stdout.write(`         ${text}\n`);
}

/** What clients were told: these ids are committed, whatever happens. */
class Ledger {
  readonly acknowledged = new Set<string>();
  #running = true;

  stop(): void {
    this.#running = false;
  }

  /** One client: commits row after row until it is stopped or the server is gone. */
  async run(primary: Cluster, client: number): Promise<void> {
    const sql = primary.connect({ fetch_types: false });
    try {
      for (let n = 0; this.#running; n++) {
        const id = `${client}-${n}`;
        // Random, so that it stays as large in WAL as it is.
        await sql.unsafe("INSERT INTO demo VALUES ($1, $2)", [
          id,
          randomBytes(PAYLOAD_BYTES / 2).toString("hex"),
        ]);
        this.acknowledged.add(id);
      }
    } catch {
      // The server was killed under us: that commit was not acknowledged, and nobody promised it.
    } finally {
      await sql.end({ timeout: 1 }).catch(() => {});
    }
  }
}

function startReceiver(primary: Cluster, archive: string): ChildProcess {
  const permissions = [
    "--no-prompt",
    "--ignore-env",
    `--allow-net=${primary.host}:${primary.port}`,
    `--allow-read=${archive}`,
    `--allow-write=${archive}`,
    "--allow-sys=uid,statfs",
  ];
  const options = [
    "--connection",
    primary.conninfo(),
    "--archive",
    archive,
    "--slot",
    "walvault",
    "--create-slot",
  ];
  const command = ["run", ...permissions, join(ROOT, "cli.ts"), "receive", ...options];
  return spawn(process.execPath, command, { stdio: ["ignore", "inherit", "inherit"] });
}

async function waitUntil(what: string, done: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + RECOVERY_TIMEOUT_MS;
  while (!await done()) {
    if (performance.now() > deadline) throw new Error(`Cannot go on: ${what} did not happen in time`);
    await sleep(100);
  }
}

async function isStreaming(primary: Cluster): Promise<boolean> {
  return await primary.value("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'") === "1";
}

async function runWorkload(primary: Cluster, ledger: Ledger): Promise<void> {
  const clients = Array.from({ length: CLIENTS }, (_, client) => ledger.run(primary, client));
  for (let second = 1; second <= SECONDS; second++) {
    await sleep(1000);
    const [row] = await primary.sql<{ flush_lsn: string; behind: string }>(
      "SELECT flush_lsn, pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::text AS behind FROM pg_stat_replication",
    );
    progress(
      `${ledger.acknowledged.size} commits acknowledged, archive safe to ${row?.flush_lsn}, ${row?.behind} bytes behind`,
    );
  }
  if (process.stdout.isTTY) process.stdout.write("\n");
  say("kill -9 to the primary and all its processes, in the middle of the work");
  await primary.kill();
  ledger.stop();
  await Promise.all(clients);
}

/** The archive as a plain directory for `cp`: complete segments, and the last one as far as it came, padded with zeros. */
function layOut(archive: string, target: string): string {
  fs.mkdirSync(target, { mode: 0o755 });
  const isSegment = (name: string) => /^[0-9A-F]{24}$/.test(name);
  const complete = fs.readdirSync(archive).filter((name) => isSegment(name) || name.endsWith(".history"));
  const growing = fs.readdirSync(join(archive, "inprogress")).filter(isSegment).sort();
  const copy = (from: string, name: string) => {
    fs.copyFileSync(from, join(target, name));
    fs.chmodSync(join(target, name), 0o644);
  };
  for (const name of complete) copy(join(archive, name), name);
  for (const name of growing) if (!complete.includes(name)) copy(join(archive, "inprogress", name), name);
  return `${complete.length} complete files and the received part of ${growing[0] ?? "no segment"}`;
}

async function recoveredIds(restored: Cluster): Promise<ReadonlySet<string>> {
  await waitUntil(
    "the end of recovery",
    async () => await restored.value("SELECT pg_is_in_recovery()::text") === "false",
  );
  const rows = await restored.sql<{ id: string }>("SELECT id FROM demo");
  return new Set(rows.map((row) => row.id));
}

function table(rows: readonly (readonly [string, string])[]): string {
  const width = Math.max(...rows.map(([name]) => name.length));
  const valueWidth = Math.max(...rows.map(([, value]) => value.length));
  const line = "─".repeat(width + valueWidth + 3);
  return [
    line,
    ...rows.map(([name, value]) => ` ${name.padEnd(width)} ${value.padStart(valueWidth)}`),
    line,
    "",
  ].join("\n");
}

async function demo(directory: string): Promise<boolean> {
  const archive = join(directory, "archive");
  fs.mkdirSync(archive, { mode: 0o700 });
  say("starting a real PostgreSQL (the first time, it is downloaded)");
  await using primary = await startCluster({ settings: { fsync: "on", synchronous_commit: "on" } });
  say(
    `PostgreSQL ${await primary.value(
      "SHOW server_version",
    )} runs; copying its data directory as the base backup`,
  );
  await primary.sql(`CREATE TABLE demo (id text PRIMARY KEY, payload text NOT NULL)`);
  const receiver = startReceiver(primary, archive);
  const ended = once(receiver, "exit");
  const ledger = new Ledger();
  try {
    await waitUntil(
      "the first connection of walvault",
      async () => await primary.value("SELECT count(*) FROM pg_stat_replication") === "1",
    );
    const backup = await primary.backup(join(directory, "backup"));
    // From here on a commit is acknowledged only when walvault has it on disk.
    await primary.configure({ synchronous_standby_names: "walvault" });
    await waitUntil("walvault being the synchronous standby", () => isStreaming(primary));
    say(`walvault is the synchronous standby; ${CLIENTS} clients commit for ${SECONDS} s`);
    await runWorkload(primary, ledger);
    fs.rmSync(primary.dataDirectory, { recursive: true, force: true });
    say("the primary's data directory is destroyed: what is left is the base backup and the archive");
    receiver.kill("SIGTERM");
    await ended;

    const wal = join(directory, "restore");
    say(`restoring from the base backup and ${layOut(archive, wal)}`);
    const restoring = performance.now();
    await using restored = await startCluster({
      from: backup.directory,
      signal: "recovery.signal",
      settings: { restore_command: `cp "${wal}/%f" "%p"` },
    });
    const recovered = await recoveredIds(restored);
    const missing = [...ledger.acknowledged].filter((id) => !recovered.has(id));
    process.stdout.write(
      "\n" + table([
        ["commits acknowledged to clients", String(ledger.acknowledged.size)],
        ["of these recovered", String(ledger.acknowledged.size - missing.length)],
        ["of these missing", String(missing.length)],
        ["seconds to restore", ((performance.now() - restoring) / 1000).toFixed(1)],
        ["seconds in all", ((performance.now() - started) / 1000).toFixed(1)],
      ]),
    );
    return missing.length === 0 && ledger.acknowledged.size > 0;
  } finally {
    ledger.stop();
    receiver.kill("SIGKILL");
  }
}

const directory = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), "walvault demo ")));
fs.chmodSync(directory, 0o755);
try {
  const nothingLost = await demo(directory);
  process.stdout.write(
    nothingLost ? "Nothing acknowledged was lost.\n" : "ACKNOWLEDGED COMMITS ARE MISSING.\n",
  );
  process.exitCode = nothingLost ? 0 : 1;
} finally {
  fs.rmSync(directory, { recursive: true, force: true });
}
