/**
 * `find` in an archive of 100 GB: 6,400 segments of 16 MB with their indexes, each of 28,000 commits.
 *
 * Run by `deno task bench find [segments]…`. Only the segment in which the answer lies holds WAL, the others are empty
 * files: nothing reads them. The last line is what it costs where an index is missing: the same segment read and indexed.
 * `WALVAULT_BENCH_RUNS` shortens it; `WALVAULT_BENCH_DIRECTORY` names a directory on the disk that is meant.
 */
import { spawn } from "node:child_process";
import * as fs from "node:fs";
import { cpus, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { encodeIdentity } from "../../lib/archive/identity.ts";
import { buildIndex } from "../../lib/archive/index.ts";
import {
  encodeSegmentIndex,
  type SegmentIndex,
  type TransactionMark,
} from "../../lib/archive/segment_index.ts";
import { formatLsn, type Lsn } from "../../lib/wal/lsn.ts";
import { segmentName, type SegmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { formatTimestamp, type Timestamp } from "../../lib/wal/timestamp.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { filler, NOON, restorePoint, transactionEnd } from "../wal/record_plans.ts";
import { buildWal, MIB, type RecordPlan, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { formatTable, median } from "./measure.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const RUNS = Number(process.env["WALVAULT_BENCH_RUNS"] ?? "9");
const SIZE = segmentSize(16 * MIB);
const IDENTITY = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: SIZE };
/** As `pgbench -N` writes it: some hundred bytes of changes, then the commit. */
const COMMITS = 28_000;
const CHANGES_BYTES = 550;
const FIRST_XID = 1000;
const COMMIT_US = 500n;

function nameOf(number: number): string {
  return segmentName(timelineId(1), BigInt(number) as SegmentNumber, SIZE);
}

/** The WAL of one segment, whose commits go on from those of all before. */
function contentOf(number: number): Uint8Array {
  const records: RecordPlan[] = [];
  for (let i = 0; i < COMMITS; i++) {
    const count = (number - 1) * COMMITS + i;
    records.push(filler(CHANGES_BYTES));
    records.push(transactionEnd({ xid: FIRST_XID + count, us: NOON + BigInt(count) * COMMIT_US }));
    if (i === COMMITS / 2) records.push(restorePoint("half way", NOON + BigInt(count) * COMMIT_US));
  }
  records.push({ totalBytes: 24, resourceManager: 0, info: 0x40 });
  const { segments } = buildWal({
    startLsn: BigInt(number) * BigInt(SIZE),
    segmentBytes: SIZE,
    records,
  });
  if (segments.length !== 1) throw new Error("Cannot measure: the commits do not fit one segment");
  return segments[0]!;
}

/** The same index, as it would be of another segment of the same load. */
function shifted(index: SegmentIndex, from: number, to: number): Uint8Array {
  const bytes = BigInt(to - from) * BigInt(SIZE);
  const count = (to - from) * COMMITS;
  const time = (at: Timestamp | undefined) =>
    at === undefined ? undefined : at + BigInt(count) * COMMIT_US as Timestamp;
  const place = (at: Lsn | undefined) => at === undefined ? undefined : at + bytes as Lsn;
  const mark = (one: TransactionMark | undefined) =>
    one && { lsn: place(one.lsn)!, xid: one.xid + count, time: time(one.time)! };
  const { scan, transactions } = index;
  return encodeSegmentIndex({
    ...index,
    name: nameOf(to),
    scan: {
      ...scan,
      startLsn: place(scan.startLsn)!,
      endLsn: place(scan.endLsn)!,
      contentEndLsn: place(scan.contentEndLsn)!,
      firstRecordLsn: place(scan.firstRecordLsn),
      firstRecordPrevLsn: place(scan.firstRecordPrevLsn),
      lastRecordLsn: place(scan.lastRecordLsn),
      firstPage: scan.firstPage && { ...scan.firstPage, pageLsn: place(scan.firstPage.pageLsn)! },
    },
    transactions: {
      ...transactions,
      firstCommit: mark(transactions.firstCommit),
      lastCommit: mark(transactions.lastCommit),
      minCommitTime: time(transactions.minCommitTime),
      maxCommitTime: time(transactions.maxCommitTime),
      minEndTime: time(transactions.minEndTime),
      maxEndTime: time(transactions.maxEndTime),
      minXid: transactions.minXid! + count,
      maxXid: transactions.maxXid! + count,
    },
    xids: index.xids.map((xid) => xid + count),
    restorePoints: [],
    restorePointCount: 0,
  });
}

interface Place {
  readonly archive: string;
  /** Of the one segment that is there. */
  readonly name: string;
  readonly questions: readonly (readonly [words: readonly string[], want: string])[];
}

async function makeArchive(archive: string, segments: number): Promise<Place> {
  for (const name of ["", "inprogress", "index"]) fs.mkdirSync(join(archive, name), { recursive: true });
  fs.writeFileSync(join(archive, "archive.json"), encodeIdentity(IDENTITY));
  const middle = Math.ceil(segments / 2);
  const content = contentOf(middle);
  const index = await buildIndex({ name: nameOf(middle), identity: IDENTITY }, async (take) => {
    await take(content, 0);
  });
  for (let number = 1; number <= segments; number++) {
    const name = nameOf(number);
    const file = fs.openSync(join(archive, name), "w");
    if (number === middle) fs.writeSync(file, content);
    else fs.ftruncateSync(file, SIZE);
    fs.closeSync(file);
    const bytes = number === middle ? encodeSegmentIndex(index) : shifted(index, middle, number);
    fs.writeFileSync(join(archive, "index", `${name}.idx`), bytes);
  }
  const half = index.xids[COMMITS / 4]!;
  const us = NOON + BigInt(half - FIRST_XID) * COMMIT_US;
  const lsn = index.restorePoints[0]!.lsn;
  return {
    archive,
    name: nameOf(middle),
    questions: [
      [["--time", formatTimestamp(us as Timestamp)], String(half)],
      [["--xid", String(half)], String(half)],
      [["--lsn", formatLsn(lsn)], formatLsn(lsn)],
      [["--name", "half way"], formatLsn(lsn)],
    ],
  };
}

/** Runs it to its end; milliseconds. */
async function measure(command: readonly string[], want: string): Promise<number> {
  const [program = "", ...words] = command;
  const started = performance.now();
  const child = spawn(program, words, { cwd: ROOT, stdio: ["ignore", "pipe", "inherit"] });
  let stdout = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => stdout += text);
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0 || !stdout.includes(want)) {
    throw new Error(`Cannot measure: "${command.join(" ")}" exits ${code}: ${stdout}`);
  }
  return performance.now() - started;
}

