/** Much WAL for long, onto a disk that stalls now and then: memory, delays and descriptors stay within named limits. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import process from "node:process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Archive } from "../../lib/archive/archive.ts";
import type { Disk, DiskFile } from "../../lib/archive/disk.ts";
import { openDiskThread } from "../../lib/archive/disk_thread.ts";
import { GapReceivingArchive } from "../../lib/archive/gap_receiving_archive.ts";
import { DEFAULT_MINIMUM_FREE } from "../../lib/archive/minimum_free.ts";
import { RECEIVING_MEMORY_BYTES } from "../../lib/archive/receiving_archive.ts";
import { realClock } from "../../lib/commands/clock.ts";
import { receiveWal } from "../../lib/receiver/receive.ts";
import type { WalSource } from "../../lib/receiver/wal_source.ts";
import { askHosts, connect } from "../../lib/session/connect.ts";
import { segmentStart } from "../../lib/wal/segment.ts";
import { parseSegmentName, segmentSize } from "../../lib/wal/segment.ts";
import { settingsFor, SILENT, tcpHost } from "../session/support.ts";
import { SEGMENT_BYTES, type SenderFacts, START_LSN } from "./scripted_walsender.ts";

const MIB = 1 << 20;
/** How much the process may grow from its first second to any other one. */
const MEMORY_LIMIT_BYTES = 160 * MIB;
/** Nothing of ours may keep the thread that answers for longer; how long it waited for a core comes on top. */
const DELAY_P99_LIMIT_MS = 200;
const DELAY_LIMIT_MS = 1000;
/** A reader that pauses reports each second. */
const SILENCE_LIMIT_MS = 3000;
/** Sockets, files and directories of one receiver, over those that the process has anyway. */
const DESCRIPTOR_LIMIT = 16;
/** The growing segment, the next one, and those just published. */
const FILE_LIMIT = 12;

/** How it is played. */
export interface ThroughputPlan {
  readonly seconds: number;
  readonly megabytesPerSecond: number;
  /** The disk stalls this often, for so long. */
  readonly stallEveryMs: number;
  readonly stallMs: number;
}

/** What was seen. */
export interface ThroughputResult {
  readonly megabytes: number;
  readonly megabytesPerSecond: number;
  readonly grownMegabytes: number;
  readonly delayP99Ms: number;
  readonly delayMaxMs: number;
  readonly silenceMs: number;
  readonly descriptors: number;
  readonly files: number;
  readonly stalls: number;
}

/** A disk whose calls wait behind a gate while it stalls; they keep their order. */
function stallingDisk(disk: Disk, state: { gate: Promise<void>; durableLsn: bigint }): Disk {
  const size = segmentSize(SEGMENT_BYTES);
  const behind = async <T>(call: () => Promise<T>): Promise<T> => {
    await state.gate;
    return await call();
  };
  const wrap = (file: DiskFile, path: string): DiskFile => {
    const segment = parseSegmentName(path.split("/").at(-1)!, size);
    let written = 0;
    return {
      write: (bytes, position) =>
        behind(() => {
          const isZeros = bytes[PROBE] === 0 && bytes.length === ZERO_PIECE_BYTES &&
            bytes.every((byte) => byte === 0);
          if (!isZeros) written = Math.max(written, position + bytes.length);
          return file.write(bytes, position);
        }),
      read: (buffer, position) => behind(() => file.read(buffer, position)),
      truncate: (bytes) => behind(() => file.truncate(bytes)),
      sync: () =>
        behind(async () => {
          const covered = written;
          await file.sync();
          if (segment === undefined || covered === 0) return;
          const lsn = segmentStart(segment.number, size) + BigInt(covered);
          if (lsn > state.durableLsn) state.durableLsn = lsn;
        }),
      bytes: () => behind(() => file.bytes()),
      inode: () => behind(() => file.inode()),
      state: () => behind(() => file.state()),
      close: () => behind(() => file.close()),
    };
  };
  return {
    root: disk.root,
    allocate: (bytes) => disk.allocate(bytes),
    open: (path) =>
      behind(async () => {
        const file = await disk.open(path);
        return file === undefined ? undefined : wrap(file, path);
      }),
    create: (path, mode) => behind(async () => wrap(await disk.create(path, mode), path)),
    append: (path, mode) => behind(async () => wrap(await disk.append(path, mode), path)),
    link: (existing, added) => behind(() => disk.link(existing, added)),
    rename: (from, to) => behind(() => disk.rename(from, to)),
    unlink: (path) => behind(() => disk.unlink(path)),
    list: (path) => behind(() => disk.list(path)),
    entries: (path) => behind(() => disk.entries(path)),
    entry: (path) => behind(() => disk.entry(path)),
    makeDirectory: (path, mode) => behind(() => disk.makeDirectory(path, mode)),
    syncDirectory: (path) => behind(() => disk.syncDirectory(path)),
    space: () => behind(() => disk.space()),
    close: () => disk.close(),
  };
}

