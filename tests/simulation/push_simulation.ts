/** Pushes, and a receiver beside them, on one simulated disk: each may be killed at any operation, or the power goes. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { zstdDecompressSync } from "node:zlib";
import { acceptFile } from "../../lib/archive/accept.ts";
import { Archive } from "../../lib/archive/archive.ts";
import { PieceCompressor } from "../../lib/archive/compression.ts";
import { isOutOfSpace, publishBytes } from "../../lib/archive/durable.ts";
import { parseSegmentName } from "../../lib/wal/segment.ts";
import { SegmentWriter } from "../../lib/archive/segment_writer.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { advance } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { broughtFiles } from "../archive/brought_files.ts";
import {
  IDENTITY,
  MODES,
  NAMES,
  NAMING,
  recordEvents,
  SEGMENT_SIZE,
  START,
  walOf,
} from "../archive/on_sim_disk.ts";
import { MIB } from "../wal/wal_builder.ts";
import { Random } from "./random.ts";
import { Scheduler } from "./sim_clock.ts";
import { type Inode, NEEDING_ROOM, sameBytes, SimDisk, type SimProcess } from "./sim_disk.ts";

const WAL = walOf({ bytes: 3 * MIB });
const HISTORY = new TextEncoder().encode("1\t0/400100\tno recovery target specified\n");
const PARTIAL = new Uint8Array(MIB);
PARTIAL.set(WAL.subarray(2 * MIB, 2 * MIB + 200_000));

/** Encoded and decoded without waiting: nothing real may be waited for here. */
const COMPRESSION = { format: "zstd", level: 1 } as const;

/** What the server has to hand over, and what each file holds. */
const FILES: ReadonlyMap<string, Uint8Array> = new Map([
  [NAMES[0]!, WAL.slice(0, MIB)],
  [NAMES[1]!, WAL.slice(MIB, 2 * MIB)],
  [`${NAMES[2]}.partial`, PARTIAL],
  ["00000002.history", HISTORY],
]);
const COMPLETE = [NAMES[0]!, NAMES[1]!, "00000002.history"];

/** The names of what the server has to hand over. */
const BROUGHT: readonly string[] = [...FILES.keys()];

/** A compressed form of the first segment that lost its end on some disk. */
const DAMAGED_NAME = `${NAMES[0]}.zst`;

/** What a push may end with when another one, or a starting receiver, took its file away. */
const TAKEN_AWAY =
  /removed what was written; the server will ask again|took ".*" away meanwhile; the server will ask again|ENOENT/;

/** Who works, and when it goes wrong. */
export interface PushPlan {
  readonly seed: number;
  /** Names of `FILES`, one for each push; they start at the same time. */
  readonly pushes: readonly string[];
  readonly receiver: boolean;
  /** Segments are published compressed. */
  readonly compress: boolean;
  /** The archive has the first segment already, in a form that can't be read. */
  readonly damaged: boolean;
  /** The operation, counted from the start of the work; `undefined`: nothing goes wrong. */
  readonly stopAt: number | undefined;
  readonly stopWhen: "before" | "after";
  /** `one`: kill -9 of one of them. `full disk`: that operation, or the next one that needs room, finds none. */
  readonly stop: "one" | "all" | "power cut" | "full disk";
}

/** A single push of each kind, with nobody beside it. */
export const SINGLE_PUSHES: readonly Pick<PushPlan, "pushes" | "compress" | "damaged">[] = [
  ...BROUGHT.map((name) => ({ pushes: [name], compress: false, damaged: false })),
  { pushes: [BROUGHT[0]!], compress: true, damaged: false },
  { pushes: [BROUGHT[0]!], compress: false, damaged: true },
];

/** Plays a single push, and again with a kill and with a power cut before and after each of its operations. */
export async function sweepOperations(
  single: typeof SINGLE_PUSHES[number],
  play: typeof simulatePush = simulatePush,
): Promise<{ readonly operations: number }> {
  const quiet = {
    ...single,
    receiver: false,
    stopAt: undefined,
    stopWhen: "before",
    stop: "all",
  } as const;
  const { operations } = await play({ ...quiet, seed: 0 });
  for (let stopAt = 1; stopAt <= operations; stopAt++) {
    for (const stop of ["all", "power cut"] as const) {
      for (const stopWhen of ["before", "after"] as const) {
        await play({ ...quiet, seed: stopAt, stopAt, stop, stopWhen });
      }
    }
    await play({ ...quiet, seed: stopAt, stopAt, stop: "full disk" });
  }
  return { operations };
}

