import { formatLsn, type Lsn } from "../wal/lsn.ts";
import type { PageHeader } from "../wal/page.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { ArchiveIdentity } from "./identity.ts";

/** Where a segment belongs, by its name and its archive. */
export interface SegmentPlace {
  readonly identity: ArchiveIdentity;
  readonly startLsn: Lsn;
  readonly timeline: TimelineId;
  /** The timelines that `timeline` came from; `undefined` when its history is not known. */
  readonly ancestors: readonly TimelineId[] | undefined;
}

/** Why a segment's first page cannot be the first one of this segment of this cluster; `undefined` when it can (P5). */
export function firstPageProblem(header: PageHeader, place: SegmentPlace): string | undefined {
  const { systemIdentifier, segmentSize } = place.identity;
  if (header.pageLsn !== place.startLsn) {
    return `page address ${formatLsn(header.pageLsn)}, want ${formatLsn(place.startLsn)}`;
  }
  if (!header.isLong) {
    return `its first page has no long header, want one at ${formatLsn(place.startLsn)}`;
  }
  if (header.systemIdentifier !== systemIdentifier) {
    return `system identifier ${header.systemIdentifier}, want ${systemIdentifier}`;
  }
  if (header.segmentBytes !== Number(segmentSize)) {
    return `segments of ${header.segmentBytes} bytes, want ${segmentSize}`;
  }
  return timelineProblem(header.timeline, place);
}

/** A new timeline's first segment begins with pages of the one before. */
function timelineProblem(pageTimeline: number, { timeline, ancestors }: SegmentPlace): string | undefined {
  if (pageTimeline === timeline) return undefined;
  if (ancestors === undefined) {
    if (pageTimeline > 0 && pageTimeline < timeline) return undefined;
    return `a page of timeline ${pageTimeline}, want ${timeline} or an earlier one`;
  }
  if (ancestors.some((ancestor) => ancestor === pageTimeline)) return undefined;
  return `a page of timeline ${pageTimeline}, want ${timeline} or an ancestor of it`;
}
