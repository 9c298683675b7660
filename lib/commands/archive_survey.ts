import { DamagedFileError, formatKind } from "../archive/damaged_file.ts";
import type { SegmentRun } from "../archive/inventory.ts";
import type { Disk, DiskEntry, DiskSpace } from "../archive/disk.ts";
import { withFile } from "../archive/durable.ts";
import {
  CONFLICTS_DIRECTORY,
  IDENTITY_FILE,
  nameOf,
  parseBroughtName,
  SEGMENT_FORMS,
} from "../archive/layout.ts";
import { messageChain } from "../log.ts";
import { type TimelineHoldings, timelineHoldings } from "../observe/timeline_holdings.ts";
import { type Hole, holesBetween, type Stretch, stretchesOf } from "../observe/lineage_cover.ts";
import { segmentRuns } from "../observe/segment_runs.ts";
import type { ArchiveDirectory, ArchiveNames } from "../restore/archive_directory.ts";
import type { UnfinishedFile } from "../restore/stock.ts";
import { type BackupHistory, parseBackupHistory } from "../wal/backup_history.ts";
import { emptyHistory, type TimelineHistory } from "../wal/history.ts";
import type { SegmentNumber, SegmentSize } from "../wal/segment.ts";
import { historyFileName, parseHistoryFileName, type TimelineId } from "../wal/timeline.ts";
import { type EndOfLineage, findEnd } from "./archive_end.ts";

/** Holes and timelines are few, in an archive that is well. */
const MAXIMUM_RUNS_LOOKED_AT = 100;
/** A look at one takes some microseconds on a disk of one's own, and some hundred on a server of files. */
const MAXIMUM_SEGMENTS_LOOKED_AT = 1000;

/** A base backup that the archive has the label of. */
export interface KnownBackup extends BackupHistory {
  /** The label's own name. */
  readonly file: string;
}

/** What an archive holds, as far as names and its small files tell; and where its newest lineage ends. */
export interface ArchiveSurvey {
  readonly directory: ArchiveDirectory;
  readonly systemIdentifier: bigint | undefined;
  readonly segmentSize: SegmentSize;
  readonly runs: readonly SegmentRun[];
  /** Files where segments grow, or were left. */
  readonly unfinished: readonly UnfinishedFile[];
  readonly timelines: readonly TimelineHoldings[];
  readonly histories: readonly TimelineHistory[];
  /** Of the newest timeline; `undefined` when nothing is here yet. */
  readonly newest: LineageSurvey | undefined;
  /** By where they begin. */
  readonly backups: readonly KnownBackup[];
  /** When the archive was made, by `archive.json`'s own time; `undefined` without it. */
  readonly madeMs: number | undefined;
  /** How many files of `conflicts/`. */
  readonly conflicts: number;
  readonly space: DiskSpace;
  /** What is wrong with the archive itself, in words. */
  readonly defects: readonly string[];
}

/** One timeline with its ancestors. */
export interface LineageSurvey {
  readonly lineage: TimelineHistory;
  /** Of segments under their own names. */
  readonly stretches: readonly Stretch[];
  /** As `stretches`, with whole segments that have no name of their own yet; the last one leads to `end`, even if empty. */
  readonly wholeStretches: readonly Stretch[];
  /** Between `stretches`. */
  readonly publishedHoles: readonly Hole[];
  /** These, and one before WAL that is not complete. */
  readonly holes: readonly Hole[];
  readonly end: EndOfLineage;
}

/** An archive in which no file tells how large its segments are: there is nothing to say about it. */
export class UntoldSizeError extends Error {
  override readonly name = "UntoldSizeError";
  readonly hint = "Give it some WAL first, or look whether this is the right directory";
}

