import { isFilesFault } from "../archive/damaged_file.ts";
import { openPlain } from "../archive/durable.ts";
import { readIndexHead } from "../archive/index.ts";
import { nameOf } from "../archive/layout.ts";
import { withPublished } from "../archive/published.ts";
import type { TakeBytes } from "../archive/segment_file.ts";
import type { TransactionMark } from "../archive/segment_index.ts";
import { commitOf } from "../archive/segment_indexer.ts";
import type { CommitsOf, SegmentCommits } from "../observe/commit_window.ts";
import { VanishedError } from "../restore/obstacle.ts";
import type { UnfinishedFile } from "../restore/stock.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { timelineOfSegment } from "../wal/lineage.ts";
import { type Lsn, minLsn } from "../wal/lsn.ts";
import { RecordReader } from "../wal/record_reader.ts";
import { isTransactionEnd } from "../wal/rmgr/transaction.ts";
import { segmentEnd, type SegmentNumber, type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { Tail } from "./archive_end.ts";
import type { ArchiveSurvey } from "./archive_survey.ts";

/** Where commits are looked for. */
export interface CommitPlace {
  readonly survey: ArchiveSurvey;
  readonly lineage: TimelineHistory;
  readonly tail: Tail | undefined;
  /** Files of whole segments that had not got their own names yet. */
  readonly whole: readonly UnfinishedFile[];
  /** Nothing from here on counts. */
  readonly endLsn: Lsn;
}

/**
 * Tells the commits of a lineage's segments: by their indexes where there are any, else by their records.
 *
 * A commit counts where its record begins, also where that ends in the next segment.
 */
export function commitsOnLineage(place: CommitPlace): CommitsOf {
  return async (number) => {
    try {
      return await indexedCommits(place, number) ??
        await readCommits(place, number, segmentStart(number, place.survey.segmentSize));
    } catch (error) {
      return untold(error);
    }
  };
}

/** The commits of one segment from `fromLsn` on, where a record begins; by its records. */
export async function commitsFrom(
  place: CommitPlace,
  number: SegmentNumber,
  fromLsn: Lsn,
): Promise<SegmentCommits | undefined> {
  try {
    return await readCommits(place, number, fromLsn);
  } catch (error) {
    return untold(error);
  }
}

/** What can't be read tells nothing; what it means for the archive is for verify to say. */
function untold(error: unknown): undefined {
  if (isFilesFault(error) || error instanceof VanishedError) return undefined;
  throw error;
}

async function indexedCommits(
  { survey, lineage, tail, endLsn }: CommitPlace,
  number: SegmentNumber,
): Promise<SegmentCommits | undefined> {
  const { directory, segmentSize, systemIdentifier } = survey;
  // Of a part of a segment the index says too much.
  if (systemIdentifier === undefined || tail?.file.number === number) return undefined;
  if (segmentEnd(number, segmentSize) > endLsn) return undefined;
  const name = nameOf({ timeline: timelineOfSegment(lineage, number, segmentSize), number }, segmentSize);
  const index = await readIndexHead(directory.disk, { name, identity: { systemIdentifier, segmentSize } });
  if (index === undefined || index.openRecord === "unresolved") return undefined;
  const { commitCount: count, firstCommit: first, lastCommit: last } = index.transactions;
  return { count, first, last };
}

async function readCommits(
  place: CommitPlace,
  number: SegmentNumber,
  fromLsn: Lsn,
): Promise<SegmentCommits | undefined> {
  const { survey: { segmentSize }, endLsn } = place;
  const limitLsn = minLsn(segmentEnd(number, segmentSize), endLsn);
  const finder = new CommitFinder(fromLsn, { segmentSize, limitLsn });
  if (!await readSegment(place, number, (bytes, position) => finder.take(number, bytes, position))) {
    return undefined;
  }
  const next = number + 1n as SegmentNumber;
  // The last record may go on there; one that is longer than a segment is no commit.
  if (finder.wantsNext(number) && segmentStart(next, segmentSize) < endLsn) {
    await readSegment(place, next, (bytes, position) => finder.take(next, bytes, position));
  }
  return finder.commits;
}

/** Takes a segment's bytes, and the next one's, and keeps the first and the last commit that begin in the first. */
class CommitFinder {
  #count = 0;
  #first: TransactionMark | undefined;
  #last: TransactionMark | undefined;
  readonly #reader: RecordReader;
  readonly #size: SegmentSize;
  readonly #limitLsn: Lsn;

  constructor(
    fromLsn: Lsn,
    { segmentSize, limitLsn }: { readonly segmentSize: SegmentSize; readonly limitLsn: Lsn },
  ) {
    this.#size = segmentSize;
    this.#limitLsn = limitLsn;
    this.#reader = new RecordReader({
      startLsn: fromLsn,
      segmentSize,
      records: {
        wants: isTransactionEnd,
        take: (record) => {
          const { lsn } = record;
          const version = this.#reader.majorVersion;
          if (lsn >= limitLsn || version === undefined) return;
          const commit = commitOf(record, version);
          if (commit === undefined) return;
          this.#count++;
          this.#last = commit;
          this.#first ??= this.#last;
        },
      },
    });
  }

  get commits(): SegmentCommits {
    return { count: this.#count, first: this.#first, last: this.#last };
  }

  take(number: SegmentNumber, bytes: Uint8Array, position: number): "more" | "enough" {
    const start = Number(this.#reader.positionLsn - segmentStart(number, this.#size));
    if (start < position + bytes.length) this.#reader.push(bytes.subarray(Math.max(0, start - position)));
    const isOver = this.#reader.done || this.#reader.result().endLsn >= this.#limitLsn;
    return isOver ? "enough" : "more";
  }

  wantsNext(number: SegmentNumber): boolean {
    const end = segmentEnd(number, this.#size);
    return !this.#reader.done && this.#reader.positionLsn === end && this.#reader.result().endLsn < end;
  }
}

/** Hands over a segment's bytes, complete or not; false when it is not there. */
async function readSegment(place: CommitPlace, number: SegmentNumber, take: TakeBytes): Promise<boolean> {
  const { survey, tail, whole } = place;
  const file = tail?.file.number === number ? tail.file : whole.find((each) => each.number === number);
  if (file === undefined) return await readPublished(place, number, take);
  let taken = 0;
  try {
    await survey.directory.readUnfinished(file, (bytes, position) => {
      taken = position + bytes.length;
      return take(bytes, position);
    });
    return true;
  } catch (error) {
    // It got its own name since.
    if (!(error instanceof VanishedError) || taken > 0) throw error;
    return await readPublished(place, number, take);
  }
}

async function readPublished(
  { survey: { directory, segmentSize }, lineage }: CommitPlace,
  number: SegmentNumber,
  take: TakeBytes,
): Promise<boolean> {
  const name = nameOf({ timeline: timelineOfSegment(lineage, number, segmentSize), number }, segmentSize);
  const found = await withPublished(
    directory.disk,
    { name, segmentSize, open: openPlain },
    async ({ readThrough }) => {
      await readThrough(take);
      return true;
    },
  );
  return found === true;
}
