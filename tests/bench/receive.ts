/**
 * `receive` beside `pg_receivewal` of PostgreSQL 15: the same server, the same WAL, the same run.
 *
 * Run by `deno task bench receive [catchup|tps|idle]…`; each pair is taken one after the other, in an order that
 * turns, and medians are told. `WALVAULT_BENCH_PAIRS`, `WALVAULT_BENCH_SECONDS` and `WALVAULT_BENCH_MEGABYTES` shorten it.
 */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Cluster, startCluster } from "../postgres/cluster.ts";
import { findProgram } from "../postgres/servers.ts";
import { type Cost, formatTable, median, programPid, stop, watch } from "./measure.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
/** How much WAL is caught up. */
export const MEGABYTES = Number(process.env["WALVAULT_BENCH_MEGABYTES"] ?? "2048");
const CATCHUP_PAIRS = Number(process.env["WALVAULT_BENCH_PAIRS"] ?? "5");
const TPS_PAIRS = Number(process.env["WALVAULT_BENCH_PAIRS"] ?? "9");
const TPS_SECONDS = Number(process.env["WALVAULT_BENCH_SECONDS"] ?? "10");
const IDLE_SECONDS = Number(process.env["WALVAULT_BENCH_SECONDS"] ?? "600");
const CLIENTS = [1, 8, 32];
/** It ends this much later than it was told to, at most. */
const PGBENCH_SPARE_SECONDS = 60;
/** The unit of `/proc/PID/stat`, on every Linux in use. */
const TICKS_PER_SECOND = 100;

interface Contender {
  readonly name: string;
  /** Catches up to `endLsn`, everything synced, and ends. */
  catchUp(primary: Cluster, directory: string, endLsn: string): readonly string[];
  /** Stays as a synchronous standby. */
  stay(primary: Cluster, directory: string): readonly string[];
}

/** The slot that each contender starts from. */
export const SLOT = "bench";
const APPLICATION = "bench_receiver";

function contenders(primary: Cluster): readonly Contender[] {
  const original = findProgram(primary.programs, "pg_receivewal");
  if (original === undefined) throw new Error("Cannot compare: PostgreSQL 15 came without pg_receivewal");
  const common = (cluster: Cluster) => cluster.conninfo({ application_name: APPLICATION });
  const ours = (name: string, program: readonly string[]): Contender => {
    const receive = (cluster: Cluster, directory: string) => [
      ...program,
      "receive",
      "--quiet",
      `--connection=${common(cluster)}`,
      `--archive=${directory}`,
      `--slot=${SLOT}`,
    ];
    return {
      name,
      catchUp: (
        cluster,
        directory,
        endLsn,
      ) => [...receive(cluster, directory), `--endpos=${endLsn}`, "--no-loop"],
      stay: receive,
    };
  };
  const pgReceivewal = (cluster: Cluster, directory: string) => [
    original,
    `--directory=${directory}`,
    `--dbname=${common(cluster)}`,
    `--slot=${SLOT}`,
  ];
  return [
    {
      name: "pg_receivewal",
      catchUp: (
        cluster,
        directory,
        endLsn,
      ) => [...pgReceivewal(cluster, directory), `--endpos=${endLsn}`, "--no-loop"],
      stay: (cluster, directory) => [...pgReceivewal(cluster, directory), "--synchronous"],
    },
    ours("walvault, compiled", [join(ROOT, "dist", "walvault")]),
    ours("walvault, Deno", [process.execPath, "run", "--allow-all", join(ROOT, "cli.ts")]),
  ];
}

/** The contenders in an order that turns by one each round. */
export function turned<T>(list: readonly T[], round: number): readonly T[] {
  return list.map((_, index) => list[(index + round) % list.length] as T);
}

