/**
 * `receive --compress` beside `receive` and `pg_receivewal -Z lz4`: the same server, the same WAL, the same run.
 *
 * Run by `deno task bench compress`. Each round catches up a burst with every contender, in an order that turns: the time
 * until all of it is acknowledged, and for those of ours that compress, how long the backlog lasts after that.
 */
import * as fs from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import type { Cluster } from "../postgres/cluster.ts";
import { findProgram } from "../postgres/servers.ts";
import { formatTable, median, stop, watch } from "./measure.ts";
import {
  freshSlot,
  makeWal,
  MEGABYTES,
  SLOT,
  startCatchUpPrimary,
  turned,
  warm,
  withDirectory,
} from "./receive.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const ROUNDS = Number(process.env["WALVAULT_BENCH_PAIRS"] ?? "5");
const APPLICATION = "bench_receiver";
const POLL_MS = 10;
const MAXIMUM_BACKLOG_MS = 300_000;

interface Contender {
  readonly name: string;
  readonly command: (primary: Cluster, directory: string) => readonly string[];
  /** It runs on, and tells what it has acknowledged at once; the others end by themselves. */
  readonly stays: boolean;
}

interface Run {
  readonly megabytesPerSecond: number;
  readonly backlogSeconds: number | undefined;
  readonly archiveBytes: number;
  readonly cpuSeconds: number;
  readonly peakBytes: number;
}

function contenders(primary: Cluster, endLsn: string): readonly Contender[] {
  const original = findProgram(primary.programs, "pg_receivewal");
  if (original === undefined) throw new Error("Cannot compare: PostgreSQL 15 came without pg_receivewal");
  const conninfo = (cluster: Cluster) => cluster.conninfo({ application_name: APPLICATION });
  const ours = (name: string, ...options: readonly string[]): Contender => ({
    name,
    stays: true,
    command: (cluster, directory) => [
      join(ROOT, "dist", "walvault"),
      "receive",
      "--quiet",
      `--connection=${conninfo(cluster)}`,
      `--archive=${directory}`,
      `--slot=${SLOT}`,
      ...options,
    ],
  });
  const theirs = (name: string, ...options: readonly string[]): Contender => ({
    name,
    stays: false,
    command: (cluster, directory) => [
      original,
      `--directory=${directory}`,
      `--dbname=${conninfo(cluster)}`,
      `--slot=${SLOT}`,
      `--endpos=${endLsn}`,
      "--no-loop",
      ...options,
    ],
  });
  return [
    ours("walvault"),
    ours("walvault --compress zstd", "--compress=zstd"),
    theirs("pg_receivewal -Z lz4", "--compress=lz4"),
    ours("walvault --compress lz4", "--compress=lz4"),
    ours("walvault --compress gzip:1", "--compress=gzip:1"),
  ];
}

async function run(contender: Contender, primary: Cluster, directory: string, endLsn: string): Promise<Run> {
  const started = performance.now();
  await using receiver = watch(contender.command(primary, directory));
  let ended = false;
  receiver.end.then(() => ended = true, () => ended = true);
  const acknowledged = `SELECT count(*) FROM pg_stat_replication
    WHERE application_name = '${APPLICATION}' AND flush_lsn >= '${endLsn}'`;
  while (!ended && (!contender.stays || await primary.value(acknowledged) !== "1")) await sleep(POLL_MS);
  const seconds = (performance.now() - started) / 1000;
  const segments = (form: RegExp) => fs.readdirSync(directory).filter((name) => form.test(name));
  let backlogSeconds: number | undefined;
  if (contender.stays) {
    if (ended) throw new Error(`Cannot compare: ${contender.name} ended`);
    if (contender.name.includes("--compress")) {
      const from = performance.now();
      while (segments(/^[0-9A-F]{24}$/).length > 0) {
        if (performance.now() - from > MAXIMUM_BACKLOG_MS) throw new Error("Cannot go on: the backlog stays");
        await sleep(POLL_MS);
      }
      backlogSeconds = (performance.now() - from) / 1000;
    }
  }
  const cost = await (contender.stays ? stop(receiver) : receiver.end);
  const names = segments(/^[0-9A-F]{24}(\.(zst|gz|lz4))?$/);
  const bytes = names.length * 16 * 1024 * 1024;
  if (cost.exitCode !== 0 || bytes < MEGABYTES * 1024 * 1024) {
    throw new Error(
      `Cannot compare: ${contender.name} exited with ${cost.exitCode} after ${names.length} segments`,
    );
  }
  return {
    megabytesPerSecond: bytes / 1e6 / seconds,
    backlogSeconds,
    archiveBytes: names.reduce((sum, name) => sum + fs.statSync(join(directory, name)).size, 0),
    cpuSeconds: cost.cpuSeconds,
    peakBytes: cost.peakBytes,
  };
}

/** Runs it; a part keeps the contenders whose name holds it, beside the first three. */
export async function benchCompress(parts: readonly string[]): Promise<void> {
  if (!fs.existsSync(join(ROOT, "dist", "walvault"))) {
    throw new Error('Cannot compare: dist/walvault is not built; run "deno task compile:bun" first');
  }
  process.stdout.write(
    `${cpus().length} x ${cpus()[0]?.model}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, ${tmpdir()}\n`,
  );
  await using primary = await startCatchUpPrimary();
  const endLsn = await makeWal(primary);
  const list = contenders(primary, endLsn).filter(({ name }, index) =>
    index < 3 || parts.some((part) => name.includes(part))
  );
  const runs = new Map<string, Run[]>();
  for (let round = 0; round < ROUNDS; round++) {
    for (const contender of turned(list, round)) {
      await freshSlot(primary);
      warm(primary);
      await withDirectory(primary.directory, async (directory) => {
        const done = await run(contender, primary, directory, endLsn);
        runs.set(contender.name, [...runs.get(contender.name) ?? [], done]);
      });
    }
  }
  const base = runs.get("walvault") ?? [];
  const rows = [...runs].map(([name, all]) => {
    const backlogs = all.flatMap((each) => each.backlogSeconds ?? []);
    return [
      name,
      median(all.map((each) => each.megabytesPerSecond)).toFixed(0),
      median(all.map((each, index) => each.megabytesPerSecond / (base[index]?.megabytesPerSecond ?? NaN)))
        .toFixed(2),
      backlogs.length === 0 ? "" : median(backlogs).toFixed(1),
      median(all.map((each) => each.archiveBytes / 1e6)).toFixed(0),
      median(all.map((each) => each.cpuSeconds)).toFixed(1),
      (Math.max(...all.map((each) => each.peakBytes)) / 1e6).toFixed(0),
    ];
  });
  process.stdout.write(`\nCatching up ${MEGABYTES} MiB; medians of ${ROUNDS} rounds, ratios of rounds\n\n`);
  process.stdout.write(
    formatTable(
      ["program", "MB/s acknowledged", "ratio", "backlog s", "archive MB", "CPU s", "peak MB"],
      rows,
    ),
  );
}
