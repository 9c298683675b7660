import process from "node:process";
import { openDirectDisk } from "../archive/direct_disk.ts";
import type { Disk } from "../archive/disk.ts";
import type { ArchiveIdentity } from "../archive/identity.ts";
import { IDENTITY_FILE, INDEX_DIRECTORY, indexPath } from "../archive/layout.ts";
import { modesBelow } from "../archive/modes.ts";
import type { Modes } from "../archive/segment_writer.ts";
import { messageChain } from "../log.ts";
import { type FindAnswer, type FindTarget, findTarget } from "../observe/find_target.ts";
import { planRoad, type RoadRun } from "../observe/wal_road.ts";
import { ArchiveDirectory } from "../restore/archive_directory.ts";
import type { Stock } from "../restore/stock.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { historyFileName } from "../wal/timeline.ts";
import { ArchiveRoad, KnownSegments } from "./archive_road.ts";
import { type CommandContext, EXIT, UsageError } from "./context.ts";
import type { FindCommandOptions } from "./find_options.ts";
import { findJson, findText } from "./find_text.ts";

const PROGRESS_INTERVAL_MS = 200;

/** Finds one place; resolves to the exit code. */
export async function find(options: FindCommandOptions, context: CommandContext): Promise<number> {
  const target = checkTarget(options);
  const directory = options.archive ?? context.env["WALVAULT_ARCHIVE"];
  if (directory === undefined || directory === "") {
    throw new UsageError(
      "No archive is given",
      "Name the archive directory with --archive, or in WALVAULT_ARCHIVE",
    );
  }
  const archive = await ArchiveDirectory.open(openDirectDisk(directory));
  const { stock, identity } = await takeStockOf(archive);
  const timelines = timelinesOf(stock);
  const newest = timelines.at(-1);
  const wanted = options.timeline ?? newest;
  if (wanted === undefined || !timelines.includes(wanted)) {
    throw new Error(
      `Cannot find anything in "${directory}": ${
        wanted === undefined ? "it holds no WAL" : `nothing of timeline ${wanted} is there`
      }`,
    );
  }
  const progress = new Progress(context, { enabled: options.quiet !== true });
  const known = new KnownSegments();
  const modes = await writingModes(archive);
  const look = async (timeline: TimelineId): Promise<FindAnswer> => {
    const runs = planRoad(stock, await historyOf(archive, timeline), identity.segmentSize);
    progress.expect(known.readCount + await countUnindexed(archive.disk, runs));
    const road = new ArchiveRoad(archive, runs, {
      identity,
      unfinished: stock.unfinished,
      modes,
      onRead: (count) => progress.show(count),
      onNotWritten: (error) => {
        progress.clear();
        context.stderr.write(
          `walvault: what was read is not kept for the next time: ${messageChain(error)}\n`,
        );
      },
    }, known);
    return await findTarget(road, target, { inclusive: options.exclusive !== true });
  };
  try {
    let timeline = wanted;
    let answer = await look(timeline);
    if (
      !answer.found && options.timeline === undefined && (target.kind === "xid" || target.kind === "name")
    ) {
      // A number or a name may stand on a branch that was left.
      for (const other of timelines.toReversed().slice(1)) {
        if (await archive.history(other) === undefined) continue;
        const elsewhere = await look(other);
        if (!elsewhere.found) continue;
        answer = elsewhere;
        timeline = other;
        break;
      }
    }
    progress.clear();
    const facts = { target, timeline, newestTimeline: newest ?? timeline, identity, answer };
    context.stdout.write(options.json ? JSON.stringify(findJson(facts)) + "\n" : findText(facts));
    return answer.found ? EXIT.done : EXIT.no;
  } finally {
    progress.clear();
  }
}

