import type { SegmentIndexHead } from "../archive/segment_index.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { isWholeScan, type SegmentScan } from "../wal/scanner.ts";

/** Damage that the index of a segment shows, without a look at the segment. */
export interface IndexDamage {
  /** Of the segment: 24 digits. */
  readonly name: string;
  readonly lsn: Lsn;
  readonly problem: string;
}

/** What the index of one segment says against itself, or against that of the segment before; `undefined`: nothing. */
export function indexDamage(
  head: SegmentIndexHead,
  before: SegmentIndexHead | undefined,
): IndexDamage | undefined {
  const { name, scan } = head;
  if (!isWholeScan(scan)) {
    return { name, lsn: scan.endLsn, problem: "its records do not lead to its end" };
  }
  if (before === undefined || !isWholeScan(before.scan)) return undefined;
  const problem = joinProblem(before.scan, scan);
  return problem === undefined
    ? undefined
    : { name, lsn: scan.startLsn, problem: `${problem}, as the index of ${before.name} says` };
}

/** Both lead to their ends. A server that crashed gives up the record that it was writing, and says so. */
function joinProblem(before: SegmentScan, scan: SegmentScan): string | undefined {
  const isGivenUp = scan.firstPage?.overwritesContrecord === true;
  const openLsn = isGivenUp ? undefined : before.openRecordLsn;
  const isMiddle = before.firstRecordLsn === undefined && before.continuesFrom;
  if (openLsn !== undefined && !scan.continuesFrom) {
    return `it does not go on with the record at ${formatLsn(openLsn)}`;
  }
  if (before.openRecordLsn === undefined && !isMiddle && scan.continuesFrom) {
    return "it goes on with a record of the segment before, which ends whole";
  }
  const lastLsn = openLsn ?? before.lastRecordLsn;
  const { firstRecordPrevLsn } = scan;
  if (lastLsn === undefined || firstRecordPrevLsn === undefined || firstRecordPrevLsn === lastLsn) {
    return undefined;
  }
  return `its first record links to ${formatLsn(firstRecordPrevLsn)}, want ${formatLsn(lastLsn)}`;
}
