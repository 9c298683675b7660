import { crc32 } from "../archive/content_crc.ts";
import { DamagedFileError, NotAFileError } from "../archive/damaged_file.ts";
import type { DiskFile } from "../archive/disk.ts";
import { openPlain, removeName } from "../archive/durable.ts";
import { readIndexHead } from "../archive/index.ts";
import { SEGMENT_FORMS, temporaryName } from "../archive/layout.ts";
import { type PublishedSegment, type SegmentForm, withPublished } from "../archive/published.ts";
import { scanSegmentFile, type TakeBytes } from "../archive/segment_file.ts";
import { CorruptWalError, WalGapError, WrongClusterError } from "../wal/errors.ts";
import { emptyHistory, type TimelineHistory } from "../wal/history.ts";
import { advance, formatLsn, type Lsn } from "../wal/lsn.ts";
import type { SegmentScan } from "../wal/scanner.ts";
import {
  formatSegmentSize,
  parseSegmentName,
  segmentEnd,
  segmentName,
  type SegmentNumber,
  segmentNumber,
  type SegmentSize,
  segmentStart,
} from "../wal/segment.ts";
import { historyFileName, type TimelineId, timelineId } from "../wal/timeline.ts";
import type { ArchiveDirectory, ArchiveNames } from "./archive_directory.ts";
import { firstDifferentPage } from "./copy_comparison.ts";
import { forkLimit } from "./fork_limit.ts";
import { decideHistory, type HistoryDecision } from "./history_decision.ts";
import { checkListing, pathsBeside } from "./listing_check.ts";
import { OutageError, VanishedError } from "./obstacle.ts";
import { type Boot, preparationOf, preparedFile } from "./prepared_file.ts";
import type { RequestedFile } from "./requested_file.ts";
import { SegmentCheck } from "./segment_check.ts";
import {
  type AbsentReason,
  decideSegment,
  isBeyond,
  type SegmentDecision,
  type SegmentFacts,
  type UnfinishedCopy,
} from "./segment_decision.ts";
import { hasOwnHistory, isStandby, readSystemIdentifier, type RestoringServer } from "./server_directory.ts";
import { type ArchiveLook, seenFiles, settledLook } from "./settled_look.ts";
import type { NamedSegment, Stock, UnfinishedFile } from "./stock.ts";
import { writeTarget, writeZeros } from "./target_file.ts";
import { mayHoldPagesOf, readOwnFile, readUnfinished, type WantedSegment } from "./unfinished_segment.ts";

/** A receiver at work moves files while we look; a look that it comes into is repeated. */
const MAXIMUM_LOOKS = 20;
/** Between two looks: what a receiver does in several steps is over then, unless its disk is slow. */
const LOOK_AGAIN_MS = 20;

/** A file of the archive can't be delivered for what it is itself. */
type FileDamage = DamagedFileError | NotAFileError;

/** What became of a request. */
export type FetchOutcome =
  /** `damage`: of another file of that segment, which was looked at first. */
  | {
    readonly kind: "delivered";
    readonly path: string;
    readonly damage?: FileDamage;
    /** It was copied by an earlier call. */
    readonly readAhead?: true;
  }
  /** `path`, up to `endLsn`, where its last record ends: the last that is there of its timeline. */
  | { readonly kind: "tail"; readonly path: string; readonly endLsn: Lsn }
  | { readonly kind: "absent"; readonly reason: FetchAbsentReason };

/** Why a file was not delivered. */
export type FetchAbsentReason = AbsentReason | "a tail is withheld" | "never there";

/** Who asks whom. */
export interface Restore {
  readonly archive: ArchiveDirectory;
  readonly server: RestoringServer;
  /** By `global/pg_control`; `undefined` where the working directory is no data directory. */
  readonly systemIdentifier: bigint | undefined;
  /** It goes on asking, and takes another timeline's file when it does not get the newest's. */
  readonly standby: boolean;
  readonly proof: Proof;
  /** A recorded gap is taken for the end of all WAL: on purpose, as PostgreSQL is promoted there. */
  readonly untilGap?: boolean;
  /** What an earlier call read ahead is looked for; see `prepared_file.ts`. */
  readonly ahead?: Boot | undefined;
  pause(ms: number): Promise<void>;
}

