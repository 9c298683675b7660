import type { TimelineHistory } from "../wal/history.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { SegmentScan } from "../wal/scanner.ts";
import type { SegmentNumber } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Acceptance } from "./acceptance.ts";
import type { DiskFile, FileState } from "./disk.ts";
import {
  firstDifferenceFrom,
  type PublishedComparison,
  type SegmentForm,
  withPublished,
} from "./published.ts";

/** A segment on its way into the archive. */
export interface BroughtSegment {
  readonly acceptance: Acceptance;
  /** The name of the segment, without what tells that it is a partial one. */
  readonly segment: string;
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  readonly startLsn: Lsn;
  readonly lineage: TimelineHistory | undefined;
  /** What `lineage` was read from, when the archive has no such file. */
  readonly missingHistory: Uint8Array | undefined;
  /** A server calls it partial: it never gets its own name, whatever it holds. */
  readonly partial: boolean;
  readonly source: DiskFile;
  /** Of the source, before any of it was read. */
  readonly state: FileState;
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

/** Holds a segment against the published one of its name, in whatever form; `undefined` when there is none. */
export async function compareBrought(
  { acceptance, segment }: Pick<BroughtSegment, "acceptance" | "segment">,
  own: {
    readonly file: DiskFile;
    /** All, if it is not given. */
    readonly forms?: readonly SegmentForm[];
  },
): Promise<PublishedComparison | undefined> {
  const { archive: { disk }, identity: { segmentSize } } = acceptance;
  const { file, forms } = own;
  const published = { name: segment, segmentSize, ...(forms === undefined ? {} : { forms }) };
  return await withPublished(disk, published, async (each) => ({
    path: each.path,
    difference: await firstDifferenceFrom(each, file, segmentSize),
  }));
}
