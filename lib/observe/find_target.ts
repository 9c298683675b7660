import type {
  RestorePointMark,
  SegmentIndex,
  SegmentIndexHead,
  TransactionMark,
} from "../archive/segment_index.ts";
import type { PlacedTransactionEnd } from "../archive/segment_indexer.ts";
import { advance, type Lsn, maxLsn } from "../wal/lsn.ts";
import { isWholeScan } from "../wal/scanner.ts";
import type { Timestamp } from "../wal/timestamp.ts";
import type { RecoveryTarget } from "./recovery_lines.ts";
import type { RoadRun, RoadSegment } from "./wal_road.ts";

/** Where a record lies, in bytes of the WAL. */
export interface RecordPlace {
  readonly lsn: Lsn;
  /** The first byte after it. */
  readonly endLsn: Lsn;
}

/** The WAL along one timeline, as far as it is asked for. Records that are not of the road are left out of all answers. */
export interface RoadReader {
  readonly runs: readonly RoadRun[];
  head(segment: RoadSegment): Promise<SegmentIndexHead>;
  /** The same, where it is at hand: no segment is read for it. */
  knownHead(segment: RoadSegment): Promise<SegmentIndexHead | undefined>;
  index(segment: RoadSegment): Promise<SegmentIndex>;
  /** All ends of transactions whose records begin in the segment, in the order of the WAL. */
  ends(segment: RoadSegment): Promise<readonly PlacedTransactionEnd[]>;
  /**
   * The last record that begins before `lsn`, and the first that begins there or later, of the run that holds `lsn`;
   * `undefined` where there is none.
   */
  recordsAt(run: RoadRun, lsn: Lsn): Promise<RecordsAround>;
}

/** The records on both sides of a place. */
export interface RecordsAround {
  readonly before: RecordPlace | undefined;
  readonly from: RecordPlace | undefined;
  /** Without `from`: valid records end here though their segment is complete; `undefined`: they just end. */
  readonly damagedLsn?: Lsn | undefined;
}

/** What is looked for. */
export type FindTarget =
  | { readonly kind: "time"; readonly time: Timestamp }
  /** `epoch`: the high half of a number of 64 bits, where one was given. */
  | { readonly kind: "xid"; readonly xid: number; readonly epoch: number | undefined }
  | { readonly kind: "lsn"; readonly lsn: Lsn }
  | { readonly kind: "name"; readonly name: string };

/** What recovery stops at. */
export type StopPlace =
  | ({ readonly kind: "commit" | "abort"; readonly subxid: number | undefined } & TransactionMark)
  | ({ readonly kind: "restore point" } & RestorePointMark)
  | { readonly kind: "record"; readonly lsn: Lsn; readonly holds: RecordPlace | undefined };

/** Something that a user should know beside the answer. */
export type FindNote =
  /** Commits behind the stop have times that are not later: other sessions overtook them, or the clock was set back. */
  | { readonly kind: "later commits"; readonly count: number; readonly more: boolean; readonly lastLsn: Lsn }
  /** The same name, or number, stands elsewhere too: recovery stops at the first one that it meets. */
  | { readonly kind: "also at"; readonly lsns: readonly Lsn[] }
  /** The timeline has a place of that time in earlier WAL too, before a hole. */
  | { readonly kind: "also before a hole"; readonly holeLsn: Lsn }
  /** Transactions of that number of 32 bits ended there, and no checkpoint near tells of which epoch they are. */
  | { readonly kind: "epoch unknown"; readonly lsns: readonly Lsn[] }
  /** Records before it are damaged: recovery ends there. */
  | { readonly kind: "damage"; readonly segment: RoadSegment; readonly lsn: Lsn };