/** One seed's plan: some pushes, often of the same file, perhaps a receiver, and usually a disaster. */
export function planOf(seed: number): PushPlan {
  const random = new Random(seed);
  const pushes = Array.from({ length: random.integer(1, 3) }, () => random.pick(BROUGHT));
  if (random.chance(0.5)) pushes.push(pushes[0]!);
  return {
    seed,
    pushes,
    receiver: random.chance(0.6),
    compress: random.chance(0.3),
    stopAt: random.chance(0.1) ? undefined : Math.ceil(random.spread(1, 200)),
    stopWhen: random.pick(["before", "after"]),
    stop: random.pick(["one", "all", "power cut"]),
    damaged: random.chance(0.2),
  };
}

interface Actor {
  readonly process: SimProcess;
  readonly end: Promise<void>;
  ended: boolean;
}

/** Plays it to its end and on to the next run of everybody; tells how many operations the work took. */
export async function simulatePush(plan: PushPlan): Promise<{ readonly operations: number }> {
  const random = new Random(plan.seed);
  const scheduler = new Scheduler();
  const failures: unknown[] = [];
  let actors: Actor[] = [];
  let countdown = Infinity;
  let powerCut = false;
  const strike = () => {
    countdown = Infinity;
    const victims = plan.stop === "one" ? [random.pick(actors)] : actors;
    for (const { process } of victims) sim.kill(process);
    powerCut = plan.stop === "power cut";
  };
  let damage: Inode | undefined = undefined;
  const sim: SimDisk = new SimDisk(scheduler, random, {
    onOperation: (_count, when) => {
      if (when === "before") countdown--;
      if (countdown === 0 && when === plan.stopWhen) strike();
    },
    onNamesOrSync: () => {
      if (damage !== undefined && certainPath(sim, damage) === undefined) {
        failures.push(new Error("the damaged bytes would not survive a power cut"));
      }
    },
    onPublished: (_name, inode) => void (inode.published = true),
    violation: (text) => void failures.push(new Error(text)),
    trace: () => {},
  });

  const start = (work: (process: SimProcess) => Promise<void>): Actor => {
    const process = { alive: true };
    const actor: Actor = { process, end: work(process), ended: false };
    actor.end.then(() => actor.ended = true, (error) => {
      actor.ended = true;
      failures.push(error);
    });
    return actor;
  };
  const runAll = async (works: readonly ((process: SimProcess) => Promise<void>)[]) => {
    actors = works.map(start);
    await scheduler.run(() => actors.every(({ process, ended }) => ended || !process.alive));
    if (failures.length > 0) throw failures[0];
    assert.ok(actors.every(({ process, ended }) => ended || !process.alive), "somebody waits for ever");
  };

  let suffix = 0;
  const push = (name: string, retries: number) => async (process: SimProcess) => {
    for (let attempt = 0;; attempt++) {
      try {
        const archive = await Archive.open(sim.open(process), { naming: NAMING, userId: undefined });
        const accepted = await acceptFile(archive, { disk: broughtFiles(Object.fromEntries(FILES)), name }, {
          systemIdentifier: IDENTITY.systemIdentifier,
          suffix: `${++suffix}`,
          startedMs: 1e12,
          pieces: [new Uint8Array(300_000), new Uint8Array(300_000)],
          compression: plan.compress ? COMPRESSION : undefined,
        });
        return assertCertain(sim, accepted.path, contentAt(accepted.path, FILES.get(name)!));
      } catch (error) {
        // The server is told so, and asks again.
        if (isOutOfSpace(error) && plan.stop === "full disk") return;
        if (attempt >= retries || !TAKEN_AWAY.test((error as Error).message)) throw error;
      }
    }
  };
  const receive = async (process: SimProcess) => {
    const disk = sim.open(process);
    const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
    await archive.claim(IDENTITY);
    const { runs } = await archive.contents();
    const first = parseSegmentName(NAMES[0]!, SEGMENT_SIZE)!.number;
    const run = runs.find((each) => each.timeline === 1 && each.firstNumber === first);
    const received = run === undefined ? 0 : Number(run.endNumber - run.firstNumber);
    const startLsn = advance(START, received * MIB);
    const leg = await archive.planLeg(startLsn, emptyHistory(timelineId(1)));
    const writer = new SegmentWriter(disk, IDENTITY, leg, {
      modes: MODES,
      naming: NAMING,
      events: recordEvents(),
      zeros: SegmentWriter.zeroPiece(disk),
    });
    const end = 2 * MIB + 300_000;
    for (let at = received * MIB; at < end;) {
      at += await writer.append(WAL.subarray(at, Math.min(end, at + 150_000)), "sync");
      if (writer.segmentFull) await writer.publish();
    }
    await writer.close();
  };

  await runAll([async (process) => {
    const disk = sim.open(process);
    await (await Archive.open(disk, { naming: NAMING, userId: undefined })).claim(IDENTITY);
    if (plan.damaged) {
      await publishBytes(disk, { name: DAMAGED_NAME, bytes: DAMAGED, mode: MODES.file }, NAMING);
      await disk.syncDirectory(".");
    }
  }]);
  damage = plan.damaged ? sim.file(DAMAGED_NAME) : undefined;
  // It is no durable WAL: it may go aside.
  if (damage !== undefined) damage.published = false;
  const before = sim.operations;
  if (plan.stop !== "full disk") countdown = plan.stopAt ?? Infinity;
  else if (plan.stopAt !== undefined) {
    const fromOperation = before + plan.stopAt;
    sim.faults.push({ kinds: NEEDING_ROOM, code: "ENOSPC", fromOperation, durationMs: 0 });
  }
  const works = [...plan.pushes.map((name) => push(name, 20)), ...(plan.receiver ? [receive] : [])];
  await runAll(works);
  const operations = sim.operations - before;
  countdown = Infinity;
  sim.faults = [];
  for (const { process } of actors) sim.kill(process);
  if (powerCut) sim.cutPower();
  assertPublished(sim, damage);

  // One comes alone: nobody else's sync helps it.
  await runAll([push(plan.pushes[0]!, 20)]);
  assertPublished(sim, damage);

  // Everybody comes again; whatever happened, nobody is stuck.
  await runAll([...FILES.keys()].map((name) => push(name, 20)));
  assertPublished(sim, damage);
  for (const name of COMPLETE) {
    const path = [name, `${name}.zst`].find((each) => sim.names(".").includes(each)) ?? name;
    assertCertain(sim, path, contentAt(path, FILES.get(name)!));
  }
  const asides = sim.names("conflicts");
  assert.equal(asides.length, damage === undefined ? 0 : 1, asides.join());
  if (damage !== undefined) assert.equal(certainPath(sim, damage), `conflicts/${asides[0]}`);
  const left = sim.names("inprogress").filter((name) => name.includes(".push-"));
  assert.deepEqual(left, [], "something is left over");
  await runAll([receive]);
  assertPublished(sim, damage);
  sim.release();
  return { operations };
}