/** Looks at all of an archive; changes nothing. */
export async function surveyArchive(directory: ArchiveDirectory): Promise<ArchiveSurvey> {
  const names = await directory.names();
  const origin = await directory.origin(names);
  if (origin === undefined) {
    throw new UntoldSizeError(
      `Cannot tell what is in "${directory.disk.root}": no file of it tells the size of its segments`,
    );
  }
  const { segmentSize } = origin;
  const defects: string[] = [];
  const histories = await readHistories(directory, names, defects);
  const unfinished = await directory.unfinishedFiles(segmentSize);
  const runs = await steadyRuns(directory, { names: names.root, unfinished, segmentSize });
  for (const { path } of unfinished) await isFile(directory, path, defects);
  defects.push(...await shortSegments(directory, runs, segmentSize));
  const newestTimeline = maximum([...runs, ...histories, ...unfinished].map(({ timeline }) => timeline));
  return {
    directory,
    systemIdentifier: origin.systemIdentifier,
    segmentSize,
    runs,
    unfinished,
    timelines: timelineHoldings(runs, histories, segmentSize),
    histories,
    newest: newestTimeline === undefined ? undefined : await surveyLineage(
      directory,
      { runs, segmentSize, lineage: lineageOf(newestTimeline, histories, defects) },
    ),
    backups: await readBackups(directory, names, defects),
    madeMs: await withFile(
      directory.disk,
      IDENTITY_FILE,
      async (file) => (await file.state()).modifiedMs,
    ),
    conflicts: (await directory.disk.list(CONFLICTS_DIRECTORY))?.length ?? 0,
    space: await directory.disk.space(),
    defects,
  };
}

/** What an archive has of one lineage. */
export async function surveyLineage(
  directory: ArchiveDirectory,
  { runs, segmentSize, lineage }: {
    readonly runs: readonly SegmentRun[];
    readonly segmentSize: SegmentSize;
    readonly lineage: TimelineHistory;
  },
): Promise<LineageSurvey> {
  const stretches = stretchesOf(runs, lineage, segmentSize);
  const end = await findEnd(directory, {
    lineage,
    segmentSize,
    completeEnd: stretches.at(-1)?.endNumber,
  });
  const publishedHoles = holesBetween(stretches, lineage, segmentSize);
  return withLatestEnd({ lineage, stretches, publishedHoles }, end);
}

/** The same lineage, of which the end was looked for anew. */
export function withLatestEnd(
  survey: Pick<LineageSurvey, "lineage" | "stretches" | "publishedHoles">,
  end: EndOfLineage,
): LineageSurvey {
  const { lineage, stretches, publishedHoles } = survey;
  return {
    lineage,
    stretches,
    publishedHoles,
    wholeStretches: withEnd(stretches, end),
    holes: [...publishedHoles, ...end.holes],
    end,
  };
}

function withEnd(stretches: readonly Stretch[], end: EndOfLineage): readonly Stretch[] {
  const last = stretches.at(-1);
  const { beginNumber, endNumber } = end;
  if (last === undefined || end.holes.length > 0) {
    return [...stretches, { firstNumber: beginNumber, endNumber }];
  }
  return [...stretches.slice(0, -1), { firstNumber: last.firstNumber, endNumber }];
}

/**
 * What stands under names of each run and can be no complete segment: the last ones, where an interrupted copy leaves one,
 * and some in between.
 *
 * To look at all of them would take too long, and is for verify.
 */
async function shortSegments(
  directory: ArchiveDirectory,
  runs: readonly SegmentRun[],
  size: SegmentSize,
): Promise<readonly string[]> {
  const defects: string[] = [];
  for (const segment of sampleOf(runs.slice(-MAXIMUM_RUNS_LOOKED_AT))) {
    const name = nameOf(segment, size);
    const entry = await directory.disk.entry(name);
    if (entry === undefined) continue;
    if (entry.kind !== "file") defects.push(notAFile(name, entry));
    else if (entry.bytes !== size) defects.push(`"${name}" has ${entry.bytes} bytes, want ${size}`);
  }
  return defects;
}

/** The last segment of each run, and others of it at even distances. */
function* sampleOf(
  runs: readonly SegmentRun[],
): Iterable<{ readonly timeline: TimelineId; readonly number: SegmentNumber }> {
  const all = runs.reduce((sum, { firstNumber, endNumber }) => sum + endNumber - firstNumber, 0n);
  const step = all / BigInt(MAXIMUM_SEGMENTS_LOOKED_AT) + 1n;
  for (const { timeline, firstNumber, endNumber } of runs) {
    for (let number = endNumber - 1n; number >= firstNumber; number -= step) {
      yield { timeline, number: number as SegmentNumber };
    }
  }
}

/**
 * The runs of a listing, with what it missed below each, and below what is not complete yet: a segment whose compressed
 * form takes the plain one's place may be in neither where the listing looks, and one that was published since is in none.
 */