/** What is wanted is in the archive. */
export interface FoundPlace {
  readonly found: true;
  readonly run: RoadRun;
  /** Where the record lies that recovery stops at. */
  readonly segment: RoadSegment;
  /** A base backup that began before this does not get to the stop. */
  readonly backupFromLsn: Lsn;
  readonly stop: StopPlace;
  /** The last commit that a recovery to there has, and the first that it has not; `undefined`: none in this run. */
  readonly commitBefore: TransactionMark | undefined;
  readonly commitAfter: TransactionMark | undefined;
  readonly target: RecoveryTarget;
  readonly notes: readonly FindNote[];
}

/**
 * What is wanted is not in the archive.
 *
 * - `before`: it lies before all that is here; `after`: behind it.
 * - `hole`: it lies where segments are missing.
 * - `damage`: it lies behind records that are damaged, in the same run; a note tells where.
 * - `absent`: nothing of that number or name is here.
 */
export interface NotFound {
  readonly found: false;
  readonly where: "before" | "after" | "hole" | "damage" | "absent";
  /** The last commit before it and the first after it, on both sides of a hole. */
  readonly commitBefore: TransactionMark | undefined;
  readonly commitAfter: TransactionMark | undefined;
  /** The closest that a recovery can get. */
  readonly nearest: { readonly run: RoadRun; readonly commit: TransactionMark } | undefined;
  /** Of restore points, some that are here. */
  readonly names: readonly string[];
  /** First and last commit of all that is here, where that was looked at. */
  readonly window: { readonly first: TransactionMark; readonly last: TransactionMark } | undefined;
  readonly notes: readonly FindNote[];
}

/** Where a target is, and what recovery makes of it. */
export type FindAnswer = FoundPlace | NotFound;

const MAXIMUM_NAMES = 10;
/** Records begin at multiples of this. */
const RECORD_ALIGNMENT = 8;

/**
 * Looks for a target along a road.
 *
 * `inclusive` as `recovery_target_inclusive`: whether what stands at the target is still in. It means nothing for names.
 */
export async function findTarget(
  road: RoadReader,
  target: FindTarget,
  { inclusive }: { readonly inclusive: boolean },
): Promise<FindAnswer> {
  const answer = await findAny(road, target, inclusive);
  if (!answer.found) return answer;
  // Whoever asks for an LSN does not want all segments before it to be read.
  const headOf = (segment: RoadSegment) =>
    target.kind === "lsn" ? road.knownHead(segment) : road.head(segment);
  const damage = await lastDamageBefore(answer, headOf);
  if (damage === undefined) return answer;
  const { note, behindLsn } = damage;
  return {
    ...answer,
    backupFromLsn: maxLsn(answer.backupFromLsn, behindLsn),
    notes: [...answer.notes, note],
  };
}

/** The damage that is closest before a stop: a recovery that begins behind it meets no other. */
async function lastDamageBefore(
  { run, segment }: FoundPlace,
  headOf: (segment: RoadSegment) => Promise<SegmentIndexHead | undefined>,
): Promise<{ readonly note: FindNote; readonly behindLsn: Lsn } | undefined> {
  for (let index = run.segments.indexOf(segment) - 1; index >= 0; index--) {
    const damaged = run.segments[index]!;
    const scan = (await headOf(damaged))?.scan;
    if (scan === undefined) continue;
    if (isWholeScan(scan)) continue;
    const behindLsn = run.segments[index + 1]!.startLsn;
    return { note: { kind: "damage", segment: damaged, lsn: scan.endLsn }, behindLsn };
  }
  return undefined;
}

function findAny(road: RoadReader, target: FindTarget, inclusive: boolean): Promise<FindAnswer> {
  switch (target.kind) {
    case "time":
      return findTime(road, target.time, inclusive);
    case "xid":
      return findXid(road, target, inclusive);
    case "lsn":
      return findLsn(road, target.lsn, inclusive);
    case "name":
      return findName(road, target.name);
  }
}

/** A segment of a run, by its place in it. */
interface Step {
  readonly run: RoadRun;
  readonly index: number;
  readonly segment: RoadSegment;
}

