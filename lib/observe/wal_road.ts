import { isInLineage, switchPointOf, type TimelineHistory } from "../wal/history.ts";
import type { Lsn } from "../wal/lsn.ts";
import {
  segmentEnd,
  segmentName,
  type SegmentNumber,
  type SegmentSize,
  segmentStart,
} from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";

/** A segment as a file's name tells. */
export interface FoundSegment {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
}

/** What an archive's names tell of its WAL. */
export interface FoundWal {
  readonly published: readonly FoundSegment[];
  /** Files that hold the beginning of a segment; of one segment there may be several. */
  readonly unfinished: readonly (FoundSegment & { readonly path: string })[];
}

/** A segment that recovery along a timeline reads. */
export interface RoadSegment extends FoundSegment {
  /** 24 digits. */
  readonly name: string;
  readonly startLsn: Lsn;
  /** The files that hold the beginning of it; `undefined` when it is published. */
  readonly unfinished: readonly string[] | undefined;
  /** Records from here on are not of this road: the timeline was left here for the next. */
  readonly limitLsn: Lsn | undefined;
}

/** Segments that follow each other without a hole. */
export interface RoadRun {
  readonly segments: readonly RoadSegment[];
  readonly startLsn: Lsn;
  /** The first byte after the last segment, whatever of it is there. */
  readonly endLsn: Lsn;
}

/**
 * The WAL that recovery to the end of a timeline reads, in the runs that the holes leave of it.
 *
 * Of a segment that two timelines share, it reads the newer one's file, which begins with the older one's bytes; the
 * older one's only where that is not there. An unfinished file counts where nothing of its timeline is published behind
 * it: it is delivered as the tail only.
 */
export function planRoad(found: FoundWal, history: TimelineHistory, size: SegmentSize): readonly RoadRun[] {
  const best = new Map<SegmentNumber, RoadSegment>();
  const offer = ({ timeline, number }: FoundSegment, unfinished: readonly string[] | undefined) => {
    if (!isInLineage(history, timeline)) return;
    const startLsn = segmentStart(number, size);
    const switchLsn = switchPointOf(history, timeline);
    if (switchLsn !== undefined && switchLsn <= startLsn) return;
    const known = best.get(number);
    if (known !== undefined && known.timeline >= timeline) return;
    const isLimited = switchLsn !== undefined && switchLsn < startLsn + BigInt(size);
    best.set(number, {
      timeline,
      number,
      name: segmentName(timeline, number, size),
      startLsn,
      unfinished,
      limitLsn: isLimited ? switchLsn : undefined,
    });
  };
  const lastPublished = new Map<TimelineId, SegmentNumber>();
  for (const segment of found.published) {
    offer(segment, undefined);
    const last = lastPublished.get(segment.timeline);
    if (last === undefined || segment.number > last) lastPublished.set(segment.timeline, segment.number);
  }
  for (const [key, files] of filesBySegment(found.unfinished)) {
    const last = lastPublished.get(key.timeline);
    if (last === undefined || key.number > last) offer(key, files);
  }
  const segments = [...best.values()].sort((a, b) => a.number < b.number ? -1 : 1);
  return joinSegments(segments, size);
}

function filesBySegment(
  unfinished: FoundWal["unfinished"],
): readonly (readonly [FoundSegment, readonly string[]])[] {
  const files = new Map<string, [FoundSegment, string[]]>();
  for (const file of unfinished) {
    const key = `${file.timeline} ${file.number}`;
    const known = files.get(key);
    if (known === undefined) files.set(key, [file, [file.path]]);
    else known[1].push(file.path);
  }
  return [...files.values()];
}

function joinSegments(segments: readonly RoadSegment[], size: SegmentSize): readonly RoadRun[] {
  const runs: RoadSegment[][] = [];
  for (const segment of segments) {
    const last = runs.at(-1)?.at(-1);
    // Between where the timeline was left and the end of that segment, WAL of the next one is missing.
    const joins = last !== undefined && last.number + 1n === segment.number && last.limitLsn === undefined;
    if (joins) runs.at(-1)?.push(segment);
    else runs.push([segment]);
  }
  return runs.map((run) => {
    const first = run[0]!;
    const last = run.at(-1)!;
    return {
      segments: run,
      startLsn: first.startLsn,
      endLsn: last.limitLsn ?? segmentEnd(last.number, size),
    };
  });
}
