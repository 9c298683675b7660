import { Buffer } from "node:buffer";
import { emptyHistory, isInLineage, type TimelineHistory } from "../../wal/history.ts";
import { advance, type Lsn, minLsn } from "../../wal/lsn.ts";
import { type SegmentNumber, type SegmentSize, segmentStart } from "../../wal/segment.ts";
import { historyFileName, type TimelineId } from "../../wal/timeline.ts";
import type { Disk, NamedEntry } from "../disk.ts";
import { readWhole, withFile } from "../durable.ts";
import { readLedger } from "../gap_ledger_file.ts";
import { EMPTY_LEDGER, type GapLedger } from "../gaps.ts";
import {
  CONFLICTS_DIRECTORY,
  GAP_LEDGER_FILE,
  IDENTITY_FILE,
  IN_PROGRESS_DIRECTORY,
  inProgressPath,
  nameOf,
  savedPath,
  SEGMENT_FORMS,
} from "../layout.ts";
import { modesBelow } from "../modes.ts";
import { PARTIAL_SUFFIX } from "../plain_layout.ts";
import { bytesOfFile, type SegmentBytes } from "../segment_bytes.ts";
import type { Modes } from "../segment_writer.ts";
import { findHoles, type HeldSegment, type Hole } from "./continuity.ts";
import type { Finding } from "./finding.ts";
import { type DueIndex, dueIndexOf, mayMakeIndex, staleIndexFinding } from "./index_judgement.ts";
import { explainHole, gapsAtEnds } from "./known_gap.ts";
import { contradictions, readHistory, startProblem } from "./lineage.ts";
import { type Origin, readOrigin } from "./origin.ts";
import {
  type DirectoryEntries,
  type DirectoryLayout,
  isInRange,
  layoutOf,
  numbersOf,
  type PlannedFile,
  type PlannedSegment,
  planVerify,
  segmentNameOf,
  type VerifyPlan,
  type VerifyRange,
} from "./plan.ts";
import { type Held, heldOf, judgeFiles, type ProvenFile, type ProvenSegment } from "./proven_segment.ts";
import type { Prover } from "./prover.ts";
import { SegmentChain } from "./segment_chain.ts";
import { isIndexDue, readContent, type SegmentTask } from "./segment_proof.ts";
import { type VerifyReport, VerifyTally } from "./report.ts";

/** Larger than any history: a line per timeline, of at most some hundred bytes. */
const MAXIMUM_HISTORY_BYTES = 1 << 20;
/** A file that is gone has another name, or was removed: it is looked for so often. */
const LOOKS = 3;
const COMPARE_BYTES = 256 * 1024;
const SEGMENT_NAME_LENGTH = 24;
/** Of all that is missing, so many are asked for by name. */
const MAXIMUM_ASKED = 1000;

/** How far it is. */
export interface VerifyProgress {
  readonly doneBytes: number;
  readonly totalBytes: number;
}

/** Where there is nothing to be proven. */
export class NothingToVerifyError extends Error {
  override readonly name = "NothingToVerifyError";
}

/** What `verifyDirectory` is asked. */
export interface VerifyOptions {
  readonly range: VerifyRange;
  /** Who we are: the owner of an archive keeps its indexes, too; `undefined` where nobody is to do that. */
  readonly userId?: number | undefined;
  /** Made when there is something to be read, and closed at the end. */
  readonly openProver: (segments: number) => Prover;
  readonly onProgress: (progress: VerifyProgress) => void;
  readonly signal: AbortSignal;
}

/**
 * Proves all WAL in a directory: each segment by its records, and all of them to each other.
 *
 * Nothing but indexes is changed, and no lock is taken: others may add, compress and remove files meanwhile.
 * @throws {NothingToVerifyError} when it holds no WAL and is no archive.
 * @throws {RangeBoundError} when the range is none.
 */
