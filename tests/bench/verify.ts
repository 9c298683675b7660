/**
 * `verify` beside `pg_waldump -q`: the same WAL, the same run, half of it a bulk load and half `pgbench -N`.
 *
 * Run by `deno task bench verify [plain|zstd|lz4|gzip]…`; runs are taken in rounds, in an order that turns, and medians are
 * told. `WALVAULT_BENCH_PAIRS` and `WALVAULT_BENCH_MEGABYTES` shorten it.
 */
import { Buffer } from "node:buffer";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { type CompressionFormat, FORM_OF_FORMAT, PieceCompressor } from "../../lib/archive/compression.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { type Cluster, startCluster } from "../postgres/cluster.ts";
import { findProgram } from "../postgres/servers.ts";
import { type Cost, formatTable, median, watch } from "./measure.ts";
import { turned } from "./receive.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const PROGRAM = join(ROOT, "dist", "walvault");
const MEGABYTES = Number(process.env["WALVAULT_BENCH_MEGABYTES"] ?? "2048");
const ROUNDS = Number(process.env["WALVAULT_BENCH_PAIRS"] ?? "7");
const SEGMENT_BYTES = 16 * 1024 * 1024;
const MAJOR = 15;
const CLIENTS = 8;

interface Contender {
  readonly name: string;
  readonly command: readonly string[];
}

/** WAL that is half bulk load and half small transactions; resolves to the first and the last whole segment. */
export async function makeMixedWal(
  primary: Cluster,
  megabytes: number,
): Promise<{ readonly first: string; readonly last: string }> {
  const pgbench = findProgram(primary.programs, "pgbench");
  if (pgbench === undefined) throw new Error(`PostgreSQL ${primary.major} came without pgbench`);
  const runPgbench = (...options: readonly string[]) => {
    const run = spawnSync(pgbench, [...options, primary.conninfo({ dbname: "postgres" })], {
      encoding: "utf8",
      env: { PATH: "/usr/bin:/bin" },
    });
    if (run.status !== 0) throw new Error(`pgbench failed: ${run.stderr}`);
  };
  const end = () => primary.value("SELECT pg_current_wal_lsn()");
  const since = async (start: string) =>
    Number(await primary.value(`SELECT pg_current_wal_lsn() - '${start}'`)) / 2 ** 20;
  runPgbench("--initialize", "--quiet", "--scale=20");
  await primary.sql("CHECKPOINT");
  await primary.sql("SELECT pg_switch_wal()");
  const first = await primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
  for (let start = await end(), round = 0; await since(start) < megabytes / 2; round++) {
    await primary.sql(`DROP TABLE IF EXISTS load;
      CREATE TABLE load AS SELECT g AS id, md5(g::text || '${round}') AS text, repeat('x', 60) AS filler FROM generate_series(1, 400000) g;
      CREATE INDEX ON load (id)`);
  }
  for (const start = await end(); await since(start) < megabytes / 2;) {
    runPgbench("--skip-some-updates", "--no-vacuum", `--client=${CLIENTS}`, "--jobs=2", "--time=10");
  }
  const last = await primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
  await primary.sql("SELECT pg_switch_wal()");
  return { first, last };
}

function makeArchive(path: string, primary: Cluster, names: readonly string[], form: string): void {
  fs.mkdirSync(join(path, "inprogress"), { recursive: true });
  for (const name of names) {
    const bytes = fs.readFileSync(join(primary.dataDirectory, "pg_wal", name));
    if (form === "plain") fs.writeFileSync(join(path, name), bytes);
    else {
      const format = form as CompressionFormat;
      const compressor = new PieceCompressor({ format, level: 1 });
      const compressed = Buffer.concat([...compressor.push(bytes), ...compressor.end()]);
      fs.writeFileSync(join(path, name + FORM_OF_FORMAT[format]), compressed);
    }
  }
}

