import {
  type CommitLook,
  type CommitsOf,
  firstCommit,
  lastCommit,
  type SegmentCommits,
} from "../observe/commit_window.ts";
import { leadsToEnd } from "../observe/health.ts";
import { type SegmentNumber, segmentNumberAt, segmentStart } from "../wal/segment.ts";
import { type Lsn, lsn } from "../wal/lsn.ts";
import type { ArchiveSurvey, LineageSurvey } from "./archive_survey.ts";
import { commitsFrom, commitsOnLineage } from "./commit_reader.ts";
import type { CommitWindow, JudgedBackup, RecoverableWindow } from "./status_report.ts";

/** More segments without any commit than an idle server fills between two looks; each may have to be read. */
const MAXIMUM_LOOKS = 32;

/** The newest WAL without a hole, on the newest timeline. */
export async function newestWindow(survey: ArchiveSurvey): Promise<CommitWindow | undefined> {
  const { newest } = survey;
  const startLsn = newest === undefined ? undefined : lastStart(newest, survey);
  const endLsn = newest?.end.endLsn;
  if (newest === undefined || startLsn === undefined || endLsn === undefined) return undefined;
  const look = windowLook(survey, newest, { startLsn, endLsn });
  return { startLsn, endLsn, firstCommit: await look.first(), lastCommit: await look.last() };
}

/** Where the newest WAL without a hole begins: what is here of it, complete or not, leads to the end. */
function lastStart({ wholeStretches, end }: LineageSurvey, { segmentSize }: ArchiveSurvey): Lsn | undefined {
  const stretch = wholeStretches.at(-1);
  return stretch === undefined || end.endLsn === undefined
    ? undefined
    : segmentStart(stretch.firstNumber, segmentSize);
}

/** The commits that recovery can stop at, from the oldest base backup that leads to the end. */
export async function recoverableWindow(
  survey: ArchiveSurvey,
  backups: readonly JudgedBackup[],
): Promise<RecoverableWindow | undefined> {
  const { newest } = survey;
  if (newest === undefined) return undefined;
  for (const backup of backups) {
    const { judgement } = backup;
    if (judgement.kind !== "recoverable" || !leadsToEnd(judgement, newest.lineage.timeline)) continue;
    const window = { startLsn: judgement.stopLsn, endLsn: judgement.endLsn };
    const look = windowLook(survey, newest, window);
    return { backup, ...window, firstCommit: await look.first(), lastCommit: await look.last() };
  }
  return undefined;
}

function windowLook(
  survey: ArchiveSurvey,
  { lineage, end: { tail, whole } }: LineageSurvey,
  { startLsn, endLsn }: { readonly startLsn: Lsn; readonly endLsn: Lsn },
): { first(): Promise<CommitLook>; last(): Promise<CommitLook> } {
  const { segmentSize } = survey;
  const place = { survey, lineage, tail, whole, endLsn };
  const commitsOf = commitsOnLineage(place);
  const firstNumber = segmentNumberAt(startLsn, segmentSize);
  const isWhole = startLsn === segmentStart(firstNumber, segmentSize);
  // The first segment may count from its middle on only: its index tells of all.
  const cutFirst: CommitsOf = async (number) =>
    isWhole || number !== firstNumber ? await commitsOf(number) : await commitsBehind(number);
  const commitsBehind = async (number: SegmentNumber): Promise<SegmentCommits | undefined> =>
    await commitsFrom(place, number, startLsn);
  const range = {
    firstNumber,
    endNumber: endLsn <= startLsn
      ? firstNumber
      : segmentNumberAt(lsn(endLsn - 1n), segmentSize) + 1n as SegmentNumber,
    maximumLooks: MAXIMUM_LOOKS,
  };
  return { first: () => firstCommit(range, cutFirst), last: () => lastCommit(range, cutFirst) };
}
