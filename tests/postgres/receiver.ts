/** `walvault receive` as a process for tests against real servers, and what must hold for the archive it writes. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { timelineAt, type TimelineHistory } from "../../lib/wal/history.ts";
import { formatLsn, type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { type SegmentScan, SegmentScanner } from "../../lib/wal/scanner.ts";
import {
  parseSegmentName,
  segmentEnd,
  segmentName,
  type SegmentNumber,
  segmentNumberAt,
  type SegmentSize,
  segmentSize,
  segmentStart,
} from "../../lib/wal/segment.ts";
import type { TimelineId } from "../../lib/wal/timeline.ts";
import { bunPath } from "../../tasks/bun.ts";
import { denoCommand } from "../../tasks/install_locked.ts";
import { type BackupCopy, type Cluster, type Settings, startCluster } from "./cluster.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
/** Longer than anything waits that is done every minute. */
const WAIT_MS = 120_000;
const POLL_MS = 20;
/** A question to a server takes 5 ms of the machine's time: its connection is made for it. */
const ASK_MS = 50;

export const MIB = 1024 * 1024;

/** One JSON line of the receiver's log. */
export interface LogLine {
  readonly level: string;
  readonly event: string;
  readonly [field: string]: unknown;
}

/** How `receive` is started. */
export interface ReceiveOptions {
  readonly connection: string;
  readonly archive: string;
  /** More words of the command line. */
  readonly options?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Another executable than the one under test everywhere, run by another user. */
  readonly runBy?: ProgramRun;
  /** Words before the program's: what puts it in a place of its own. */
  readonly under?: readonly string[];
}

/** An executable, and who runs it. */
export interface ProgramRun {
  readonly executable: string;
  /** `undefined`: whoever runs the tests. */
  readonly account: { readonly uid: number; readonly gid: number } | undefined;
}

/** Starts `receive`. Free it with `await using`: what still runs then is killed. */
export function startReceiver(options: ReceiveOptions): Receiver {
  return new Receiver(
    [
      "receive",
      `--connection=${options.connection}`,
      `--archive=${options.archive}`,
      "--log-format=json",
      "--verbose",
      ...options.options ?? [],
    ],
    options.env ?? {},
    options.runBy,
    options.under,
  );
}

/** Runs `receive` to its end. */
export async function runReceiver(options: ReceiveOptions): Promise<Receiver> {
  const receiver = startReceiver(options);
  try {
    await receiver.ended();
    return receiver;
  } catch (error) {
    await receiver.kill();
    throw error;
  }
}

/** Deno; `WALVAULT_EXECUTABLE=bun`, or the path of an executable, puts that in its place. */
export function programWords(): readonly string[] {
  const given = process.env["WALVAULT_EXECUTABLE"];
  const cli = join(ROOT, "cli.ts");
  if (given === undefined || given === "") {
    return [...denoCommand(), "run", "--allow-all", "--cached-only", cli];
  }
  return given === "bun" ? [bunPath(), "run", cli] : [given];
}

/** One process. */
export class Receiver {
  stdout = "";
  stderr = "";
  readonly #child: ChildProcess;
  readonly #exit: Promise<number | string>;
  #exited: number | string | undefined;
  /** Lines before it have been waited for. */
  #cursor = 0;