export async function verifyDirectory(disk: Disk, options: VerifyOptions): Promise<VerifyReport> {
  // The growing ones first: what is published in between is then found among the published ones.
  const inProgress = await disk.entries(IN_PROGRESS_DIRECTORY) ?? [];
  const root = await disk.entries(".");
  const layout = root === undefined ? undefined : layoutOf(root);
  if (root === undefined || layout === undefined) throw nothingThere(disk, root);
  const { origin, findings } = await readOrigin(disk, root);
  if (origin !== undefined) {
    return await new Verification(disk, layout, origin, options).run({ root, inProgress }, findings);
  }
  const tally = new VerifyTally({ layout, origin });
  tally.add(...findings);
  if (findings.length === 0) {
    tally.add({ kind: "identity", problem: "no file tells which cluster's WAL this is" });
  }
  return tally.report([], []);
}

function nothingThere(disk: Disk, root: readonly NamedEntry[] | undefined): NothingToVerifyError {
  const cannot = `Cannot verify "${disk.root}"`;
  if (root === undefined) return new NothingToVerifyError(`${cannot}: there is no such directory`);
  const isDataDirectory = root.some(({ name }) => name === "pg_wal") &&
    root.some(({ name }) => name === "global");
  return new NothingToVerifyError(
    isDataDirectory
      ? `${cannot}: it is a server's data directory, want "${disk.root}/pg_wal"`
      : `${cannot}: it has no archive.json and no WAL`,
  );
}

class Verification {
  readonly #tally: VerifyTally;
  readonly #histories = new Map<TimelineId, TimelineHistory>();
  #indexModes: Modes | undefined;
  /** Segments that were listed, and were gone when they were to be read. */
  readonly #gone = new Set<string>();
  #doneBytes = 0;
  #totalBytes = 0;

  constructor(
    private readonly disk: Disk,
    private readonly layout: DirectoryLayout,
    private readonly origin: Origin,
    private readonly options: VerifyOptions,
  ) {
    this.#tally = new VerifyTally({ layout, origin });
  }