/** How much of a complete segment is looked at: the address of each page, or every record, which takes longer. */
export type Proof = "pages" | "records";

/**
 * Prepares for requests of one server to one archive.
 *
 * @throws {WrongClusterError} when they are not of the same cluster.
 */
export async function prepareRestore(
  archive: ArchiveDirectory,
  server: RestoringServer,
  options: Pick<Restore, "proof" | "pause" | "ahead" | "untilGap">,
): Promise<Restore> {
  const systemIdentifier = await readSystemIdentifier(server.data);
  checkCluster(archive, systemIdentifier, archive.identity?.systemIdentifier);
  return { archive, server, systemIdentifier, standby: await isStandby(server.data), ...options };
}

function checkCluster(archive: ArchiveDirectory, own: bigint | undefined, other: bigint | undefined): void {
  if (own === undefined || other === undefined || own === other) return;
  throw new WrongClusterError(
    `Cannot restore from "${archive.disk.root}": it belongs to the cluster with system identifier ${other}, ` +
      `this data directory to ${own}`,
  );
}

/**
 * Delivers a file, or proves that there is none.
 *
 * @param options.tail whether the beginning of a segment will do, where it is the end of all WAL.
 * @throws whatever stands in the way; see `obstacleOf`. The target is then as it was.
 */
export async function fetchFile(
  restore: Restore,
  file: RequestedFile,
  options: { readonly tail: "allowed" | "withheld" },
): Promise<FetchOutcome> {
  for (let looks = 1;; looks++) {
    try {
      const delivered = await fetchComplete(restore, file);
      if (delivered !== undefined) return delivered;
      switch (file.kind) {
        case "segment":
          return await missingSegment(restore, file, options);
        case "history":
          return await missingHistory(restore, file);
        case "backup label":
          return await missingLabel(restore, file);
      }
    } catch (error) {
      if (!(error instanceof VanishedError)) throw error;
      if (looks < MAXIMUM_LOOKS) {
        await restore.pause(LOOK_AGAIN_MS);
        continue;
      }
      throw new OutageError(
        `Cannot read the archive: it changed while it was read, ${looks} times`,
        "Try again",
        {
          cause: error,
        },
      );
    }
  }
}

/** Delivers a file if it is there complete; looks for nothing else. */
export async function fetchComplete(
  restore: Restore,
  file: RequestedFile,
): Promise<FetchOutcome | undefined> {
  if (file.kind === "segment") return await publishedSegment(restore, file.name);
  const { archive, server } = restore;
  const bytes = await archive.readSmall(file.name);
  if (bytes === undefined) return undefined;
  if (archive.identity === undefined && restore.systemIdentifier !== undefined) {
    // Such a directory has nothing but its segments to tell whose it is.
    const origin = await archive.origin(await archive.names());
    checkCluster(archive, restore.systemIdentifier, origin?.systemIdentifier);
  }
  if (file.kind === "history") archive.parseHistory(file.timeline, bytes);
  await writeTarget(server.wal, server.targetName, (target) => target.write(bytes, 0));
  return { kind: "delivered", path: file.name };
}

