import { parseSegmentName, type SegmentNumber, type SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { type CompressionFormat, FORMAT_OF_FORM } from "./compression_format.ts";
import type { NamedEntry } from "./disk.ts";

/** A file that holds WAL where `pg_receivewal` keeps it. */
export interface PlainFile {
  readonly entry: NamedEntry;
  /** The segment's own, without what tells its form. */
  readonly segment: string;
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  readonly format: CompressionFormat | undefined;
  readonly isPartial: boolean;
}

/** Takes the name of a WAL file apart; `undefined` for any other, and for what is no file. */
export function parsePlainFile(entry: NamedEntry, size: SegmentSize): PlainFile | undefined {
  const [, segment = "", form, partial] =
    /^([0-9A-F]{24})(\.gz|\.lz4|\.zst)?(\.partial)?$/.exec(entry.name) ??
      [];
  const parsed = parseSegmentName(segment, size);
  if (parsed === undefined || entry.kind !== "file") return undefined;
  const format = form === undefined ? undefined : FORMAT_OF_FORM[form as keyof typeof FORMAT_OF_FORM];
  return { entry, segment, ...parsed, format, isPartial: partial !== undefined };
}

/** As `pg_receivewal` orders them: the highest number decides, then the timeline, and complete before partial. */
export function newestFirst(files: readonly PlainFile[]): readonly PlainFile[] {
  return [...files].sort((a, b) => {
    if (a.number !== b.number) return a.number < b.number ? 1 : -1;
    if (a.timeline !== b.timeline) return b.timeline - a.timeline;
    return Number(a.isPartial) - Number(b.isPartial);
  });
}
