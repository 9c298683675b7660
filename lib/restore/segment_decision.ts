import { switchPointOf, type TimelineHistory } from "../wal/history.ts";
import { advance, formatLsn, type Lsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";
import {
  segmentEnd,
  segmentName,
  type SegmentNumber,
  segmentNumberAt,
  type SegmentSize,
  segmentStart,
} from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";

/** Where the WAL in a file ends; see `SegmentScan`. */
export interface WalEnd {
  /** After the last record that is valid beyond doubt. */
  readonly endLsn: Lsn;
  /** After everything that looks right, the rest of a record from the segment before included. */
  readonly contentEndLsn: Lsn;
}

/** Whether one file's WAL goes further than another's. */
export function isBeyond(one: WalEnd, other: WalEnd): boolean {
  if (one.endLsn !== other.endLsn) return one.endLsn > other.endLsn;
  return one.contentEndLsn > other.contentEndLsn;
}

/** A copy of a segment that is not published: the growing one, one saved from an earlier run, a `.partial`. */
export interface UnfinishedCopy extends WalEnd {
  /** Below the archive's root. */
  readonly path: string;
  /**
   * - `complete`: to its last byte, every record right.
   * - `tail`: a beginning.
   * - `damaged`: something in it was changed after it was written; `problem` says what.
   */
  readonly state: "complete" | "tail" | "damaged";
  /** The first record that begins in it: what stands before is the rest of one from the segment before, without a CRC. */
  readonly provenLsn: Lsn;
  /** Why it is damaged. */
  readonly problem?: string | undefined;
  /** Its last record is cut off, so that it may hold more bytes of the server's WAL than `contentEndLsn` tells. */
  readonly endsInRecord: boolean;
}

/** What the server has itself under the segment's name. */
export interface OwnFile extends WalEnd {
  /** It is a whole segment, every record right. */
  readonly whole: boolean;
}

/** All that counts for the answer to "give me this segment". */
export interface SegmentFacts {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  readonly segmentSize: SegmentSize;
  /** A complete segment of that name is there, in whatever form. Looked for after everything else. */
  readonly published: boolean;
  /** Those with content, the one that goes furthest first. */
  readonly copies: readonly UnfinishedCopy[];
  /** Two of the copies differ below the end of valid WAL of both; in words. */
  readonly difference: string | undefined;
  /** A segment before it on the same timeline, published or with content. */
  readonly earlier: SegmentNumber | undefined;
  /** A segment after it on the same timeline, published or with content, or in which a backup began. */
  readonly later: SegmentNumber | undefined;
  /** Where the last backup in it began: a server archives the label when that is done, and much more was written. */
  readonly labelLsn: Lsn | undefined;
  /** Every history in the archive. */
  readonly histories: readonly TimelineHistory[];
  /**
   * What the gap ledger makes of it.
   *
   * - `none`: it tells nothing.
   * - `recorded`: more of the segment was written than is here, whether somebody gave it up or not.
   * - `end`: the same, and recovery is to end where the gap begins.
   */
  readonly gap: "none" | "recorded" | "end";
  /** `undefined` when the server has no such file, or one without WAL of this segment. */
  readonly own: OwnFile | undefined;
}

/** Why the answer is no. */
export type AbsentReason =
  | "before the fork"
  | "past the end"
  | "a gap begins here"
  | "the server's own copy goes as far"
  | "the server's own copy is whole";

/** What to do. */
export type SegmentDecision =
  | { readonly kind: "published" }
  /** Complete, and not yet published. */
  | { readonly kind: "complete"; readonly copy: UnfinishedCopy }
  /** The end of all WAL of its timeline. */
  | { readonly kind: "tail"; readonly copy: UnfinishedCopy }
  /** Proven: this is where the timeline's WAL ends. PostgreSQL promotes. */
  | { readonly kind: "absent"; readonly reason: AbsentReason }
  /** There was such a segment, and it is not here. */
  | { readonly kind: "hole"; readonly problem: string }
  | { readonly kind: "damage"; readonly problem: string };

/**
 * The answer to "give me this segment".
 *
 * PostgreSQL takes "absent" as the end of all WAL, and promotes: so it is the answer only where the archive itself
 * shows that nothing was ever written there.
 */
export function decideSegment(facts: SegmentFacts): SegmentDecision {
  if (facts.published) return { kind: "published" };
  const complete = facts.copies.find((copy) => copy.state === "complete");
  const damaged = facts.copies.find((copy) => copy.state === "damaged");
  if (facts.difference !== undefined) return { kind: "damage", problem: facts.difference };
  if (complete !== undefined) return { kind: "complete", copy: complete };
  if (damaged !== undefined) {
    return { kind: "damage", problem: `"${damaged.path}" is damaged: ${damaged.problem}` };
  }
  // One without anything valid in it adds nothing but zeros.
  const startLsn = segmentStart(facts.number, facts.segmentSize);
  const copy = facts.copies.find((one) => one.contentEndLsn > startLsn);
  if (copy === undefined && isBeforeFork(facts)) return { kind: "absent", reason: "before the fork" };
  const problem = facts.gap === "end" ? undefined : holeProblem(facts, copy);
  if (problem !== undefined) {
    // Then the server needs none of it from here.
    if (facts.own?.whole) return { kind: "absent", reason: "the server's own copy is whole" };
    return { kind: "hole", problem };
  }
  if (copy === undefined) {
    return { kind: "absent", reason: facts.gap === "end" ? "a gap begins here" : "past the end" };
  }
  if (facts.own !== undefined && !isBeyond(copy, facts.own)) {
    return { kind: "absent", reason: "the server's own copy goes as far" };
  }
  return { kind: "tail", copy };
}

/** Where the timeline began, by its history; `undefined` for one without ancestors, or of which nobody knows. */
function forkOf(facts: SegmentFacts): Lsn | undefined {
  return facts.histories.find((history) => history.timeline === facts.timeline)?.entries.at(-1)?.endLsn;
}

/** The segment with the fork itself belongs to both timelines. */
function isBeforeFork(facts: SegmentFacts): boolean {
  const fork = forkOf(facts);
  return fork !== undefined && facts.number < segmentNumberAt(fork, facts.segmentSize);
}

/** What shows that more was written than is here; `undefined` when this is where the timeline's WAL ends. */
function holeProblem(facts: SegmentFacts, copy: UnfinishedCopy | undefined): string | undefined {
  const { timeline, number, segmentSize, later, earlier, labelLsn } = facts;
  const nameOf = (other: SegmentNumber) => segmentName(timeline, other, segmentSize);
  const how = copy === undefined
    ? "is not there"
    : `is there only up to ${formatLsn(copy.contentEndLsn)} ("${copy.path}")`;
  if (later !== undefined) {
    return `${nameOf(number)} ${how}, but ${nameOf(later)} of the same timeline is there`;
  }
  const endLsn = copy?.contentEndLsn ?? segmentStart(number, segmentSize);
  if (labelLsn !== undefined && labelLsn >= endLsn) {
    return `${nameOf(number)} ${how}, but a backup began at ${formatLsn(labelLsn)}`;
  }
  const fork = forkOf(facts);
  // What the timeline took over from the one before was whole when it began: not even a record that is cut off excuses it.
  if (fork !== undefined && fork > endLsn) {
    return `${nameOf(number)} ${how}, but timeline ${timeline} began only at ${formatLsn(fork)} ("${
      historyFileName(timeline)
    }")`;
  }
  const child = furthestChild(facts);
  if (child !== undefined && reaches(child.forkLsn, facts, copy)) {
    return `${nameOf(number)} ${how}, but timeline ${child.timeline} left timeline ${timeline} only at ${
      formatLsn(child.forkLsn)
    } ("${historyFileName(child.timeline)}")`;
  }
  // Where nothing has come from behind a gap yet, only the ledger shows that there was more.
  if (facts.gap === "recorded") {
    return `${nameOf(number)} ${how}, but more was written, as gaps.jsonl tells`;
  }
  if (copy === undefined && earlier === undefined) {
    return fork === undefined
      ? `${nameOf(number)} ${how}, nor any WAL of timeline ${timeline} before it`
      : `${nameOf(number)} ${how}, nor any WAL of timeline ${timeline} before it, though "${
        historyFileName(timeline)
      }" is`;
  }
  return undefined;
}

interface Child {
  readonly timeline: TimelineId;
  readonly forkLsn: Lsn;
}

/** The timeline that left this one last. */
function furthestChild(facts: SegmentFacts): Child | undefined {
  let furthest: Child | undefined;
  for (const history of facts.histories) {
    const forkLsn = switchPointOf(history, facts.timeline);
    if (forkLsn === undefined || (furthest !== undefined && forkLsn <= furthest.forkLsn)) continue;
    furthest = { timeline: history.timeline, forkLsn };
  }
  return furthest;
}

/** Whether a fork at this place shows that more of the segment was written than is here. */
function reaches(forkLsn: Lsn, facts: SegmentFacts, copy: UnfinishedCopy | undefined): boolean {
  const { number, segmentSize } = facts;
  if (copy === undefined) return forkLsn > segmentStart(number, segmentSize);
  // Complete to the last byte it would not be a tail.
  if (forkLsn >= segmentEnd(number, segmentSize)) return true;
  // A server may leave its timeline inside a record that it never got whole: at the page where that breaks off.
  const forgivenBytes = copy.endsInRecord ? PAGE_BYTES : 0;
  return forkLsn > advance(copy.contentEndLsn, forgivenBytes);
}