  constructor(
    words: readonly string[],
    env: Readonly<Record<string, string>>,
    runBy?: ProgramRun,
    under: readonly string[] = [],
  ) {
    const program = runBy === undefined ? programWords() : [runBy.executable];
    const [command = "", ...first] = [...under, ...program];
    const inherited = Object.fromEntries(
      Object.entries(process.env).filter(([name]) =>
        !name.startsWith("PG") && !name.startsWith("WALVAULT_A")
      ),
    );
    const child = spawn(command, [...first, ...words], {
      cwd: ROOT,
      env: { ...inherited, NO_COLOR: "1", ...env },
      stdio: ["ignore", "pipe", "pipe"],
      ...runBy?.account,
    });
    this.#child = child;
    child.stdout!.setEncoding("utf8").on("data", (text: string) => this.stdout += text);
    child.stderr!.setEncoding("utf8").on("data", (text: string) => this.stderr += text);
    this.#exit = new Promise((resolve) => {
      child.once("error", (error) => resolve(this.#exited = error.message));
      child.once("close", (code, signal) => resolve(this.#exited = code ?? signal ?? "unknown"));
    });
  }

  get pid(): number {
    return this.#child.pid!;
  }

  get alive(): boolean {
    return this.#exited === undefined;
  }

  /** The log so far; a line that is no JSON (Deno's own words, say) has the event `""`. */
  get lines(): readonly LogLine[] {
    return this.stderr.split("\n").slice(0, -1).map((line) => {
      try {
        return JSON.parse(line) as LogLine;
      } catch {
        return { level: "error", event: "", line };
      }
    });
  }

  linesOf(event: string): readonly LogLine[] {
    return this.lines.filter((line) => line.event === event);
  }

  /** Waits for the next line with this event, after the one that was waited for last. */
  async next(event: string, fields: Readonly<Record<string, unknown>> = {}): Promise<LogLine> {
    const deadline = Date.now() + WAIT_MS;
    for (;;) {
      const ended = this.#exited; // before the look: its last words count
      const lines = this.lines;
      const index = lines.findIndex((line, at) =>
        at >= this.#cursor && line.event === event &&
        Object.entries(fields).every(([name, value]) => line[name] === value)
      );
      if (index !== -1) {
        this.#cursor = index + 1;
        return lines[index]!;
      }
      if (ended !== undefined || Date.now() > deadline) {
        const what = ended === undefined ? "it did not come" : `the receiver ended with ${ended}`;
        throw new Error(`Cannot find "${event}" ${JSON.stringify(fields)}: ${what}\n${this.stderr}`);
      }
      await sleep(POLL_MS);
    }
  }

  /** The exit code, or the signal's name. */
  async ended(timeoutMs = WAIT_MS): Promise<number | string> {
    const late = new AbortController();
    const timeout = sleep(timeoutMs, undefined, { signal: late.signal }).catch(() => undefined);
    const result = await Promise.race([this.#exit, timeout]);
    late.abort();
    if (result === undefined) {
      throw new Error(`Cannot end the receiver: it runs after ${timeoutMs} ms\n${this.stderr}`);
    }
    return result;
  }

  /** Asks it to stop. */
  async stop(signal: NodeJS.Signals = "SIGTERM"): Promise<number | string> {
    this.signal(signal);
    return await this.ended();
  }

  signal(signal: NodeJS.Signals): void {
    if (this.alive) process.kill(this.pid, signal);
  }

  /** The crash. */
  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.ended();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }
}

/** A directory with archives in it, removed at the end; the server's account may look into it. */
export class WorkDirectory {
  readonly path: string;

  constructor() {
    this.path = fs.realpathSync(fs.mkdtempSync(join(tmpdir(), "wv-receive-")));
    fs.chmodSync(this.path, 0o755);
  }

  /** A new, empty directory for an archive. */
  archive(name = "archive"): string {
    const path = join(this.path, name);
    fs.mkdirSync(path, { mode: 0o700 });
    return path;
  }

  file(name: string): string {
    return join(this.path, name);
  }

  [Symbol.dispose](): void {
    fs.rmSync(this.path, { recursive: true, force: true });
  }
}

/** Polls until `done`. */
export async function until(
  what: string,
  done: () => Promise<boolean> | boolean,
  timeoutMs = WAIT_MS,
): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!await done()) {
    if (Date.now() > deadline) throw new Error(`Cannot go on: ${what} did not happen in ${timeoutMs} ms`);
    await sleep(ASK_MS);
  }
}

/** Waits until the server knows that the receiver has everything written so far on its disk; tells how far that is. */
export async function caughtUp(
  cluster: Cluster,
  receiver: Receiver,
  applicationName = "walvault",
): Promise<string> {
  const standby = await cluster.value("SELECT pg_is_in_recovery()::text") === "true";
  const end = await cluster.value(
    `SELECT ${standby ? "pg_last_wal_replay_lsn()" : "pg_current_wal_flush_lsn()"}`,
  );
  await until(`"${applicationName}" having WAL up to ${end}`, async () => {
    if (!receiver.alive) throw new Error(`Cannot catch up: the receiver ended\n${receiver.stderr}`);
    const rows = await cluster.sql(
      `SELECT FROM pg_stat_replication WHERE application_name = '${applicationName}' AND flush_lsn >= '${end}'`,
    );
    return rows.length > 0;
  });
  return end;
}

/** One file of WAL in an archive. */
export interface ArchivedFile {
  readonly name: string;
  readonly path: string;
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
}

/** An archive's files, read anew at each call and by nothing of `lib/archive`. */
export class ArchiveFiles {
  readonly segmentSize: SegmentSize;

