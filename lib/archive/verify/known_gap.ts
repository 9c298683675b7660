import { type SegmentNumber, type SegmentSize, segmentStart } from "../../wal/segment.ts";
import type { TimelineId } from "../../wal/timeline.ts";
import { type GapLedger, gapOfSegments, type GapRange, segmentsOfGap } from "../gaps.ts";
import { nameOf } from "../layout.ts";
import type { HeldSegment, Hole } from "./continuity.ts";
import type { Finding } from "./finding.ts";
import type { NumberRange } from "./plan.ts";

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

/** What is recorded to be missing at the end of a timeline: nothing has come from behind it, so only the ledger shows it. */
export function gapsAtEnds(
  held: readonly HeldSegment[],
  { ledger, holes, segmentSize, range, isAsked }: {
    readonly ledger: GapLedger;
    /** Those that are known without it. */
    readonly holes: readonly Hole[];
    readonly segmentSize: SegmentSize;
    readonly range: NumberRange;
    readonly isAsked: (timeline: TimelineId) => boolean;
  },
): readonly Hole[] {
  const wanted = new Map<TimelineId, SegmentNumber>();
  for (const { timeline, number, extent } of held) {
    if (extent === "none") continue;
    const next = (extent === "whole" ? number + 1n : number) as SegmentNumber;
    if (next >= (wanted.get(timeline) ?? 0n)) wanted.set(timeline, next);
  }
  const found: Hole[] = [];
  for (const record of [...ledger.records, ...ledger.acceptances]) {
    const gap = segmentsOfGap(record, segmentSize);
    const { timeline } = gap;
    const next = wanted.get(timeline);
    if (next === undefined || !isAsked(timeline)) continue;
    const firstNumber = [gap.firstNumber, next, range.first ?? next].reduce((a, b) => a > b ? a : b);
    const behind = range.last === undefined ? gap.endNumber : (range.last + 1n) as SegmentNumber;
    const endNumber = gap.endNumber < behind ? gap.endNumber : behind;
    const isKnown = [...holes, ...found].some((hole) =>
      hole.timeline === timeline && hole.firstNumber <= firstNumber && hole.endNumber >= endNumber
    );
    if (firstNumber >= endNumber || isKnown) continue;
    const count = endNumber - firstNumber;
    const last = nameOf({ timeline, number: (endNumber - 1n) as SegmentNumber }, segmentSize);
    found.push({
      timeline,
      firstNumber,
      endNumber,
      finding: {
        kind: "hole",
        path: nameOf({ timeline, number: firstNumber }, segmentSize),
        timeline,
        lsn: segmentStart(firstNumber, segmentSize),
        problem: `${
          count === 1n ? `${last} is missing` : `${count} segments are missing, up to ${last}`
        }: nothing has come from behind it yet`,
      },
    });
  }
  return found;
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