async function publishedSegment(
  restore: Restore,
  name: string,
  knownSize = restore.archive.identity?.segmentSize,
): Promise<FetchOutcome | undefined> {
  const { archive } = restore;
  const size = knownSize ?? (await foreignOrigin(restore, name))?.segmentSize;
  if (size === undefined) return undefined;
  const wanted = wantedSegment(restore, name, size);
  const damages = new Map<SegmentForm, FileDamage>();
  let readAhead = false;
  // As for any reader: a compressed form takes the plain one's place while we look.
  for (const form of [...SEGMENT_FORMS, ""] satisfies SegmentForm[]) {
    if (damages.has(form)) continue;
    const segment = { name, segmentSize: size, forms: [form], open: openPlain };
    try {
      const path = await withPublished(archive.disk, segment, async (published) => {
        await refusePastFork(restore, wanted, segmentEnd(wanted.number, size));
        readAhead = await deliverPrepared(restore, published, wanted);
        if (!readAhead) await deliverSegment(restore, published, wanted);
        return published.path;
      });
      if (path !== undefined) {
        return { ...deliveredFrom(path, damages), ...(readAhead ? { readAhead } : {}) };
      }
    } catch (error) {
      if (!(error instanceof DamagedFileError || error instanceof NotAFileError)) throw error;
      damages.set(form, error);
    }
  }
  const [damage] = damages.values();
  if (damage === undefined) return undefined;
  for (const file of await archive.unfinishedFiles(size)) {
    if (file.timeline !== wanted.timeline || file.number !== wanted.number) continue;
    const readFile = (take: TakeBytes) => archive.readUnfinished(file, take);
    if ((await readUnfinished(file.path, wanted, readFile))?.state !== "complete") continue;
    await refusePastFork(restore, wanted, segmentEnd(wanted.number, size));
    await deliverSegment(restore, { path: file.path, readThrough: readFile }, wanted);
    return deliveredFrom(file.path, damages);
  }
  throw damage;
}

function deliveredFrom(
  path: string,
  damages: ReadonlyMap<SegmentForm, FileDamage>,
): FetchOutcome & { readonly kind: "delivered" } {
  const [damage] = damages.values();
  return { kind: "delivered", path, ...(damage === undefined ? {} : { damage }) };
}

/** @throws {OutageError} when WAL up to `contentEndLsn` would take a standby past where it leaves the timeline. */
async function refusePastFork(
  { archive, server, standby }: Restore,
  { timeline, number, segmentSize }: WantedSegment & NamedSegment,
  contentEndLsn: Lsn,
): Promise<void> {
  const limit = standby ? await forkLimit(archive, server, timeline) : undefined;
  if (limit === undefined || contentEndLsn <= limit.forkLsn) return;
  throw new OutageError(
    `Cannot deliver ${
      segmentName(timeline, number, segmentSize)
    } to a standby: timeline ${limit.child} left timeline ` +
      `${timeline} at ${formatLsn(limit.forkLsn)}, and it goes further`,
    `The standby needs the segment of timeline ${limit.child}; to stay on timeline ${timeline}, recover with recovery.signal`,
  );
}

/** The segment's own word for it, in a directory without an identity. */
async function foreignOrigin({ archive, systemIdentifier }: Restore, name: string) {
  const origin = await archive.originOfPublished(name);
  checkCluster(archive, systemIdentifier, origin?.systemIdentifier);
  return origin;
}

function wantedSegment(restore: Restore, name: string, size: SegmentSize): WantedSegment & NamedSegment {
  const segment = parseSegmentName(name, size);
  if (segment === undefined) {
    throw new WrongClusterError(
      `Cannot restore from "${restore.archive.disk.root}": its segments are of ${
        formatSegmentSize(size)
      }, and none of that size is called ${name}`,
    );
  }
  return {
    ...segment,
    startLsn: segmentStart(segment.number, size),
    segmentSize: size,
    systemIdentifier: restore.archive.identity?.systemIdentifier ?? restore.systemIdentifier,
    history: segment.timeline === 1 ? emptyHistory(segment.timeline) : undefined,
  };
}

interface Source {
  readonly path: string;
  readThrough(take: TakeBytes): Promise<void>;
}

/** Copies a complete segment, and looks at it meanwhile. */
async function deliverSegment(
  restore: Restore,
  source: Source,
  wanted: WantedSegment & NamedSegment,
): Promise<void> {
  const { wal, targetName } = restore.server;
  await writeTarget(wal, targetName, (target) => copySegment(restore, { source, target }, wanted));
}