/** What is laid out ahead is no WAL. */
const ZERO_PIECE_BYTES = 64 * 1024;
const PROBE = 12;

class Sender {
  port = 0;
  facts: SenderFacts | undefined;
  readonly #child: ChildProcess;
  readonly started: Promise<void>;

  constructor(megabytesPerSecond: number) {
    const file = join(dirname(fileURLToPath(import.meta.url)), "scripted_walsender.ts");
    const words = "Bun" in globalThis ? [file] : ["run", "--allow-all", "--cached-only", file];
    this.#child = spawn(process.execPath, [...words, String(megabytesPerSecond)], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.started = new Promise((resolve, reject) => {
      this.#child.once("exit", () => reject(new Error("Cannot stream: the walsender has ended")));
      createInterface({ input: this.#child.stdout! }).on("line", (line) => {
        if (this.port !== 0) return void (this.facts = JSON.parse(line) as SenderFacts);
        this.port = Number(line);
        resolve();
      });
    });
    this.started.catch(() => {});
  }

  [Symbol.dispose](): void {
    this.#child.kill("SIGKILL");
  }
}

function descriptors(): number {
  return process.platform === "linux" ? fs.readdirSync("/proc/self/fd").length : 0;
}

/** How long this thread has been ready to run while others had the machine's cores; 0 where nobody tells that. */
function waitedForCoreMs(): number {
  try {
    return Number(fs.readFileSync("/proc/thread-self/schedstat", "utf8").split(" ")[1]) / 1e6;
  } catch {
    return 0;
  }
}

/** Plays it, and checks all limits on the way. */
export async function playThroughput(plan: ThroughputPlan): Promise<ThroughputResult> {
  // Memory where there is some: what is measured is not this machine's disk.
  const parent = fs.existsSync("/dev/shm") ? "/dev/shm" : tmpdir();
  const directory = fs.mkdtempSync(join(parent, "walvault-throughput-"));
  const abort = new AbortController();
  const state = { gate: Promise.resolve(), durableLsn: START_LSN };
  using sender = new Sender(plan.megabytesPerSecond);
  const real = openDiskThread(directory, RECEIVING_MEMORY_BYTES);
  const problems: string[] = [];
  try {
    await sender.started;
    const archive = await Archive.open(stallingDisk(real, state), {
      naming: { hardLinks: true },
      userId: process.geteuid?.(),
    });
    const events = {
      // Its in-progress name goes after this; the file itself is gone with both.
      segmentPublished: ({ segment }: { segment: string }) =>
        void fs.promises.unlink(join(directory, segment)).catch((error) => problems.push(String(error))),
      savedCopyKept: () => {},
      savedCopyPassed: () => {},
      unknownPageMagic: () => {},
    };
    const log = {
      ...SILENT,
      error: (event: string, fields?: object) => void problems.push(`${event} ${JSON.stringify(fields)}`),
    };
    const settings = settingsFor([tcpHost(sender.port)]);
    const receiving = receiveWal(
      {
        connect: (accept: (source: WalSource) => Promise<boolean>, signal: AbortSignal) =>
          connect(settings, { log: SILENT, accept, signal }),
        askHosts: (ask, signal) => askHosts(settings, { log: SILENT, signal }, ask),
        archive: new GapReceivingArchive(archive, {
          clock: realClock,
          events,
          minimumFree: DEFAULT_MINIMUM_FREE,
          now: () => new Date(),
        }),
        clock: realClock,
        log,
        random: Math.random,
        onPosition: ({ flushLsn }) => {
          if (flushLsn > state.durableLsn) problems.push(`flush ${flushLsn} is ahead of ${state.durableLsn}`);
        },
        onStreaming: () => {},
      },
      {
        slot: undefined,
        createSlot: false,
        endLsn: undefined,
        loop: true,
        gaps: "record",
        applicationName: "walvault",
        timing: {
          statusIntervalMs: 1000,
          receiveTimeoutMs: 60_000,
          stallTimeoutMs: 15_000,
          stopTimeoutMs: 10_000,
        },
      },
      abort.signal,
    );
    receiving.catch((error) => problems.push(String(error)));
    const seen = await watch(plan, { state, directory, problems });
    const { megabytes, seconds } = {
      megabytes: (sender.facts?.flushedBytes ?? 0) / 1e6,
      seconds: plan.seconds,
    };
    abort.abort();
    assert.equal(await receiving, "stopped");
    await sleep(600);
    assert.deepEqual(problems, []);
    const facts = sender.facts!;
    assert.equal(facts.connections, 1, "it reconnected");
    assert.equal(facts.wrongFlushes, 0);
    assert.ok(facts.longestSilenceMs <= SILENCE_LIMIT_MS, `no word for ${facts.longestSilenceMs} ms`);
    assert.ok(megabytes > 1, "nothing came");
    const left = fs.readdirSync(join(directory, "inprogress"));
    assert.ok(left.length <= 1, left.join());
    return { megabytes, megabytesPerSecond: megabytes / seconds, silenceMs: facts.longestSilenceMs, ...seen };
  } finally {
    abort.abort();
    await real.close();
    fs.rmSync(directory, { recursive: true, force: true });
  }
}