/** Gives `use` an empty directory, and removes it with all that came into it. */
export async function withDirectory<T>(parent: string, use: (directory: string) => Promise<T>): Promise<T> {
  const directory = fs.mkdtempSync(join(parent, "archive-"));
  try {
    return await use(directory);
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

/** Puts the contenders' slot back to where the WAL begins. */
export async function freshSlot(primary: Cluster): Promise<void> {
  await primary.sql(
    `SELECT pg_drop_replication_slot('${SLOT}') FROM pg_replication_slots WHERE slot_name = '${SLOT}'`,
  );
  await primary.sql(`SELECT pg_copy_physical_replication_slot('keep', '${SLOT}')`);
}

/** Makes WAL as a loaded server would: inserts, updates with full-page images, an index. Returns its end. */
export async function makeWal(primary: Cluster): Promise<string> {
  await primary.sql("SELECT pg_create_physical_replication_slot('keep', true)");
  const written = async () =>
    Number(
      await primary.value(
        "SELECT pg_current_wal_lsn() - restart_lsn FROM pg_replication_slots WHERE slot_name = 'keep'",
      ),
    );
  for (let round = 0; await written() < MEGABYTES * 1024 * 1024; round++) {
    await primary.sql(`DROP TABLE IF EXISTS load;
      CREATE TABLE load AS SELECT g AS id, md5(g::text || '${round}') AS text, repeat('x', 60) AS filler FROM generate_series(1, 400000) g;
      CREATE INDEX ON load (id); UPDATE load SET filler = 'y' WHERE id % 4 = 0; CHECKPOINT`);
  }
  await primary.sql("SELECT pg_switch_wal()");
  return await primary.value("SELECT pg_current_wal_lsn()");
}

/** A server with WAL to catch up with: it keeps all of it, and makes it as fast as it can. */
export function startCatchUpPrimary(): Promise<Cluster> {
  return startCluster({
    major: 15,
    settings: {
      fsync: "off",
      max_wal_size: "20GB",
      wal_keep_size: "10GB",
      shared_buffers: "256MB",
      checkpoint_timeout: "1h",
    },
  });
}

/** Nothing is to be written back, and the WAL is in memory: no contender pays for the one before. */
export function warm(primary: Cluster): void {
  spawnSync("sync");
  const directory = join(primary.dataDirectory, "pg_wal");
  for (const name of primary.walFiles()) fs.readFileSync(join(directory, name));
}

function directoryBytes(directory: string): number {
  return fs.readdirSync(directory).filter((name) => /^[0-9A-F]{24}$/.test(name)).length * 16 * 1024 * 1024;
}

async function benchCatchUp(): Promise<void> {
  await using primary = await startCatchUpPrimary();
  const endLsn = await makeWal(primary);
  const list = contenders(primary);
  const costs = new Map<string, (Cost & { megabytesPerSecond: number; cpuPerGigabyte: number })[]>();
  for (let pair = 0; pair < CATCHUP_PAIRS; pair++) {
    for (const contender of turned(list, pair)) {
      await freshSlot(primary);
      warm(primary);
      await withDirectory(primary.directory, async (directory) => {
        await using receiver = watch(contender.catchUp(primary, directory, endLsn));
        const cost = await receiver.end;
        const bytes = directoryBytes(directory);
        if (cost.exitCode !== 0 || bytes < MEGABYTES * 1024 * 1024) {
          throw new Error(
            `Cannot compare: ${contender.name} exited with ${cost.exitCode} after ${bytes} bytes`,
          );
        }
        const run = {
          ...cost,
          megabytesPerSecond: bytes / 1e6 / cost.seconds,
          cpuPerGigabyte: cost.cpuSeconds / (bytes / 1e9),
        };
        costs.set(contender.name, [...costs.get(contender.name) ?? [], run]);
      });
    }
  }
  const base = costs.get("pg_receivewal") ?? [];
  const rows = [...costs].map(([name, runs]) => {
    const ratio = (of: (run: (typeof runs)[number]) => number) =>
      median(runs.map((run, index) => of(run) / of(base[index] ?? run))).toFixed(2);
    return [
      name,
      median(runs.map((run) => run.megabytesPerSecond)).toFixed(0),
      ratio((run) => run.megabytesPerSecond),
      median(runs.map((run) => run.cpuPerGigabyte)).toFixed(2),
      ratio((run) => run.cpuPerGigabyte),
      (Math.max(...runs.map((run) => run.peakBytes)) / 1e6).toFixed(0),
    ];
  });
  process.stdout.write(
    `\nCatching up ${MEGABYTES} MiB, all of it synced; medians of ${CATCHUP_PAIRS} rounds, ratios of pairs\n\n`,
  );
  process.stdout.write(formatTable(["program", "MB/s", "ratio", "CPU s/GB", "ratio", "peak MB"], rows));
}

async function becomeSynchronous(primary: Cluster): Promise<void> {
  for (let tries = 0;; tries++) {
    const state =
      "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'";
    if (await primary.value(state) === "1") return;
    if (tries > 200) throw new Error("Cannot compare: the receiver did not become a synchronous standby");
    await sleep(50);
  }
}

function pgbench(primary: Cluster, clients: number): number {
  const program = findProgram(primary.programs, "pgbench");
  if (program === undefined) throw new Error("Cannot compare: PostgreSQL 15 came without pgbench");
  const options = [
    "-N",
    "-n",
    "-c",
    String(clients),
    "-j",
    String(Math.min(2, clients)),
    "-T",
    String(TPS_SECONDS),
  ];
  const run = spawnSync(program, [
    ...options,
    "-h",
    primary.socketDirectory,
    "-p",
    String(primary.port),
    "-U",
    "postgres",
    "postgres",
  ], {
    encoding: "utf8",
    // Commits wait for ever for a receiver that is gone.
    timeout: (TPS_SECONDS + PGBENCH_SPARE_SECONDS) * 1000,
    killSignal: "SIGKILL",
  });
  const tps = /tps = ([0-9.]+)/.exec(run.stdout)?.[1];
  if (run.status !== 0 || tps === undefined) {
    const why = run.status === null ? "it did not end; the receiver confirms nothing" : run.stderr;
    throw new Error(`Cannot run pgbench: ${why}`);
  }
  return Number(tps);
}

async function benchTps(): Promise<void> {
  const rows: string[][] = [];
  for (const clients of CLIENTS) {
    await using primary = await startCluster({
      major: 15,
      settings: { fsync: "on", shared_buffers: "256MB", max_wal_size: "4GB", synchronous_commit: "on" },
    });
    const init = findProgram(primary.programs, "pgbench") ?? "pgbench";
    spawnSync(init, [
      "-i",
      "-q",
      "-s",
      "10",
      "-h",
      primary.socketDirectory,
      "-p",
      String(primary.port),
      "-U",
      "postgres",
      "postgres",
    ]);
    await primary.sql("SELECT pg_create_physical_replication_slot('keep', true)");
    const list = contenders(primary);
    const results = new Map<string, number[]>();
    for (let pair = 0; pair < TPS_PAIRS; pair++) {
      for (const contender of turned(list, pair)) {
        await primary.sql(`SELECT pg_replication_slot_advance('keep', pg_current_wal_lsn())`);
        await freshSlot(primary);
        await withDirectory(primary.directory, async (directory) => {
          await using receiver = watch(contender.stay(primary, directory));
          await primary.configure({ synchronous_standby_names: APPLICATION });
          await becomeSynchronous(primary);
          results.set(contender.name, [...results.get(contender.name) ?? [], pgbench(primary, clients)]);
          await primary.configure({ synchronous_standby_names: "" });
          await stop(receiver);
        });
      }
    }
    const base = results.get("pg_receivewal") ?? [];
    for (const [name, tps] of results) {
      const ratio = median(tps.map((value, index) => value / (base[index] ?? value)));
      rows.push([String(clients), name, median(tps).toFixed(0), ratio.toFixed(2)]);
    }
  }
  process.stdout.write(
    `\npgbench -N with a synchronous standby, ${TPS_SECONDS} s each; medians of ${TPS_PAIRS} rounds, ratios of pairs\n\n`,
  );
  process.stdout.write(formatTable(["clients", "standby", "TPS", "ratio"], rows));
}

function residentBytes(pid: number): number {
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+([0-9]+) kB/.exec(status)?.[1] ?? "0") * 1024;
}

function processorTicks(pid: number): number {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return fields.slice(11, 13).reduce((sum, ticks) => sum + Number(ticks), 0);
}

async function watchIdle(index: number): Promise<readonly string[]> {
  await using primary = await startCluster({ major: 15, settings: { checkpoint_timeout: "1h" } });
  await primary.sql("SELECT pg_create_physical_replication_slot('keep', true)");
  const contender = contenders(primary)[index];
  if (contender === undefined) throw new RangeError(`Cannot find contender ${index}`);
  await freshSlot(primary);
  return await withDirectory(primary.directory, async (directory) => {
    await using receiver = watch(contender.stay(primary, directory));
    await sleep(Math.min(30_000, IDLE_SECONDS * 100));
    const pid = programPid(receiver.child);
    if (pid === undefined) throw new Error(`Cannot watch ${contender.name}: it is not there`);
    const before = { ticks: processorTicks(pid), bytes: residentBytes(pid) };
    await sleep(IDLE_SECONDS * 1000);
    const after = { ticks: processorTicks(pid), bytes: residentBytes(pid) };
    await stop(receiver);
    const percent = (after.ticks - before.ticks) / TICKS_PER_SECOND / IDLE_SECONDS * 100;
    const growth = (after.bytes - before.bytes) / 1e6 * 3600 / IDLE_SECONDS;
    return [contender.name, percent.toFixed(2), (after.bytes / 1e6).toFixed(1), growth.toFixed(1)];
  });
}

/** All at once, each on a server of its own: they do nothing that could be in another's way. */
async function benchIdle(): Promise<void> {
  const rows = await Promise.all([0, 1, 2].map(watchIdle));
  process.stdout.write(`\nIdle for ${IDLE_SECONDS} s; growth extrapolated to an hour\n\n`);
  process.stdout.write(formatTable(["program", "% of a core", "RSS MB", "growth MB/h"], rows));
}

const BENCHMARKS: Readonly<Record<string, () => Promise<void>>> = {
  catchup: benchCatchUp,
  tps: benchTps,
  idle: benchIdle,
};

/** Runs the named benchmarks, or all. */
export async function benchReceive(names: readonly string[]): Promise<void> {
  if (!fs.existsSync(join(ROOT, "dist", "walvault"))) {
    throw new Error('Cannot compare: dist/walvault is not built; run "deno task compile:bun" first');
  }
  process.stdout.write(
    `${cpus().length} x ${cpus()[0]?.model}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, ${tmpdir()}\n`,
  );
  for (const name of names.length === 0 ? Object.keys(BENCHMARKS) : names) {
    const benchmark = BENCHMARKS[name];
    if (benchmark === undefined) {
      throw new Error(`Cannot run benchmark "${name}": want ${Object.keys(BENCHMARKS).join(", ")}`);
    }
    await benchmark();
  }
}