async function copySegment(
  { archive, proof }: Restore,
  { source, target }: { readonly source: Source; readonly target: DiskFile },
  wanted: WantedSegment & NamedSegment,
): Promise<void> {
  const check = new SegmentCheck(wanted);
  const known = proof === "records" ? await provenContent(archive, wanted) : undefined;
  try {
    let crc = 0;
    await source.readThrough(async (bytes, position): Promise<"more"> => {
      check.take(bytes);
      if (known !== undefined) crc = crc32()(bytes, crc);
      await target.write(bytes, position);
      return "more";
    });
    check.end();
    await checkPageTimeline(archive, check.pageTimeline, wanted);
    if (known?.contentCrc === crc) return;
    if (proof === "records" || check.emptyFrom !== undefined) {
      const scan = await checkRecords(target, check.emptyFrom, wanted);
      if (known !== undefined) refuseUnproven(scan, wanted);
    }
  } catch (cause) {
    if (!(cause instanceof CorruptWalError)) throw cause;
    throw new DamagedFileError(`Cannot deliver "${archive.disk.root}/${source.path}"`, { cause });
  }
}

/**
 * Copies a published segment into a file that is open, checked as one that is delivered; resolves to the name under which
 * `deliverPrepared` looks for it, or `undefined` when there is nothing to copy, or it changed meanwhile.
 *
 * @throws whatever is wrong with it.
 */
export async function copyAhead(
  restore: Restore & { readonly ahead: Boot },
  name: string,
  target: DiskFile,
): Promise<string | undefined> {
  const { archive } = restore;
  const size = archive.identity?.segmentSize ?? (await foreignOrigin(restore, name))?.segmentSize;
  if (size === undefined) return undefined;
  const wanted = wantedSegment(restore, name, size);
  const segment = { name, segmentSize: size, open: openPlain };
  return await withPublished(archive.disk, segment, async (published) => {
    const before = await preparationOf(restore, name, published);
    await copySegment(restore, { source: published, target }, wanted);
    return await preparationOf(restore, name, published) === before ? before : undefined;
  });
}

/**
 * Gives the server what an earlier call read ahead of this very file: only the copying was done before it was asked for.
 *
 * False when there is nothing such, or whatever is wrong with it: then the segment is copied now.
 */
async function deliverPrepared(
  { ahead, ...restore }: Restore,
  published: PublishedSegment,
  wanted: WantedSegment & NamedSegment,
): Promise<boolean> {
  if (ahead === undefined) return false;
  const { archive, server: { wal, targetName } } = restore;
  const name = segmentName(wanted.timeline, wanted.number, wanted.segmentSize);
  try {
    const prepared = await preparationOf({ ...restore, ahead }, name, published);
    const pages = await preparedFile(wal, prepared, { bytes: wanted.segmentSize, ownerId: ahead.userId });
    if (pages === undefined) return false;
    const check = new SegmentCheck(wanted);
    check.take(pages.first);
    check.takeLastPage(pages.last);
    await checkPageTimeline(archive, check.pageTimeline, wanted);
    // What a killed call left, as in `writeTarget`.
    await removeName(wal, temporaryName(targetName));
    await wal.rename(prepared, targetName);
    return true;
  } catch {
    // The other road tells what is wrong, if it is wrong there too.
    return false;
  }
}

/**
 * What the archive's index tells of a segment whose records lead to its end, without reading it; `undefined` when there
 * is no such index.
 *
 * Bytes with this CRC were read record by record when it was made. That takes three times as long as a restore has.
 */