function* stepsOf(run: RoadRun, from = 0): Iterable<Step> {
  for (let index = from; index < run.segments.length; index++) {
    yield { run, index, segment: run.segments[index]! };
  }
}

/** The last commit of a run that begins before `lsn`, which lies in the step's segment. */
async function commitBefore(road: RoadReader, step: Step, lsn: Lsn): Promise<TransactionMark | undefined> {
  const here = (await road.ends(step.segment)).findLast((end) => end.kind === "commit" && end.lsn < lsn);
  if (here !== undefined) return markOf(here);
  for (let index = step.index - 1; index >= 0; index--) {
    const { transactions } = await road.head(step.run.segments[index]!);
    if (transactions.lastCommit !== undefined) return transactions.lastCommit;
  }
  return undefined;
}

/** The first commit of a run that begins at `lsn`, which lies in the step's segment, or later. */
async function commitFrom(road: RoadReader, step: Step, lsn: Lsn): Promise<TransactionMark | undefined> {
  const here = (await road.ends(step.segment)).find((end) => end.kind === "commit" && end.lsn >= lsn);
  if (here !== undefined) return markOf(here);
  for (const { segment } of stepsOf(step.run, step.index + 1)) {
    const { transactions } = await road.head(segment);
    if (transactions.firstCommit !== undefined) return transactions.firstCommit;
  }
  return undefined;
}

function markOf({ lsn, xid, time }: PlacedTransactionEnd): TransactionMark {
  return { lsn, xid, time };
}

/** The commits on both sides of a record: with `inclusive` it counts as before, else as after. */
async function commitsAround(
  road: RoadReader,
  step: Step,
  { lsn, inclusive }: { readonly lsn: Lsn; readonly inclusive: boolean },
): Promise<Pick<FoundPlace, "commitBefore" | "commitAfter">> {
  const boundary = inclusive ? lsn + 1n as Lsn : lsn;
  return {
    commitBefore: await commitBefore(road, step, boundary),
    commitAfter: await commitFrom(road, step, boundary),
  };
}

/**
 * Where recovery to a time stops: before the first end of a transaction, commit or not, whose time is later.
 *
 * Not the place where the times pass it: they need not grow along the WAL.
 * @see recoveryStopsBefore(), src/backend/access/transam/xlogrecovery.c
 */
async function findTime(road: RoadReader, time: Timestamp, inclusive: boolean): Promise<FindAnswer> {
  const isLater = (other: Timestamp) => inclusive ? other > time : other >= time;
  let place: FoundPlace | undefined;
  let earlierHole: Lsn | undefined;
  for (const run of road.runs) {
    const found = await findTimeInRun(road, run, { time, inclusive, isLater });
    if (found === undefined) continue;
    if (place !== undefined) earlierHole = place.run.endLsn;
    place = found;
  }
  if (place !== undefined) {
    if (earlierHole === undefined) return place;
    return { ...place, notes: [...place.notes, { kind: "also before a hole", holeLsn: earlierHole }] };
  }
  let before: { readonly run: RoadRun; readonly commit: TransactionMark } | undefined;
  let after: { readonly run: RoadRun; readonly commit: TransactionMark } | undefined;
  for (const run of road.runs) {
    const first = await firstCommitOf(road, run);
    const last = await lastCommitOf(road, run);
    if (last !== undefined && !isLater(last.time)) before = { run, commit: last };
    if (first !== undefined && isLater(first.time)) after ??= { run, commit: first };
  }
  return {
    found: false,
    where: before !== undefined && after !== undefined
      ? "hole"
      : before !== undefined
      ? "after"
      : after !== undefined
      ? "before"
      : "absent",
    commitBefore: before?.commit,
    commitAfter: after?.commit,
    nearest: before ?? after,
    names: [],
    window: await windowOf(road),
    notes: [],
  };
}

