/**
 * `fetch` beside `cp`: one hit of a segment, and the recovery of a server.
 *
 * Run by `deno task bench fetch [20|200000]…` and `deno task bench recovery [plain|zstd]…`; pairs are taken one after
 * the other, in an order that turns, and medians are told. `WALVAULT_BENCH_PAIRS` and `WALVAULT_BENCH_MEGABYTES` shorten
 * it.
 */
import { Buffer } from "node:buffer";
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { PieceCompressor } from "../../lib/archive/compression.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { buildIndex, buildPublishedIndex, writeIndex } from "../../lib/archive/index.ts";
import { INDEX_DIRECTORY, indexPath } from "../../lib/archive/layout.ts";
import { encodeSegmentIndex } from "../../lib/archive/segment_index.ts";
import { segmentName, segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type BackupCopy, type Cluster, startCluster } from "../postgres/cluster.ts";
import { WorkDirectory } from "../postgres/receiver.ts";
import { readableArchive, RecoveringServer } from "../postgres/restorer.ts";
import { buildWal, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { formatTable, median, watch } from "./measure.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const PROGRAM = join(ROOT, "dist", "walvault");
const MEGABYTES = Number(process.env["WALVAULT_BENCH_MEGABYTES"] ?? "2048");
const HIT_PAIRS = Number(process.env["WALVAULT_BENCH_PAIRS"] ?? "51");
const RECOVERY_PAIRS = Number(process.env["WALVAULT_BENCH_PAIRS"] ?? "5");
const SEGMENT_BYTES = 16 * 1024 * 1024;
const FIRST = 3;
const MAJOR = 15;

function checkProgram(): void {
  if (!fs.existsSync(PROGRAM)) {
    throw new Error('Cannot compare: dist/walvault is not built; run "deno task compile:bun" first');
  }
  process.stdout.write(
    `${cpus().length} x ${cpus()[0]?.model}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, ${tmpdir()}\n`,
  );
}

function nameOf(number: number): string {
  return segmentName(timelineId(1), segmentNumber(BigInt(number)), segmentSize(SEGMENT_BYTES));
}

/** One full segment, and as many names as there are to be. */
function makeArchive(path: string, count: number): void {
  const records = [];
  for (let total = 0; total < SEGMENT_BYTES * 1.1; total += 160) {
    records.push({ totalBytes: 140 + (total % 7) * 8 });
  }
  const { segments } = buildWal({
    startLsn: BigInt(FIRST * SEGMENT_BYTES),
    segmentBytes: SEGMENT_BYTES,
    records,
  });
  fs.mkdirSync(join(path, "inprogress"), { recursive: true });
  const identity = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: segmentSize(SEGMENT_BYTES) };
  fs.writeFileSync(join(path, "archive.json"), encodeIdentity(identity));
  for (let index = 1; index < count; index++) fs.writeFileSync(join(path, nameOf(FIRST + index)), "");
  const name = nameOf(FIRST);
  fs.writeFileSync(join(path, name), segments[0]!);
  const compressor = new PieceCompressor({ format: "zstd", level: 1 });
  fs.writeFileSync(`${path}.zst`, Buffer.concat([...compressor.push(segments[0]!), ...compressor.end()]));
}

async function makeIndex(archive: string, compressed: string): Promise<void> {
  const disk = openDirectDisk(archive);
  const identity = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: segmentSize(SEGMENT_BYTES) };
  const index = await buildPublishedIndex(disk, { name: nameOf(FIRST), identity }, []);
  if (index?.scan.end !== "segment-end") {
    throw new Error("Cannot compare: the segment is not valid to its end");
  }
  await writeIndex(disk, index, { directory: 0o700, file: 0o600 });
  fs.cpSync(join(archive, INDEX_DIRECTORY), join(compressed, INDEX_DIRECTORY), { recursive: true });
}

