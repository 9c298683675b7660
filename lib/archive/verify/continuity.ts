import type { TimelineHistory } from "../../wal/history.ts";
import { formatLsn, type Lsn } from "../../wal/lsn.ts";
import { type SegmentNumber, segmentNumberAt, type SegmentSize, segmentStart } from "../../wal/segment.ts";
import { historyFileName, type TimelineId } from "../../wal/timeline.ts";
import { nameOf } from "../layout.ts";
import type { Finding } from "./finding.ts";
import type { NumberRange } from "./plan.ts";

/** How far a segment's WAL goes, by the best file of it. */
export interface HeldSegment {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  /** `whole` also of a damaged one: it is there. */
  readonly extent: "whole" | "tail" | "none";
  /** Of a tail: where it ends. */
  readonly endLsn: Lsn;
  readonly path: string;
}

/** A hole: segments that are missing, in whole or in part. */
export interface Hole {
  readonly timeline: TimelineId;
  readonly firstNumber: SegmentNumber;
  /** The first one that is there again, or where it should have ended. */
  readonly endNumber: SegmentNumber;
  readonly finding: Finding;
}

interface Extent {
  readonly first: SegmentNumber;
  /** The last one of which anything is here. */
  readonly last: SegmentNumber;
}

/** Where WAL is missing between the first place of a timeline, or of those it came from, and its last one. */
export function findHoles(
  held: readonly HeldSegment[],
  { histories, segmentSize, range, isAsked = () => true }: {
    /** By timeline; only those that can be believed. */
    readonly histories: ReadonlyMap<TimelineId, TimelineHistory>;
    readonly segmentSize: SegmentSize;
    readonly range: NumberRange;
    /** Of the others nothing was looked for. */
    readonly isAsked?: ((timeline: TimelineId) => boolean) | undefined;
  },
): readonly Hole[] {
  const holes: Hole[] = [];
  const byTimeline = Map.groupBy(held.filter(({ extent }) => extent !== "none"), ({ timeline }) => timeline);
  const extents = new Map<TimelineId, Extent>();
  const nameAt = (timeline: TimelineId, number: SegmentNumber) => nameOf({ timeline, number }, segmentSize);
  /** Several histories tell of the same timeline. */
  const isKnown = ({ timeline, firstNumber, endNumber }: Omit<Hole, "finding">) =>
    holes.some((hole) =>
      hole.timeline === timeline && hole.firstNumber <= firstNumber && hole.endNumber >= endNumber
    );
  /** What lies outside of the range was not looked for. */
  const missing = (timeline: TimelineId, from: SegmentNumber, to: SegmentNumber, why: string) => {
    const firstNumber = range.first !== undefined && from < range.first ? range.first : from;
    const behind = range.last === undefined ? to : (range.last + 1n) as SegmentNumber;
    const endNumber = to < behind ? to : behind;
    if (firstNumber >= endNumber || isKnown({ timeline, firstNumber, endNumber })) return;
    const last = nameAt(timeline, (endNumber - 1n) as SegmentNumber);
    const count = endNumber - firstNumber;
    const what = count === 1n ? `${last} is missing` : `${count} segments are missing, up to ${last}`;
    holes.push({
      timeline,
      firstNumber,
      endNumber,
      finding: {
        kind: "hole",
        path: nameAt(timeline, firstNumber),
        timeline,
        lsn: segmentStart(firstNumber, segmentSize),
        problem: `${what}: ${why}`,
      },
    });
  };
  for (const [timeline, segments] of byTimeline) {
    const first = segments[0]!.number;
    const last = segments.at(-1)!.number;
    extents.set(timeline, { first, last });
    for (const [index, segment] of segments.entries()) {
      const next = segments[index + 1];
      if (next === undefined) break;
      const after = (segment.number + 1n) as SegmentNumber;
      missing(timeline, after, next.number, `${nameAt(timeline, next.number)} is there`);
      if (segment.extent === "tail") {
        holes.push(cutHole(segment, after, `${nameAt(timeline, next.number)} is there`));
      }
    }
  }
  // What a timeline's own file says first: later ones repeat it.
  for (const history of [...histories.values()].toSorted((one, other) => one.timeline - other.timeline)) {
    for (const lifetime of lifetimesOf(history, segmentSize)) {
      const { timeline, startNumber, leftFor } = lifetime;
      if (!isAsked(timeline)) continue;
      const own = extents.get(timeline);
      const isOlderHeld = lifetime.older.some(({ timeline: older, endLsn }) => {
        const first = extents.get(older)?.first;
        return first !== undefined && first <= segmentNumberAt(endLsn, segmentSize);
      });
      const begins = `it is where timeline ${timeline} begins`;
      if (own !== undefined && isOlderHeld) missing(timeline, startNumber, own.first, begins);
      if (leftFor === undefined) continue;
      const endNumber = segmentNumberAt(leftFor.lsn, segmentSize);
      const told = `timeline ${leftFor.timeline} left timeline ${timeline} only at ${
        formatLsn(leftFor.lsn)
      } ("${historyFileName(history.timeline)}")`;
      // None of it is here, and yet something of before it, and of what came after it.
      if (own === undefined && isOlderHeld) missing(timeline, startNumber, endNumber, told);
      if (own === undefined || own.first > endNumber) continue;
      missing(timeline, (own.last + 1n) as SegmentNumber, endNumber, told);
      const end = byTimeline.get(timeline)!.at(-1)!;
      const next = extents.get(leftFor.timeline);
      const isCovered = next !== undefined && next.first <= end.number;
      if (end.extent !== "tail" || end.number >= endNumber || isCovered) continue;
      const hole = cutHole(end, (end.number + 1n) as SegmentNumber, told);
      if (!isKnown(hole)) holes.push(hole);
    }
  }
  return [...holes, ...boundHoles(extents, { segmentSize, range, nameAt })];
}