  constructor(readonly directory: string, segmentBytes = 16 * MIB) {
    this.segmentSize = segmentSize(segmentBytes);
  }

  #files(directory: string, wanted: RegExp): ArchivedFile[] {
    if (!fs.existsSync(directory)) return [];
    return fs.readdirSync(directory).filter((file) => wanted.test(file)).sort().map((file) => {
      const name = file.slice(0, 24);
      const segment = parseSegmentName(name, this.segmentSize);
      assert.ok(segment, `${file} is no name of a segment of ${this.segmentSize} bytes`);
      return { name, path: join(directory, file), ...segment };
    });
  }

  complete(): readonly ArchivedFile[] {
    return this.#files(this.directory, /^[0-9A-F]{24}$/);
  }

  growing(): readonly ArchivedFile[] {
    return this.#files(join(this.directory, "inprogress"), /^[0-9A-F]{24}$/);
  }

  saved(): readonly ArchivedFile[] {
    return this.#files(join(this.directory, "inprogress"), /^[0-9A-F]{24}\.saved-/);
  }

  /** Names in `inprogress/`, each with the number of the file that has it. */
  inProgress(): readonly string[] {
    const directory = join(this.directory, "inprogress");
    return fs.readdirSync(directory).sort().map((name) =>
      `${name} ${fs.statSync(join(directory, name), { throwIfNoEntry: false })?.ino}`
    );
  }

  histories(): readonly string[] {
    return fs.readdirSync(this.directory).filter((name) => name.endsWith(".history")).sort();
  }

  conflicts(): readonly string[] {
    const directory = join(this.directory, "conflicts");
    return fs.existsSync(directory) ? fs.readdirSync(directory).sort() : [];
  }

  startLsn(file: ArchivedFile): Lsn {
    return segmentStart(file.number, this.segmentSize);
  }

  scan(file: ArchivedFile): SegmentScan {
    return this.scanBytes(file, fs.readFileSync(file.path));
  }

  /** As `scan`, of what was read before. */
  scanBytes(file: ArchivedFile, bytes: Uint8Array): SegmentScan {
    const scanner = new SegmentScanner({ startLsn: this.startLsn(file), segmentSize: this.segmentSize });
    scanner.push(bytes);
    return scanner.result();
  }

  /** `undefined` when the receiver has just removed the file. */
  #contentEnd(file: ArchivedFile): Lsn | undefined {
    try {
      return this.scan(file).contentEndLsn;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      return undefined;
    }
  }

  /** The end of what was received of a timeline: of its complete segments, or of the valid WAL in the growing one. */
  endLsn(timeline = 1): Lsn {
    const ends: Lsn[] = [];
    // The growing ones first: what is published meanwhile is found after that.
    for (const file of [...this.growing(), ...this.saved()]) {
      if (file.timeline === timeline) ends.push(this.#contentEnd(file) ?? lsn(0n));
    }
    for (const file of this.complete()) {
      if (file.timeline === timeline) ends.push(segmentEnd(file.number, this.segmentSize));
    }
    return ends.reduce((highest, end) => end > highest ? end : highest, lsn(0n));
  }
}

/** Everything below a directory that a test may want to find unchanged: names and contents; not the lock's. */
export function fingerprint(directory: string): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const name of fs.readdirSync(directory, { recursive: true, encoding: "utf8" }).sort()) {
    const path = join(directory, name);
    if (!fs.statSync(path).isFile()) continue;
    found.set(name, createHash("sha256").update(fs.readFileSync(path)).digest("hex"));
  }
  return found;
}

/** What `compareWithServer` has seen to be equal. */
export interface Compared {
  readonly completeSegments: number;
  /** Everything below it is the server's, byte for byte. */
  readonly endLsn: Lsn;
}

/**
 * The archive's segments of one timeline are the server's own: complete ones to the last byte, the growing one to the
 * end of what was received. Complete ones are also complete by their own content, and there is no hole.
 *
 * With `fromLsn` those that end at or below it are left out.
 */
