import { type CompressionFormat, FORMAT_OF_FORM } from "../archive/compression_format.ts";
import {
  IN_PROGRESS_DIRECTORY,
  parseArchiveName,
  parseBroughtName,
  parseInProgressName,
} from "../archive/layout.ts";
import { parseSegmentName, type SegmentNumber, type SegmentSize } from "../wal/segment.ts";
import { parseHistoryFileName, type TimelineId, timelineId } from "../wal/timeline.ts";

/** A segment that a name stands for. */
export interface NamedSegment {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
}

/** A file that holds the beginning of a segment. */
export interface UnfinishedFile extends NamedSegment {
  /** Below the archive's root. */
  readonly path: string;
  /** `undefined`: as the server wrote it. */
  readonly format: CompressionFormat | undefined;
}

/** What the names in an archive say. */
export interface Stock {
  readonly published: readonly NamedSegment[];
  readonly unfinished: readonly UnfinishedFile[];
  readonly histories: readonly TimelineId[];
  /** Of segments about which nothing else is known, as nobody can tell their size. */
  readonly timelines: readonly TimelineId[];
  /** Base backups that were made, by the labels that a server archives. */
  readonly labels: readonly LabelledBackup[];
}

/** A base backup, as its label's name tells. */
export interface LabelledBackup extends NamedSegment {
  /** From the segment's start to where it began. */
  readonly offset: number;
}

/** Names of WAL, whatever the segment size: of those a directory of `pg_receivewal` holds at least one. */
const WAL_NAME =
  /^(?:[0-9A-F]{24}(?:\.(?:gz|lz4|zst))?(?:\.partial(?:\.saved-[1-9][0-9]*)?)?|[0-9A-F]{8}\.history)$/;
/** `walvault as pg_receivewal` moves aside what it had when it comes back. */
const PARTIAL_NAME = /^([0-9A-F]{24})(\.gz|\.lz4|\.zst)?\.partial(?:\.saved-[1-9][0-9]*)?$/;

/** Whether a name could be one of a directory that `pg_receivewal` fills. */
export function isWalName(name: string): boolean {
  return WAL_NAME.test(name);
}

/** Takes stock of an archive, or of a directory that `pg_receivewal` fills, by the names in it. */
export function takeStock(
  names: { readonly root: readonly string[]; readonly inProgress: readonly string[] },
  size: SegmentSize,
): Stock {
  const published: NamedSegment[] = [];
  const unfinished: UnfinishedFile[] = [];
  const histories: TimelineId[] = [];
  const labels: LabelledBackup[] = [];
  for (const name of names.inProgress) {
    const parsed = parseInProgressName(name, size);
    if (parsed === undefined) continue;
    const { timeline, number } = parsed;
    unfinished.push({ timeline, number, path: `${IN_PROGRESS_DIRECTORY}/${name}`, format: undefined });
  }
  for (const name of names.root) {
    const partial = PARTIAL_NAME.exec(name);
    if (partial === null) {
      const parsed = parseArchiveName(name, size);
      if (parsed.kind === "segment") published.push(parsed);
      else if (parsed.kind === "history") histories.push(parsed.timeline);
      else {
        const label = parseBroughtName(name);
        const segment = label?.kind === "backup label" ? parseSegmentName(label.segment, size) : undefined;
        if (label?.kind === "backup label" && segment !== undefined) {
          labels.push({ ...segment, offset: label.offset });
        }
      }
      continue;
    }
    const segment = parseSegmentName(partial[1] ?? "", size);
    const form = partial[2] as keyof typeof FORMAT_OF_FORM | undefined;
    if (segment === undefined) continue;
    unfinished.push({
      ...segment,
      path: name,
      format: form === undefined ? undefined : FORMAT_OF_FORM[form],
    });
  }
  return { published, unfinished, histories, labels, timelines: [] };
}

/** Takes stock where nobody can tell the size of the segments. */
export function takeStockWithoutSize(root: readonly string[]): Stock {
  const histories: TimelineId[] = [];
  const timelines = new Set<TimelineId>();
  for (const name of root) {
    const history = parseHistoryFileName(name);
    if (history !== undefined) histories.push(history);
    else if (isWalName(name) && !name.startsWith("00000000")) {
      timelines.add(timelineId(parseInt(name.slice(0, 8), 16)));
    }
  }
  return { published: [], unfinished: [], histories, labels: [], timelines: [...timelines] };
}