/** One hit of a 16 MiB segment, the program's start included. */
async function benchHit(count: number): Promise<readonly (readonly string[])[]> {
  const directory = fs.mkdtempSync(join(tmpdir(), "wv-bench-"));
  try {
    const archive = join(directory, "archive");
    const target = join(directory, "RECOVERYXLOG");
    makeArchive(archive, count);
    const compressed = join(directory, "compressed");
    fs.mkdirSync(compressed);
    fs.copyFileSync(join(archive, "archive.json"), join(compressed, "archive.json"));
    fs.renameSync(`${archive}.zst`, join(compressed, `${nameOf(FIRST)}.zst`));
    // As received: what push brings gets its index from verify or find.
    await makeIndex(archive, compressed);
    const pushed = join(directory, "pushed");
    fs.mkdirSync(pushed);
    for (const name of ["archive.json", nameOf(FIRST)]) fs.linkSync(join(archive, name), join(pushed, name));
    const fetch = (from: string) => [PROGRAM, "fetch", `--archive=${from}`, nameOf(FIRST), target];
    const contenders: readonly (readonly [name: string, command: readonly string[]])[] = [
      ["cp", ["cp", join(archive, nameOf(FIRST)), target]],
      ["walvault fetch", fetch(archive)],
      ["walvault fetch --no-verify", [...fetch(archive), "--no-verify"]],
      ["walvault fetch, without an index", fetch(pushed)],
      ["walvault fetch, zstd", fetch(compressed)],
    ];
    const times = new Map<string, number[]>(contenders.map(([name]) => [name, []]));
    for (let pair = -2; pair < HIT_PAIRS; pair++) {
      for (let turn = 0; turn < contenders.length; turn++) {
        const [name, [command = "", ...words]] = contenders[(turn + pair + 3) % contenders.length]!;
        fs.rmSync(target, { force: true });
        const started = performance.now();
        const { status } = spawnSync(command, words, { stdio: "ignore", cwd: directory });
        const ms = performance.now() - started;
        if (status !== 0) throw new Error(`Cannot compare: ${name} exited with ${status}`);
        if (pair >= 0) times.get(name)!.push(ms); // the first ones warm the caches
      }
    }
    const base = times.get("cp")!;
    return await Promise.all(contenders.map(async ([name, command]) => {
      const list = times.get(name)!;
      const more = median(list.map((ms, index) => ms - base[index]!));
      const { peakBytes } = name === "cp" ? { peakBytes: 0 } : await peakOf(command);
      return [
        String(count),
        name,
        median(list).toFixed(1),
        more.toFixed(1),
        peakBytes === 0 ? "" : (peakBytes / 1e6).toFixed(0),
      ];
    }));
  } finally {
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

/** It lives too short to be looked at: the shell's own count is the kernel's. */
async function peakOf(command: readonly string[]): Promise<{ readonly peakBytes: number }> {
  const run = spawnSync("/usr/bin/time", ["-f", "%M", ...command], { encoding: "utf8" });
  const kilobytes = Number(run.stderr?.trim().split("\n").at(-1));
  if (run.error === undefined && Number.isFinite(kilobytes)) return { peakBytes: kilobytes * 1024 };
  return await watch(command).end;
}

/** Runs the hits for the numbers of segments that are named, or 20 and 200,000. */
export async function benchFetch(parts: readonly string[]): Promise<void> {
  checkProgram();
  const rows: (readonly string[])[] = [];
  for (const part of parts.length === 0 ? ["20", "200000"] : parts) {
    if (!/^[0-9]+$/.test(part)) {
      throw new Error(`Cannot run benchmark "fetch ${part}": want a number of segments`);
    }
    rows.push(...await benchHit(Number(part)));
  }
  process.stdout.write(
    `\nOne hit of a 16 MiB segment; medians of ${HIT_PAIRS} rounds, differences of pairs\n\n`,
  );
  process.stdout.write(formatTable(["segments", "program", "ms", "more than cp", "peak MB"], rows));
}

/** Makes WAL as a loaded server would: inserts, updates with full-page images, an index. */
async function makeWal(primary: Cluster): Promise<void> {
  const start = await primary.value("SELECT pg_current_wal_lsn()");
  const written = async () => Number(await primary.value(`SELECT pg_current_wal_lsn() - '${start}'`));
  for (let round = 0; await written() < MEGABYTES * 1024 * 1024; round++) {
    await primary.sql(`DROP TABLE IF EXISTS load;
      CREATE TABLE load AS SELECT g AS id, md5(g::text || '${round}') AS text, repeat('x', 60) AS filler FROM generate_series(1, 400000) g;
      CREATE INDEX ON load (id); UPDATE load SET filler = 'y' WHERE id % 4 = 0; CHECKPOINT`);
  }
  await primary.sql("SELECT pg_switch_wal()");
}

/** How long the server itself says that it replayed. */
async function recover(backup: BackupCopy, restoreCommand: string): Promise<number> {
  await using server = await RecoveringServer.start({
    backup,
    restoreCommand,
    major: MAJOR,
    settings: { fsync: "on", shared_buffers: "256MB", max_wal_size: "20GB", checkpoint_timeout: "1h" },
  });
  await server.recovered();
  const elapsed = /redo done at .* elapsed: ([0-9.]+) s/.exec(server.log)?.[1];
  if (elapsed === undefined) {
    throw new Error(`Cannot compare: the server does not tell how long it took\n${server.log}`);
  }
  return Number(elapsed);
}

/** Runs recoveries with the forms of archive that are named, or all. */
export async function benchRecovery(parts: readonly string[]): Promise<void> {
  checkProgram();
  for (const part of parts) {
    if (part !== "plain" && part !== "zstd") {
      throw new Error(`Cannot run benchmark "recovery ${part}": want plain or zstd`);
    }
  }
  using directory = new WorkDirectory();
  await using primary = await startCluster({
    major: MAJOR,
    settings: {
      max_wal_size: "20GB",
      wal_keep_size: "20GB",
      shared_buffers: "256MB",
      checkpoint_timeout: "1h",
    },
  });
  const backup = await primary.backup(directory.file("backup"));
  await makeWal(primary);
  const identity = {
    systemIdentifier: BigInt(await primary.value("SELECT system_identifier FROM pg_control_system()")),
    segmentSize: segmentSize(SEGMENT_BYTES),
  };
  const paths = { plain: readableArchive(directory, "plain"), zstd: readableArchive(directory, "zstd") };
  const program = join(directory.path, "walvault");
  fs.copyFileSync(PROGRAM, program);
  fs.chmodSync(program, 0o755);
  const end = await primary.value("SELECT pg_walfile_name(pg_current_wal_lsn())");
  const names = primary.walFiles().filter((name) => name < end);
  const put = (path: string, bytes: Uint8Array) => fs.writeFileSync(path, bytes, { mode: 0o644 });
  for (const path of Object.values(paths)) {
    put(join(path, "archive.json"), encodeIdentity(identity));
    for (const name of ["inprogress", INDEX_DIRECTORY]) {
      fs.mkdirSync(join(path, name));
      fs.chmodSync(join(path, name), 0o755);
    }
  }
  for (const name of names) {
    const bytes = fs.readFileSync(join(primary.dataDirectory, "pg_wal", name));
    put(join(paths.plain, name), bytes);
    const compressor = new PieceCompressor({ format: "zstd", level: 1 });
    put(join(paths.zstd, `${name}.zst`), Buffer.concat([...compressor.push(bytes), ...compressor.end()]));
    // As received.
    const index = encodeSegmentIndex(
      await buildIndex({ name, identity }, async (take) => void await take(bytes, 0)),
    );
    for (const path of Object.values(paths)) put(join(path, indexPath(name)), index);
  }
  await primary.stop();
  const contenders: readonly (readonly [name: string, restoreCommand: string])[] = [
    ["cp", `cp "${paths.plain}/%f" "%p"`],
    ...(["plain", "zstd"] as const).filter((form) => parts.length === 0 || parts.includes(form)).map(
      (form) =>
        ["fetch", "fetch --ahead"].map((command) =>
          [`walvault ${command}, ${form}`, `${program} ${command} --archive=${paths[form]} %f %p`] as const
        ),
    ).flat(),
  ];
  const times = new Map<string, number[]>(contenders.map(([name]) => [name, []]));
  for (let pair = 0; pair < RECOVERY_PAIRS; pair++) {
    for (let turn = 0; turn < contenders.length; turn++) {
      const [name, restoreCommand] = contenders[(turn + pair) % contenders.length]!;
      times.get(name)!.push(await recover(backup, restoreCommand));
    }
  }
  const base = times.get("cp")!;
  const rows = [...times].map(([name, seconds]) => [
    name,
    median(seconds).toFixed(2),
    (names.length * SEGMENT_BYTES / 1e6 / median(seconds)).toFixed(0),
    median(seconds.map((value, index) => value / base[index]!)).toFixed(2),
  ]);
  process.stdout.write(
    `\nRecovery of ${names.length} segments of 16 MiB; medians of ${RECOVERY_PAIRS} rounds, ratios of pairs\n\n`,
  );
  process.stdout.write(formatTable(["restore_command", "seconds", "MB/s", "ratio"], rows));
}
