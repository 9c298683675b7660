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
    /** Complete and proven once, whether it still is here or was removed since with all that is old. */
    readonly healed: readonly SegmentRun[];
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
 * complete segment or recorded gap, and what `missingBelow` tells of before that.
 */
export function holesOnLineage(view: LineageView, kind: HoleKind): readonly SegmentRun[] {
  const { contents: { runs, gaps } } = view;
  const ends = onLineage([...runs, ...gaps.recorded], view).map(({ endNumber }) => endNumber);
  const top = ends.reduce<bigint>((highest, end) => end > highest ? end : highest, 0n) as SegmentNumber;
  return joinedRuns(missingBelow(view, top, kind));
}

/**
 * What is missing on a lineage below a segment, lowest first, each of one timeline: every hole above the archive's first
 * byte there, and what is recorded to be missing. What is not received yet, from that segment on, is no part of it,
 * whatever stands behind it already.
 *
 * Of what lies before the archive's first byte only that counts which was never seen to be healed: a gap that was, and
 * was later removed with all that is old, is none any more. What one record or acceptance tells of and the next one does
 * not is kept apart.
 */
export function missingBelow(
  view: LineageView,
  endNumber: SegmentNumber,
  kind: HoleKind,
): readonly SegmentRun[] {
  const { contents: { runs, gaps } } = view;
  const begin = beginOnLineage(view);
  const told = onLineage([...gaps.recorded, ...gaps.accepted], view);
  const healed = onLineage(gaps.healed, view);
  const asked = [...told, ...(begin === undefined ? [] : [{ firstNumber: begin, endNumber }])];
  const filled = onLineage(kind === "all" ? runs : [...runs, ...gaps.accepted], view);
  return piecesBelow(endNumber, [...asked, ...filled, ...healed]).flatMap((piece) => {
    const isBefore = begin === undefined || piece.firstNumber < begin;
    const isGone = isBefore && covers(healed, piece);
    return covers(asked, piece) && !covers(filled, piece) && !isGone ? byTimeline(piece, view) : [];
  });
}

/**
 * What was recorded to be missing on a lineage below a segment and is here by name, though nobody has proven it yet,
 * lowest first, each of one timeline.
 */
export function unprovenBelow(view: LineageView, endNumber: SegmentNumber): readonly SegmentRun[] {
  const { contents: { runs, gaps } } = view;
  const [recorded, here] = [onLineage(gaps.recorded, view), onLineage(runs, view)];
  const settled = onLineage([...gaps.healed, ...gaps.accepted], view);
  const pieces = piecesBelow(endNumber, [...recorded, ...here, ...settled]).filter((piece) =>
    covers(recorded, piece) && covers(here, piece) && !covers(settled, piece)
  );
  return joinedRuns(pieces.flatMap((piece) => byTimeline(piece, view)));
}

/**
 * Segments that a lineage's begin can be told from when what is old is removed some day: the first ones behind what was
 * only begun, and is left over since something complete stands in its place or behind a gap there, or is to come there: the
 * end of a timeline and the start of a gap are never received again.
 *
 * Once they are known to have been here, what was begun before them is no reason to receive from there on.
 */
export function passedBegins(view: LineageView): readonly SegmentRun[] {
  const { contents: { runs, unfinished, gaps }, lineage, segmentSize: size } = view;
  const here = onLineage(runs, view);
  const healed = onLineage(gaps.healed, view);
  const begun = unfinished.filter((held) => beginsOnLineage(held, lineage, size));
  return joinedRuns(begun.flatMap(({ timeline, number }) => {
    const firstNumber = behindGap(number, view);
    const piece = { firstNumber, endNumber: firstNumber + 1n as SegmentNumber };
    const isReceivedAgain = firstNumber === number && timelineOfSegment(lineage, number, size) === timeline;
    const isLeftOver = !isReceivedAgain || covers(here, piece);
    return isLeftOver && !covers(healed, piece) ? byTimeline(piece, view) : [];
  }));
}

/** The ranges' pieces below a segment: each is as a whole in or out of every one of them. */
function piecesBelow(
  endNumber: SegmentNumber,
  ranges: readonly Omit<SegmentRun, "timeline">[],
): readonly Omit<SegmentRun, "timeline">[] {
  const bounds = new Set([...ranges.flatMap((range) => [range.firstNumber, range.endNumber]), endNumber]);
  const ordered = [...bounds].filter((number) => number <= endNumber)
    .sort((a, b) => a < b ? -1 : a > b ? 1 : 0);
  return ordered.slice(1).map((end, index) => ({ firstNumber: ordered[index]!, endNumber: end }));
}

function covers(
  ranges: readonly Omit<SegmentRun, "timeline">[],
  piece: Omit<SegmentRun, "timeline">,
): boolean {
  return ranges.some(({ firstNumber, endNumber }) =>
    firstNumber <= piece.firstNumber && piece.endNumber <= endNumber
  );
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
 * `push` brings further on is no reason to pass over that. Only where what follows it is known to have been here it is
 * left over from before older segments were removed: to begin there would ask for WAL that nobody has any more.
 */
function beginOnLineage(view: LineageView): SegmentNumber | undefined {
  const { contents: { runs, unfinished, gaps }, lineage, segmentSize: size } = view;
  const isHeld = (segment: Parameters<typeof beginsOnLineage>[0]) => beginsOnLineage(segment, lineage, size);
  const complete = runs.map(({ timeline, firstNumber }) => ({ timeline, number: firstNumber })).filter(
    isHeld,
  );
  const begun = unfinished.filter(isHeld);
  const healed = onLineage(gaps.healed, view);
  const isPassed = (number: SegmentNumber) => {
    const firstNumber = behindGap(number, view);
    return covers(healed, { firstNumber, endNumber: firstNumber + 1n as SegmentNumber });
  };
  return least([...complete, ...begun.filter(({ number }) => !isPassed(number))]) ?? least(begun);
}

/** The first segment from this one on that is in no recorded gap. */
function behindGap(number: SegmentNumber, view: LineageView): SegmentNumber {
  const { recorded, accepted } = view.contents.gaps;
  return endOfCover(number, onLineage([...recorded, ...accepted], view));
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
