import { type GapLedger, gapOfSegments, type GapRange } from "../gaps.ts";
import type { SegmentSize } from "../../wal/segment.ts";
import type { Hole } from "./continuity.ts";
import type { Finding } from "./finding.ts";

/**
 * What is to be said of a hole about which the ledger may tell something.
 *
 * One that was given up, all of it, is no fault any more.
 */
export function explainHole(hole: Hole, ledger: GapLedger, size: SegmentSize): Finding {
  const { finding } = hole;
  const range = gapOfSegments(hole, size);
  const acceptance = ledger.acceptances.findLast((one) => overlap(one, range));
  if (acceptance !== undefined && isCovered(range, ledger.acceptances)) {
    const { acceptedAt, acceptedBy, reason } = acceptance;
    return {
      ...finding,
      kind: "note",
      problem: `${finding.problem}; given up ${acceptedAt} by ${acceptedBy}: ${reason}`,
      hint: "No restore goes across it: what lies behind needs a base backup that began behind it",
    };
  }
  const record = ledger.records.findLast((one) => overlap(one, range));
  if (record === undefined) return finding;
  return {
    ...finding,
    problem: `${finding.problem}; recorded ${record.recordedAt}: ${record.reason}`,
    hint: "What is known of it: walvault gap list; to bring it in: walvault gap heal, or push",
  };
}

function overlap(one: GapRange, other: GapRange): boolean {
  return one.timeline === other.timeline && one.startLsn < other.endLsn && other.startLsn < one.endLsn;
}

/** Whether ranges together hold all of one. */
export function isCovered(range: GapRange, by: readonly GapRange[]): boolean {
  let next = range.startLsn;
  const ordered = by.filter((one) => one.timeline === range.timeline)
    .toSorted((a, b) => a.startLsn < b.startLsn ? -1 : 1);
  for (const { startLsn, endLsn } of ordered) {
    if (startLsn > next) break;
    if (endLsn > next) next = endLsn;
  }
  return next >= range.endLsn;
}