  async run(entries: DirectoryEntries, before: readonly Finding[]): Promise<VerifyReport> {
    const { segmentSize } = this.origin;
    const tally = this.#tally;
    const range = numbersOf(this.options.range, segmentSize);
    const plan = planVerify(entries, { layout: this.layout, segmentSize });
    tally.add(...before, ...plan.findings, ...await this.#conflictsKept());
    await this.#readHistories(plan);
    this.#indexModes = await this.#modesOfIndexes();
    const segments = plan.segments.filter((segment) => isInRange(segment, range, this.#lineage()));
    if (segments.length === 0 && plan.segments.length > 0) {
      tally.add({ kind: "hole", problem: "no WAL of the range that is asked for" });
    }
    this.#tellMissingHistories(segments);
    this.#totalBytes = segments.reduce((sum, { files }) => sum + files.length, 0) * segmentSize;
    const chain = new SegmentChain(tally, {
      histories: this.#histories,
      segmentSize,
      numbers: segments,
      bytesOf: (task) => this.#bytesOf(task),
    });
    const held: HeldSegment[] = [];
    let redoLsn: Lsn | undefined;
    const prover = segments.length === 0 ? undefined : this.options.openProver(segments.length);
    try {
      const due: DueIndex[] = [];
      for await (const proven of this.#proveAll(prover, segments)) {
        tally.count(proven);
        const best = await this.#judge(proven);
        if (best === undefined) {
          this.#gone.add(`${proven.segment.timeline} ${proven.segment.number}`);
          continue;
        }
        await chain.add(best);
        due.push(...dueIndexes(proven, best));
        redoLsn = best.proof.redoLsn ?? redoLsn;
        const { timeline, number, extent, endLsn, path } = best;
        held.push({ timeline, number, extent, endLsn, path }); // without the bytes that the chain needs
      }
      await this.#keepIndexes(prover, due, chain);
    } finally {
      await prover?.close();
    }
    const lineage = this.#lineage()?.history;
    const isAsked = (timeline: TimelineId) => lineage === undefined || isInLineage(lineage, timeline);
    const holes = findHoles(held, { histories: this.#histories, segmentSize, range, isAsked });
    await this.#refuseShortListing(holes);
    const pruned = await this.#prunedBelow(held);
    const ledger = await this.#ledger(tally);
    const atEnds = gapsAtEnds(held, { ledger, holes, segmentSize, range, isAsked });
    tally.add(
      ...[...holes, ...atEnds].map((hole) =>
        this.#isRemoved(hole, { redoLsn, pruned }) ? asNote(hole) : explainHole(hole, ledger, segmentSize)
      ),
    );
    for (const start of chain.timelineStarts) {
      const history = this.#histories.get(start.timeline as TimelineId);
      const finding = history === undefined ? undefined : startProblem(start, history);
      if (finding !== undefined) tally.add(finding);
    }
    return tally.report(held, chain.usable());
  }

  /**
   * Whether somebody removes what is needed no more: files that were listed are gone, and all before them, or a checkpoint
   * lies behind them. A server does it in no order, and may be killed in the midst of it.
   */
  #isRemoved(
    { timeline, firstNumber, endNumber }: Hole,
    { redoLsn, pruned }: { readonly redoLsn: Lsn | undefined; readonly pruned: SegmentNumber | undefined },
  ): boolean {
    const isGone = (number: bigint) => this.#gone.has(`${timeline} ${number}`);
    if (this.layout === "server") {
      const isPassed = redoLsn !== undefined && segmentStart(endNumber, this.origin.segmentSize) <= redoLsn;
      return isPassed || isGone(endNumber - 1n);
    }
    // Where something older is still there, recovery would want to come this way.
    if (pruned === undefined || firstNumber >= pruned) return false;
    for (let number: bigint = firstNumber; number < endNumber; number++) {
      if (!isGone(number)) return false;
    }
    return true;
  }

  /**
   * The oldest segment that was read and is still there: all before it went while we read. `undefined` when nothing went, or
   * nothing is left.
   */
  async #prunedBelow(held: readonly HeldSegment[]): Promise<SegmentNumber | undefined> {
    if (this.#gone.size === 0) return undefined;
    const oldestFirst = held.filter(({ extent }) => extent !== "none").toSorted((a, b) =>
      a.number < b.number ? -1 : 1
    );
    for (const segment of oldestFirst) {
      if ((await this.#filesNow(segment)).length > 0) return segment.number;
    }
    return undefined;
  }

  /** What is known of missing WAL. */
  async #ledger(tally: VerifyTally): Promise<GapLedger> {
    if (this.layout !== "archive") return EMPTY_LEDGER;
    try {
      const ledger = await readLedger(this.disk) ?? EMPTY_LEDGER;
      if (ledger.unknownLines > 0) {
        tally.add({
          kind: "note",
          path: GAP_LEDGER_FILE,
          problem:
            `${ledger.unknownLines} of its lines are of a kind that this version does not know; a newer walvault wrote them`,
        });
      }
      return ledger;
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      tally.add({ kind: "damage", path: GAP_LEDGER_FILE, problem: error.message });
      return EMPTY_LEDGER;
    }
  }

  /** Of the timeline that is asked for. */
  #lineage(): { readonly history: TimelineHistory; readonly segmentSize: SegmentSize } | undefined {
    const { timeline } = this.options.range;
    if (timeline === undefined) return undefined;
    const history = this.#histories.get(timeline) ?? emptyHistory(timeline);
    return { history, segmentSize: this.origin.segmentSize };
  }

  /** Indexes are made by the archive's owner only, as all that is in it. */
  async #modesOfIndexes(): Promise<Modes | undefined> {
    if (this.layout !== "archive" || this.options.userId === undefined) return undefined;
    const identity = await this.disk.entry(IDENTITY_FILE);
    const root = await this.disk.entry(".");
    if (identity?.ownerId !== this.options.userId || root === undefined) return undefined;
    return modesBelow(root);
  }

  async #conflictsKept(): Promise<readonly Finding[]> {
    if (this.layout !== "archive") return [];
    const names = await this.disk.list(CONFLICTS_DIRECTORY) ?? [];
    return names.toSorted().map((name) => ({
      kind: "note",
      path: `${CONFLICTS_DIRECTORY}/${name}`,
      problem: "the other side of a conflict is kept",
    }));
  }

  async #readHistories({ histories }: VerifyPlan): Promise<void> {
    for (const timeline of histories) {
      const bytes = await readWhole(this.disk, historyFileName(timeline), MAXIMUM_HISTORY_BYTES);
      if (bytes === undefined) continue;
      const read = readHistory(timeline, bytes);
      if ("finding" in read) this.#tally.add(read.finding);
      else this.#histories.set(timeline, read.history);
    }
    const contradicting = contradictions(this.#histories);
    this.#tally.add(...contradicting);
    // Nobody knows which of the two is right: no file is held against them.
    for (const { timeline } of contradicting) this.#histories.delete(timeline);
  }

  /** Without its history nobody can find a timeline, nor tell where it began. */
  #tellMissingHistories(segments: readonly PlannedSegment[]): void {
    const told = new Set(this.#tally.findings.map(({ path }) => path));
    for (const timeline of new Set(segments.map((segment) => segment.timeline))) {
      const path = historyFileName(timeline);
      if (timeline === 1 || this.#histories.has(timeline) || told.has(path)) continue;
      this.#tally.add({
        // A server may have begun with a copy that came without it.
        kind: this.layout === "server" ? "note" : "history",
        path,
        timeline,
        problem: `it is missing, and WAL of timeline ${timeline} is here`,
        hint: "Copy it from the server's pg_wal: a restore finds this timeline by it only",
      });
    }
  }

  /** In the order of the segments, whoever is ready first. */
  async *#proveAll(
    prover: Prover | undefined,
    segments: readonly PlannedSegment[],
  ): AsyncGenerator<ProvenSegment> {
    if (prover === undefined) return;
    let last: ProvenSegment | undefined;
    const ahead: Promise<ProvenSegment>[] = [];
    for (let started = 0, done = 0; done < segments.length; done++) {
      while (started < segments.length && started < done + prover.capacity) {
        const proving = this.#proveFiles(prover, segments[started++]!);
        // It is awaited in its turn; until then it is nobody's loss.
        proving.catch(() => {});
        ahead.push(proving);
      }
      const proven = await ahead.shift()!;
      this.options.signal.throwIfAborted();
      if (last !== undefined && isWrittenPast(last, proven)) last = await this.#proveAgain(prover, last);
      if (last !== undefined) yield last;
      last = proven;
    }
    if (last !== undefined) yield last;
  }

