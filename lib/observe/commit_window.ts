import type { Lsn } from "../wal/lsn.ts";
import type { SegmentNumber } from "../wal/segment.ts";

/** A commit, as its record tells it. */
export interface Commit {
  /** Where the record begins. */
  readonly lsn: Lsn;
  readonly xid: number;
  /** Microseconds since 1970 by the server's clock. */
  readonly timeUs: bigint;
}

/** The first and the last commit of one segment, by LSN. */
export interface SegmentCommits {
  readonly first: Commit | undefined;
  readonly last: Commit | undefined;
}

/** Tells the commits of a segment of one lineage; `undefined` when they can't be told. */
export type CommitsOf = (number: SegmentNumber) => Promise<SegmentCommits | undefined>;

/** What a look for a commit found; `unknown` when there was too much to look at, or something could not be read. */
export type CommitLook = Commit | "none" | "unknown";

/** Segments of one lineage, `firstNumber` up to, not including, `endNumber`; and how many of them may be looked at. */
export interface CommitRange {
  readonly firstNumber: SegmentNumber;
  readonly endNumber: SegmentNumber;
  readonly maximumLooks: number;
}

/** The first commit in a range of segments. */
export async function firstCommit(range: CommitRange, commitsOf: CommitsOf): Promise<CommitLook> {
  const { firstNumber, endNumber, maximumLooks } = range;
  let looks = 0;
  for (let number = firstNumber; number < endNumber; number = number + 1n as SegmentNumber) {
    if (looks++ === maximumLooks) return "unknown";
    const commits = await commitsOf(number);
    if (commits === undefined) return "unknown";
    if (commits.first !== undefined) return commits.first;
  }
  return "none";
}

/** The last commit in a range of segments. */
export async function lastCommit(range: CommitRange, commitsOf: CommitsOf): Promise<CommitLook> {
  const { firstNumber, endNumber, maximumLooks } = range;
  let looks = 0;
  for (let number = endNumber - 1n as SegmentNumber; number >= firstNumber; number--) {
    if (looks++ === maximumLooks) return "unknown";
    const commits = await commitsOf(number);
    if (commits === undefined) return "unknown";
    if (commits.last !== undefined) return commits.last;
  }
  return "none";
}
