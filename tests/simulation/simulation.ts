import { Archive } from "../../lib/archive/archive.ts";
import { decodeIdentity } from "../../lib/archive/identity.ts";
import { parseInProgressName } from "../../lib/archive/layout.ts";
import { ReceivingArchive } from "../../lib/archive/receiving_archive.ts";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import { receiveWal } from "../../lib/receiver/receive.ts";
import type { WalSource } from "../../lib/receiver/wal_source.ts";
import { ancestorHistory, switchPointOf } from "../../lib/wal/history.ts";
import { formatLsn, lsn } from "../../lib/wal/lsn.ts";
import { parseSegmentName, segmentName, type SegmentNumber } from "../../lib/wal/segment.ts";
import { historyFileName, parseHistoryFileName } from "../../lib/wal/timeline.ts";
import { timelineOfSegment } from "../../lib/receiver/start.ts";
import { SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { Random } from "./random.ts";
import { Scheduler } from "./sim_clock.ts";
import {
  type Fault,
  type Inode,
  type OperationKind,
  sameBytes,
  SimDisk,
  type SimProcess,
} from "./sim_disk.ts";
import { commonEnd, SimServer, type StreamFacts } from "./sim_server.ts";
import { type Branch, historyBytes, SEGMENT_BYTES, SEGMENT_SIZE, worldOf } from "./sim_wal.ts";

const BIG_SEGMENT = BigInt(SEGMENT_BYTES);
/** Once nothing disturbs any more, all must be archived within this. */
const CONVERGE_MS = 600_000;
/** No seed needs nearly so many; more is a loop that gets nowhere. */
const MAX_EVENTS = 60_000;
/** A receiver told to stop has its own limit of 10 s, and a moment. */
const STOP_LIMIT_MS = 12_000;

/** A promise was broken; the message names the seed and how to see it again. */
export class SimulationFailure extends Error {
  override readonly name = "SimulationFailure";
}

/** What happened in one run. */
export interface SimulationResult {
  readonly events: number;
  readonly operations: number;
  readonly crashes: number;
  readonly nowMs: number;
}

interface Process extends SimProcess {
  readonly abort: AbortController;
  readonly number: number;
  readonly release: () => void;
}

/**
 * Runs one seed: a server's whole life, and a receiver that is killed, cut off and starved on the way.
 *
 * @throws {SimulationFailure} when a promise is broken, or not all is archived in the end.
 */
export async function simulate(seed: number, trace?: (line: string) => void): Promise<SimulationResult> {
  try {
    return await new Simulation(seed, trace).run();
  } finally {
    // What was left for a turn of the real event loop must not pile up over thousands of seeds.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

class Simulation {
  readonly #random: Random;
  readonly #scheduler = new Scheduler();
  readonly #disk: SimDisk;
  readonly #server: SimServer;
  readonly #naming: { readonly hardLinks: boolean };
  #process: Process | undefined;
  #processes = 0;
  #crashes = 0;
  #crashesLeft: number;
  #crashAt: { readonly operation: number; readonly when: "before" | "after" } | undefined;
  #crashAtStatus: number | undefined;
  #statuses = 0;
  #calm = false;
  #calmAtMs = 0;
  #problem: string | undefined;
  /** What was ever acknowledged: from the archive's first byte on that line of WAL. */
  readonly #acked = new Map<Branch, { readonly beginLsn: bigint; endLsn: bigint }>();
  /** From here on the server has thrown a line of WAL away. */
  readonly #givenUp = new Map<Branch, bigint>();
  readonly #timing;

  constructor(private readonly seed: number, private readonly traceLine?: (line: string) => void) {
    const random = new Random(seed);
    this.#random = random;
    const statusIntervalMs = random.pick([1000, 10_000]);
    const watcher = {
      violation: (text: string) => this.#fail(text),
      trace: (text: string) => this.#trace(text),
    };
    this.#disk = new SimDisk(this.#scheduler, random, {
      ...watcher,
      onOperation: (count, when, kind) => this.#onOperation(count, when, kind),
      onNamesOrSync: () => this.#checkHeld("after a change on the disk"),
      onPublished: (name, inode) => this.#onPublished(name, inode),
    });
    this.#server = new SimServer(
      worldOf(seed),
      {
        slot: random.chance(0.7) ? "vault" : undefined,
        growthMs: random.spread(1, 400),
        growthStops: random.pick([1, 4, 20, 200]),
        networkMs: random.chance(0.1) ? random.spread(60, 250) : random.spread(0.05, 60),
        pieceBytes: random.pick([4000, 60_000, 60_000, 200_000, 600_000]),
        keepaliveMs: random.pick([200, 3000, 10_000]),
        statusIntervalMs,
      },
      this.#scheduler,
      random,
      {
        ...watcher,
        onStatus: (stream, status) => this.#onStatus(stream, status),
        onStreamStart: (stream) =>
          this.#trace(`stream of timeline ${stream.timeline} from ${formatLsn(stream.startLsn)}`),
        onRewritten: (branch, at) => this.#onRewritten(branch, at),
      },
    );
    this.#naming = { hardLinks: random.chance(0.85) };
    this.#timing = {
      statusIntervalMs,
      receiveTimeoutMs: random.pick([5000, 60_000]),
      stallTimeoutMs: random.pick([3000, 15_000]),
      stopTimeoutMs: 10_000,
    };
    this.#crashesLeft = random.pick([0, 1, 2, 3, 4, 5]);
    this.#planDisasters();
  }

  async run(): Promise<SimulationResult> {
    this.#start();
    await this.#scheduler.run(() => this.#done());
    if (this.#problem === undefined && !this.#converged()) {
      this.#problem =
        `P10/progress: not all is archived when nothing is left to happen: ${this.#whereWeAre()}`;
    }
    if (this.#problem === undefined) this.#checkArchive();
    this.#endProcess();
    this.#disk.release();
    if (this.#problem !== undefined) {
      throw new SimulationFailure(
        `seed ${this.seed}: ${this.#problem}\nsee it again: deno run -A tests/simulation/replay.ts ${this.seed}`,
      );
    }
    return {
      events: this.#scheduler.count,
      operations: this.#disk.operations,
      crashes: this.#crashes,
      nowMs: this.#scheduler.nowMs,
    };
  }

  #planDisasters(): void {
    const random = this.#random;
    const chaosMs = random.spread(500, 60_000);
    this.#disk.slownessMs = random.pick([0.01, 0.5, 3, 20]);
    const kinds: readonly (readonly [Fault["code"], readonly OperationKind[]])[] = [
      ["ENOSPC", ["write", "create", "link", "rename", "makeDirectory"]],
      ["ENOSPC", ["write", "create", "link", "rename", "makeDirectory"]],
      // File systems that copy on write need room for these too.
      ["ENOSPC", [
        "write",
        "create",
        "link",
        "rename",
        "makeDirectory",
        "unlink",
        "syncDirectory",
        "truncate",
      ]],
      ["EDQUOT", ["syncDirectory", "unlink"]],
      ["ENOSPC", ["sync"]],
      ["EIO", ["sync"]],
      ["EIO", ["sync"]],
      ["EIO", ["sync"]],
      ["EIO", ["write"]],
      ["EIO", ["syncDirectory"]],
      ["EIO", ["read"]],
      ["EIO", ["unlink", "link", "create", "rename"]],
      ["EMFILE", ["open", "create"]],
    ];
    const faults = random.pick([0, 0, 1, 2, 4]);
    for (let i = 0; i < faults; i++) {
      const [code, of] = random.pick(kinds);
      this.#disk.faults.push({
        kinds: of,
        code,
        fromOperation: Math.floor(random.spread(1, 600)),
        durationMs: random.chance(0.5) ? 0 : random.spread(1, 20_000),
      });
    }
    if (random.chance(0.25)) {
      this.#disk.stalls.push({
        fromOperation: Math.floor(random.spread(1, 500)),
        durationMs: random.spread(50, 50_000),
      });
    }
    const cuts = random.pick([0, 0, 1, 3]);
    for (let i = 0; i < cuts; i++) {
      this.#scheduler.after(random.next() * Math.min(chaosMs, 10_000), () => {
        if (this.#calm) return;
        const silence = random.chance(0.3);
        this.#trace(silence ? "network: silent" : "network: cut");
        if (silence) this.#server.silence();
        else this.#server.cut();
      });
    }
    if (random.chance(0.4)) {
      this.#scheduler.after(random.next() * Math.min(chaosMs, 10_000), () => this.#stopOrderly());
    }
    this.#scheduler.after(chaosMs, () => {
      this.#trace("from now on nothing disturbs");
      this.#calm = true;
      this.#calmAtMs = this.#scheduler.nowMs;
      this.#crashAt = undefined;
      this.#crashAtStatus = undefined;
      this.#crashesLeft = 0;
      for (const fault of this.#disk.faults) fault.spent = true;
      this.#disk.stalls = [];
    });
  }

  /** Starts the program, as a service manager does. */
  #start(): void {
    const random = this.#random;
    const abort = new AbortController();
    const number = ++this.#processes;
    const state = { alive: true };
    const disk = this.#disk.open(state);
    const process: Process = Object.assign(state, {
      abort,
      number,
      release: () => (disk as unknown as { release(): void }).release(),
    });
    this.#process = process;
    this.#trace(`process ${number} starts`);
    if (this.#crashesLeft > 0) {
      const operation = this.#disk.operations + Math.floor(random.spread(1, 500));
      if (random.chance(0.15)) this.#crashAtStatus = this.#statuses + Math.floor(random.spread(1, 40));
      else this.#crashAt = { operation, when: random.pick(["before", "after"]) };
    }
    const clock = this.#scheduler.clockOf(process);
    const say = (level: string) => (event: string, fields?: object) => {
      if (this.traceLine !== undefined) this.#trace(`${level}: ${event} ${inspect(fields)}`);
    };
    const log = { error: say("error"), warn: say("warn"), info: say("info"), debug: say("debug") };
    let opened = false;
    const life = async () => {
      const archive = await Archive.open(disk, { naming: this.#naming, userId: 1000 });
      opened = true;
      const receiving = new ReceivingArchive(archive, {
        clock,
        events: {
          segmentPublished: (event) => this.#trace(`published ${event.segment}`),
          savedCopyKept: (event) =>
            this.#trace(`kept ${event.path} valid to ${formatLsn(event.validEndLsn)}`),
          savedCopyPassed: (event) => this.#trace(`passed ${event.path}`),
          unknownPageMagic: () => {},
        },
      });
      return await receiveWal(
        {
          connect: async (accept: (source: WalSource) => Promise<boolean>) => {
            const connection = await this.#server.connect(process);
            try {
              if (await accept(connection)) return connection;
            } catch (error) {
              await connection.close();
              throw error;
            }
            await connection.close();
            throw new ConnectionError("unsuitable", "not accepted");
          },
          archive: receiving,
          clock,
          log,
          random: () => random.next(),
          onPosition: () => {},
          onStreaming: () => {},
        },
        {
          slot: this.#server.habits.slot,
          createSlot: true,
          applicationName: "walvault",
          endLsn: undefined,
          loop: true,
          timing: this.#timing,
        },
        abort.signal,
      );
    };
    life().then((end) => {
      this.#trace(`process ${number} ends: ${end}`);
      if (!abort.signal.aborted) this.#fail(`the receiver ended by itself: ${end}`);
      this.#restartSoon(process);
    }, (error) => {
      this.#trace(`process ${number} fails: ${error?.stack}`);
      if (opened) this.#fail(`the receiver gave up: ${(error as Error).message}`);
      this.#restartSoon(process);
    });
  }

  #restartSoon(process: Process): void {
    process.alive = false;
    this.#server.loseClient(process, "told");
    process.release();
    if (this.#process === process) this.#process = undefined;
    this.#scheduler.after(this.#random.spread(1, 3000), () => {
      if (this.#process === undefined) this.#start();
    });
  }

  #stopOrderly(): void {
    const process = this.#process;
    if (process === undefined || this.#calm) return;
    this.#trace(`process ${process.number} is told to stop`);
    const wasTroubled = this.#disk.faults.length > 0 || this.#disk.stalls.length > 0 || this.#disk.troubled;
    process.abort.abort();
    this.#scheduler.after(STOP_LIMIT_MS, () => {
      // A disk that stalls may hold it up, and a server that does not answer.
      if (process.alive && !wasTroubled && !this.#server.anySilent) {
        this.#fail(`told to stop, it still runs after ${STOP_LIMIT_MS / 1000} s`);
      }
    });
  }

  /** The process, or the whole machine, stops at once. */
  #crash(): void {
    const process = this.#process;
    if (process === undefined) return;
    this.#crashes++;
    this.#crashesLeft--;
    this.#crashAt = undefined;
    this.#crashAtStatus = undefined;
    const power = this.#random.chance(0.5);
    this.#trace(power ? "POWER CUT" : "KILL");
    this.#disk.kill(process);
    this.#server.loseClient(process, power && this.#random.chance(0.5) ? "untold" : "told");
    if (power) this.#disk.cutPower();
    this.#process = undefined;
    this.#scheduler.after(1, () => process.release());
    this.#scheduler.after(this.#random.spread(2, 3000), () => {
      if (this.#process === undefined) this.#start();
    });
  }

  #endProcess(): void {
    const process = this.#process;
    if (process === undefined) return;
    this.#disk.kill(process);
    this.#server.loseClient(process, "told");
    process.release();
  }

  #onOperation(count: number, when: "before" | "after", _kind: OperationKind): void {
    const crash = this.#crashAt;
    if (crash === undefined || count < crash.operation || when !== crash.when) return;
    this.#crash();
  }

  #onStatus(
    stream: StreamFacts,
    status: { writeLsn: bigint; flushLsn: bigint; applyLsn: bigint },
  ): void {
    const { writeLsn, flushLsn, applyLsn } = status;
    this.#trace(`status write ${formatLsn(lsn(writeLsn))} flush ${formatLsn(lsn(flushLsn))}`);
    if (applyLsn !== 0n) this.#fail("P2: apply is claimed");
    // While a server shows what the archive has already, nothing of it is claimed.
    if (writeLsn === 0n && flushLsn === 0n && stream.slot === undefined) return;
    if (writeLsn < flushLsn) this.#fail("P2: flush is ahead of write");
    if (writeLsn > stream.deliveredLsn) this.#fail("P2: more is claimed than was sent");
    if (flushLsn < stream.startLsn) this.#fail("the flush position lies before the stream");
    this.#checkWritten(stream, writeLsn);
    this.#checkHistories(stream);
    const range = this.#ackedRange(stream, flushLsn);
    // A connection that is dead without knowing it may still speak of what its server has given up since.
    const limit = this.#givenUp.get(stream.branch) ?? flushLsn;
    const counted = flushLsn < limit ? flushLsn : limit;
    if (range !== undefined && counted > range.endLsn) {
      range.endLsn = counted;
      this.#checkHeld(`P2: flush ${formatLsn(lsn(flushLsn))} is reported`);
    }
    if (++this.#statuses === this.#crashAtStatus) this.#crash();
  }

  /** What is called written was handed to the operating system. */
  #checkWritten({ branch, timeline, startLsn }: StreamFacts, writeLsn: bigint): void {
    if (writeLsn === startLsn) return;
    const number = (writeLsn - 1n) / BIG_SEGMENT as SegmentNumber;
    const bytes = Number(writeLsn - number * BIG_SEGMENT);
    const name = segmentName(timeline, number, SEGMENT_SIZE);
    const inode = this.#disk.file(name) ?? this.#disk.file(`inprogress/${name}`);
    const want = branch.segments[Number(number - branch.firstSegment)]!;
    const start = Math.max(0, bytes - 64);
    if (
      inode === undefined || !sameBytes(inode.content.subarray(start, bytes), want.subarray(start, bytes))
    ) {
      this.#fail(`P2: write ${formatLsn(lsn(writeLsn))} is reported, and not all below it is written`);
    }
  }

  #ackedRange({ branch, startLsn }: StreamFacts, flushLsn: bigint) {
    const known = this.#acked.get(branch);
    if (known !== undefined) return known;
    let beginLsn: bigint | undefined;
    for (const [other, range] of this.#acked) {
      // The first bytes of a page are alike on all timelines: the switch is what counts.
      const leftAtLsn = switchPointOf(branch.history, other.history.timeline);
      const common = commonEnd(other, branch);
      if (range.beginLsn < (leftAtLsn !== undefined && leftAtLsn < common ? leftAtLsn : common)) {
        beginLsn = range.beginLsn;
      }
    }
    // The archive has nothing on this line of WAL: it begins with the first byte that is acknowledged.
    if (beginLsn === undefined && flushLsn === startLsn) return undefined;
    const range = { beginLsn: beginLsn ?? startLsn, endLsn: 0n };
    this.#acked.set(branch, range);
    return range;
  }

  /** All histories of a timeline are durable before any byte of it is acknowledged. */
  #checkHistories(stream: StreamFacts): void {
    const { timeline } = stream;
    if (timeline === 1) return;
    const name = historyFileName(timeline);
    const want = historyBytes(ancestorHistory(stream.branch.history, timeline));
    for (const [certain, inode] of this.#disk.certainFiles(".")) {
      if (certain === name && sameBytes(inode.durableContent, want)) return;
    }
    this.#fail(`P2: timeline ${timeline} is acknowledged, and ${name} is not durable`);
  }

  #onRewritten(branch: Branch, at: bigint): void {
    // A record that was never whole: no commit waited for it.
    this.#givenUp.set(branch, at);
    const acked = this.#acked.get(branch);
    if (acked !== undefined && acked.endLsn > at) acked.endLsn = at;
  }

  /** P2, P3 and P6: all that was ever acknowledged would be there after the worst power cut at this moment. */
  #checkHeld(moment: string): void {
    if (this.#acked.size === 0 || this.#problem !== undefined) return;
    const files = new Map<bigint, Inode[]>();
    const add = (number: bigint, inode: Inode) => {
      const known = files.get(number);
      if (known === undefined) files.set(number, [inode]);
      else known.push(inode);
    };
    for (const directory of [".", "inprogress"]) {
      for (const [name, inode] of this.#disk.certainFiles(directory)) {
        const number = numberOf(name);
        if (number !== undefined) add(number, inode);
      }
    }
    for (const [branch, { beginLsn, endLsn: acked }] of this.#acked) {
      for (let start = beginLsn; start < acked; start += BIG_SEGMENT) {
        const number = start / BIG_SEGMENT;
        const want = branch.segments[Number(number - branch.firstSegment)]!;
        const bytes = Number(acked - start < BIG_SEGMENT ? acked - start : BIG_SEGMENT);
        if (files.get(number)?.some((inode) => inode.holds(want, bytes)) !== true) {
          this.#fail(
            `${moment}: of "${branch.name}" ${bytes} bytes from ${formatLsn(lsn(start))} were acknowledged ` +
              "and a power cut may lose them now",
          );
          return;
        }
      }
    }
  }

  /** P1: a name in the archive stands for something complete that is synced. */
  #onPublished(name: string, inode: Inode): void {
    inode.published = true;
    if (!inode.clean || !sameBytes(inode.content, inode.durableContent)) {
      this.#fail(`P1: ${name} is published and not synced`);
    }
    const segment = parseSegmentName(name, SEGMENT_SIZE);
    const timeline = parseHistoryFileName(name);
    if (segment !== undefined) this.#checkSegment(name, segment, inode);
    else if (timeline !== undefined) {
      const known = this.#server.world.eras.some(({ branch }) =>
        [branch.history.timeline, ...branch.history.entries.map((entry) => entry.timeline)].includes(
          timeline,
        ) &&
        sameBytes(historyBytes(ancestorHistory(branch.history, timeline)), inode.content)
      );
      if (!known) this.#fail(`P1: ${name} is published with bytes that no server sent`);
    } else if (name === "archive.json") {
      const identity = decodeIdentity(inode.content);
      if (identity.systemIdentifier !== SYSTEM_IDENTIFIER) this.#fail("P5: a wrong identity is published");
    } else this.#fail(`a foreign name is published: ${name}`);
  }

  #checkSegment(
    name: string,
    segment: { readonly timeline: number; readonly number: SegmentNumber },
    inode: Inode,
  ): void {
    const known = this.#server.world.eras.some(({ branch }) => {
      if (branch.history.timeline !== segment.timeline) return false;
      const want = branch.segments[Number(segment.number - branch.firstSegment)];
      return want !== undefined && (segment.number + 1n) * BIG_SEGMENT <= branch.endLsn &&
        sameBytes(want, inode.content);
    });
    if (!known) this.#fail(`P1: ${name} is published, and not what the server has of it, whole`);
  }

  #converged(): boolean {
    const server = this.#server;
    if (!server.finished || server.reportedFlushLsn !== server.flushLsn) return false;
    // Nothing is acknowledged when receiving began at the server's very end.
    const acked = this.#acked.get(server.branch);
    return acked === undefined || acked.endLsn >= server.flushLsn;
  }

  #done(): boolean {
    if (this.#problem !== undefined) return true;
    const { nowMs, count } = this.#scheduler;
    if (this.#converged()) return true;
    const overdue = this.#calm && this.#server.finished && nowMs > this.#calmAtMs + CONVERGE_MS;
    if (overdue || count > MAX_EVENTS) {
      this.#fail(`progress: not all is archived after ${count} events: ${this.#whereWeAre()}`);
      return true;
    }
    return false;
  }

  #whereWeAre(): string {
    const { flushLsn, reportedFlushLsn, finished } = this.#server;
    return `the server${finished ? "" : ", not finished,"} is at ${formatLsn(lsn(flushLsn))}, ` +
      `the receiver at ${formatLsn(lsn(reportedFlushLsn))}`;
  }

  /** P6: at the end no segment is missing from the archive's first byte to the server's last. */
  #checkArchive(): void {
    const { branch, flushLsn } = this.#server;
    const certain = new Map(this.#disk.certainFiles("."));
    for (
      let start = this.#acked.get(branch)?.beginLsn ?? flushLsn;
      start + BIG_SEGMENT <= flushLsn;
      start += BIG_SEGMENT
    ) {
      const number = start / BIG_SEGMENT as SegmentNumber;
      const name = segmentName(timelineOfSegment(branch.history, number, SEGMENT_SIZE), number, SEGMENT_SIZE);
      const want = branch.segments[Number(number - branch.firstSegment)]!;
      const inode = certain.get(name);
      if (inode === undefined) return this.#fail(`P6: ${name} is missing in the archive`);
      if (!inode.holds(want, SEGMENT_BYTES)) return this.#fail(`P1: ${name} has other bytes than the server`);
    }
  }

  #fail(text: string): void {
    if (this.#problem !== undefined) return;
    this.#problem = text;
    this.#trace(`FAILURE: ${text}`);
  }

  #trace(text: string): void {
    this.traceLine?.(`${this.#scheduler.nowMs.toFixed(2).padStart(10)} ${text}`);
  }
}

const numbers = new Map<string, bigint | undefined>();

/** The segment that a file of the archive or of `inprogress/` is of. */
function numberOf(name: string): bigint | undefined {
  if (!numbers.has(name)) numbers.set(name, parseInProgressName(name, SEGMENT_SIZE)?.number);
  return numbers.get(name);
}

function inspect(fields: object | undefined): string {
  return fields === undefined
    ? ""
    : Object.entries(fields).map(([key, value]) => `${key}=${value}`).join(" ");
}