function contendersOf(
  { archive, form, range, waldump }: {
    readonly archive: string;
    readonly form: string;
    readonly range: { readonly first: string; readonly last: string };
    readonly waldump: string;
  },
): readonly Contender[] {
  const verify = (name: string, program: readonly string[], ...options: readonly string[]) => ({
    name: `${name}, ${form}`,
    command: [...program, "verify", "--quiet", `--archive=${archive}`, ...options],
  });
  const deno = [process.execPath, "run", "--allow-all", join(ROOT, "cli.ts")];
  return [
    ...(form === "plain"
      ? [{
        name: "pg_waldump -q",
        command: [waldump, "--quiet", `--path=${archive}`, range.first, range.last],
      }]
      : []),
    verify("walvault, compiled, 1 job", [PROGRAM], "--jobs=1"),
    verify("walvault, compiled, 2 jobs", [PROGRAM], "--jobs=2"),
    verify("walvault, Deno, 1 job", deno, "--jobs=1"),
    verify("walvault, Deno, 2 jobs", deno, "--jobs=2"),
  ];
}

/** Runs it, on the forms that are named, or on plain files and zstd. */
export async function benchVerify(parts: readonly string[]): Promise<void> {
  if (!fs.existsSync(PROGRAM)) {
    throw new Error('Cannot compare: dist/walvault is not built; run "deno task compile:bun" first');
  }
  const forms = parts.length === 0 ? ["plain", "zstd"] : parts;
  for (const form of forms) {
    if (["plain", "zstd", "lz4", "gzip"].includes(form)) continue;
    throw new Error(`Cannot run benchmark "verify ${form}": want plain, zstd, lz4 or gzip`);
  }
  process.stdout.write(
    `${cpus().length} x ${cpus()[0]?.model}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, ${tmpdir()}\n`,
  );
  await using primary = await startCluster({
    major: MAJOR,
    settings: {
      fsync: "off",
      max_wal_size: "20GB",
      wal_keep_size: "20GB",
      shared_buffers: "256MB",
      checkpoint_timeout: "1h",
    },
  });
  const waldump = findProgram(primary.programs, "pg_waldump");
  if (waldump === undefined) throw new Error("Cannot compare: PostgreSQL 15 came without pg_waldump");
  const range = await makeMixedWal(primary, MEGABYTES);
  const systemIdentifier = BigInt(await primary.value("SELECT system_identifier FROM pg_control_system()"));
  const names = primary.walFiles().filter((name) => name >= range.first && name <= range.last);
  await primary.stop();
  const bytes = names.length * SEGMENT_BYTES;
  const runs = new Map<string, Cost[]>();
  const contenders = forms.flatMap((form) => {
    const archive = join(primary.directory, form);
    makeArchive(archive, primary, names, form);
    const identity = { systemIdentifier, segmentSize: segmentSize(SEGMENT_BYTES) };
    fs.writeFileSync(join(archive, "archive.json"), encodeIdentity(identity));
    return contendersOf({ archive, form, range, waldump });
  });
  for (let round = -1; round < ROUNDS; round++) {
    for (const { name, command } of turned(contenders, Math.max(0, round))) {
      const cost = await watch(command).end;
      if (cost.exitCode !== 0) throw new Error(`Cannot compare: ${name} exited with ${cost.exitCode}`);
      if (round >= 0) runs.set(name, [...runs.get(name) ?? [], cost]); // the first ones warm the cache
    }
  }
  const base = runs.get("pg_waldump -q");
  const rows = contenders.map(({ name }) => {
    const costs = runs.get(name) ?? [];
    const rate = (select: (cost: Cost) => number) =>
      median(costs.map((cost) => bytes / 1e6 / select(cost))).toFixed(0);
    return [
      name,
      rate(({ seconds }) => seconds),
      rate(({ cpuSeconds }) => cpuSeconds),
      base === undefined
        ? ""
        : median(costs.map(({ seconds }, index) => base[index]!.seconds / seconds)).toFixed(2),
      (Math.max(...costs.map(({ peakBytes }) => peakBytes)) / 1e6).toFixed(0),
    ];
  });
  process.stdout.write(
    `\n${names.length} segments of 16 MiB, half bulk load, half pgbench -N; medians of ${ROUNDS} rounds, ratios of rounds\n\n`,
  );
  process.stdout.write(
    formatTable(["program", "MB/s", "MB per CPU second", "times pg_waldump", "peak MB"], rows),
  );
}