async function provenContent(
  { disk, identity }: ArchiveDirectory,
  wanted: WantedSegment & NamedSegment,
): Promise<{ readonly contentCrc: number } | undefined> {
  if (identity === undefined) return undefined;
  const name = segmentName(wanted.timeline, wanted.number, wanted.segmentSize);
  try {
    const head = await readIndexHead(disk, { name, identity });
    const { end, restIsZero } = head?.scan ?? {};
    return end === "segment-end" || end === "switch" && restIsZero === true ? head : undefined;
  } catch {
    // It is a cache: without it the records are read.
    return undefined;
  }
}

/** A segment may begin with pages of an older timeline, but only of one that its own timeline comes from. */
async function checkPageTimeline(
  archive: ArchiveDirectory,
  pageTimeline: number,
  wanted: WantedSegment,
): Promise<void> {
  if (pageTimeline === wanted.timeline) return;
  const history = await archive.history(wanted.timeline);
  if (mayHoldPagesOf(pageTimeline, { timeline: wanted.timeline, history })) return;
  throw new CorruptWalError(
    wanted.startLsn,
    `a page of timeline ${pageTimeline}, want ${wanted.timeline} or an ancestor of it`,
  );
}

/** Records must lead to the end of the segment, or to the XLOG_SWITCH that leaves the rest of it empty. */
async function checkRecords(
  target: DiskFile,
  emptyFrom: Lsn | undefined,
  wanted: WantedSegment,
): Promise<SegmentScan> {
  const scan = await scanSegmentFile(target, wanted);
  if (scan.end === "switch") return scan;
  if (emptyFrom !== undefined) {
    throw new CorruptWalError(emptyFrom, "an empty page, and no XLOG_SWITCH before it");
  }
  if (scan.end === "segment-end") return scan;
  throw new CorruptWalError(
    scan.endLsn,
    scan.problem ?? "no valid record, want them up to the segment's end",
  );
}

/**
 * Every record in it is right, and yet it is not as it was: so the change lies where nothing matters, or in the record
 * that it shares with a neighbour. Of that nobody here sees the whole; a server that does would end its recovery there.
 */
function refuseUnproven({ continuesFrom, openRecordLsn }: SegmentScan, { startLsn }: WantedSegment): void {
  const sharedLsn = openRecordLsn ?? (continuesFrom ? startLsn : undefined);
  if (sharedLsn === undefined) return;
  throw new CorruptWalError(
    sharedLsn,
    "other bytes than when its records were read; if it was exchanged on purpose, remove its file in index/",
  );
}

interface SegmentLook extends ArchiveLook {
  readonly decision: SegmentDecision;
  readonly stock: Stock;
  readonly wanted: WantedSegment & NamedSegment;
}

async function lookAtSegment(
  restore: Restore,
  file: RequestedFile & { readonly kind: "segment" },
): Promise<SegmentLook> {
  const { archive, server } = restore;
  const names = await archive.names();
  const { stock, origin } = await archive.stock(names);
  checkCluster(archive, restore.systemIdentifier, origin?.systemIdentifier);
  if (origin === undefined) {
    throw new WalGapError(`Cannot deliver ${file.name}: "${archive.disk.root}" has no segment at all`);
  }
  const plain = wantedSegment(restore, file.name, origin.segmentSize);
  const next = segmentName(plain.timeline, segmentNumber(plain.number + 1n), plain.segmentSize);
  await checkListing(archive, names, pathsBeside(file.name, next));
  const seen = await seenFiles(archive, copiesOf(stock.unfinished, plain));
  const histories: TimelineHistory[] = [];
  for (const timeline of stock.histories) {
    const history = await archive.history(timeline);
    if (history !== undefined) histories.push(history);
  }
  const wanted = {
    ...plain,
    history: plain.history ?? histories.find((history) => history.timeline === plain.timeline),
  };
  const { copies, difference } = await unfinishedCopies(archive, stock, wanted);
  const own = await readOwnFile(server.wal, file.name, wanted);
  const neighbours = await neighboursOf(archive, stock, wanted);
  const decision = decideSegment({
    timeline: wanted.timeline,
    number: wanted.number,
    segmentSize: wanted.segmentSize,
    histories,
    copies,
    difference,
    own,
    gap: !await isInGap(archive, wanted) ? "none" : restore.untilGap === true ? "end" : "recorded",
    ...neighbours,
    // Last of all: what was published meanwhile is no longer where we looked.
    published: await isPublished(archive, file.name),
  });
  const final = decision.kind === "published" || decision.kind === "complete";
  return { decision, stock, wanted, seen, final };
}