export function compareWithServer(
  archive: ArchiveFiles,
  cluster: Cluster,
  options: { readonly timeline?: number; readonly fromLsn?: Lsn } = {},
): Compared {
  const { timeline = 1, fromLsn = lsn(0n) } = options;
  const wal = join(cluster.dataDirectory, "pg_wal");
  const growing = archive.growing(); // before the complete ones: it may become one meanwhile
  const complete = archive.complete().filter((file) =>
    file.timeline === timeline && segmentEnd(file.number, archive.segmentSize) > fromLsn
  );
  let next: SegmentNumber | undefined;
  for (const file of complete) {
    if (next !== undefined) assert.equal(file.number, next, `a hole before ${file.name}`);
    next = file.number + 1n as SegmentNumber;
    const ours = fs.readFileSync(file.path);
    assert.equal(ours.length, archive.segmentSize, `${file.name} has another size`);
    assertSameBytes(ours, fs.readFileSync(join(wal, file.name)), file.name);
  }
  let endLsn = next === undefined ? lsn(0n) : segmentStart(next, archive.segmentSize);
  for (const file of growing) {
    if (file.timeline !== timeline || (next !== undefined && file.number < next)) continue;
    const end = archive.scan(file).contentEndLsn;
    const bytes = Number(end - archive.startLsn(file));
    if (bytes === 0) continue; // made ahead of its time
    if (next !== undefined) assert.equal(file.number, next, `a hole before ${file.name}`);
    const server = fs.readFileSync(join(wal, file.name));
    assertSameBytes(fs.readFileSync(file.path).subarray(0, bytes), server.subarray(0, bytes), file.name);
    if (end > endLsn) endLsn = end;
  }
  return { completeSegments: complete.length, endLsn };
}

function assertSameBytes(ours: Uint8Array, server: Uint8Array, name: string): void {
  if (Buffer.compare(ours, server) === 0) return;
  const at = ours.findIndex((byte, index) => byte !== server[index]);
  assert.fail(`${name} is not the server's: first difference at byte ${at === -1 ? ours.length : at}`);
}

/**
 * Nothing below `flushLsn` is missing or other than on the server: it stands in a complete segment, in the growing one
 * or in a copy saved from an earlier run. With `fromLsn` only from its segment on.
 */
export function assertHolds(
  archive: ArchiveFiles,
  cluster: Cluster,
  { flushLsn, timeline = 1, fromLsn }: {
    readonly flushLsn: Lsn;
    readonly timeline?: number;
    readonly fromLsn?: Lsn;
  },
): void {
  const wal = join(cluster.dataDirectory, "pg_wal");
  const all = [...archive.complete(), ...archive.growing(), ...archive.saved()].filter((file) =>
    file.timeline === timeline
  );
  const lowest = all.map((file) => file.number).reduce((least, number) => number < least ? number : least);
  const first = fromLsn === undefined ? lowest : segmentNumberAt(fromLsn, archive.segmentSize);
  for (let number = first; segmentStart(number, archive.segmentSize) < flushLsn; number++) {
    const startLsn = segmentStart(number, archive.segmentSize);
    const bytes = Number(
      (flushLsn < segmentEnd(number, archive.segmentSize)
        ? flushLsn
        : startLsn + BigInt(archive.segmentSize)) -
        startLsn,
    );
    const name = segmentName(timeline as TimelineId, number, archive.segmentSize);
    const server = fs.readFileSync(join(wal, name)).subarray(0, bytes);
    const copies = all.filter((file) => file.number === number);
    const held = copies.some((file) =>
      Buffer.compare(fs.readFileSync(file.path).subarray(0, bytes), server) === 0
    );
    const there = copies.map((file) =>
      `${basename(file.path)} to ${formatLsn(archive.scan(file).contentEndLsn)}`
    );
    assert.ok(
      held,
      `${name}: flushed up to ${formatLsn(flushLsn)}, but there is only ${there.join(", ") || "nothing"}`,
    );
  }
}

/**
 * The records of one timeline's files form one chain: every complete segment is complete by its own content, and the
 * first record of each points back to the last one before it. Answers how many whole records there are.
 */
