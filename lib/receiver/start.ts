import { emptyHistory, parseHistory, type TimelineHistory } from "../wal/history.ts";
import {
  firstMissingSegment,
  type HoleKind,
  type LineageView,
  missingBelow,
  overlap,
  type SegmentRun,
  timelineOfSegment,
  unprovenBelow,
} from "../wal/lineage.ts";
import type { Lsn } from "../wal/lsn.ts";
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
import type { ArchiveContents } from "./wal_archive.ts";

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

/** The newest timeline that an archive knows of; `undefined` when it is empty. */
export function newestTimeline(contents: ArchiveContents): TimelineId | undefined {
  const all = [...contents.runs, ...contents.histories, ...contents.unfinished];
  return all.reduce<TimelineId | undefined>(
    (newest, { timeline }) => newest === undefined || timeline > newest ? timeline : newest,
    undefined,
  );
}

/** A timeline's past, as far as an archive tells it. @throws {SyntaxError} on a history that can't be right. */
export function lineageIn({ histories }: ArchiveContents, timeline: TimelineId): TimelineHistory {
  const own = histories.find((history) => history.timeline === timeline);
  return own === undefined ? emptyHistory(timeline) : parseHistory(timeline, own.bytes);
}

/** An ancestor of whose WAL the archive has more than the lineage took over. */
export interface BeyondFork {
  readonly timeline: TimelineId;
  /** Where the lineage left that timeline. */
  readonly forkLsn: Lsn;
  /** Where its WAL ends here. */
  readonly archiveEndLsn: Lsn;
}

/** Segments of ancestors that are not complete, and of which more may be here than the lineage took over. */
export function unfinishedBeyondForks(
  { contents, lineage, segmentSize: size }: Pick<StartFacts, "contents" | "lineage" | "segmentSize">,
): ArchiveContents["unfinished"] {
  return lineage.entries.flatMap(({ timeline, endLsn: forkLsn }) =>
    contents.unfinished.filter((segment) =>
      segment.timeline === timeline && segmentEnd(segment.number, size) > forkLsn
    )
  );
}

/** What the archive has of ancestors past the forks: transactions that the promoted server never saw. */
export function beyondForks(
  { contents, lineage, segmentSize: size }: Pick<StartFacts, "contents" | "lineage" | "segmentSize">,
  /** Where valid WAL ends in those of `unfinishedBeyondForks`. */
  unfinishedEnds: readonly { readonly timeline: TimelineId; readonly endLsn: Lsn }[],
): readonly BeyondFork[] {
  return lineage.entries.flatMap(({ timeline, endLsn: forkLsn }) => {
    const ends = [
      ...contents.runs.filter((run) => run.timeline === timeline)
        .map((run) => segmentStart(run.endNumber, size)),
      ...unfinishedEnds.filter((end) => end.timeline === timeline).map(({ endLsn }) => endLsn),
    ];
    const archiveEndLsn = ends.reduce((last, end) => end > last ? end : last, forkLsn);
    return archiveEndLsn > forkLsn ? [{ timeline, forkLsn, archiveEndLsn }] : [];
  });
}

/** What is missing below an LSN, a segment's start. */
export function gapsBelow(view: LineageView, startLsn: Lsn, kind: HoleKind): readonly SegmentRun[] {
  return missingBelow(view, segmentNumberAt(startLsn, view.segmentSize), kind);
}

/** What was recorded to be missing below an LSN, a segment's start, and is here by name; nobody has proven it yet. */
export function namedBelow(view: LineageView, startLsn: Lsn): readonly SegmentRun[] {
  return unprovenBelow(view, segmentNumberAt(startLsn, view.segmentSize));
}

/** A line of the gap ledger that something is to count on. */
export interface LedgerClaim {
  readonly kind: "recorded" | "accepted";
  readonly run: SegmentRun;
}

/**
 * What the ledger tells of segments that are not here, below where receiving begins.
 *
 * Whoever wrote it may have been killed before it was durable; that something stands behind it proves nothing, since
 * `push` may have brought that.
 */
export function claimsBelow(view: LineageView, startLsn: Lsn): readonly LedgerClaim[] {
  const { recorded, accepted } = view.contents.gaps;
  const missing = gapsBelow(view, startLsn, "all");
  const count = (kind: LedgerClaim["kind"], runs: readonly SegmentRun[]) =>
    runs.filter((run) => missing.some((gap) => overlap(gap, run))).map((run) => ({ kind, run }));
  return [...count("recorded", recorded), ...count("accepted", accepted)];
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
