import type { TimelineId } from "../wal/timeline.ts";

/** All that counts for the answer to "give me the history of this timeline". */
export interface HistoryFacts {
  readonly timeline: TimelineId;
  /** The file is there. Looked for after everything else. */
  readonly stored: boolean;
  /** The newest timeline of which the archive has anything: a history, or a byte of WAL. */
  readonly newest: TimelineId | undefined;
  /** The server has the file itself. */
  readonly own: boolean;
}

/** What to do. */
export type HistoryDecision = "stored" | "absent" | "hole";

/**
 * The answer to "give me the history of this timeline".
 *
 * PostgreSQL looks for newer timelines one by one and stops at the first that is "absent": it then recovers along the
 * one before, and takes the number of the absent one for itself. So it is the answer only where nothing newer is here.
 */
export function decideHistory(facts: HistoryFacts): HistoryDecision {
  if (facts.stored) return "stored";
  // The first timeline of a cluster has none.
  if (facts.timeline === 1) return "absent";
  if (facts.newest === undefined || facts.newest < facts.timeline) return "absent";
  return facts.own ? "absent" : "hole";
}