/** Whether the ledger tells of a gap that holds the segment, accepted or not. */
async function isInGap({ disk }: ArchiveDirectory, segment: NamedSegment & WantedSegment): Promise<boolean> {
  // Only now: a server waits for each segment, and asks for this one alone.
  const { readLedger } = await import("../archive/gap_ledger_file.ts");
  const { gapAt } = await import("../archive/gaps.ts");
  let ledger;
  try {
    ledger = await readLedger(disk);
  } catch (cause) {
    // Of what can't be read nothing is proven; a standby may go on, and asks again.
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new OutageError(
      `Cannot tell whether ${
        segmentName(segment.timeline, segment.number, segment.segmentSize)
      } was ever written`,
      "Restore with a walvault that is as new as the one that receives",
      { cause },
    );
  }
  return ledger !== undefined && gapAt(ledger, segment) !== undefined;
}

/** Those of the same timeline: the ones after a segment count for it too. */
function copiesOf(files: readonly UnfinishedFile[], { timeline }: NamedSegment): readonly UnfinishedFile[] {
  return files.filter((file) => file.timeline === timeline);
}

async function missingSegment(
  restore: Restore,
  file: RequestedFile & { readonly kind: "segment" },
  { tail }: { readonly tail: "allowed" | "withheld" },
): Promise<FetchOutcome> {
  const { archive } = restore;
  const seenNow = async ({ wanted }: SegmentLook) =>
    await seenFiles(archive, copiesOf(await archive.unfinishedFiles(wanted.segmentSize), wanted));
  const { decision, stock, wanted, seen } = await settledLook(() => lookAtSegment(restore, file), {
    pause: () => restore.pause(LOOK_AGAIN_MS),
    seenNow,
  });
  switch (decision.kind) {
    case "published": {
      const delivered = await publishedSegment(restore, file.name, wanted.segmentSize);
      if (delivered === undefined) throw new VanishedError(`${file.name} is gone`);
      return delivered;
    }
    case "complete": {
      await refusePastFork(restore, wanted, segmentEnd(wanted.number, wanted.segmentSize));
      const source = sourceOf(archive, stock, decision.copy);
      try {
        await deliverSegment(restore, source, wanted);
      } catch (cause) {
        // Not what was looked at: it has been moved, and a new one begun.
        const moved = cause instanceof DamagedFileError &&
          await seenNow({ decision, stock, wanted, seen, final: true }) !== seen;
        throw moved ? new VanishedError(`"${source.path}" was moved`, { cause }) : cause;
      }
      return { kind: "delivered", path: decision.copy.path };
    }
    case "tail": {
      if (tail === "withheld") return { kind: "absent", reason: "a tail is withheld" };
      const { copy } = decision;
      await refusePastFork(restore, wanted, copy.contentEndLsn);
      await deliverTail(restore, sourceOf(archive, stock, copy), { wanted, copy });
      // Where no record ends in it, it is the rest of one from the segment before.
      const endLsn = copy.endLsn > wanted.startLsn ? copy.endLsn : copy.contentEndLsn;
      return { kind: "tail", path: copy.path, endLsn };
    }
    case "absent":
      return decision;
    case "hole":
      throw new WalGapError(`Cannot deliver ${file.name}: ${decision.problem} in "${archive.disk.root}"`);
    case "damage":
      throw new DamagedFileError(
        `Cannot deliver ${file.name}: in "${archive.disk.root}" ${decision.problem}`,
      );
  }
}

