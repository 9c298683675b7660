import { switchPointOf, timelineAt, type TimelineHistory } from "./history.ts";
import { lsn } from "./lsn.ts";
import {
  segmentEnd,
  type SegmentNumber,
  segmentNumberAt,
  type SegmentSize,
  segmentStart,
} from "./segment.ts";
import type { TimelineId } from "./timeline.ts";

/** Some segments of one timeline in a row: `firstNumber` up to, not including, `endNumber`. */
export interface SegmentRun {
  readonly timeline: TimelineId;
  readonly firstNumber: SegmentNumber;
  readonly endNumber: SegmentNumber;
}

/** What an archive has, and what it knows to be missing. */
export interface LineageStock {
  /** Complete segments. */
  readonly runs: readonly SegmentRun[];
  /** Segments of which something was received, but not all. */
  readonly unfinished: readonly { readonly timeline: TimelineId; readonly number: SegmentNumber }[];
  readonly gaps: {
    /** Missing, and written down to be. Some of it may be here again. */
    readonly recorded: readonly SegmentRun[];
    /** The part of it that somebody gave up for good. */
    readonly accepted: readonly SegmentRun[];
  };
}

/** A server's line of WAL, and an archive beside it. */
export interface LineageView {
  readonly contents: LineageStock;
  /** The server's timeline and its ancestors. */
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
}

/** The timeline whose file holds segment `number` on a lineage: that of the segment's last byte. */
export function timelineOfSegment(
  lineage: TimelineHistory,
  number: SegmentNumber,
  size: SegmentSize,
): TimelineId {
  return timelineAt(lineage, lsn(segmentEnd(number, size) - 1n));
}

/**
 * The segment of the first byte missing on a lineage, above the archive's first byte there: below the first hole that
 * is no recorded gap.
 *
 * `undefined` when the archive has nothing on that lineage.
 */
export function firstMissingSegment(view: LineageView): SegmentNumber | undefined {
  const { contents: { runs, gaps } } = view;
  const begin = beginOnLineage(view);
  return begin === undefined ? undefined : endOfCover(begin, onLineage([...runs, ...gaps.recorded], view));
}

/** Which holes: those that nobody gave up, or all. */
export type HoleKind = "open" | "all";

/**
 * The holes on a lineage, lowest first, each of one timeline: between the archive's first byte there and its last
 * complete segment or recorded gap.
 */
export function holesOnLineage(view: LineageView, kind: HoleKind): readonly SegmentRun[] {
  const { contents: { runs, gaps }, lineage, segmentSize } = view;
  const begin = beginOnLineage(view);
  if (begin === undefined) return [];
  const filled = onLineage(kind === "all" ? runs : [...runs, ...gaps.accepted], view);
  const ends = onLineage([...runs, ...gaps.recorded], view).map(({ endNumber }) => endNumber);
  const top = ends.reduce<bigint>((highest, end) => end > highest ? end : highest, begin);
  const holes: SegmentRun[] = [];
  for (let next = endOfCover(begin, filled); next < top;) {
    const after = filled.reduce<bigint>(
      (lowest, { firstNumber }) => firstNumber > next && firstNumber < lowest ? firstNumber : lowest,
      top,
    );
    const hole = { firstNumber: next, endNumber: after as SegmentNumber };
    holes.push(...byTimeline(hole, { lineage, segmentSize }));
    next = endOfCover(hole.endNumber, filled);
  }
  return holes;
}

/**
 * What is missing on a lineage below a segment, lowest first, each of one timeline: every hole above the archive's first
 * byte there, and what is recorded to be missing. What is not received yet, from that segment on, is no part of it,
 * whatever stands behind it already; nor is what lies before the archive's first byte: a gap that was healed, and later
 * removed with all that is old, is none any more.
 *
 * What one record or acceptance tells of and the next one does not is kept apart.
 */