/** Where the file stands, whole, if the power goes right now: where it was, or moved aside. */
function certainPath(sim: SimDisk, file: Inode): string | undefined {
  for (const directory of [".", "conflicts"]) {
    for (const [name, inode] of sim.certainFiles(directory)) {
      if (inode === file && file.holds(DAMAGED, DAMAGED.length)) {
        return directory === "." ? name : `${directory}/${name}`;
      }
    }
  }
  return undefined;
}

/** What a file of this name holds, when it holds `content`. */
function contentAt(path: string, content: Uint8Array): Uint8Array {
  if (!path.endsWith(".zst")) return content;
  let made = compressed.get(content);
  if (made === undefined) {
    const compressor = new PieceCompressor(COMPRESSION);
    made = Buffer.concat([...compressor.push(content), ...compressor.end()]);
    compressed.set(content, made);
  }
  return made;
}

const compressed = new Map<Uint8Array, Uint8Array>();
const DAMAGED = contentAt(DAMAGED_NAME, FILES.get(NAMES[0]!)!).slice(0, -10);

/** A power cut right now would leave it. */
function assertCertain(sim: SimDisk, path: string, content: Uint8Array): void {
  const slash = path.indexOf("/");
  const directory = slash < 0 ? "." : path.slice(0, slash);
  for (const [name, inode] of sim.certainFiles(directory)) {
    if (name !== path.slice(slash + 1)) continue;
    assert.ok(inode.holds(content, content.length), `${path} would not survive a power cut`);
    return;
  }
  assert.fail(`the name ${path} would not survive a power cut`);
}

/** P1: whatever has its own name is whole and right. */
function assertPublished(sim: SimDisk, damage: Inode | undefined): void {
  for (const name of sim.names(".")) {
    if (damage !== undefined && sim.file(name) === damage) continue;
    const plain = name.replace(/\.zst$/, "");
    const content = plain === NAMES[2] ? WAL.slice(2 * MIB, 3 * MIB) : FILES.get(plain);
    if (content === undefined) {
      assert.ok(["archive.json", "inprogress", "conflicts"].includes(name), `${name} has no business there`);
      continue;
    }
    const file = sim.file(name)!.content;
    const held = name === plain ? file : zstdDecompressSync(file);
    assert.ok(sameBytes(held, content), `${name} holds something else`);
  }
}
