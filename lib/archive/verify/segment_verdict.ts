import { advance, formatLsn, type Lsn, parseLsn } from "../../wal/lsn.ts";
import { decodePageHeader } from "../../wal/page.ts";
import { isAllZero, isCompleteSegment, type SegmentScan } from "../../wal/scanner.ts";
import type { PageNotes } from "../page_notes.ts";

/**
 * What a file is there for.
 *
 * - `complete`: it has the segment's own name in an archive: whole, or damaged.
 * - `unfinished`: it grows, or was left behind.
 * - `server`: it stands in a server's own directory, where the last ones are unfinished, and those after them wait for
 *   their turn with whatever is in them.
 */
export type SegmentRole = "complete" | "unfinished" | "server";

/** What a file of WAL turned out to be. */
export interface SegmentVerdict {
  /**
   * - `complete`: every record is right, to the segment's end.
   * - `tail`: every record is right up to some place, and nothing was written behind it.
   * - `empty`: nothing was ever written there.
   * - `earlier`: WAL of another place, from an earlier use of the file.
   * - `damaged`: something in it is not what was written.
   */
  readonly state: "complete" | "tail" | "empty" | "earlier" | "damaged";
  /** Of damage: what is there, and what should be. */
  readonly problem?: string | undefined;
  /** Of damage: where it begins to show. */
  readonly problemLsn?: Lsn | undefined;
  /** Of a tail: pages of this segment up to here lie behind an empty stretch. */
  readonly behindLsn?: Lsn | undefined;
}

/** All that was seen of a file. */
export interface SeenSegment {
  readonly role: SegmentRole;
  readonly scan: SegmentScan;
  /** Of all its pages; `undefined` for a complete one. */
  readonly notes: PageNotes | undefined;
  readonly bytes: number;
  /** Why a compressed file can't be read to its end. */
  readonly damage: string | undefined;
  readonly head: Uint8Array;
  /** So much may have been written and not yet synced. */
  readonly unsyncedBytes: number;
  /** A valid record behind the end of valid WAL, which shows that it is no end. */
  readonly recordBehind: Lsn | undefined;
}

/** What a file of WAL is, by all that was seen of it. */
export function judgeSegment(seen: SeenSegment): SegmentVerdict {
  const { scan, bytes, role, damage } = seen;
  if (damage !== undefined) return damaged(scan.endLsn, damage);
  const ended = scan.end === "segment-end" || (scan.end === "switch" && scan.restIsZero === true);
  if (ended && isCompleteSegment(scan, bytes)) return { state: "complete" };
  if (bytes > scan.segmentSize) {
    return damaged(advance(scan.startLsn, scan.segmentSize), `${bytes} bytes, want ${scan.segmentSize}`);
  }
  if (role === "complete" || seen.notes === undefined) return completeProblem(scan);
  return judgeUnfinished(seen, seen.notes);
}

function completeProblem(scan: SegmentScan): SegmentVerdict {
  if (scan.end === "switch") return behindSwitch(scan);
  if (scan.problem === undefined) {
    return damaged(scan.contentEndLsn, "nothing but zeros, want WAL to the segment's end");
  }
  return damagedBy(scan);
}

function behindSwitch(scan: SegmentScan): SegmentVerdict {
  return damaged(scan.endLsn, "more bytes behind an XLOG_SWITCH, want zeros to the segment's end");
}

function judgeUnfinished(
  { scan, role, head, recordBehind, unsyncedBytes }: SeenSegment,
  notes: PageNotes,
): SegmentVerdict {
  if (notes.writtenBytes === 0) return { state: "empty" };
  if (scan.firstPage === undefined) {
    // A server's file that waits for its turn; a page with its own address would show that its turn has come.
    if (role === "server" && !notes.hasOwnPages && isOfEarlierUse(scan, head)) return { state: "earlier" };
    // An empty first page was lost in a power cut, and so was nothing that anybody was promised.
    if (scan.end === "page-header") return damagedBy(scan);
  }
  if (scan.end === "switch") return scan.restIsZero === false ? behindSwitch(scan) : { state: "tail" };
  const behind = notes.behind({
    provenBytes: Number(scan.endLsn - scan.startLsn),
    contentBytes: Number(scan.contentEndLsn - scan.startLsn),
    unsyncedBytes,
  });
  const isBlank = scan.firstPage === undefined; // a record behind may be any then
  if ((isBlank || recordBehind === undefined) && behind !== "changed bytes") return tail(scan, notes, behind);
  const found = recordBehind === undefined ? "more WAL" : `a valid record at ${formatLsn(recordBehind)}`;
  if (scan.problem === undefined) {
    return damaged(scan.contentEndLsn, `nothing valid, with ${found} behind it`);
  }
  const { problem = "", problemLsn = scan.endLsn } = damagedBy(scan);
  return damaged(problemLsn, `${problem}, with ${found} behind it`);
}

function tail(scan: SegmentScan, notes: PageNotes, behind: "lost writes" | undefined): SegmentVerdict {
  if (behind === undefined) return { state: "tail" };
  return { state: "tail", behindLsn: advance(scan.startLsn, notes.ownBytes) };
}

/** The page of an older segment of the same cluster stands first, or a torn piece of it. */
function isOfEarlierUse(scan: SegmentScan, head: Uint8Array): boolean {
  const header = decodePageHeader(head);
  if (header === undefined || isAllZero(head)) return true;
  return header.pageLsn < scan.startLsn && header.segmentBytes === scan.segmentSize;
}

function damaged(problemLsn: Lsn, problem: string): SegmentVerdict {
  return { state: "damaged", problem, problemLsn };
}

/** The scanner's text begins with the place. */
function damagedBy(scan: SegmentScan): SegmentVerdict {
  const [, at, problem] = /^at ([0-9A-F]+\/[0-9A-F]+): (.*)$/s.exec(scan.problem ?? "") ?? [];
  if (at === undefined || problem === undefined) {
    return damaged(scan.endLsn, scan.problem ?? `no valid record behind ${formatLsn(scan.endLsn)}`);
  }
  return damaged(parseLsn(at), problem);
}