  /**
   * Makes indexes that are missing or of other bytes, now that it is known which segments join: one made of damaged bytes
   * would have everybody believe them.
   */
  async #keepIndexes(
    prover: Prover | undefined,
    due: readonly DueIndex[],
    chain: SegmentChain,
  ): Promise<void> {
    const modes = this.#indexModes;
    const { segmentSize, systemIdentifier } = this.origin;
    const make = async ({ task: { path }, contentCrc }: DueIndex): Promise<boolean> => {
      if (prover === undefined || modes === undefined || systemIdentifier === undefined) return false;
      const identity = { systemIdentifier, segmentSize };
      return await prover.index({ name: path.slice(0, SEGMENT_NAME_LENGTH), identity, modes, contentCrc });
    };
    const step = prover?.capacity ?? 1;
    for (let start = 0; start < due.length; start += step) {
      this.options.signal.throwIfAborted();
      const findings = await Promise.all(
        due.slice(start, start + step).map(async (each) => {
          const joins = chain.joinsOf(each.task.path);
          return staleIndexFinding(each, joins, { made: mayMakeIndex(each, joins) && await make(each) });
        }),
      );
      this.#tally.add(...findings.filter((finding) => finding !== undefined));
    }
  }

  /** What was unfinished when it was read may have been finished since. */
  async #proveAgain(prover: Prover, proven: ProvenSegment): Promise<ProvenSegment> {
    const files = await this.#filesNow(proven.segment);
    return await this.#proveFiles(prover, { ...proven.segment, files });
  }

  async #proveFiles(prover: Prover, segment: PlannedSegment): Promise<ProvenSegment> {
    let { files } = segment;
    for (let looks = 1;; looks++) {
      const proven = await Promise.all(
        files.map((file) => this.#proveFile(prover, segment, file, files.length)),
      );
      const present = proven.filter((each) => each !== undefined);
      if (present.length > 0 || looks === LOOKS) return { segment, files: present };
      // Published, compressed or moved aside meanwhile.
      files = await this.#filesNow(segment);
      if (files.length === 0) return { segment, files: [] };
    }
  }

  async #proveFile(
    prover: Prover,
    { timeline, number }: PlannedSegment,
    file: PlannedFile,
    filesOfSegment: number,
  ): Promise<ProvenFile | undefined> {
    const { segmentSize, systemIdentifier } = this.origin;
    const index = file.role === "complete" && this.layout === "archive";
    const history = this.#histories.get(timeline) ?? (timeline === 1 ? emptyHistory(timeline) : undefined);
    const task: SegmentTask = {
      ...file,
      timeline,
      startLsn: segmentStart(number, segmentSize),
      segmentSize,
      systemIdentifier,
      history,
      digest: filesOfSegment > 1 || index,
      index,
    };
    const proof = await prover.prove(task);
    this.#doneBytes += segmentSize;
    const { onProgress } = this.options;
    onProgress({ doneBytes: this.#doneBytes, totalBytes: Math.max(this.#totalBytes, this.#doneBytes) });
    return proof === undefined ? undefined : { task, proof };
  }

  async #filesNow(segment: Pick<PlannedSegment, "timeline" | "number">): Promise<readonly PlannedFile[]> {
    const name = segmentNameOf(segment, this.origin.segmentSize);
    const forms = SEGMENT_FORMS.map((form) => name + form);
    const unfinished = this.layout === "archive"
      ? [inProgressPath(name), savedPath(name, 1)]
      : forms.map((path) => path + PARTIAL_SUFFIX);
    const paths = [...forms, ...unfinished];
    const root: NamedEntry[] = [];
    const inProgress: NamedEntry[] = [];
    for (const path of paths) {
      const entry = await this.disk.entry(path);
      if (entry === undefined) continue;
      const isBelow = path.startsWith(IN_PROGRESS_DIRECTORY);
      const named = { ...entry, name: path.slice(isBelow ? IN_PROGRESS_DIRECTORY.length + 1 : 0) };
      (isBelow ? inProgress : root).push(named);
    }
    const { segmentSize } = this.origin;
    const plan = planVerify({ root, inProgress }, { layout: this.layout, segmentSize });
    return plan.segments[0]?.files ?? [];
  }

  /** Tells what is wrong with the files of a segment, and which one is the best. */
  async #judge(proven: ProvenSegment): Promise<Held | undefined> {
    const { best, findings } = judgeFiles(proven);
    this.#tally.add(...findings);
    if (best === undefined) return undefined;
    for (const other of proven.files) {
      if (other === best || other.task.format !== undefined || other.task.role !== "unfinished") continue;
      const endLsn = minLsn(other.proof.scan.endLsn, best.proof.scan.endLsn);
      const at = await this.#firstDifference(best.task, other.task.path, Number(endLsn - best.task.startLsn));
      if (at === undefined) continue;
      this.#tally.add({
        kind: "conflict",
        path: other.task.path,
        timeline: best.task.timeline,
        lsn: advance(best.task.startLsn, at),
        problem: `it holds other WAL than "${best.task.path}"`,
        hint:
          "Two servers wrote to this timeline, or one was set back: find out which one belongs to this archive",
      });
    }
    return heldOf(proven.segment, best);
  }

  /** Where a file and a plain one differ below `endBytes`. */
  async #firstDifference(task: SegmentTask, path: string, endBytes: number): Promise<number | undefined> {
    let difference: number | undefined;
    await withFile(this.disk, path, async (other) => {
      const buffer = new Uint8Array(COMPARE_BYTES);
      await this.#bytesOf(task)(0, async (piece, position) => {
        for (let done = 0; done < piece.length && position + done < endBytes; done += buffer.length) {
          const length = Math.min(buffer.length, piece.length - done, endBytes - position - done);
          const [ours, theirs] = [piece.subarray(done, done + length), buffer.subarray(0, length)];
          const count = await other.read(theirs, position + done);
          if (count === length && Buffer.compare(ours, theirs) === 0) continue;
          let index = 0;
          while (index < count && ours[index] === theirs[index]) index++;
          difference = position + done + index;
          return "enough";
        }
        return position + piece.length < endBytes ? "more" : "enough";
      });
    });
    return difference;
  }

  #bytesOf(task: SegmentTask): SegmentBytes {
    const label = `${this.disk.root}/${task.path}`;
    return async (start, take) => {
      await withFile(this.disk, task.path, async (file) => {
        if (task.format === undefined) return await bytesOfFile(file)(start, take);
        await readContent(file, { ...task, label }, (piece, position) => {
          const skipped = Math.max(0, start - position);
          return skipped >= piece.length ? "more" : take(piece.subarray(skipped), position + skipped);
        });
      });
    };
  }

  /**
   * Asks for what is missing by its name: where reading a directory fails half way, Deno (2.9) ends the listing without an
   * error.
   */
  async #refuseShortListing(holes: readonly Hole[]): Promise<void> {
    const { segmentSize } = this.origin;
    let asked = 0;
    for (const { timeline, firstNumber, endNumber, finding } of holes) {
      if (finding.path?.length !== SEGMENT_NAME_LENGTH) continue;
      for (let number = firstNumber; number < endNumber && asked < MAXIMUM_ASKED; number++, asked++) {
        const name = nameOf({ timeline, number }, segmentSize);
        for (const path of SEGMENT_FORMS.map((form) => name + form)) {
          const isThere = (await this.disk.entry(path))?.kind === "file";
          if (!isThere || this.#tally.hasSeen(path)) continue;
          throw new Error(
            `Cannot verify "${this.disk.root}": "${path}" was not there when it was listed, and is there now; try again`,
          );
        }
      }
    }
  }
}

/** Of a segment's files the best one's: where that is stale and another is right, they are in conflict, which is told. */
function dueIndexes({ files }: ProvenSegment, best: ProvenFile): readonly DueIndex[] {
  if (!isIndexDue(best.proof) || files.some(({ proof }) => proof.index.state === "right")) return [];
  return [dueIndexOf(best) ?? []].flat();
}

/** WAL goes on behind a segment that was unfinished when it was read. */
function isWrittenPast({ segment, files }: ProvenSegment, next: ProvenSegment): boolean {
  const { timeline, number } = next.segment;
  if (segment.timeline !== timeline || segment.number + 1n !== number) return false;
  const isUnfinished = files.every(({ proof: { state } }) => state !== "complete" && state !== "damaged");
  return isUnfinished && next.files.some(({ proof: { state } }) => state !== "empty" && state !== "earlier");
}

function asNote({ finding }: Hole): Finding {
  return {
    ...finding,
    kind: "note",
    hint: "It was removed meanwhile, or a checkpoint behind it shows that the server needs it no more",
  };
}