function checkTarget({ time, xid, lsn, name, exclusive }: FindCommandOptions): FindTarget {
  const targets: FindTarget[] = [
    ...(time === undefined ? [] : [{ kind: "time" as const, time }]),
    ...(xid === undefined ? [] : [{ kind: "xid" as const, ...halvesOf(xid) }]),
    ...(lsn === undefined ? [] : [{ kind: "lsn" as const, lsn }]),
    ...(name === undefined ? [] : [{ kind: "name" as const, name }]),
  ];
  const [target] = targets;
  if (target === undefined || targets.length > 1) {
    throw new UsageError(
      target === undefined ? "Nothing to look for is given" : "More than one thing to look for is given",
      "Give one of --time, --xid, --lsn and --name",
    );
  }
  if (exclusive && target.kind === "name") {
    throw new UsageError(
      "--exclusive means nothing for --name",
      "Recovery stops right after a restore point, in which nothing happens",
    );
  }
  return target;
}

function halvesOf(xid: bigint): { readonly xid: number; readonly epoch: number | undefined } {
  return { xid: Number(xid & 0xffff_ffffn), epoch: xid < 1n << 32n ? undefined : Number(xid >> 32n) };
}

async function takeStockOf(
  archive: ArchiveDirectory,
): Promise<{ readonly stock: Stock; readonly identity: ArchiveIdentity }> {
  const { stock, origin } = await archive.stock(await archive.names());
  if (origin?.systemIdentifier === undefined) {
    throw new Error(
      `Cannot find anything in "${archive.disk.root}": no file in it tells whose WAL it is`,
    );
  }
  const { systemIdentifier, segmentSize } = origin;
  return { stock, identity: { systemIdentifier, segmentSize } };
}

function timelinesOf({ published, unfinished, histories }: Stock): readonly TimelineId[] {
  const all = [...published, ...unfinished].map(({ timeline }) => timeline);
  return [...new Set([...all, ...histories])].sort((a, b) => a - b);
}

async function historyOf(archive: ArchiveDirectory, timeline: TimelineId) {
  const history = await archive.history(timeline);
  if (history !== undefined) return history;
  const error = new Error(
    `Cannot follow timeline ${timeline}: "${archive.disk.root}/${historyFileName(timeline)}" is not there`,
  );
  throw Object.assign(error, { hint: "Bring it back, or name another timeline with --timeline" });
}

/** How indexes are to be written; `undefined` where that is not ours to do. */
async function writingModes({ disk, identity }: ArchiveDirectory): Promise<Modes | undefined> {
  const root = await disk.entry(".");
  const owner = (await disk.entry(IDENTITY_FILE))?.ownerId;
  const userId = process.geteuid?.();
  // All that is written in an archive is its owner's; a directory of pg_receivewal gets nothing added.
  const isOurs = identity !== undefined && root !== undefined && (userId === undefined || owner === userId);
  return isOurs ? modesBelow(root) : undefined;
}

async function countUnindexed(disk: Disk, runs: readonly RoadRun[]): Promise<number> {
  let names: readonly string[] = [];
  try {
    names = await disk.list(INDEX_DIRECTORY) ?? [];
  } catch {
    // It is for the progress line only.
  }
  const there = new Set(names.map((name) => `${INDEX_DIRECTORY}/${name}`));
  const segments = runs.flatMap((run) => run.segments);
  return segments.filter(({ name, unfinished }) => unfinished === undefined && !there.has(indexPath(name)))
    .length;
}

/** One line on a terminal while segments are read; nothing elsewhere. */
class Progress {
  readonly #enabled: boolean;
  #expected = 0;
  #shownAtMs = performance.now();
  #isShown = false;

  constructor(private readonly context: CommandContext, options: { readonly enabled: boolean }) {
    this.#enabled = options.enabled && context.stderr.isTerminal;
  }

  expect(count: number): void {
    this.#expected = count;
  }

  show(count: number): void {
    if (!this.#enabled || performance.now() - this.#shownAtMs < PROGRESS_INTERVAL_MS) return;
    this.#shownAtMs = performance.now();
    this.#isShown = true;
    const of = count < this.#expected ? ` of ${this.#expected}` : "";
    this.context.stderr.write(`\r\x1b[Kreading segments that have no index yet: ${count}${of}`);
  }

  clear(): void {
    if (this.#isShown) this.context.stderr.write("\r\x1b[K");
    this.#isShown = false;
  }
}