export function missingBelow(
  view: LineageView,
  endNumber: SegmentNumber,
  kind: HoleKind,
): readonly SegmentRun[] {
  const { contents: { runs, gaps } } = view;
  const begin = beginOnLineage(view);
  const told = onLineage([...gaps.recorded, ...gaps.accepted], view);
  const asked = [...told, ...(begin === undefined ? [] : [{ firstNumber: begin, endNumber }])];
  const filled = onLineage(kind === "all" ? runs : [...runs, ...gaps.accepted], view);
  const bounds = [...asked, ...filled].flatMap((range) => [range.firstNumber, range.endNumber]);
  const ordered = [...new Set([...bounds, endNumber])].filter((number) => number <= endNumber)
    .sort((a, b) => a < b ? -1 : a > b ? 1 : 0);
  return ordered.slice(1).flatMap((end, index) => {
    const piece = { firstNumber: ordered[index]!, endNumber: end };
    const covers = (range: Omit<SegmentRun, "timeline">) =>
      range.firstNumber <= piece.firstNumber && piece.endNumber <= range.endNumber;
    const isBefore = begin !== undefined && piece.firstNumber < begin;
    return !isBefore && asked.some(covers) && !filled.some(covers) ? byTimeline(piece, view) : [];
  });
}

/** What of some segments of a lineage is neither here nor recorded to be missing, lowest first. */
export function missingWithin(
  view: LineageView,
  { firstNumber, endNumber }: Omit<SegmentRun, "timeline">,
): readonly SegmentRun[] {
  const { contents: { runs, gaps } } = view;
  const known = onLineage([...runs, ...gaps.recorded], view);
  const missing: SegmentRun[] = [];
  for (let next = endOfCover(firstNumber, known); next < endNumber;) {
    const after = known.reduce<bigint>(
      (lowest, { firstNumber: first }) => first > next && first < lowest ? first : lowest,
      endNumber,
    ) as SegmentNumber;
    missing.push(...byTimeline({ firstNumber: next, endNumber: after }, view));
    next = endOfCover(after, known);
  }
  return missing;
}

/** The numbers of some segments, one after the other. */
export function* numbersOf(
  { firstNumber, endNumber }: Omit<SegmentRun, "timeline">,
  order: "up" | "down" = "up",
): Iterable<SegmentNumber> {
  for (let left = endNumber - firstNumber; left > 0n; left--) {
    yield (order === "up" ? endNumber - left : firstNumber + left - 1n) as SegmentNumber;
  }
}

/** The same segments by timeline, lowest first; what overlaps or touches is one. */
export function joinedRuns(ranges: readonly SegmentRun[]): readonly SegmentRun[] {
  const runs: SegmentRun[] = [];
  const ordered = [...ranges].sort((a, b) =>
    a.timeline - b.timeline || (a.firstNumber < b.firstNumber ? -1 : a.firstNumber > b.firstNumber ? 1 : 0)
  );
  for (const range of ordered) {
    const last = runs.at(-1);
    if (last === undefined || last.timeline !== range.timeline || last.endNumber < range.firstNumber) {
      runs.push(range);
    } else if (last.endNumber < range.endNumber) {
      runs[runs.length - 1] = { ...last, endNumber: range.endNumber };
    }
  }
  return runs;
}

/** What of these segments is in none of the ranges, lowest first. */
export function withoutRuns(run: SegmentRun, ranges: readonly SegmentRun[]): readonly SegmentRun[] {
  return ranges.reduce<readonly SegmentRun[]>((parts, range) =>
    parts.flatMap((part) => {
      if (!overlap(part, range)) return [part];
      const below = { ...part, endNumber: range.firstNumber };
      const above = { ...part, firstNumber: range.endNumber };
      return [below, above].filter(({ firstNumber, endNumber }) => firstNumber < endNumber);
    }), [run]);
}

/** Whether a segment is in both. */
export function overlap(one: SegmentRun, other: SegmentRun): boolean {
  return one.timeline === other.timeline && one.firstNumber < other.endNumber &&
    other.firstNumber < one.endNumber;
}

/** Some segments of a lineage, as the timelines have them whose files they are in. */
export function byTimeline(
  { firstNumber, endNumber }: Omit<SegmentRun, "timeline">,
  { lineage, segmentSize: size }: Pick<LineageView, "lineage" | "segmentSize">,
): readonly SegmentRun[] {
  const parts: SegmentRun[] = [];
  for (let first = firstNumber; first < endNumber;) {
    const timeline = timelineOfSegment(lineage, first, size);
    const last = endSegmentOf(lineage, timeline, size);
    const end = last !== undefined && last < endNumber ? last : endNumber;
    parts.push({ timeline, firstNumber: first, endNumber: end });
    first = end;
  }
  return parts;
}

