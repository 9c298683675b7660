import type { TransactionMark } from "../archive/segment_index.ts";
import {
  ancestorHistory,
  emptyHistory,
  isInLineage,
  switchPointOf,
  type TimelineHistory,
} from "../wal/history.ts";
import { type Lsn, lsn } from "../wal/lsn.ts";
import { segmentEnd, type SegmentNumber, segmentNumberAt, segmentStart } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { type ArchiveSurvey, surveyLineage } from "./archive_survey.ts";
import { commitsFrom, commitsOnLineage } from "./commit_reader.ts";

/** Segments that are looked at for one tail: each may have to be read. */
const MAXIMUM_LOOKS = 32;
/** Timelines that are looked at, the newest first. */
const MAXIMUM_TIMELINES = 100;

/** WAL of a timeline behind the place where the newest one's ancestors left it: nobody went on from it. */
export interface LostTail {
  readonly timeline: TimelineId;
  readonly forkLsn: Lsn;
  /** The end of its last valid record here. */
  readonly endLsn: Lsn;
  /** Commits that were made there, and may have been acknowledged; `undefined` when they can't be told. */
  readonly commits: LostCommits | undefined;
}

/** The commits of a tail. */
export interface LostCommits {
  readonly count: number;
  /** `false`: there is more WAL than was looked at, or than can be read, and there may be more of them. */
  readonly isAll: boolean;
  readonly first: TransactionMark | undefined;
  readonly last: TransactionMark | undefined;
}

/**
 * What the archive has of other timelines than the newest one's past, by timeline.
 *
 * A server that was promoted behind what was received here never saw these transactions.
 */
export async function findLostTails(survey: ArchiveSurvey): Promise<readonly LostTail[]> {
  const { newest } = survey;
  if (newest === undefined) return [];
  const { lineage } = newest;
  const timelines = new Set([...survey.timelines, ...lineage.entries].map(({ timeline }) => timeline));
  timelines.delete(lineage.timeline);
  const tails: LostTail[] = [];
  for (const timeline of [...timelines].sort((a, b) => a - b).slice(-MAXIMUM_TIMELINES)) {
    const history = historyOf(timeline, lineage, survey);
    const forkLsn = switchPointOf(lineage, timeline) ?? history.entries.at(-1)?.endLsn;
    const tail = forkLsn === undefined ? undefined : await tailOf(survey, history, forkLsn);
    if (tail !== undefined) tails.push(tail);
  }
  return tails;
}

function historyOf(
  timeline: TimelineId,
  lineage: TimelineHistory,
  { histories }: ArchiveSurvey,
): TimelineHistory {
  if (isInLineage(lineage, timeline)) return ancestorHistory(lineage, timeline);
  return histories.find((history) => history.timeline === timeline) ?? emptyHistory(timeline);
}

async function tailOf(
  survey: ArchiveSurvey,
  lineage: TimelineHistory,
  forkLsn: Lsn,
): Promise<LostTail | undefined> {
  const { directory, runs, segmentSize } = survey;
  const { end } = await surveyLineage(directory, { runs, segmentSize, lineage });
  const { endLsn, tail, whole } = end;
  if (endLsn === undefined || endLsn <= forkLsn) return undefined;
  const place = { survey, lineage, tail, whole, endLsn };
  const commitsOf = commitsOnLineage(place);
  let commits: LostCommits | undefined;
  const firstNumber = segmentNumberAt(forkLsn, segmentSize);
  const endNumber = segmentNumberAt(lsn(endLsn - 1n), segmentSize) + 1n;
  for (let number = firstNumber; number < endNumber; number = number + 1n as SegmentNumber) {
    if (number - firstNumber >= MAXIMUM_LOOKS) {
      return { ...at(), commits: commits && { ...commits, isAll: false } };
    }
    // The fork lies inside its segment, mostly: what an index says of that is too much.
    const isWhole = segmentStart(number, segmentSize) >= forkLsn && segmentEnd(number, segmentSize) <= endLsn;
    const fromLsn = number === firstNumber ? forkLsn : segmentStart(number, segmentSize);
    const found = isWhole ? await commitsOf(number) : await commitsFrom(place, number, fromLsn);
    if (found === undefined) return { ...at(), commits: commits && { ...commits, isAll: false } };
    commits = {
      count: (commits?.count ?? 0) + found.count,
      isAll: true,
      first: commits?.first ?? found.first,
      last: found.last ?? commits?.last,
    };
  }
  return { ...at(), commits };

  function at() {
    return { timeline: lineage.timeline, forkLsn, endLsn: endLsn! };
  }
}
