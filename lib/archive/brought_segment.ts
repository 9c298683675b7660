import type { TimelineHistory } from "../wal/history.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { SegmentScan } from "../wal/scanner.ts";
import type { SegmentNumber, SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Acceptance } from "./acceptance.ts";
import type { DiskFile } from "./disk.ts";
import { type PublishedSegment, type SegmentForm, withPublished } from "./published.ts";
import { differenceOf } from "./segment_bytes.ts";

/** A segment on its way into the archive. */
export interface BroughtSegment {
  readonly acceptance: Acceptance;
  /** The name of the segment, without what tells that it is a partial one. */
  readonly segment: string;
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  readonly startLsn: Lsn;
  readonly lineage: TimelineHistory | undefined;
  /** A server calls it partial: it never gets its own name, whatever it holds. */
  readonly partial: boolean;
  readonly source: DiskFile;
  /** What `inprogress/` has of this segment. */
  readonly unfinished: readonly string[];
}

/** A segment written under its temporary name, and synced. */
export interface WrittenSegment extends BroughtSegment {
  /** Holds its own bytes: the temporary file, or where that is compressed the one that was brought. */
  readonly file: DiskFile;
  readonly scan: SegmentScan;
  /** How the temporary file stores it. */
  readonly form: SegmentForm;
}

/** The published segment of the same name, beside the one that was brought. */
export interface Comparison {
  readonly path: string;
  /** Offset of the first byte that differs. */
  readonly difference: number | undefined;
}

/** Holds a segment against the published one of its name, in whatever form; `undefined` when there is none. */
export async function compareWithPublished(
  { acceptance, segment }: BroughtSegment,
  file: DiskFile,
): Promise<Comparison | undefined> {
  const { archive: { disk }, identity: { segmentSize } } = acceptance;
  return await withPublished(
    disk,
    { name: segment, segmentSize },
    (published) => comparisonOf(published, { file, segmentSize }),
  );
}

/** Holds a segment against a published one that is open. */
export async function comparisonOf(
  { path, readThrough }: PublishedSegment,
  own: { readonly file: DiskFile; readonly segmentSize: SegmentSize },
): Promise<Comparison> {
  const { difference, bytes } = await differenceOf(readThrough, own.file);
  const atEnd = bytes === Number(own.segmentSize) ? undefined : Math.min(bytes, own.segmentSize);
  return { path, difference: difference ?? atEnd };
}
