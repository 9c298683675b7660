import type { Lsn } from "../../wal/lsn.ts";
import type { TimelineId } from "../../wal/timeline.ts";

/**
 * What was found.
 *
 * - `damage`: bytes of a file are not what was written.
 * - `hole`: WAL is missing between two places that should join.
 * - `join`: two segments, each right by itself, do not continue each other.
 * - `history`: a timeline's history is missing, or does not fit the WAL.
 * - `identity`: whose archive this is can't be told, or a file is of another cluster.
 * - `conflict`: two files of one segment hold different WAL.
 * - `note`: nothing is lost, but somebody may want to know.
 */
export type FindingKind = "damage" | "hole" | "join" | "history" | "identity" | "conflict" | "note";

/** One thing that was found. */
export interface Finding {
  readonly kind: FindingKind;
  /** Below the directory. */
  readonly path?: string | undefined;
  readonly timeline?: TimelineId | undefined;
  readonly lsn?: Lsn | undefined;
  /** What is, and what should be. */
  readonly problem: string;
  /** What can be done. */
  readonly hint?: string | undefined;
}

/** Whether it makes the answer "no". */
export function isProblem(finding: Finding): boolean {
  return finding.kind !== "note";
}