async function findTimeInRun(
  road: RoadReader,
  run: RoadRun,
  { time, inclusive, isLater }: {
    readonly time: Timestamp;
    readonly inclusive: boolean;
    readonly isLater: (other: Timestamp) => boolean;
  },
): Promise<FoundPlace | undefined> {
  let hasEarlier = false;
  for (const step of stepsOf(run)) {
    const { maxEndTime } = (await road.head(step.segment)).transactions;
    if (maxEndTime === undefined) continue;
    if (!isLater(maxEndTime)) {
      hasEarlier = true;
      continue;
    }
    const ends = await road.ends(step.segment);
    const at = ends.findIndex((end) => isLater(end.time));
    const end = ends[at];
    if (end === undefined) continue;
    if (at === 0 && !hasEarlier) return undefined;
    const later = await laterCommits(
      road,
      step,
      ends.slice(at).filter((other) => !isLater(other.time)),
      isLater,
    );
    return {
      found: true,
      run,
      segment: step.segment,
      backupFromLsn: run.startLsn,
      stop: { kind: end.kind, subxid: undefined, ...markOf(end) },
      ...await commitsAround(road, step, { lsn: end.lsn, inclusive: false }),
      target: { kind: "time", time, inclusive },
      notes: later === undefined ? [] : [later],
    };
  }
  return undefined;
}

async function laterCommits(
  road: RoadReader,
  step: Step,
  inSegment: readonly PlacedTransactionEnd[],
  isLater: (other: Timestamp) => boolean,
): Promise<FindNote | undefined> {
  const commits = inSegment.filter(({ kind }) => kind === "commit");
  let lastLsn = commits.at(-1)?.lsn;
  let more = false;
  for (const { segment } of stepsOf(step.run, step.index + 1)) {
    const { minCommitTime, firstCommit } = (await road.head(segment)).transactions;
    if (minCommitTime === undefined || firstCommit === undefined || isLater(minCommitTime)) continue;
    more = true;
    lastLsn = firstCommit.lsn;
  }
  return lastLsn === undefined ? undefined : { kind: "later commits", count: commits.length, more, lastLsn };
}

async function findXid(
  road: RoadReader,
  { xid, epoch }: { readonly xid: number; readonly epoch: number | undefined },
  inclusive: boolean,
): Promise<FindAnswer> {
  const hits: { readonly step: Step; readonly end: PlacedTransactionEnd }[] = [];
  for (const run of road.runs) {
    for (const step of stepsOf(run)) {
      const { minXid, maxXid } = (await road.head(step.segment)).transactions;
      if (minXid === undefined || maxXid === undefined || xid < minXid || xid > maxXid) continue;
      const { xids, subxids } = await road.index(step.segment);
      if (!holds(xids, xid) && !holds(subxids, xid)) continue;
      const ends = await road.ends(step.segment);
      const end = ends.find((one) => one.xid === xid) ?? ends.find((one) => one.subxids.includes(xid));
      if (end !== undefined) hits.push({ step, end });
    }
  }
  const { hit, unknown } = epoch === undefined
    ? { hit: hits.at(-1), unknown: [] }
    : await ofEpoch(road, hits, epoch);
  if (hit === undefined) {
    const notes: FindNote[] = unknown.length === 0
      ? []
      : [{ kind: "epoch unknown", lsns: unknown.map(({ end }) => end.lsn) }];
    return { ...await absent(road), notes };
  }
  const { step, end } = hit;
  const others = hits.filter((other) => other !== hit).map((other) => other.end.lsn);
  // Recovery from before stops at the earlier one, whatever of that number was meant.
  const earlier = hits.findLast((other) =>
    other.step.run === step.run && other.end.lsn < end.lsn && other.end.xid === end.xid
  );
  return {
    found: true,
    run: step.run,
    segment: step.segment,
    backupFromLsn: earlier === undefined ? step.run.startLsn : behindRecord(earlier.end.lsn),
    stop: { kind: end.kind, subxid: end.xid === xid ? undefined : xid, ...markOf(end) },
    ...await commitsAround(road, step, { lsn: end.lsn, inclusive }),
    // Recovery looks for the number of the whole transaction only.
    target: { kind: "xid", xid: end.xid, inclusive },
    notes: others.length === 0 ? [] : [{ kind: "also at", lsns: others }],
  };
}