/**
 * Where the archive begins on a lineage: the first segment there of which it has something, complete or not, also one
 * that was left for a newer timeline inside it.
 *
 * What was begun counts as much as what is complete: it was received, so what comes behind it was to follow, and what
 * `push` brings further on is no reason to pass over that.
 */
function beginOnLineage({ contents, lineage, segmentSize: size }: LineageView): SegmentNumber | undefined {
  const complete = contents.runs.map(({ timeline, firstNumber }) => ({ timeline, number: firstNumber }));
  return least([...complete, ...contents.unfinished].filter((held) => beginsOnLineage(held, lineage, size)));
}

function least(segments: readonly { readonly number: SegmentNumber }[]): SegmentNumber | undefined {
  return segments.reduce<SegmentNumber | undefined>(
    (lowest, { number }) => lowest === undefined || number < lowest ? number : lowest,
    undefined,
  );
}

/** The first segment from `begin` on that is in none of the ranges. */
function endOfCover(begin: SegmentNumber, ranges: readonly SegmentRun[]): SegmentNumber {
  let next = begin;
  for (const range of ranges) {
    if (range.firstNumber > next) break;
    if (range.endNumber > next) next = range.endNumber;
  }
  return next;
}

/** The parts of these ranges whose files belong to the lineage, by their first number. */
export function onLineage(
  ranges: readonly SegmentRun[],
  { lineage, segmentSize: size }: Pick<LineageView, "lineage" | "segmentSize">,
): readonly SegmentRun[] {
  // One or none of each, since a timeline's part of the lineage is one piece.
  return ranges.flatMap((range) => partOnLineage(range, lineage, size)).sort((a, b) =>
    a.firstNumber < b.firstNumber ? -1 : a.firstNumber > b.firstNumber ? 1 : 0
  );
}

function partOnLineage(range: SegmentRun, lineage: TimelineHistory, size: SegmentSize): SegmentRun[] {
  const first = firstSegmentOf(lineage, range.timeline, size);
  const end = endSegmentOf(lineage, range.timeline, size);
  if (first === undefined) return [];
  const firstNumber = range.firstNumber > first ? range.firstNumber : first;
  const endNumber = end !== undefined && end < range.endNumber ? end : range.endNumber;
  return firstNumber < endNumber ? [{ timeline: range.timeline, firstNumber, endNumber }] : [];
}

/** Whether a timeline's file of this segment begins with bytes of the lineage, whatever it ends with. */
function beginsOnLineage(
  { timeline, number }: { readonly timeline: TimelineId; readonly number: SegmentNumber },
  lineage: TimelineHistory,
  size: SegmentSize,
): boolean {
  const first = firstSegmentOf(lineage, timeline, size);
  if (first === undefined || number < first) return false;
  const leftAtLsn = switchPointOf(lineage, timeline);
  return leftAtLsn === undefined || segmentStart(number, size) < leftAtLsn;
}

/** The first segment whose file is of that timeline; `undefined` when the timeline is not in the lineage. */
function firstSegmentOf(
  lineage: TimelineHistory,
  timeline: TimelineId,
  size: SegmentSize,
): SegmentNumber | undefined {
  const index = lineage.entries.findIndex((entry) => entry.timeline === timeline);
  if (index === -1 && timeline !== lineage.timeline) return undefined;
  const before = index === -1 ? lineage.entries.at(-1) : lineage.entries[index - 1];
  return before === undefined ? 0n as SegmentNumber : segmentNumberAt(before.endLsn, size);
}

/** The first segment whose file is of a later timeline; `undefined` for the lineage's own. */
function endSegmentOf(
  lineage: TimelineHistory,
  timeline: TimelineId,
  size: SegmentSize,
): SegmentNumber | undefined {
  const entry = lineage.entries.find((ancestor) => ancestor.timeline === timeline);
  return entry === undefined ? undefined : segmentNumberAt(entry.endLsn, size);
}
