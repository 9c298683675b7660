import { switchPointOf, timelineAt, type TimelineHistory } from "../wal/history.ts";
import { type Lsn, lsn } from "../wal/lsn.ts";
import {
  segmentEnd,
  segmentFloor,
  type SegmentNumber,
  segmentNumberAt,
  type SegmentSize,
  segmentStart,
} from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { SlotPosition } from "../protocol/replication.ts";
import type { ArchiveContents, SegmentRun } from "./wal_archive.ts";

/** What the decision is made from. */
export interface StartFacts {
  readonly contents: ArchiveContents;
  /** The server's timeline and its ancestors. */
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
  /** The server's own end of WAL. */
  readonly serverFlushLsn: Lsn;
  /** `undefined` without a slot. */
  readonly slot: SlotPosition | undefined;
}

/** Where to begin. */
export type StartPlan =
  | {
    readonly kind: "start";
    readonly timeline: TimelineId;
    /** A segment's start. */
    readonly startLsn: Lsn;
    /** What decided: the archive's own end, the slot's position, or only where the server stands now. */
    readonly origin: "archive" | "slot" | "server";
  }
  /** The archive has seen a newer timeline than this server is on: it is an old primary, or a standby that lags. */
  | { readonly kind: "old-timeline"; readonly archiveTimeline: TimelineId }
  /** The server's WAL ends before the archive's. */
  | { readonly kind: "server-behind"; readonly startLsn: Lsn; readonly timeline: TimelineId };

/** The timeline whose file holds segment `number` on a lineage: that of the segment's last byte. */
export function timelineOfSegment(
  lineage: TimelineHistory,
  number: SegmentNumber,
  size: SegmentSize,
): TimelineId {
  return timelineAt(lineage, lsn(segmentEnd(number, size) - 1n));
}

/** The newest timeline that an archive knows of; `undefined` when it is empty. */
export function newestTimeline(contents: ArchiveContents): TimelineId | undefined {
  const all = [...contents.runs, ...contents.histories, ...contents.unfinished];
  return all.reduce<TimelineId | undefined>(
    (newest, { timeline }) => newest === undefined || timeline > newest ? timeline : newest,
    undefined,
  );
}

/**
 * The segment of the first byte missing on a lineage: above the archive's first byte there, below the first hole.
 *
 * `undefined` when the archive has nothing on that lineage.
 */
export function firstMissingSegment(
  facts: Pick<StartFacts, "contents" | "lineage" | "segmentSize">,
): SegmentNumber | undefined {
  const { contents, lineage, segmentSize: size } = facts;
  const runs = contents.runs.flatMap((run) => onLineage(run, lineage, size)).sort((a, b) =>
    a.firstNumber < b.firstNumber ? -1 : a.firstNumber > b.firstNumber ? 1 : 0
  );
  const begin = beginOnLineage(facts);
  if (begin === undefined) return undefined;
  let next = begin;
  for (const run of runs) {
    if (run.firstNumber > next) break;
    if (run.endNumber > next) next = run.endNumber;
  }
  return next;
}

/**
 * Where the archive begins on a lineage: its first complete segment there, also one that was left for a newer timeline
 * inside it.
 *
 * Unfinished ones count where there is no complete one, or where they lead up to it without a hole. Others are left
 * over from before older segments were removed: to begin there would ask for WAL that nobody has any more.
 */
function beginOnLineage(
  { contents, lineage, segmentSize: size }: Pick<StartFacts, "contents" | "lineage" | "segmentSize">,
): SegmentNumber | undefined {
  const unfinished = contents.unfinished.filter((segment) => beginsOnLineage(segment, lineage, size));
  const complete = contents.runs
    .map(({ timeline, firstNumber }) => ({ timeline, number: firstNumber }))
    .filter((segment) => beginsOnLineage(segment, lineage, size));
  let begin = least(complete);
  if (begin === undefined) return least(unfinished);
  const leadsUp = ({ timeline, number }: { readonly timeline: TimelineId; readonly number: SegmentNumber }) =>
    begin !== undefined && number === begin - 1n && timelineOfSegment(lineage, number, size) === timeline;
  while (unfinished.some(leadsUp)) begin = begin - 1n as SegmentNumber;
  return begin;
}

function least(segments: readonly { readonly number: SegmentNumber }[]): SegmentNumber | undefined {
  return segments.reduce<SegmentNumber | undefined>(
    (lowest, { number }) => lowest === undefined || number < lowest ? number : lowest,
    undefined,
  );
}

/** An ancestor of whose WAL the archive has more than the lineage took over. */
export interface BeyondFork {
  readonly timeline: TimelineId;
  /** Where the lineage left that timeline. */
  readonly forkLsn: Lsn;
  /** The end of its last complete segment here. */
  readonly archiveEndLsn: Lsn;
}

/** What the archive has of ancestors past the forks: transactions that the promoted server never saw. */
export function beyondForks(
  { contents, lineage, segmentSize: size }: Pick<StartFacts, "contents" | "lineage" | "segmentSize">,
): readonly BeyondFork[] {
  return lineage.entries.flatMap(({ timeline, endLsn: forkLsn }) => {
    const ends = contents.runs.filter((run) => run.timeline === timeline)
      .map((run) => segmentStart(run.endNumber, size));
    const archiveEndLsn = ends.reduce((last, end) => end > last ? end : last, forkLsn);
    return archiveEndLsn > forkLsn ? [{ timeline, forkLsn, archiveEndLsn }] : [];
  });
}

/** The part of a run whose files belong to the lineage; none or one, since a timeline's part of it is one piece. */
function onLineage(run: SegmentRun, lineage: TimelineHistory, size: SegmentSize): SegmentRun[] {
  const first = firstSegmentOf(lineage, run.timeline, size);
  const end = endSegmentOf(lineage, run.timeline, size);
  if (first === undefined) return [];
  const firstNumber = run.firstNumber > first ? run.firstNumber : first;
  const endNumber = end !== undefined && end < run.endNumber ? end : run.endNumber;
  return firstNumber < endNumber ? [{ timeline: run.timeline, firstNumber, endNumber }] : [];
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

/**
 * Decides where receiving begins (P6).
 *
 * The archive's own end always wins. The slot counts only when the archive has nothing on the server's lineage:
 * its position may have moved back, to WAL that is gone, or forward, past WAL that never arrived here.
 */
export function planStart(facts: StartFacts): StartPlan {
  const { contents, lineage, segmentSize: size, slot, serverFlushLsn } = facts;
  const archiveTimeline = newestTimeline(contents);
  if (archiveTimeline !== undefined && archiveTimeline > lineage.timeline) {
    return { kind: "old-timeline", archiveTimeline };
  }
  const missing = firstMissingSegment(facts);
  const at = (number: SegmentNumber) => ({
    timeline: timelineOfSegment(lineage, number, size),
    startLsn: segmentStart(number, size),
  });
  if (missing !== undefined) {
    const start = at(missing);
    if (start.startLsn > serverFlushLsn) return { kind: "server-behind", ...start };
    return { kind: "start", ...start, origin: "archive" };
  }
  if (slot?.restartLsn !== undefined) {
    return {
      kind: "start",
      ...at(segmentNumberAt(segmentFloor(slot.restartLsn, size), size)),
      origin: "slot",
    };
  }
  return { kind: "start", ...at(segmentNumberAt(serverFlushLsn, size)), origin: "server" };
}