/** From where to where WAL was written to a timeline. */
interface Lifetime {
  readonly timeline: TimelineId;
  readonly startNumber: SegmentNumber;
  /** The one that came of it, and where; `undefined` where this is the newest one. */
  readonly leftFor: { readonly timeline: TimelineId; readonly lsn: Lsn } | undefined;
  /** Those that it came from. */
  readonly older: TimelineHistory["entries"];
}

/** Of a history's timeline and all that it came from, the oldest first. */
function lifetimesOf({ timeline: newest, entries }: TimelineHistory, size: SegmentSize): readonly Lifetime[] {
  const lifetimes = entries.map(({ timeline, endLsn }, index): Lifetime => ({
    timeline,
    startNumber: startAfter(entries.slice(0, index), size),
    leftFor: { timeline: entries[index + 1]?.timeline ?? newest, lsn: endLsn },
    older: entries.slice(0, index),
  }));
  const startNumber = startAfter(entries, size);
  return [...lifetimes, { timeline: newest, startNumber, leftFor: undefined, older: entries }];
}

function startAfter(older: TimelineHistory["entries"], size: SegmentSize): SegmentNumber {
  const last = older.at(-1);
  return last === undefined ? 0n as SegmentNumber : segmentNumberAt(last.endLsn, size);
}

function cutHole(segment: HeldSegment, after: SegmentNumber, why: string): Hole {
  return {
    timeline: segment.timeline,
    firstNumber: segment.number,
    endNumber: after,
    finding: {
      kind: "hole",
      path: segment.path,
      timeline: segment.timeline,
      lsn: segment.endLsn,
      problem: `its WAL ends at ${formatLsn(segment.endLsn)}, want all of the segment: ${why}`,
    },
  };
}

/** What a range asks for, and nothing here reaches to. */
function boundHoles(
  extents: ReadonlyMap<TimelineId, Extent>,
  { segmentSize, range, nameAt }: {
    readonly segmentSize: SegmentSize;
    readonly range: NumberRange;
    readonly nameAt: (timeline: TimelineId, number: SegmentNumber) => string;
  },
): readonly Hole[] {
  const all = [...extents];
  const [oldest] = all.toSorted(([, a], [, b]) => Number(a.first - b.first));
  const [newest] = all.toSorted(([, a], [, b]) => Number(b.last - a.last));
  const holes: Hole[] = [];
  const add = (timeline: TimelineId, firstNumber: SegmentNumber, endNumber: SegmentNumber, problem: string) =>
    holes.push({
      timeline,
      firstNumber,
      endNumber,
      finding: {
        kind: "hole",
        path: nameAt(timeline, firstNumber),
        timeline,
        lsn: segmentStart(firstNumber, segmentSize),
        problem,
      },
    });
  if (oldest !== undefined && range.first !== undefined && range.first < oldest[1].first) {
    const [timeline, { first }] = oldest;
    add(timeline, range.first, first, `nothing is there from here to ${nameAt(timeline, first)}`);
  }
  if (newest !== undefined && range.last !== undefined && range.last > newest[1].last) {
    const [timeline, { last }] = newest;
    const after = (last + 1n) as SegmentNumber;
    add(
      timeline,
      after,
      (range.last + 1n) as SegmentNumber,
      `nothing is there behind ${nameAt(timeline, last)}`,
    );
  }
  return holes;
}
