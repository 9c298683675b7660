import type { TransactionMark } from "../archive/segment_index.ts";
import type { SegmentNumber } from "../wal/segment.ts";

/** The commits of one segment: how many, and the first and the last by LSN. */
export interface SegmentCommits {
  readonly count: number;
  readonly first: TransactionMark | undefined;
  readonly last: TransactionMark | undefined;
}

/** Tells the commits of a segment of one lineage; `undefined` when they can't be told. */
export type CommitsOf = (number: SegmentNumber) => Promise<SegmentCommits | undefined>;

/** What a look for a commit found; `unknown` when there was too much to look at, or something could not be read. */
export type CommitLook = TransactionMark | "none" | "unknown";

/** Segments of one lineage, `firstNumber` up to, not including, `endNumber`; and how many of them may be looked at. */
export interface CommitRange {
  readonly firstNumber: SegmentNumber;
  readonly endNumber: SegmentNumber;
  readonly maximumLooks: number;
}

/** The first commit in a range of segments. */
export function firstCommit(range: CommitRange, commitsOf: CommitsOf): Promise<CommitLook> {
  return look(range, "first", commitsOf);
}

/** The last commit in a range of segments. */
export function lastCommit(range: CommitRange, commitsOf: CommitsOf): Promise<CommitLook> {
  return look(range, "last", commitsOf);
}

async function look(
  { firstNumber, endNumber, maximumLooks }: CommitRange,
  which: "first" | "last",
  commitsOf: CommitsOf,
): Promise<CommitLook> {
  const count = endNumber - firstNumber;
  for (let step = 0n; step < count; step++) {
    if (step >= maximumLooks) return "unknown";
    const number = which === "first" ? firstNumber + step : endNumber - 1n - step;
    const commits = await commitsOf(number as SegmentNumber);
    if (commits === undefined) return "unknown";
    const found = commits[which];
    if (found !== undefined) return found;
  }
  return "none";
}