async function isPublished(archive: ArchiveDirectory, name: string): Promise<boolean> {
  // As for any reader: a compressed form takes the plain one's place while we look.
  for (const form of [...SEGMENT_FORMS, ""] satisfies SegmentForm[]) {
    if (await archive.disk.entry(name + form) !== undefined) return true;
  }
  return false;
}

function sourceOf(archive: ArchiveDirectory, stock: Stock, copy: UnfinishedCopy): Source {
  const file = stock.unfinished.find((one) => one.path === copy.path);
  if (file === undefined) throw new Error(`Cannot find "${copy.path}" again`);
  return { path: file.path, readThrough: (take) => archive.readUnfinished(file, take) };
}

/** What stands of the segment outside the published files, the copy that goes furthest first. */
async function unfinishedCopies(
  archive: ArchiveDirectory,
  stock: Stock,
  wanted: WantedSegment & NamedSegment,
): Promise<{ readonly copies: readonly UnfinishedCopy[]; readonly difference: string | undefined }> {
  const copies: UnfinishedCopy[] = [];
  for (const file of stock.unfinished) {
    if (file.timeline !== wanted.timeline || file.number !== wanted.number) continue;
    const copy = await readUnfinished(file.path, wanted, (take) => archive.readUnfinished(file, take));
    if (copy !== undefined) copies.push(copy);
  }
  copies.sort((a, b) => isBeyond(a, b) ? -1 : isBeyond(b, a) ? 1 : 0);
  const [best, ...others] = copies;
  if (best === undefined) return { copies, difference: undefined };
  for (const other of others) {
    const differentLsn = await firstDifferentPage(
      [sourceOf(archive, stock, best), sourceOf(archive, stock, other)],
      {
        fileStartLsn: wanted.startLsn,
        startLsn: best.provenLsn > other.provenLsn ? best.provenLsn : other.provenLsn,
        endLsn: other.endLsn,
      },
    );
    if (differentLsn === undefined) continue;
    const difference = `"${best.path}" and "${other.path}" differ, first in the page at ${
      formatLsn(differentLsn)
    }`;
    return { copies, difference };
  }
  return { copies, difference: undefined };
}

/** What the archive has of the same timeline on both sides. */
async function neighboursOf(
  archive: ArchiveDirectory,
  stock: Stock,
  { timeline, number, segmentSize }: WantedSegment & NamedSegment,
): Promise<Pick<SegmentFacts, "earlier" | "later" | "labelLsn">> {
  let earlier: SegmentNumber | undefined;
  let later: SegmentNumber | undefined;
  const note = (found: NamedSegment) => {
    if (found.number < number) earlier ??= found.number;
    if (found.number > number && (later === undefined || found.number < later)) later = found.number;
  };
  for (const segment of stock.published) if (segment.timeline === timeline) note(segment);
  for (const file of stock.unfinished) {
    const tells = file.number < number ? earlier === undefined : file.number > number && later === undefined;
    if (file.timeline === timeline && tells && await archive.hasContent(file)) note(file);
  }
  let labelLsn: Lsn | undefined;
  for (const label of stock.labels) {
    if (label.timeline !== timeline) continue;
    if (label.number > number) note(label);
    if (label.number !== number) continue;
    const began = advance(segmentStart(number, segmentSize), label.offset);
    if (labelLsn === undefined || began > labelLsn) labelLsn = began;
  }
  return { earlier, later, labelLsn };
}