async function watch(
  plan: ThroughputPlan,
  { state, directory, problems }: {
    readonly state: { gate: Promise<void> };
    readonly directory: string;
    readonly problems: readonly string[];
  },
) {
  const inProgress = join(directory, "inprogress");
  for (let tries = 0; tries < 300 && problems.length === 0; tries++) {
    if (fs.existsSync(inProgress) && fs.readdirSync(inProgress).length > 0) break;
    await sleep(100);
  }
  await sleep(1000);
  const memoryAtFirst = process.memoryUsage().rss;
  const descriptorsAtFirst = descriptors();
  const delays = monitorEventLoopDelay({ resolution: 5 });
  delays.enable();
  let grown = 0;
  let mostDescriptors = 0;
  let mostFiles = 0;
  let stalls = 0;
  let waitedMs = waitedForCoreMs();
  let longestWaitMs = 0;
  const beganMs = performance.now();
  for (
    let stalledAtMs = beganMs;
    performance.now() - beganMs < plan.seconds * 1000 && problems.length === 0;
  ) {
    await sleep(250);
    const waitedByNowMs = waitedForCoreMs();
    longestWaitMs = Math.max(longestWaitMs, waitedByNowMs - waitedMs);
    waitedMs = waitedByNowMs;
    if (performance.now() - stalledAtMs >= plan.stallEveryMs) {
      stalledAtMs = performance.now();
      stalls++;
      state.gate = sleep(plan.stallMs);
    }
    grown = Math.max(grown, process.memoryUsage().rss - memoryAtFirst);
    mostDescriptors = Math.max(mostDescriptors, descriptors());
    mostFiles = Math.max(
      mostFiles,
      fs.readdirSync(directory).length + fs.readdirSync(inProgress).length,
    );
    assert.ok(grown <= MEMORY_LIMIT_BYTES, `the process grew by ${Math.round(grown / MIB)} MiB`);
    assert.ok(mostDescriptors - descriptorsAtFirst <= DESCRIPTOR_LIMIT, `${mostDescriptors} descriptors`);
    assert.ok(mostFiles <= FILE_LIMIT, `${mostFiles} files`);
  }
  delays.disable();
  const seen = {
    grownMegabytes: grown / 1e6,
    delayP99Ms: delays.percentile(99) / 1e6,
    delayMaxMs: delays.max / 1e6,
    descriptors: mostDescriptors - descriptorsAtFirst,
    files: mostFiles,
    stalls,
  };
  const besides = `${Math.round(longestWaitMs)} ms of waiting for a core`;
  assert.ok(
    seen.delayP99Ms <= DELAY_P99_LIMIT_MS + longestWaitMs,
    `the 99th percentile of delays is ${seen.delayP99Ms} ms, with ${besides}`,
  );
  assert.ok(
    seen.delayMaxMs <= DELAY_LIMIT_MS + longestWaitMs,
    `the longest delay is ${seen.delayMaxMs} ms, with ${besides}`,
  );
  return seen;
}