async function steadyRuns(
  { disk }: ArchiveDirectory,
  { names, unfinished, segmentSize: size }: {
    readonly names: readonly string[];
    readonly unfinished: readonly { readonly timeline: TimelineId; readonly number: SegmentNumber }[];
    readonly segmentSize: SegmentSize;
  },
): Promise<readonly SegmentRun[]> {
  const listed = segmentRuns(names, size);
  const isListed = (timeline: TimelineId, number: bigint) =>
    listed.some((run) => run.timeline === timeline && run.firstNumber <= number && number < run.endNumber);
  const begins = [
    ...listed.slice(-MAXIMUM_SEGMENTS_LOOKED_AT).map((run) => ({ ...run, number: run.firstNumber })),
    ...unfinished,
  ];
  const missed: string[] = [];
  for (const { timeline, number: begin } of begins) {
    for (let number = begin - 1n; number >= 0n && !isListed(timeline, number); number--) {
      const name = nameOf({ timeline, number: number as SegmentNumber }, size);
      if (!await isInSomeForm(disk, name)) break;
      missed.push(name);
    }
  }
  return missed.length === 0 ? listed : segmentRuns([...names, ...missed], size);
}

async function isInSomeForm(disk: Disk, name: string): Promise<boolean> {
  // The plain one once more: a push puts it in the place of a compressed one that is damaged.
  for (const form of [...SEGMENT_FORMS, ""]) {
    if (await disk.entry(name + form) !== undefined) return true;
  }
  return false;
}

function lineageOf(
  timeline: TimelineId,
  histories: readonly TimelineHistory[],
  defects: string[],
): TimelineHistory {
  const own = histories.find((history) => history.timeline === timeline);
  const damaged = defects.some((defect) => defect.includes(historyFileName(timeline)));
  if (own === undefined && timeline !== 1 && !damaged) {
    defects.push(`${historyFileName(timeline)} is missing: nothing tells where its timeline came from`);
  }
  return own ?? emptyHistory(timeline);
}

/** Anything else can't be read; it is a defect, unless it is gone. */
async function isFile(directory: ArchiveDirectory, name: string, defects: string[]): Promise<boolean> {
  const entry = await directory.disk.entry(name);
  if (entry !== undefined && entry.kind !== "file") defects.push(notAFile(name, entry));
  return entry?.kind === "file";
}

function notAFile(name: string, { kind }: DiskEntry): string {
  return `"${name}" is ${formatKind(kind)}, want a file`;
}

async function readHistories(
  directory: ArchiveDirectory,
  names: ArchiveNames,
  defects: string[],
): Promise<readonly TimelineHistory[]> {
  const histories: TimelineHistory[] = [];
  for (const name of names.root) {
    const timeline = parseHistoryFileName(name);
    if (timeline === undefined || !await isFile(directory, name, defects)) continue;
    try {
      const history = await directory.history(timeline);
      if (history !== undefined) histories.push(history);
    } catch (error) {
      if (!(error instanceof DamagedFileError)) throw error;
      defects.push(messageChain(error));
    }
  }
  return histories.sort((a, b) => a.timeline - b.timeline);
}

async function readBackups(
  directory: ArchiveDirectory,
  names: ArchiveNames,
  defects: string[],
): Promise<readonly KnownBackup[]> {
  const backups: KnownBackup[] = [];
  for (const file of names.root) {
    if (!file.endsWith(".backup") || parseBroughtName(file)?.kind !== "backup label") continue;
    if (!await isFile(directory, file, defects)) continue;
    const bytes = await directory.readSmall(file);
    if (bytes === undefined) continue;
    try {
      backups.push({ file, ...parseBackupHistory(bytes) });
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof RangeError)) throw error;
      defects.push(`"${file}" can't be read: ${messageChain(error)}`);
    }
  }
  return backups.sort((a, b) => a.startLsn < b.startLsn ? -1 : a.startLsn > b.startLsn ? 1 : 0);
}

function maximum(timelines: readonly TimelineId[]): TimelineId | undefined {
  return timelines.reduce<TimelineId | undefined>(
    (newest, timeline) => newest === undefined || timeline > newest ? timeline : newest,
    undefined,
  );
}
