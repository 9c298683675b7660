/**
 * `push` beside `cp` and `sync FILE`: one segment of 16 MB, which the archive has not got yet, as archive_command.
 *
 * Run by `deno task bench push [files]…`; files is how many segments the archive has before, 20 and 200,000 by default.
 * Each pair is taken one after the other, in an order that turns. `WALVAULT_BENCH_PAIRS` shortens it;
 * `WALVAULT_BENCH_DIRECTORY` names a directory on the disk that is meant.
 */
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { segmentName, type SegmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { buildWal, MIB, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { formatTable, median } from "./measure.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const PAIRS = Number(process.env["WALVAULT_BENCH_PAIRS"] ?? "15");
const SIZE = segmentSize(16 * MIB);
/** As most records are, with a full page now and then. */
const RECORD_BYTES = [60, 120, 60, 80, 8200, 60, 70, 150];
const POLL_MS = 1;

interface Run {
  readonly milliseconds: number;
  readonly peakBytes: number;
}

function nameOf(number: number): string {
  return segmentName(timelineId(1), BigInt(number) as SegmentNumber, SIZE);
}

/** The archive's segments have the first numbers; those to be pushed follow. */
function makeSegments(directory: string, firstNumber: number, count: number): readonly string[] {
  const records: { totalBytes: number }[] = [];
  for (let bytes = 0; bytes < (count + 1) * SIZE; bytes += 8800) {
    for (const totalBytes of RECORD_BYTES) records.push({ totalBytes });
  }
  const { segments } = buildWal({
    startLsn: BigInt(firstNumber) * BigInt(SIZE),
    segmentBytes: SIZE,
    records,
  });
  return segments.slice(0, count).map((bytes, index) => {
    const name = nameOf(firstNumber + index);
    fs.writeFileSync(join(directory, name), bytes);
    return name;
  });
}

function makeArchive(directory: string, files: number): void {
  fs.mkdirSync(join(directory, "inprogress"), { recursive: true });
  const identity = encodeIdentity({ systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: SIZE });
  fs.writeFileSync(join(directory, "archive.json"), identity);
  for (let number = 1; number <= files; number++) {
    fs.closeSync(fs.openSync(join(directory, nameOf(number)), "w"));
  }
}

/** Runs a program to its end, and looks at its memory all the time. */
async function measure(command: readonly string[]): Promise<Run> {
  const [program = "", ...words] = command;
  const started = performance.now();
  const child = spawn(program, words, { stdio: ["ignore", "inherit", "inherit"] });
  let peakBytes = 0;
  const poll = setInterval(() => peakBytes = Math.max(peakBytes, peakOf(child.pid)), POLL_MS);
  const code = await new Promise((resolve) => child.once("exit", resolve));
  const milliseconds = performance.now() - started;
  clearInterval(poll);
  if (code !== 0) throw new Error(`Cannot measure: "${command.join(" ")}" exits ${code}`);
  return { milliseconds, peakBytes };
}

function peakOf(pid: number | undefined): number {
  try {
    const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
    return Number(/VmHWM:\s+([0-9]+) kB/.exec(status)?.[1] ?? "0") * 1024;
  } catch {
    // It ended between two looks.
    return 0;
  }
}

async function benchFiles(files: number): Promise<readonly string[]> {
  const parent = fs.mkdtempSync(join(process.env["WALVAULT_BENCH_DIRECTORY"] ?? tmpdir(), "wv-push-"));
  try {
    const [source, copies, archive] = ["pg_wal", "copies", "archive"].map((name) => join(parent, name)) as [
      string,
      string,
      string,
    ];
    for (const directory of [source, copies]) fs.mkdirSync(directory);
    makeArchive(archive, files);
    const segments = makeSegments(source, files + 1, PAIRS + 1);
    // What was written here must not be written out while others are measured.
    await measure(["sync"]);
    const cp = (name: string) =>
      measure(["sh", "-c", 'cp "$1" "$2" && sync "$2"', "sh", join(source, name), join(copies, name)]);
    const push = (name: string) =>
      measure([join(ROOT, "dist", "walvault"), "push", `--archive=${archive}`, join(source, name)]);
    const pairs: { readonly cp: Run; readonly push: Run }[] = [];
    for (const [round, name] of segments.entries()) {
      const first = round % 2 === 0 ? await cp(name) : undefined;
      const pushed = await push(name);
      const pair = { cp: first ?? await cp(name), push: pushed };
      // The first one loads the programs into memory.
      if (round > 0) pairs.push(pair);
    }
    const middle = (of: (pair: typeof pairs[number]) => number) => median(pairs.map(of));
    return [
      String(files),
      middle((pair) => pair.cp.milliseconds).toFixed(1),
      middle((pair) => pair.push.milliseconds).toFixed(1),
      middle((pair) => pair.push.milliseconds - pair.cp.milliseconds).toFixed(1),
      (Math.max(...pairs.map((pair) => pair.push.peakBytes)) / 1e6).toFixed(1),
    ];
  } finally {
    fs.rmSync(parent, { recursive: true, force: true });
  }
}

/** Runs it for each number of segments in the archive. */
export async function benchPush(counts: readonly string[]): Promise<void> {
  if (!fs.existsSync(join(ROOT, "dist", "walvault"))) {
    throw new Error('Cannot compare: dist/walvault is not built; run "deno task compile:bun" first');
  }
  process.stdout.write(`${cpus().length} x ${cpus()[0]?.model}, ${PAIRS} pairs, medians\n\n`);
  const rows: (readonly string[])[] = [];
  for (const files of counts.length === 0 ? ["20", "200000"] : counts) {
    rows.push(await benchFiles(Number(files)));
  }
  const header = ["segments before", "cp + sync ms", "push ms", "difference ms", "push peak MB"];
  process.stdout.write(formatTable(header, rows));
}
