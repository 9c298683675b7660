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
  { histories, segmentSize, range }: {
    /** By timeline; only those that can be believed. */
    readonly histories: ReadonlyMap<TimelineId, TimelineHistory>;
    readonly segmentSize: SegmentSize;
    readonly range: NumberRange;
  },
): readonly Hole[] {
  const holes: Hole[] = [];
  const byTimeline = Map.groupBy(held.filter(({ extent }) => extent !== "none"), ({ timeline }) => timeline);
  const extents = new Map<TimelineId, Extent>();
  const nameAt = (timeline: TimelineId, number: SegmentNumber) => nameOf({ timeline, number }, segmentSize);
  /** What lies outside of the range was not looked for. */
  const missing = (timeline: TimelineId, from: SegmentNumber, to: SegmentNumber, why: string) => {
    const firstNumber = range.first !== undefined && from < range.first ? range.first : from;
    const behind = range.last === undefined ? to : (range.last + 1n) as SegmentNumber;
    const endNumber = to < behind ? to : behind;
    if (firstNumber >= endNumber) return;
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
  for (const history of histories.values()) {
    const fork = history.entries.at(-1);
    if (fork === undefined) continue;
    const forkNumber = segmentNumberAt(fork.endLsn, segmentSize);
    const own = extents.get(history.timeline);
    const parent = extents.get(fork.timeline);
    const told = `timeline ${history.timeline} left timeline ${fork.timeline} only at ${
      formatLsn(fork.endLsn)
    } ("${historyFileName(history.timeline)}")`;
    if (parent !== undefined && parent.first <= forkNumber) {
      missing(fork.timeline, (parent.last + 1n) as SegmentNumber, forkNumber, told);
      const end = byTimeline.get(fork.timeline)!.at(-1)!;
      const isCovered = own !== undefined && own.first <= end.number;
      if (end.extent === "tail" && end.number <= forkNumber && end.endLsn < fork.endLsn && !isCovered) {
        if (end.number < forkNumber) holes.push(cutHole(end, (end.number + 1n) as SegmentNumber, told));
      }
    }
    const ancestors = history.entries.some(({ timeline }) => extents.has(timeline));
    if (own !== undefined && ancestors) {
      missing(history.timeline, forkNumber, own.first, `it is where timeline ${history.timeline} begins`);
    }
  }
  return [...holes, ...boundHoles(extents, { segmentSize, range, nameAt })];
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
