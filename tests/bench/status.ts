/**
 * `status` of an archive with as many segments as there are names; the names are real, most of the files are empty.
 *
 * Run by `deno task bench status [200000]…`; medians are told. `WALVAULT_BENCH_PAIRS` shortens it.
 */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { cpus, tmpdir, totalmem } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { segmentName, segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { buildWal, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { formatTable, median, watch } from "./measure.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const PROGRAM = join(ROOT, "dist", "walvault");
const ROUNDS = Number(process.env["WALVAULT_BENCH_PAIRS"] ?? "11");
const SEGMENT_BYTES = 16 * 1024 * 1024;
const FIRST = 3;

function nameOf(number: number): string {
  return segmentName(timelineId(1), segmentNumber(BigInt(number)), segmentSize(SEGMENT_BYTES));
}

/** WAL of a whole segment, and of half the next. */
function makeWal(number: number): readonly Uint8Array[] {
  const records = [];
  for (let total = 0; total < SEGMENT_BYTES * 1.5; total += 160) {
    records.push({ totalBytes: 140 + (total % 7) * 8 });
  }
  return buildWal({ startLsn: BigInt(number * SEGMENT_BYTES), segmentBytes: SEGMENT_BYTES, records })
    .segments;
}

/** Names only, but for the segments at both ends and one in progress; no index, so that these are read. */
function makeArchive(path: string, count: number): void {
  fs.mkdirSync(join(path, "inprogress"), { recursive: true });
  const identity = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: segmentSize(SEGMENT_BYTES) };
  fs.writeFileSync(join(path, "archive.json"), encodeIdentity(identity));
  for (let index = 0; index < count; index++) {
    fs.writeFileSync(join(path, nameOf(FIRST + index) + (index % 2 === 0 ? "" : ".zst")), "");
  }
  const last = FIRST + count - 1;
  const [complete, tail] = makeWal(last);
  for (const [number, bytes] of [[FIRST, makeWal(FIRST)[0]!], [last, complete!]] as const) {
    for (const form of ["", ".zst"]) fs.rmSync(join(path, nameOf(number) + form), { force: true });
    fs.writeFileSync(join(path, nameOf(number)), bytes);
  }
  fs.writeFileSync(join(path, "inprogress", nameOf(last + 1)), tail!);
}

function measure(words: readonly string[]): { readonly seconds: number; readonly stdout: string } {
  const [command = "", ...rest] = words;
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(command, rest, { encoding: "utf8" });
  const seconds = (performance.now() - started) / 1000;
  if (status !== 0) throw new Error(`Cannot measure: exit ${status}: ${stderr}`);
  return { seconds, stdout };
}

/** Runs it for the numbers of segments that are named, or 200,000. */
export async function benchStatus(parts: readonly string[]): Promise<void> {
  process.stdout.write(
    `${cpus().length} x ${cpus()[0]?.model}, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, ${tmpdir()}\n`,
  );
  const [deno, ...first] = denoCommand();
  const programs: readonly (readonly [name: string, words: readonly string[]])[] = [
    ...(fs.existsSync(PROGRAM) ? [["dist/walvault", [PROGRAM]] as const] : []),
    ["deno run", [deno, ...first, "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts")]],
  ];
  const rows: (readonly string[])[] = [];
  for (const part of parts.length === 0 ? ["200000"] : parts) {
    if (!/^[1-9][0-9]*$/.test(part)) {
      throw new Error(`Cannot run benchmark "status ${part}": want a number of segments`);
    }
    const directory = fs.mkdtempSync(join(tmpdir(), "wv-bench-"));
    try {
      const archive = join(directory, "archive");
      makeArchive(archive, Number(part));
      const times = new Map<string, number[]>(programs.map(([name]) => [name, []]));
      for (let round = -1; round < ROUNDS; round++) {
        for (let turn = 0; turn < programs.length; turn++) {
          const [name, words] = programs[(turn + round + 1) % programs.length]!;
          const { seconds, stdout } = measure([...words, "status", `--archive=${archive}`, "--json"]);
          const { timelines } = JSON.parse(stdout) as { timelines: readonly { segments: number }[] };
          if (timelines[0]?.segments !== Number(part)) throw new Error(`Cannot measure: ${stdout}`);
          if (round >= 0) times.get(name)!.push(seconds); // the first one warms the caches
        }
      }
      for (const [name, words] of programs) {
        const { peakBytes } = await watch([...words, "status", `--archive=${archive}`]).end;
        const seconds = times.get(name)!;
        rows.push([
          part,
          name,
          median(seconds).toFixed(2),
          Math.max(...seconds).toFixed(2),
          (peakBytes / 1e6).toFixed(0),
        ]);
      }
    } finally {
      fs.rmSync(directory, { recursive: true, force: true });
    }
  }
  process.stdout.write(`\nwalvault status, its start included; medians of ${ROUNDS} rounds\n\n`);
  process.stdout.write(formatTable(["segments", "program", "seconds", "most", "peak MB"], rows));
}