export function checkRecords(
  archive: ArchiveFiles,
  { timeline = 1, growing: withGrowing = true }: { readonly timeline?: number; readonly growing?: boolean } =
    {},
): number {
  const isWanted = (file: ArchivedFile) => file.timeline === timeline;
  const complete = archive.complete().filter(isWanted);
  const names = new Set(complete.map((file) => file.name));
  const growing = archive.growing().filter((file) => withGrowing && isWanted(file) && !names.has(file.name));
  let records = 0;
  /** A record that goes on where nothing was archived yet. */
  let open = 0;
  let before: readonly (Lsn | undefined)[] = [];
  for (const file of [...complete, ...growing]) {
    const scan = archive.scan(file);
    if (names.has(file.name)) {
      assert.ok(
        scan.end === "segment-end" || (scan.end === "switch" && scan.restIsZero),
        `${file.name} is not complete: ${scan.end} ${scan.problem ?? ""}`,
      );
    }
    const back = scan.firstRecordPrevLsn;
    if (before.length > 0 && back !== undefined) {
      const wanted = before.map((lsn) => lsn === undefined ? "none" : formatLsn(lsn)).join(" or ");
      assert.ok(before.includes(back), `${file.name} follows a record at ${formatLsn(back)}, want ${wanted}`);
    }
    // A record that fills the whole segment leaves what came before it as it was.
    if (scan.openRecordLsn !== undefined || scan.lastRecordLsn !== undefined) {
      before = [scan.openRecordLsn, scan.lastRecordLsn];
    }
    open = scan.openRecordLsn === undefined ? 0 : 1;
    records += scan.recordCount + open;
  }
  return records - open;
}

/** Every segment of a lineage from the archive's first one up to `endLsn` is there, on the timeline it belongs to. */
export function assertLineage(
  archive: ArchiveFiles,
  lineage: TimelineHistory,
  endLsn: Lsn,
): void {
  const names = new Set([...archive.complete(), ...archive.growing()].map((file) => file.name));
  const numbers = archive.complete().map((file) => file.number);
  let number = numbers.reduce((least, other) => other < least ? other : least);
  for (; segmentStart(number, archive.segmentSize) < endLsn; number++) {
    const last = lsn(segmentEnd(number, archive.segmentSize) - 1n);
    const name = segmentName(timelineAt(lineage, last), number, archive.segmentSize);
    assert.ok(names.has(name), `${name} is missing`);
  }
}

/**
 * The archive as a plain directory for `cp`: complete files, and of each segment that is not complete the copy that
 * goes furthest. As it stands now: the receiver may go on.
 */
export function layOut(archive: ArchiveFiles, target: string): void {
  fs.mkdirSync(target, { mode: 0o755 });
  const copy = (from: string, name: string) => {
    fs.copyFileSync(from, join(target, name));
    fs.chmodSync(join(target, name), 0o644);
  };
  const complete = new Set(archive.complete().map((file) => file.name));
  for (const name of [...complete, ...archive.histories()]) copy(join(archive.directory, name), name);
  const furthest = new Map<string, { readonly path: string; readonly end: Lsn }>();
  for (const file of [...archive.growing(), ...archive.saved()]) {
    if (complete.has(file.name)) continue;
    const end = archive.scan(file).contentEndLsn;
    const other = furthest.get(file.name);
    if (other === undefined || end > other.end) furthest.set(file.name, { path: file.path, end });
  }
  for (const [name, { path }] of furthest) copy(path, name);
}

/** A server recovered from a base copy and what `layOut` made; its recovery is over. The caller destroys it. */
export async function restore(
  { backup, wal, major, settings = {} }: {
    readonly backup: BackupCopy;
    readonly wal: string;
    readonly major: number;
    readonly settings?: Settings;
  },
): Promise<Cluster> {
  const restored = await startCluster({
    major,
    from: backup.directory,
    signal: "recovery.signal",
    settings: { restore_command: `cp "${wal}/%f" "%p"`, ...settings },
  });
  try {
    await until(
      "the end of recovery",
      async () => await restored.value("SELECT pg_is_in_recovery()::text") === "false",
    );
  } catch (error) {
    const log = restored.log();
    await restored.destroy();
    throw new Error(`${(error as Error).message}\n${log}`, { cause: error });
  }
  return restored;
}

/** The LSN of the segment that holds it, and its number, in the words of a test. */
export function segmentOf(position: Lsn, archive: ArchiveFiles, timeline = 1): string {
  return segmentName(
    timeline as TimelineId,
    segmentNumberAt(position, archive.segmentSize),
    archive.segmentSize,
  );
}