async function benchSegments(
  segments: number,
  programs: Readonly<Record<string, readonly string[]>>,
): Promise<readonly (readonly string[])[]> {
  const parent = fs.mkdtempSync(join(process.env["WALVAULT_BENCH_DIRECTORY"] ?? tmpdir(), "wv-find-"));
  try {
    const place = await makeArchive(join(parent, "archive"), segments);
    const index = join(place.archive, "index", `${place.name}.idx`);
    const rows: (readonly string[])[] = [];
    const measureAll = async (title: string, words: readonly string[], want: string, before: () => void) => {
      const middles: string[] = [];
      for (const program of Object.values(programs)) {
        const times: number[] = [];
        for (let run = 0; run <= RUNS; run++) {
          before();
          const time = await measure([...program, "find", `--archive=${place.archive}`, ...words], want);
          // The first one loads the program, and the indexes, into memory.
          if (run > 0) times.push(time);
        }
        middles.push(median(times).toFixed(0));
      }
      rows.push([String(segments), title, ...middles]);
    };
    for (const [words, want] of place.questions) await measureAll(words[0]!, words, want, () => {});
    const [words, want] = place.questions[1]!;
    await measureAll("--xid, one index missing", words, want, () => fs.rmSync(index));
    return rows;
  } finally {
    fs.rmSync(parent, { recursive: true, force: true });
  }
}

/** Runs it for each number of segments. */
export async function benchFind(counts: readonly string[]): Promise<void> {
  const compiled = join(ROOT, "dist", "walvault");
  const programs = {
    ...(fs.existsSync(compiled) ? { "dist/walvault": [compiled] } : {}),
    "deno run": [...denoCommand(), "run", "--allow-all", "--cached-only", join(ROOT, "cli.ts")],
  };
  process.stdout.write(`${cpus().length} x ${cpus()[0]?.model}, ${RUNS} runs, medians in ms\n\n`);
  const rows: (readonly string[])[] = [];
  for (const segments of counts.length === 0 ? ["6400"] : counts) {
    rows.push(...await benchSegments(Number(segments), programs));
  }
  process.stdout.write(formatTable(["segments", "find", ...Object.keys(programs)], rows));
}