/** Where another record can begin after the one that begins at `lsn`, at the earliest. */
function behindRecord(lsn: Lsn): Lsn {
  return advance(lsn, RECORD_ALIGNMENT);
}

/**
 * The hit whose number has these high 32 bits, as the nearest checkpoint before or after it tells.
 *
 * `unknown`: those of which no checkpoint tells.
 */
async function ofEpoch<T extends { readonly step: Step; readonly end: PlacedTransactionEnd }>(
  road: RoadReader,
  hits: readonly T[],
  epoch: number,
): Promise<{ readonly hit: T | undefined; readonly unknown: readonly T[] }> {
  const unknown: T[] = [];
  for (const hit of hits) {
    const nextXid = await nextXidNear(road, hit.step);
    if (nextXid === undefined) unknown.push(hit);
    else if (fullXid(hit.end.xid, nextXid) >> 32n === BigInt(epoch)) return { hit, unknown };
  }
  return { hit: undefined, unknown };
}

async function nextXidNear(road: RoadReader, { run, index }: Step): Promise<bigint | undefined> {
  for (let distance = 0; distance < run.segments.length; distance++) {
    for (const near of new Set([index - distance, index + distance])) {
      const segment = run.segments[near];
      if (segment === undefined || (await road.head(segment)).checkpointCount === 0) continue;
      const checkpoint = (await road.index(segment)).checkpoints[0];
      if (checkpoint !== undefined) return checkpoint.nextXid;
    }
  }
  return undefined;
}

/** The number of 64 bits of a transaction that is less than half the numbers of 32 bits away from `nextXid`. */
function fullXid(xid: number, nextXid: bigint): bigint {
  const distance = BigInt.asIntN(32, BigInt(xid) - nextXid);
  return nextXid + distance;
}

function holds(sorted: Uint32Array, number: number): boolean {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! < number) low = middle + 1;
    else high = middle;
  }
  return sorted[low] === number;
}

/**
 * Where recovery to an LSN stops: after the first record that begins there or later; with `inclusive` off, before it.
 *
 * @see recoveryStopsAfter(), src/backend/access/transam/xlogrecovery.c
 */
async function findLsn(road: RoadReader, lsn: Lsn, inclusive: boolean): Promise<FindAnswer> {
  const run = road.runs.find((one) => one.startLsn <= lsn && lsn < one.endLsn);
  const records = run === undefined ? undefined : await road.recordsAt(run, lsn);
  if (run !== undefined && records?.damagedLsn !== undefined) {
    return await behindDamage(road, run, records.damagedLsn);
  }
  if (run === undefined || records?.from === undefined) return await beside(road, lsn);
  const { before, from } = records;
  const index = run.segments.findLastIndex((segment) => segment.startLsn <= from.lsn);
  const segment = run.segments[index];
  if (segment === undefined) return await beside(road, lsn);
  return {
    found: true,
    run,
    segment,
    backupFromLsn: run.startLsn,
    stop: {
      kind: "record",
      lsn: from.lsn,
      holds: from.lsn === lsn ? from : before !== undefined && lsn < before.endLsn ? before : undefined,
    },
    ...await commitsAround(road, { run, index, segment }, { lsn: from.lsn, inclusive }),
    target: { kind: "lsn", lsn, inclusive },
    notes: [],
  };
}

