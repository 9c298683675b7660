import type { Clock } from "../../lib/archive/clock.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import type { Leg, WriterEvents } from "../../lib/archive/segment_writer.ts";
import { Random } from "../simulation/random.ts";
import { Scheduler } from "../simulation/sim_clock.ts";
import { type OperationKind, SimDisk } from "../simulation/sim_disk.ts";
import { buildWal, MIB, type RecordPlan, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";

/** What a test of one module needs of the simulated machine. */
export interface Machine {
  readonly disk: Disk;
  readonly sim: SimDisk;
  readonly clock: Clock;
  /** The disk's operations so far, with the newest last: "sync inprogress/…". */
  readonly operations: string[];
  /** The kinds of them. */
  readonly kinds: OperationKind[];
  /** The disk fails the next operation of this kind, or all of it for a while. */
  fail(kind: OperationKind, code: "ENOSPC" | "EIO" | "EDQUOT", durationMs?: number): void;
  /** Another process after the first was killed; its calls are of the same machine. */
  restart(how: "kill" | "power cut"): Disk;
  sleep(ms: number): Promise<void>;
}

/** Runs `use` on a simulated disk; time passes only when nothing else is left to do. */
export async function onSimDisk(use: (machine: Machine) => Promise<void>, seed = 1): Promise<void> {
  const scheduler = new Scheduler();
  const operations: string[] = [];
  const kinds: OperationKind[] = [];
  let violation: string | undefined;
  const sim = new SimDisk(scheduler, new Random(seed), {
    onOperation: (_count, when, kind) => void (when === "after" && kinds.push(kind)),
    onNamesOrSync: () => {},
    onPublished: (_name, inode) => void (inode.published = true),
    violation: (text) => void (violation ??= text),
    trace: (text) => void operations.push(text.replace(/^disk \d+ /, "")),
  });
  let process = { alive: true };
  const clock = scheduler.clockOf({ alive: true });
  const machine: Machine = {
    disk: sim.open(process),
    sim,
    clock,
    operations,
    kinds,
    fail: (kind, code, durationMs = 0) =>
      void sim.faults.push({ kinds: [kind], code, fromOperation: 0, durationMs }),
    restart(how) {
      sim.kill(process);
      if (how === "power cut") sim.cutPower();
      process = { alive: true };
      return sim.open(process);
    },
    sleep: (ms) => new Promise((resolve) => scheduler.after(ms, resolve)),
  };
  let ended = false;
  const used = use(machine).finally(() => ended = true);
  used.catch(() => {
    // Awaited below; until then it is nobody's loss.
  });
  await scheduler.run(() => ended);
  if (!ended) throw new Error("Cannot go on: nothing is left to happen, and the test waits");
  await used;
  if (violation !== undefined) throw new Error(violation);
}

export const SEGMENT_SIZE = segmentSize(MIB);
export const IDENTITY = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: SEGMENT_SIZE };
export const MODES = { file: 0o600, directory: 0o700 };
export const NAMING = { hardLinks: true };
/** Segment 3. */
export const START = lsn(3n * BigInt(MIB));
export const NAMES = [3, 4, 5, 6].map((number) => `00000001000000000000000${number}`);

/** WAL of some segments from `START` on, as one piece. */
export function walOf(options: { readonly bytes: number; readonly seed?: number }): Uint8Array {
  const { bytes, seed = 0 } = options;
  const records: RecordPlan[] = [];
  // The seed shows in the first record's length, and so in all that follows.
  for (let total = 0; total < bytes + MIB; total += 5000) records.push({ totalBytes: 5000 + seed * 8 });
  const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records });
  const whole = new Uint8Array(segments.length * MIB);
  for (const [index, segment] of segments.entries()) whole.set(segment, index * MIB);
  return whole.subarray(0, bytes);
}

export function legAt(startLsn = START): Leg {
  const timeline = timelineId(1);
  return { timeline, startLsn, lineage: emptyHistory(timeline), backLinks: [] };
}

/** Events that only count. */
export function recordEvents(): WriterEvents & { readonly told: string[] } {
  const told: string[] = [];
  return {
    told,
    segmentPublished: ({ segment }) => void told.push(`published ${segment}`),
    savedCopyKept: ({ path }) => void told.push(`kept ${path}`),
    savedCopyPassed: ({ path }) => void told.push(`passed ${path}`),
    unknownPageMagic: () => {},
  };
}
