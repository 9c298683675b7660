import { acceptFile } from "../../lib/archive/accept.ts";
import { Archive } from "../../lib/archive/archive.ts";
import { decodeIdentity } from "../../lib/archive/identity.ts";
import { GapReceivingArchive } from "../../lib/archive/gap_receiving_archive.ts";
import {
  encodeGapAcceptance,
  type GapLedger,
  type GapRange,
  parseLedger,
  segmentsOfGap,
} from "../../lib/archive/gaps.ts";
import { GAP_LEDGER_FILE } from "../../lib/archive/layout.ts";
import type { MinimumFree } from "../../lib/archive/minimum_free.ts";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import type { Clock } from "../../lib/receiver/clock.ts";
import type { HostReply } from "../../lib/receiver/lack.ts";
import { receiveWal } from "../../lib/receiver/receive.ts";
import type { WalSource } from "../../lib/receiver/wal_source.ts";
import { ancestorHistory, switchPointOf } from "../../lib/wal/history.ts";
import { timelineOfSegment } from "../../lib/wal/lineage.ts";
import { formatLsn, lsn } from "../../lib/wal/lsn.ts";
import { parseSegmentName, segmentName, type SegmentNumber } from "../../lib/wal/segment.ts";
import { historyFileName, parseHistoryFileName } from "../../lib/wal/timeline.ts";
import { broughtFiles } from "../archive/brought_files.ts";
import { SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";
import { Random } from "./random.ts";
import { type Disturbance, Script } from "./script.ts";
import { SecondHost } from "./second_host.ts";
import { Scheduler } from "./sim_clock.ts";
import { type CompressingPlan, SimCompressing } from "./sim_compressing.ts";
import {
  type Fault,
  type Inode,
  NEEDING_ROOM,
  type OperationKind,
  ROOMY_BYTES,
  sameBytes,
  SimDisk,
  type SimProcess,
} from "./sim_disk.ts";
import { SimHealing } from "./sim_healing.ts";
import { commonEnd, SimServer, type StreamFacts } from "./sim_server.ts";
import { type Branch, historyBytes, SEGMENT_BYTES, SEGMENT_SIZE, worldOf } from "./sim_wal.ts";
import { certainSegments, contentOf, holds, numberOf, publishedFile, storedName } from "./stored_segments.ts";

const BIG_SEGMENT = BigInt(SEGMENT_BYTES);
/** Once nothing disturbs any more, all must be archived within this. */
const CONVERGE_MS = 600_000;
/** No seed needs nearly so many; more is a loop that gets nowhere. */
const MAX_EVENTS = 60_000;
/** Hosts are asked for what is missing once a minute. */
const MAX_EVENTS_OF_HEALING = 180_000;
/** A disk that is full and nothing else ends after this at the latest. */
const FAULT_ONLY_MS = 60_000;
/** A receiver that is cut off comes back after this, whatever the server did meanwhile. */
const OUTAGE_MS = 20_000;
const OUTAGE_LOOK_MS = 20;
/** A receiver told to stop has its own limit of 10 s, and a moment. */
const STOP_LIMIT_MS = 12_000;
/** Compression beside it has a limit of its own. */
const COMPRESSING_STOP_LIMIT_MS = STOP_LIMIT_MS + 2000;
/** When all is archived, compression may go on for so long. */
const COMPRESSING_MS = 3000;
/** When all is archived, what is missing and to be had somewhere comes within this. */
const HEAL_MS = 400_000;
const HEAL_LOOK_MS = 500;
const LONGEST_RECORD_BYTES = 120_000n;

/** A promise was broken; the message names the seed and how to see it again. */
export class SimulationFailure extends Error {
  override readonly name = "SimulationFailure";

  constructor(message: string, readonly played: readonly Disturbance[]) {
    super(message);
  }
}

/** How one seed is run. */
export interface SimulationOptions {
  /** Names of the disturbances that happen; all of the seed's without it. */
  readonly only?: ReadonlySet<string> | undefined;
  readonly trace?: ((line: string) => void) | undefined;
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
export function simulate(seed: number, options: SimulationOptions = {}): Promise<SimulationResult> {
  return play(new Simulation(seed, options));
}

/**
 * Runs one seed with nothing wrong but a disk that is full from its operation `fullAt` on, for `fullMs` (0: for this one
 * operation that needs room).
 *
 * @throws {SimulationFailure} when a promise is broken, or not all is archived in the end.
 */
export function simulateFullDisk(
  seed: number,
  { fullAt, fullMs }: { readonly fullAt: number; readonly fullMs: number },
): Promise<SimulationResult> {
  const fault = { kinds: NEEDING_ROOM, code: "ENOSPC", fromOperation: fullAt, durationMs: fullMs } as const;
  return play(new Simulation(seed, {}, fault));
}

async function play(simulation: Simulation): Promise<SimulationResult> {
  try {
    return await simulation.run();
  } finally {
    // What was left for a turn of the real event loop must not pile up over thousands of seeds.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** How a process ends that nobody told to. */
type Crash = "kill" | "power cut" | "power cut, nobody told";

class Simulation {
  readonly #script: Script;
  readonly #random: Random;
  readonly #scheduler = new Scheduler();
  readonly #disk: SimDisk;
  readonly #server: SimServer;
  readonly #naming: { readonly hardLinks: boolean };
  #process: Process | undefined;
  #processes = 0;
  #crashes = 0;
  #crashesLeft: number;
  #crashAt:
    | { readonly how: Crash; readonly operation: number; readonly when: "before" | "after" }
    | { readonly how: Crash; readonly status: number }
    | undefined;
  readonly #crashRandom: Random;
  #ledgerBytes = 0;
  /** After so many statuses that claim all of that. */
  #outage:
    | { readonly bytes: number; fromLsn: bigint | undefined; flushes: number; begin(): void }
    | undefined;
  #statuses = 0;
  #calm = false;
  #calmAtMs = 0;
  #problem: string | undefined;
  /** What was ever acknowledged: from the archive's first byte on that line of WAL. */
  readonly #acked = new Map<Branch, { readonly beginLsn: bigint; endLsn: bigint }>();
  /** What of a segment was acknowledged before it was recorded to be missing. */
  readonly #ackedOfGaps = new Map<Branch, Map<bigint, number>>();
  readonly #gapNumbers = new Set<bigint>();
  #ledger: { readonly mark: string; readonly content: GapLedger } | undefined;
  #recordsSeen = 0;
  /** Who accepts a gap, and is killed as soon as his line is written. */
  #killAtLine: { readonly process: SimProcess; readonly bytes: number } | undefined;
  /** Segments that push brought, or is bringing. */
  readonly #pushed = new Set<string>();
  #pusher: SimProcess | undefined;
  readonly #pushRandom: Random;
  /** Chance of its own: what it does leaves the other disasters as they were. */
  readonly #gapRandom: Random;
  readonly #wallRandom: Random;
  /** From here on the server has thrown a line of WAL away. */
  readonly #givenUp = new Map<Branch, bigint>();
  readonly #timing;
  #minimumFree: MinimumFree | undefined;
  #compressing: CompressingPlan | undefined;
  #convergedAtMs: number | undefined;
  #secondHost: SecondHost | undefined;
  /** Nobody gives anything up: only healing closes a gap. */
  #isPatient = false;
  readonly #healRandom: Random;
  /** So often the process ends while something that was missing comes. */
  #healCrashesLeft = 0;
  #isHealed: { readonly atMs: number; readonly value: boolean } | undefined;

  constructor(
    private readonly seed: number,
    private readonly options: SimulationOptions,
    onlyFault?: Fault,
  ) {
    const random = new Random(seed);
    this.#random = random;
    const script = this.#script = new Script(() => this.#scheduler.nowMs, options.only);
    this.#crashRandom = random.fork();
    this.#wallRandom = new Random(seed + 3_000_000);
    this.#gapRandom = new Random(seed + 7_000_000);
    this.#pushRandom = new Random(seed + 9_000_000);
    this.#healRandom = new Random(seed + 13_000_000);
    const statusIntervalMs = random.pick([1000, 10_000]);
    const networkMs = random.chance(0.1) ? random.spread(60, 250) : random.spread(0.05, 60);
    const pieceBytes = random.pick([4000, 60_000, 60_000, 200_000, 600_000]);
    const watcher = {
      violation: (text: string) => this.#fail(text),
      trace: (text: string) => this.#trace(text),
    };
    this.#disk = new SimDisk(this.#scheduler, random.fork(), {
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
        networkMs: script.allows("slow-network", `${networkMs.toFixed(1)} ms`) ? networkMs : 0.05,
        pieceBytes: script.allows("small-pieces", `${pieceBytes} bytes`) ? pieceBytes : 600_000,
        keepaliveMs: random.pick([200, 3000, 10_000]),
        statusIntervalMs,
      },
      this.#scheduler,
      random.fork(),
      {
        ...watcher,
        onStatus: (stream, status) => this.#onStatus(stream, status),
        onStreamStart: (stream) =>
          this.#trace(`stream of timeline ${stream.timeline} from ${formatLsn(stream.startLsn)}`),
        onRewritten: (branch, at) => this.#onRewritten(branch, at),
        onReleased: (branch, commitLsn) => this.#checkReleased(branch, commitLsn),
        onWalGone: () => this.#disturbSearch(),
      },
    );
    this.#naming = { hardLinks: random.chance(0.85) || !script.allows("no-hard-links") };
    this.#timing = {
      statusIntervalMs,
      receiveTimeoutMs: random.pick([5000, 60_000]),
      stallTimeoutMs: random.pick([3000, 15_000]),
      stopTimeoutMs: 10_000,
    };
    this.#crashesLeft = random.pick([0, 1, 2, 3, 4, 5]);
    if (onlyFault === undefined) {
      this.#planDisasters();
      this.#planLittleRoom();
      this.#planCompressing();
      // Without hard links nobody else may write to the archive, and receiving ends at a gap.
      const isLong = this.#server.world.eras[0]!.endLsn - this.#server.world.firstLsn > 3n * BIG_SEGMENT;
      if (this.#gapRandom.chance(isLong ? 0.9 : 0.3) && this.#naming.hardLinks) this.#planGaps(isLong);
    } else {
      this.#crashesLeft = 0;
      this.#disk.faults.push(onlyFault);
      this.#scheduler.after(FAULT_ONLY_MS, () => this.#calmDown());
    }
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
      const { only } = this.options;
      const again = `${this.seed}${only === undefined ? "" : ` --only ${[...only].join() || "none"}`}`;
      throw new SimulationFailure(
        `seed ${this.seed}: ${this.#problem}\nsee it again: deno run -A tests/simulation/replay.ts ${again}`,
        this.#script.played,
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
    const slownessMs = random.pick([0.01, 0.5, 3, 20]);
    this.#disk.slownessMs = this.#script.allows("slow-disk", `${slownessMs} ms`) ? slownessMs : 0.01;
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
      const fault: Fault = {
        kinds: of,
        code,
        fromOperation: Math.floor(random.spread(1, 600)),
        durationMs: random.chance(0.5) ? 0 : random.spread(1, 20_000),
      };
      const detail = `${code} on ${of.join("|")} from operation ${fault.fromOperation} on, ` +
        (fault.durationMs === 0 ? "once" : `for ${Math.round(fault.durationMs)} ms`);
      if (this.#script.allows("fault", detail)) this.#disk.faults.push(fault);
    }
    if (random.chance(0.25)) {
      const stall = {
        fromOperation: Math.floor(random.spread(1, 500)),
        durationMs: random.spread(50, 50_000),
      };
      const detail = `at operation ${stall.fromOperation}, for ${Math.round(stall.durationMs)} ms`;
      if (this.#script.allows("stall", detail)) this.#disk.stalls.push(stall);
    }
    const cuts = random.pick([0, 0, 1, 3]);
    for (let i = 0; i < cuts; i++) {
      this.#scheduler.after(random.next() * Math.min(chaosMs, 10_000), () => {
        if (this.#calm) return;
        const silence = random.chance(0.3);
        if (!this.#script.allows("cut", silence ? "silent" : "")) return;
        this.#trace(silence ? "network: silent" : "network: cut");
        if (silence) this.#server.silence();
        else this.#server.cut();
      });
    }
    if (random.chance(0.4)) {
      this.#scheduler.after(random.next() * Math.min(chaosMs, 10_000), () => {
        if (this.#script.allows("stop")) this.#stopOrderly();
      });
    }
    this.#scheduler.after(chaosMs, () => this.#calmDown());
  }

  #calmDown(): void {
    this.#trace("from now on nothing disturbs");
    this.#calm = true;
    this.#calmAtMs = this.#scheduler.nowMs;
    this.#crashAt = undefined;
    this.#crashesLeft = 0;
    for (const fault of this.#disk.faults) fault.spent = true;
    this.#disk.stalls = [];
    this.#disk.freeBytes = ROOMY_BYTES;
  }

  /** Now and then somebody else takes the room, and gives it back. */
  #planLittleRoom(): void {
    // Its own chance: the other disasters of a seed stay what they are.
    const random = new Random(this.seed ^ 0x5f00d);
    if (!random.chance(0.3)) return;
    this.#minimumFree = { kind: "bytes", bytes: 1e9 };
    for (let times = random.integer(1, 3); times > 0; times--) {
      const atMs = random.spread(10, 10_000);
      this.#scheduler.after(atMs, () => {
        if (!this.#calm && this.#script.allows("little-room")) this.#disk.freeBytes = 1e9 - 1;
      });
      this.#scheduler.after(atMs + random.spread(1000, 30_000), () => this.#disk.freeBytes = ROOMY_BYTES);
    }
  }

  /** Segments are compressed beside the receiver, sometimes on a machine whose memory loses bits. */
  #planCompressing(): void {
    const random = new Random(this.seed + 11_000_000);
    if (!random.chance(0.2) || !this.#naming.hardLinks) return;
    const format = random.pick(["zstd", "zstd", "lz4"] as const);
    const flips = random.pick([0, 0, 0.3]);
    if (!this.#script.allows("compress", format)) return;
    this.#compressing = {
      format,
      resting: random.chance(0.5),
      flip: (bytes) => {
        if (this.#calm || !random.chance(flips)) return undefined;
        const at = random.chance(0.5)
          ? random.integer(0, Math.min(bytes, 32) - 1)
          : random.integer(0, bytes - 1);
        return this.#script.allows("flip", `of byte ${at}`) ? at : undefined;
      },
      trace: (text) => this.#trace(text),
    };
  }

  /** WAL is removed before it is received, commits wait for the receiver or not, and people accept what is missing. */
  #planGaps(isLong: boolean): void {
    const random = this.#gapRandom;
    if (this.#healRandom.chance(isLong ? 0.7 : 0.3)) this.#planSecondHost();
    if (random.chance(0.5) && this.#script.allows("synchronous")) this.#server.setStandbyNames("walvault");
    let losses = random.pick([1, 3, 10]);
    const lose = () => {
      if (this.#calm || losses === 0) return;
      // Before the archive's first byte nothing is missing.
      const mayLose = this.#server.canLoseWal && (this.#server.reportedFlushLsn > 0n || random.chance(0.1));
      if (mayLose && this.#script.allows("lose-wal") && this.#server.loseWal()) {
        losses--;
        if (this.#pushRandom.chance(0.8)) this.#push("newest");
      }
      this.#scheduler.after(random.spread(5, 500), lose);
    };
    this.#scheduler.after(random.spread(5, 500), lose);
    for (let toggles = random.pick([0, 0, 1, 2]); toggles > 0; toggles--) {
      this.#scheduler.after(random.spread(10, 60_000), () => {
        const names = this.#server.standbyNames === "" ? "walvault" : "";
        if (this.#isPatient && names === "") return;
        if (!this.#calm && this.#script.allows("names", `'${names}'`)) this.#server.setStandbyNames(names);
      });
    }
    const tend = () => {
      // People give up what nobody can bring.
      const isPatient = this.#isPatient && (!this.#calm || this.#healable().length > 0);
      if (this.#server.standbyNames !== "" && !isPatient) {
        if (this.#calm && random.chance(0.3)) this.#server.setStandbyNames("");
        else if (random.chance(this.#calm ? 0.5 : 0.05)) this.#accept();
      }
      this.#scheduler.after(random.spread(500, 20_000), tend);
    };
    tend();
    if (random.chance(0.7)) this.#planPushes();
    if (random.chance(0.8)) this.#planOutage();
  }

  /** Another host of the connection string still has what the server has removed, or looks as if it had. */
  #planSecondHost(): void {
    const random = this.#healRandom;
    const kind = random.pick(["standby", "standby", "standby", "clone", "clone"] as const);
    const lagBytes = random.pick([0, 0, 300_000, 1_500_000]);
    this.#isPatient = random.chance(0.6) && kind === "standby";
    if (!this.#script.allows("second-host", kind)) {
      this.#isPatient = false;
      return;
    }
    const clone = kind === "clone" ? this.#server.world.clone() : undefined;
    const host = new SecondHost(
      this.#server,
      { lagBytes: () => this.#calm ? 0 : lagBytes, clone },
      random.fork(),
      {
        violation: (text) => this.#fail(text),
        trace: (text) => this.#trace(text),
      },
    );
    this.#secondHost = host;
    this.#trace(`the second host is ${kind}`);
    this.#healCrashesLeft = random.pick([0, 1, 2, 3]);
    for (let outages = random.pick([0, 0, 1, 2]); outages > 0; outages--) {
      this.#scheduler.after(random.spread(10, 30_000), () => {
        if (this.#calm || !this.#script.allows("second-host-down")) return;
        host.setUp(false);
        this.#scheduler.after(random.spread(100, 60_000), () => host.setUp(true));
      });
    }
  }

  /** Whoever brings what is missing may be cut off at it, or end. */
  #disturbHealing(name: string): void {
    // As with a push: what stands behind a hole vouches for it.
    this.#pushed.add(name);
    this.#trace(`healing takes ${name}`);
    const random = this.#healRandom;
    if (random.chance(0.1) && this.#script.allows("heal-cut")) {
      this.#scheduler.after(random.spread(0.1, 500), () => this.#secondHost?.cut());
    }
    if (this.#healCrashesLeft === 0 || !random.chance(0.5)) return;
    this.#healCrashesLeft--;
    const operation = this.#disk.operations + Math.floor(random.spread(1, 60));
    const when = random.pick(["before", "after"] as const);
    const how = random.pick(["kill", "power cut"] as const);
    if (!this.#script.allows("heal-crash", `${how} ${when} operation ${operation}`)) return;
    this.#crashAt = { how, operation, when };
  }

  #healing(process: Process, clock: Clock, onBrought: (name: string) => void): SimHealing | undefined {
    const second = this.#secondHost;
    if (second === undefined) return undefined;
    return new SimHealing({
      disk: this.#disk.open(process),
      naming: this.#naming,
      clock,
      timeoutMs: this.#timing.receiveTimeoutMs,
      minimumFree: this.#minimumFree,
      hosts: [this.#server, second].map((host) => ({
        address: host.address,
        connect: () => host.connect(process),
      })),
      onTaking: (name) => this.#disturbHealing(name),
      onBrought: (name) => {
        this.#trace(`healed ${name}`);
        onBrought(name);
      },
      trace: (text) => this.#trace(text),
    });
  }

  /** The receiver is away while the server writes segments, removes the first of them, and archives some of the rest. */
  #planOutage(): void {
    const random = this.#gapRandom;
    const segments = BigInt(random.integer(1, 4));
    const begin = () => {
      this.#server.goOn();
      if (!this.#script.allows("outage", `until ${segments} more segments are there`)) return;
      const { flushLsn } = this.#server;
      const { nowMs } = this.#scheduler;
      this.#trace("network: nobody comes through");
      this.#server.isolate(true);
      const wait = () => {
        const { finished } = this.#server;
        const isLate = this.#scheduler.nowMs > nowMs + OUTAGE_MS;
        if (!isLate && !finished && this.#server.flushLsn < flushLsn + segments * BIG_SEGMENT) {
          return void this.#scheduler.after(OUTAGE_LOOK_MS, wait);
        }
        if (this.#server.canLoseWal && this.#script.allows("lose-wal")) this.#server.loseWal();
        if (random.chance(0.8)) this.#push("newest");
        this.#scheduler.after(random.spread(1, 1000), () => {
          this.#trace("network: open");
          this.#server.isolate(false);
        });
      };
      wait();
    };
    // The archive is to have a segment by then, and the server a future.
    const bytes = random.integer(1, SEGMENT_BYTES / 2);
    this.#outage = { bytes, fromLsn: undefined, flushes: Math.floor(random.spread(1, 6)), begin };
    this.#server.beginEarly();
    this.#scheduler.after(OUTAGE_MS, () => this.#server.goOn());
  }

  /** The server's archive_command comes late: it brings segments above what is received, and some that are missing. */
  #planPushes(): void {
    const random = this.#pushRandom;
    const push = () => {
      if (this.#calm) return;
      this.#push(random.chance(0.5) ? "newest" : "any");
      this.#scheduler.after(random.spread(5, 300), push);
    };
    this.#scheduler.after(random.spread(5, 500), push);
  }

  #push(which: "newest" | "any"): void {
    if (this.#pusher !== undefined) return;
    const { branch, flushLsn, world } = this.#server;
    const nameOf = (number: bigint) => {
      const each = number as SegmentNumber;
      return segmentName(timelineOfSegment(branch.history, each, SEGMENT_SIZE), each, SEGMENT_SIZE);
    };
    const end = flushLsn / BIG_SEGMENT;
    // Where an archive begins that has but the start of one segment is open once it has a later one.
    let first = branch.firstSegment;
    while (first < end && publishedFile(this.#disk, nameOf(first)) === undefined) first++;
    if (first >= end) return;
    const number = which === "newest"
      ? end - 1n
      : first + BigInt(this.#pushRandom.integer(0, Number(end - first) - 1));
    const name = nameOf(number);
    const bytes = branch.segments[Number(number - branch.firstSegment)]!;
    // A server that loses what it has archived is another story.
    const stays = world.eras.every(({ branch: other, endLsn }) =>
      endLsn < (number + 1n) * BIG_SEGMENT ||
      sameBytes(other.segments[Number(number - other.firstSegment)]!, bytes)
    );
    if (!stays || publishedFile(this.#disk, name) !== undefined || !this.#script.allows("push", name)) return;
    this.#trace(`push brings ${name}`);
    this.#pushed.add(name);
    const process = this.#pusher = { alive: true };
    const push = async () => {
      const archive = await Archive.open(this.#disk.open(process), { naming: this.#naming, userId: 1000 });
      await acceptFile(archive, { disk: broughtFiles({ [name]: bytes }), name }, {
        systemIdentifier: SYSTEM_IDENTIFIER,
        suffix: "1",
        startedMs: 1e12,
        pieces: [new Uint8Array(300_000), new Uint8Array(300_000)],
      });
    };
    push().catch((error) => this.#trace(`not pushed: ${error}`)).finally(() => {
      if (this.#pusher === process) this.#pusher = undefined;
    });
  }

  /** The network may fail while it is searched for what is left. */
  #disturbSearch(): void {
    const random = this.#gapRandom;
    if (this.#calm || !random.chance(0.15)) return;
    const silence = random.chance(0.5);
    if (!this.#script.allows("search-cut", silence ? "silent" : "")) return;
    const act = silence ? () => this.#server.silence() : () => this.#server.cut();
    this.#scheduler.after(random.spread(0.1, 500), act);
  }

  /** Somebody gives up what is recorded, beside the receiver; he may be killed at it. */
  #accept(): void {
    const { records } = this.#ledgerIn(this.#disk.file(GAP_LEDGER_FILE)?.content);
    if (records.length === 0) return;
    this.#trace(`${records.length} gaps are accepted`);
    const process = { alive: true };
    const disk = this.#disk.open(process);
    const accept = async () => {
      const archive = await Archive.open(disk, { naming: this.#naming, userId: 1000 });
      for (const { timeline, startLsn, endLsn } of records) {
        const said = { acceptedAt: "now", acceptedBy: "somebody", reason: "gone" };
        await archive.appendToLedger(encodeGapAcceptance({ timeline, startLsn, endLsn, ...said }));
      }
    };
    accept().catch((error) => this.#trace(`not accepted: ${error}`));
    // Between the write and the sync: whoever reads the line can't know that it may get lost.
    if (this.#gapRandom.chance(0.5) && this.#script.allows("kill-accept")) {
      this.#killAtLine = { process, bytes: this.#disk.file(GAP_LEDGER_FILE)?.bytes ?? 0 };
    }
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
    this.#planCrash();
    const clock = this.#scheduler.clockOf(process);
    const say = (level: string) => (event: string, fields?: object) => {
      if (this.options.trace !== undefined) this.#trace(`${level}: ${event} ${inspect(fields)}`);
    };
    const log = { error: say("error"), warn: say("warn"), info: say("info"), debug: say("debug") };
    let opened = false;
    let compressing: SimCompressing | undefined;
    const life = async () => {
      const archive = await Archive.open(disk, { naming: this.#naming, userId: 1000 });
      if (this.#compressing !== undefined) {
        await archive.removeCompressing();
        compressing = new SimCompressing(archive, this.#compressing, { disk: this.#disk.open(state), clock });
      }
      opened = true;
      const receiving = new GapReceivingArchive(archive, {
        clock,
        minimumFree: this.#minimumFree,
        // The wall clock jumps as it likes, back too.
        now: () => new Date(this.#wallRandom.integer(0, 4e12)),
        events: {
          segmentPublished: (event) => {
            this.#trace(`published ${event.segment}`);
            compressing?.published(event.segment);
          },
          savedCopyKept: (event) =>
            this.#trace(`kept ${event.path} valid to ${formatLsn(event.validEndLsn)}`),
          savedCopyPassed: (event) => this.#trace(`passed ${event.path}`),
          unknownPageMagic: () => {},
        },
      });
      return await receiveWal(
        {
          connect: async (accept: (source: WalSource) => Promise<boolean>, signal: AbortSignal) => {
            const connection = await this.#server.connect(process);
            try {
              if (await accept(connection)) return connection;
            } catch (error) {
              await connection.close();
              // As the real one: whoever was told to stop hears that.
              signal.throwIfAborted();
              throw error;
            }
            await connection.close();
            throw new ConnectionError("unsuitable", "not accepted");
          },
          askHosts: async (ask) => {
            const replies = [];
            for (
              const host of this.#secondHost === undefined ? [this.#server] : [this.#server, this.#secondHost]
            ) {
              replies.push(await askHost(host, ask, process));
            }
            return replies;
          },
          archive: receiving,
          healer: this.#healing(process, clock, (name) => compressing?.published(name)),
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
          gaps: this.#naming.hardLinks ? "record" : "stop",
          timing: this.#timing,
        },
        abort.signal,
      );
    };
    life().finally(() => compressing?.close()).then((end) => {
      this.#trace(`process ${number} ends: ${end}`);
      if (!abort.signal.aborted) this.#fail(`the receiver ended by itself: ${end}`);
      this.#restartSoon(process);
    }, (error) => {
      this.#trace(`process ${number} fails: ${error?.stack}`);
      if (opened) this.#fail(`the receiver gave up: ${(error as Error).message}`);
      this.#restartSoon(process);
    });
  }

  /** The next crash; one that is left out leaves the ones after it to this process. */
  #planCrash(): void {
    const random = this.#crashRandom;
    for (; this.#crashesLeft > 0; this.#crashesLeft--) {
      const operation = this.#disk.operations + Math.floor(random.spread(1, 500));
      const status = random.chance(0.15) ? this.#statuses + Math.floor(random.spread(1, 40)) : undefined;
      const when = random.pick(["before", "after"] as const);
      const how = random.pick(["kill", "kill", "power cut", "power cut, nobody told"] as const);
      const place = status === undefined ? `${when} operation ${operation}` : `at status ${status}`;
      if (!this.#script.allows("crash", `${how} ${place}`)) continue;
      this.#crashAt = status === undefined ? { how, operation, when } : { how, status };
      return;
    }
  }

  #restartSoon(process: Process): void {
    process.alive = false;
    this.#server.loseClient(process, "told");
    this.#secondHost?.loseClient(process);
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
    const limitMs = this.#compressing === undefined ? STOP_LIMIT_MS : COMPRESSING_STOP_LIMIT_MS;
    this.#scheduler.after(limitMs, () => {
      // A disk that stalls may hold it up, and a server that does not answer.
      if (process.alive && !wasTroubled && !this.#server.anySilent) {
        this.#fail(`told to stop, it still runs after ${limitMs / 1000} s`);
      }
    });
  }

  /** The process, or the whole machine, stops at once. */
  #crash(how: Crash): void {
    const process = this.#process;
    if (process === undefined) return;
    this.#crashes++;
    this.#crashesLeft--;
    this.#crashAt = undefined;
    const power = how !== "kill";
    this.#trace(power ? "POWER CUT" : "KILL");
    this.#disk.kill(process);
    this.#server.loseClient(process, how === "power cut, nobody told" ? "untold" : "told");
    this.#secondHost?.loseClient(process);
    if (power) {
      if (this.#pusher !== undefined) this.#disk.kill(this.#pusher);
      this.#pusher = undefined;
      this.#disk.cutPower();
    }
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
    this.#secondHost?.loseClient(process);
    process.release();
  }

  #onOperation(count: number, when: "before" | "after", _kind: OperationKind): void {
    if (when === "after") {
      this.#checkRecords();
      this.#killAtRecord();
      const dying = this.#killAtLine;
      if (dying !== undefined && (this.#disk.file(GAP_LEDGER_FILE)?.bytes ?? 0) > dying.bytes) {
        this.#disk.kill(dying.process);
        this.#killAtLine = undefined;
      }
    }
    const crash = this.#crashAt;
    if (crash === undefined || !("operation" in crash) || count < crash.operation || when !== crash.when) {
      return;
    }
    this.#crash(crash.how);
  }

  #onStatus(
    stream: StreamFacts,
    status: { writeLsn: bigint; flushLsn: bigint; applyLsn: bigint },
  ): void {
    const { writeLsn, flushLsn, applyLsn } = status;
    this.#trace(`status write ${formatLsn(lsn(writeLsn))} flush ${formatLsn(lsn(flushLsn))}`);
    const outage = this.#outage;
    // It streams: now the server may write on.
    if (outage !== undefined) outage.fromLsn ??= this.#server.restInNextSegment(outage.bytes);
    if (outage?.fromLsn !== undefined && flushLsn >= outage.fromLsn && --outage.flushes === 0) {
      this.#scheduler.after(0, outage.begin);
    }
    if (applyLsn !== 0n) this.#fail("P2: apply is claimed");
    // While a server shows what the archive has already, nothing of it is claimed.
    if (writeLsn === 0n && flushLsn === 0n && stream.slot === undefined) return;
    if (writeLsn < flushLsn) this.#fail("P2: flush is ahead of write");
    if (writeLsn > stream.deliveredLsn) this.#fail("P2: more is claimed than was sent");
    const isHeldBack = flushLsn === 0n && this.#recordsSeen > 0;
    if (flushLsn < stream.startLsn && !isHeldBack) this.#fail("the flush position lies before the stream");
    this.#checkWritten(stream, writeLsn);
    this.#checkHistories(stream);
    if (isHeldBack) {
      this.#countStatus();
      return;
    }
    this.#checkGate(stream, flushLsn);
    const range = this.#ackedRange(stream, flushLsn);
    // A connection that is dead without knowing it may still speak of what its server has given up since.
    const limit = this.#givenUp.get(stream.branch) ?? flushLsn;
    const counted = flushLsn < limit ? flushLsn : limit;
    if (range !== undefined && counted > range.endLsn) {
      range.endLsn = counted;
      this.#checkHeld(`P2: flush ${formatLsn(lsn(flushLsn))} is reported`);
    }
    this.#countStatus();
  }

  /** Between the write of a gap's line and its sync: the next process reads what a power cut may take away. */
  #killAtRecord(): void {
    const bytes = this.#disk.file(GAP_LEDGER_FILE)?.bytes ?? 0;
    const grew = bytes > this.#ledgerBytes;
    this.#ledgerBytes = bytes;
    if (!grew || this.#calm || this.#process === undefined || !this.#gapRandom.chance(0.5)) return;
    if (this.#script.allows("kill-record")) this.#crash("kill");
  }

  /** The process may be to stop at this one. */
  #countStatus(): void {
    this.#statuses++;
    const crash = this.#crashAt;
    if (crash !== undefined && "status" in crash && crash.status === this.#statuses) this.#crash(crash.how);
  }

  /** P6: who is waited for tells no flush position above what is missing, and was not given up. */
  #checkGate(stream: StreamFacts, flushLsn: bigint): void {
    // Whoever begins to wait while it streams waits for what comes then.
    if (!stream.isWaitedFor() || this.#recordsSeen === 0) return;
    const { branch, startLsn } = stream;
    const { records, acceptances } = this.#certainLedger();
    const certain = certainSegments(this.#disk);
    for (const record of records) {
      const { firstNumber, endNumber } = segmentsOfGap(record, SEGMENT_SIZE);
      for (let number = firstNumber; number < endNumber && number * BIG_SEGMENT < startLsn; number++) {
        const name = segmentName(record.timeline, number, SEGMENT_SIZE);
        if (!isIn([record], branch, number) || certain.has(name) || isIn(acceptances, branch, number)) {
          continue;
        }
        this.#fail(
          `P6: flush ${
            formatLsn(lsn(flushLsn))
          } is reported, and ${name} is missing, for which commits may wait`,
        );
        return;
      }
    }
  }

  /** What is called written was handed to the operating system. */
  #checkWritten({ branch, timeline, startLsn }: StreamFacts, writeLsn: bigint): void {
    if (writeLsn === startLsn) return;
    const number = (writeLsn - 1n) / BIG_SEGMENT as SegmentNumber;
    const bytes = Number(writeLsn - number * BIG_SEGMENT);
    const name = segmentName(timeline, number, SEGMENT_SIZE);
    // What it holds in another form was looked at when it got that name.
    const isCompressed = this.#disk.file(name) === undefined && publishedFile(this.#disk, name) !== undefined;
    const inode = this.#disk.file(name) ?? this.#disk.file(`inprogress/${name}`);
    const want = branch.segments[Number(number - branch.firstSegment)]!;
    const start = Math.max(0, bytes - 64);
    if (
      !isCompressed &&
      (inode === undefined || !sameBytes(inode.content.subarray(start, bytes), want.subarray(start, bytes)))
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
    const files = new Map<bigint, (readonly [string, Inode])[]>();
    const add = (number: bigint, name: string, inode: Inode) => {
      const known = files.get(number);
      if (known === undefined) files.set(number, [[name, inode]]);
      else known.push([name, inode]);
    };
    for (const directory of [".", "inprogress"]) {
      for (const [name, inode] of this.#disk.certainFiles(directory)) {
        const number = numberOf(name);
        if (number !== undefined) add(number, name, inode);
      }
    }
    for (const [branch, { beginLsn, endLsn: acked }] of this.#acked) {
      for (let start = beginLsn; start < acked; start += BIG_SEGMENT) {
        const number = start / BIG_SEGMENT;
        const want = branch.segments[Number(number - branch.firstSegment)]!;
        const acknowledged = Number(acked - start < BIG_SEGMENT ? acked - start : BIG_SEGMENT);
        const bytes = this.#isRecorded(branch, number)
          ? this.#ackedOfGaps.get(branch)?.get(number) ?? 0
          : acknowledged;
        if (bytes === 0) continue;
        if (files.get(number)?.some(([name, inode]) => holds(name, inode, want, bytes)) !== true) {
          this.#fail(
            `${moment}: of "${branch.name}" ${bytes} bytes from ${formatLsn(lsn(start))} were acknowledged ` +
              "and a power cut may lose them now",
          );
          return;
        }
      }
    }
  }

  #ledgerIn(bytes: Uint8Array | undefined): GapLedger {
    return parseLedger(bytes ?? new Uint8Array(0));
  }

  /** What a power cut would leave of the ledger for certain. */
  #certainLedger(): GapLedger {
    for (const [name, inode] of this.#disk.certainFiles(".")) {
      if (name !== GAP_LEDGER_FILE) continue;
      const mark = `${inode.number} ${inode.durableBytes} ${this.#crashes}`;
      if (this.#ledger?.mark !== mark) this.#ledger = { mark, content: this.#ledgerIn(inode.durableContent) };
      return this.#ledger.content;
    }
    return this.#ledgerIn(undefined);
  }

  #isRecorded(branch: Branch, number: bigint): boolean {
    return this.#recordsSeen > 0 && isIn(this.#certainLedger().records, branch, number);
  }

  /** P6: what is recorded to be missing is missing, here and at the server. */
  #checkRecords(): void {
    const content = this.#disk.file(GAP_LEDGER_FILE)?.content;
    if (content === undefined) return;
    const { records } = this.#ledgerIn(content);
    for (const record of records.slice(this.#recordsSeen)) {
      this.#trace(`recorded: ${formatLsn(record.startLsn)} to ${formatLsn(record.endLsn)}`);
      if (record.endLsn > this.#server.removedBelow) {
        this.#fail("P6: WAL is recorded to be missing that the server has");
      }
      const { timeline, firstNumber, endNumber } = segmentsOfGap(record, SEGMENT_SIZE);
      for (let number = firstNumber; number < endNumber; number++) {
        const name = segmentName(timeline, number, SEGMENT_SIZE);
        // It may have come between the look and the record.
        if (publishedFile(this.#disk, name) !== undefined && !this.#pushed.has(name)) {
          this.#fail(`P6: ${name} is recorded to be missing, and is here`);
        }
        this.#noteAcked(number);
      }
    }
    // A power cut may take the last ones away.
    this.#recordsSeen = records.length;
  }

  /** Only the first time: told again, what is acknowledged by then lies behind the gap. */
  #noteAcked(number: SegmentNumber): void {
    if (this.#gapNumbers.has(number)) return;
    this.#gapNumbers.add(number);
    const start = number * BIG_SEGMENT;
    for (const [branch, { beginLsn, endLsn }] of this.#acked) {
      if (start < beginLsn || start >= endLsn) continue;
      const known = this.#ackedOfGaps.get(branch) ?? new Map<bigint, number>();
      const bytes = Number(endLsn - start < BIG_SEGMENT ? endLsn - start : BIG_SEGMENT);
      this.#ackedOfGaps.set(branch, known.set(number, bytes));
    }
  }

  /** P6: a commit that waited is here, or somebody gave it up. */
  #checkReleased(branch: Branch, commitLsn: bigint): void {
    // Before the archive's first byte nothing is promised.
    const beginLsn = this.#acked.get(branch)?.beginLsn;
    if (beginLsn === undefined || commitLsn <= beginLsn) return;
    const number = (commitLsn - 1n) / BIG_SEGMENT;
    const want = branch.segments[Number(number - branch.firstSegment)]!;
    const bytes = Number(commitLsn - number * BIG_SEGMENT);
    for (const directory of [".", "inprogress"]) {
      for (const [name, inode] of this.#disk.certainFiles(directory)) {
        if (numberOf(name) === number && holds(name, inode, want, bytes)) return;
      }
    }
    if (isIn(this.#certainLedger().acceptances, branch, number)) return;
    this.#fail(`P6: a commit at ${formatLsn(lsn(commitLsn))} is released, and its WAL is not here`);
  }

  /** P6: what is missing below a segment that gets its name is written down, durably. */
  #checkHolesBelow(timeline: number, number: SegmentNumber): void {
    const branch = this.#server.world.eras.findLast(({ branch: { history } }) =>
      history.timeline === timeline
    )
      ?.branch;
    if (branch === undefined) return;
    const nameOf = (each: SegmentNumber) =>
      segmentName(timelineOfSegment(branch.history, each, SEGMENT_SIZE), each, SEGMENT_SIZE);
    let isHole = false;
    for (let below = number - 1n; below >= branch.firstSegment; below--) {
      const isHere = publishedFile(this.#disk, nameOf(below as SegmentNumber)) !== undefined;
      if (isHere && isHole) {
        this.#fail(`P6: behind a hole that is not written down ${nameOf(number)} gets its name`);
      }
      isHole = !isHere && !this.#isRecorded(branch, below);
      if (isHole && this.#recordsSeen === 0) return;
    }
  }

  /** P1: a name in the archive stands for something complete that is synced. */
  #onPublished(name: string, inode: Inode): void {
    inode.published = true;
    if (!inode.clean || !sameBytes(inode.content, inode.durableContent)) {
      this.#fail(`P1: ${name} is published and not synced`);
    }
    const stored = storedName(name);
    const segment = stored === undefined ? undefined : parseSegmentName(stored.segment, SEGMENT_SIZE);
    const timeline = parseHistoryFileName(name);
    if (segment !== undefined) {
      this.#checkSegment(name, segment, inode);
      // Compressed, it takes the place of one that had its name before.
      if (stored?.form === "" && !this.#pushed.has(name)) {
        this.#checkHolesBelow(segment.timeline, segment.number);
      }
    } else if (timeline !== undefined) {
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
    const content = contentOf(name, inode);
    const known = content !== undefined && this.#server.world.eras.some(({ branch }) => {
      if (branch.history.timeline !== segment.timeline) return false;
      const want = branch.segments[Number(segment.number - branch.firstSegment)];
      return want !== undefined && (segment.number + 1n) * BIG_SEGMENT <= branch.endLsn &&
        sameBytes(want, content);
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
    if (this.#converged()) return !this.#compressesOn() && !this.#healsOn();
    const overdue = this.#calm && this.#server.finished && nowMs > this.#calmAtMs + CONVERGE_MS;
    if (overdue || count > (this.#secondHost === undefined ? MAX_EVENTS : MAX_EVENTS_OF_HEALING)) {
      this.#fail(`progress: not all is archived after ${count} events: ${this.#whereWeAre()}`);
      return true;
    }
    return false;
  }

  /** A moment more for what was archived last. */
  #compressesOn(): boolean {
    if (this.#compressing === undefined || this.#process === undefined) return false;
    this.#convergedAtMs ??= this.#scheduler.nowMs;
    return this.#scheduler.nowMs < this.#convergedAtMs + COMPRESSING_MS &&
      this.#disk.names(".").some((name) => storedName(name)?.form === "");
  }

  /** Somebody has what is missing: it is worth waiting for. */
  #healsOn(): boolean {
    if (this.#secondHost === undefined) return false;
    const { nowMs } = this.#scheduler;
    this.#convergedAtMs ??= nowMs;
    if (nowMs >= this.#convergedAtMs + HEAL_MS) return false;
    if (this.#isHealed === undefined || nowMs >= this.#isHealed.atMs + HEAL_LOOK_MS) {
      this.#isHealed = { atMs: nowMs, value: this.#healable().length === 0 };
    }
    return !this.#isHealed.value;
  }

  /**
   * What is missing of the server's line, was not given up, and is at the other host, and what was missing, is here, and
   * is not known to be proven; the highest first.
   *
   * Only what stands behind it can vouch for it: its first record, or what is brought there before.
   */
  #healable(): readonly string[] {
    const { branch, flushLsn } = this.#server;
    const { acceptances, healings, records } = this.#ledgerIn(this.#disk.file(GAP_LEDGER_FILE)?.content);
    const first = (this.#acked.get(branch)?.beginLsn ?? flushLsn) / BIG_SEGMENT;
    const end = flushLsn / BIG_SEGMENT;
    let isTied = flushLsn > end * BIG_SEGMENT + LONGEST_RECORD_BYTES;
    const names: string[] = [];
    for (let number = end - 1n; number >= first; number--) {
      const each = number as SegmentNumber;
      const name = segmentName(timelineOfSegment(branch.history, each, SEGMENT_SIZE), each, SEGMENT_SIZE);
      const isHere = publishedFile(this.#disk, name) !== undefined;
      const isToCome = !isHere && isTied && this.#secondHost?.has(number) === true &&
        !isIn(acceptances, branch, number);
      // It counts as healed when that is written down.
      const isToBeProven = isHere && isTied && isIn(records, branch, number) &&
        !isIn([...acceptances, ...healings], branch, number);
      if (isToCome || isToBeProven) names.push(name);
      isTied = isHere || isToCome;
    }
    return names;
  }

  #whereWeAre(): string {
    const { flushLsn, reportedFlushLsn, finished } = this.#server;
    return `the server${finished ? "" : ", not finished,"} is at ${formatLsn(lsn(flushLsn))}, ` +
      `the receiver at ${formatLsn(lsn(reportedFlushLsn))}`;
  }

  /** P6: at the end no segment is missing from the archive's first byte to the server's last. */
  #checkArchive(): void {
    const { branch, flushLsn } = this.#server;
    const [healable] = this.#healable();
    if (healable !== undefined) {
      const isHere = publishedFile(this.#disk, healable) !== undefined;
      return this.#fail(
        `progress: ${healable} is ` + (isHere ? "here, and not written down to be healed" : "missing") +
          ` for ${HEAL_MS / 1000} s, and another host has it`,
      );
    }
    const certain = new Map<string, readonly [string, Inode]>();
    for (const [name, inode] of this.#disk.certainFiles(".")) {
      const stored = storedName(name);
      if (stored !== undefined) certain.set(stored.segment, [name, inode]);
    }
    for (
      let start = this.#acked.get(branch)?.beginLsn ?? flushLsn;
      start + BIG_SEGMENT <= flushLsn;
      start += BIG_SEGMENT
    ) {
      const number = start / BIG_SEGMENT as SegmentNumber;
      const name = segmentName(timelineOfSegment(branch.history, number, SEGMENT_SIZE), number, SEGMENT_SIZE);
      const want = branch.segments[Number(number - branch.firstSegment)]!;
      const file = certain.get(name);
      if (file === undefined && this.#isRecorded(branch, number)) continue;
      if (file === undefined) return this.#fail(`P6: ${name} is missing in the archive`);
      if (!holds(...file, want, SEGMENT_BYTES)) {
        return this.#fail(`P1: ${name} has other bytes than the server`);
      }
    }
  }

  #fail(text: string): void {
    if (this.#problem !== undefined) return;
    this.#problem = text;
    this.#trace(`FAILURE: ${text}`);
  }

  #trace(text: string): void {
    this.options.trace?.(`${this.#scheduler.nowMs.toFixed(2).padStart(10)} ${text}`);
  }
}

async function askHost<T>(
  host: SimServer | SecondHost,
  ask: (source: WalSource) => Promise<T>,
  process: SimProcess,
): Promise<HostReply<T>> {
  try {
    const connection = await host.connect(process);
    try {
      return { address: connection.address, answer: await ask(connection) };
    } finally {
      await connection.close();
    }
  } catch (error) {
    return { address: host.address, error };
  }
}

/** Whether a segment is in one of these ranges, by its name on a line of WAL. */
function isIn(ranges: readonly GapRange[], { history }: Branch, number: bigint): boolean {
  const timeline = timelineOfSegment(history, number as SegmentNumber, SEGMENT_SIZE);
  return ranges.some((range) => {
    const { firstNumber, endNumber } = segmentsOfGap(range, SEGMENT_SIZE);
    return range.timeline === timeline && firstNumber <= number && number < endNumber;
  });
}

function inspect(fields: object | undefined): string {
  return fields === undefined
    ? ""
    : Object.entries(fields).map(([key, value]) => `${key}=${value}`).join(" ");
}