/** An LSN that lies behind damage in its run: no recovery gets further than the last record before that. */
async function behindDamage(road: RoadReader, run: RoadRun, damagedLsn: Lsn): Promise<NotFound> {
  const index = Math.max(0, run.segments.findLastIndex((segment) => segment.startLsn <= damagedLsn));
  const segment = run.segments[index]!;
  const before = await commitBefore(road, { run, index, segment }, damagedLsn);
  return {
    found: false,
    where: "damage",
    commitBefore: before,
    commitAfter: undefined,
    nearest: before === undefined ? undefined : { run, commit: before },
    names: [],
    window: undefined,
    notes: [{ kind: "damage", segment, lsn: damagedLsn }],
  };
}

/** An LSN that no run holds, or behind the last record of one. */
async function beside(road: RoadReader, lsn: Lsn): Promise<NotFound> {
  const earlier = road.runs.findLast((run) => run.startLsn <= lsn);
  const later = road.runs.find((run) => run.startLsn > lsn);
  const before = earlier === undefined ? undefined : await lastCommitOf(road, earlier);
  const after = later === undefined ? undefined : await firstCommitOf(road, later);
  const nearest = before !== undefined && earlier !== undefined
    ? { run: earlier, commit: before }
    : after !== undefined && later !== undefined
    ? { run: later, commit: after }
    : undefined;
  return {
    found: false,
    where: earlier === undefined
      ? later === undefined ? "absent" : "before"
      : later === undefined
      ? "after"
      : "hole",
    commitBefore: before,
    commitAfter: after,
    nearest,
    names: [],
    window: undefined,
    notes: [],
  };
}

async function lastCommitOf(road: RoadReader, run: RoadRun): Promise<TransactionMark | undefined> {
  for (let index = run.segments.length - 1; index >= 0; index--) {
    const { lastCommit } = (await road.head(run.segments[index]!)).transactions;
    if (lastCommit !== undefined) return lastCommit;
  }
  return undefined;
}

async function firstCommitOf(road: RoadReader, run: RoadRun): Promise<TransactionMark | undefined> {
  for (const { segment } of stepsOf(run)) {
    const { firstCommit } = (await road.head(segment)).transactions;
    if (firstCommit !== undefined) return firstCommit;
  }
  return undefined;
}

async function findName(road: RoadReader, name: string): Promise<FindAnswer> {
  const hits: { readonly step: Step; readonly point: RestorePointMark }[] = [];
  const names: string[] = [];
  for (const run of road.runs) {
    for (const step of stepsOf(run)) {
      if ((await road.head(step.segment)).restorePointCount === 0) continue;
      for (const point of (await road.index(step.segment)).restorePoints) {
        if (point.name === name) hits.push({ step, point });
        else names.push(point.name);
      }
    }
  }
  const [hit, ...others] = hits;
  if (hit === undefined) return { ...await absent(road), names: names.slice(-MAXIMUM_NAMES) };
  const { step, point } = hit;
  return {
    found: true,
    run: step.run,
    segment: step.segment,
    backupFromLsn: step.run.startLsn,
    stop: { kind: "restore point", ...point },
    ...await commitsAround(road, step, { lsn: point.lsn, inclusive: true }),
    target: { kind: "name", name },
    notes: others.length === 0 ? [] : [{ kind: "also at", lsns: others.map((other) => other.point.lsn) }],
  };
}

async function absent(road: RoadReader): Promise<NotFound> {
  const run = road.runs.at(-1);
  const last = run === undefined ? undefined : await lastCommitOf(road, run);
  return {
    found: false,
    where: "absent",
    commitBefore: last,
    commitAfter: undefined,
    nearest: last === undefined || run === undefined ? undefined : { run, commit: last },
    names: [],
    window: await windowOf(road),
    notes: [],
  };
}

async function windowOf(road: RoadReader): Promise<NotFound["window"]> {
  let first: TransactionMark | undefined;
  let last: TransactionMark | undefined;
  for (const run of road.runs) {
    first ??= await firstCommitOf(road, run);
    last = await lastCommitOf(road, run) ?? last;
  }
  return first === undefined || last === undefined ? undefined : { first, last };
}