/** Writes the beginning of a segment, and zeros up to its size: nothing of what is not proven, nothing that is missing. */
async function deliverTail(
  { server }: Restore,
  source: Source,
  { wanted, copy }: { readonly wanted: WantedSegment; readonly copy: UnfinishedCopy },
): Promise<void> {
  const contentBytes = Number(copy.contentEndLsn - wanted.startLsn);
  await writeTarget(server.wal, server.targetName, async (target) => {
    let done = 0;
    await source.readThrough(async (bytes, position): Promise<"more" | "enough"> => {
      const part = bytes.subarray(0, Math.max(0, contentBytes - position));
      await target.write(part, position);
      done = position + part.length;
      return done < contentBytes ? "more" : "enough";
    });
    if (done < contentBytes) throw new VanishedError(`"${copy.path}" got shorter`);
    await writeZeros(target, { start: contentBytes, end: wanted.segmentSize });
    // The file may have been moved aside or taken over while it was read: it must still end where it ended.
    const scan = await scanSegmentFile(target, wanted);
    if (scan.endLsn !== copy.endLsn) throw new VanishedError(`"${copy.path}" changed while it was read`);
  });
}

interface HistoryLook extends ArchiveLook {
  readonly decision: HistoryDecision;
  readonly newest: TimelineId | undefined;
  readonly segmentSize: SegmentSize | undefined;
}

async function lookAtHistory(
  restore: Restore,
  file: RequestedFile & { readonly kind: "history" },
): Promise<HistoryLook> {
  const { archive, server } = restore;
  const names = await archive.names();
  const { stock, origin } = await archive.stock(names);
  checkCluster(archive, restore.systemIdentifier, origin?.systemIdentifier);
  await checkListing(archive, names, [historyFileName(timelineId(file.timeline + 1))]);
  const seen = await seenFiles(archive, notBefore(stock.unfinished, file.timeline));
  const newest = await newestTimeline(archive, stock);
  const decision = decideHistory({
    timeline: file.timeline,
    newest,
    own: await hasOwnHistory(server.wal, file.timeline),
    stored: await archive.disk.entry(file.name) !== undefined,
  });
  return { decision, newest, seen, segmentSize: origin?.segmentSize, final: decision === "stored" };
}

function notBefore(files: readonly UnfinishedFile[], timeline: TimelineId): readonly UnfinishedFile[] {
  return files.filter((file) => file.timeline >= timeline);
}

async function missingHistory(
  restore: Restore,
  file: RequestedFile & { readonly kind: "history" },
): Promise<FetchOutcome> {
  const { archive } = restore;
  const { decision, newest } = await settledLook(() => lookAtHistory(restore, file), {
    pause: () => restore.pause(LOOK_AGAIN_MS),
    seenNow: async ({ segmentSize }) => {
      const files = segmentSize === undefined ? [] : await archive.unfinishedFiles(segmentSize);
      return await seenFiles(archive, notBefore(files, file.timeline));
    },
  });
  if (decision === "stored") {
    const delivered = await fetchComplete(restore, file);
    if (delivered === undefined) throw new VanishedError(`${file.name} is gone`);
    return delivered;
  }
  if (decision === "absent") return { kind: "absent", reason: "never there" };
  throw new WalGapError(
    `Cannot deliver ${file.name}: it is not in "${archive.disk.root}", but timeline ${newest} is`,
  );
}

async function newestTimeline(archive: ArchiveDirectory, stock: Stock): Promise<TimelineId | undefined> {
  const named = [...stock.published, ...stock.labels].map((segment) => segment.timeline);
  const timelines = [...stock.histories, ...stock.timelines, ...new Set(named)];
  let newest: TimelineId | undefined;
  for (const timeline of timelines) if (newest === undefined || timeline > newest) newest = timeline;
  const growing: UnfinishedFile[] = stock.unfinished.filter((one) =>
    newest === undefined || one.timeline > newest
  );
  for (const file of growing) {
    if ((newest === undefined || file.timeline > newest) && await archive.hasContent(file)) {
      newest = file.timeline;
    }
  }
  return newest;
}

async function missingLabel(
  restore: Restore,
  file: RequestedFile & { readonly kind: "backup label" },
): Promise<FetchOutcome> {
  const { archive } = restore;
  const names: ArchiveNames = await archive.names();
  if (names.root.includes(file.name)) throw new VanishedError(`${file.name} came meanwhile`);
  return { kind: "absent", reason: "never there" };
}
