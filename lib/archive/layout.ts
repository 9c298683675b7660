import type { SegmentNumber, SegmentSize } from "../wal/segment.ts";
import { parseSegmentName, segmentName } from "../wal/segment.ts";
import { parseHistoryFileName, type TimelineId } from "../wal/timeline.ts";

/** The name that makes a directory an archive. */
export const IDENTITY_FILE = "archive.json";
/** Held by the one receiver. */
export const LOCK_FILE = "lock";
export const IN_PROGRESS_DIRECTORY = "inprogress";
export const CONFLICTS_DIRECTORY = "conflicts";
/** What is known of WAL that is missing. */
export const GAP_LEDGER_FILE = "gaps.jsonl";
/** A cache: what the segments hold, for `find`, `status` and `verify`. May be removed at will. */
export const INDEX_DIRECTORY = "index";

/** Ends of names under which a complete segment may stand; the plain one first. */
export const SEGMENT_FORMS = ["", ".zst", ".gz", ".lz4"] as const;

/** The forms with a compression. */
export const COMPRESSED_FORMS = [".zst", ".gz", ".lz4"] as const;

/** What file systems and snapshot tools put into any directory; never ours, never in the way. */
const NEUTRAL_NAMES: ReadonlySet<string> = new Set(["lost+found", ".snapshot"]);

const OWN_NAMES: ReadonlySet<string> = new Set([
  IDENTITY_FILE,
  LOCK_FILE,
  IN_PROGRESS_DIRECTORY,
  CONFLICTS_DIRECTORY,
  "backups",
  INDEX_DIRECTORY,
  GAP_LEDGER_FILE,
]);

/** A temporary name beside `name`: a crash may leave it behind, and the next opening removes it. */
export function temporaryName(name: string): string {
  return `${name}.tmp`;
}

/**
 * Where push writes what it is given, before that gets its name. A crash may leave it behind: the next push of the same
 * file removes it, and so does the next receiver.
 */
export function pushedPath(name: string, suffix: string): string {
  return `${IN_PROGRESS_DIRECTORY}/${name}.push-${suffix}`;
}

/** Whether a name of `inprogress/` is what a push wrote; with `name`, what it wrote of that file. */
export function isPushedName(entry: string, name?: string): boolean {
  const brought = /^(.+)\.push-[0-9a-z]+$/.exec(entry)?.[1];
  return brought !== undefined && (name === undefined || brought === name);
}

/** Where the index of a segment stands. */
export function indexPath(name: string): string {
  return `${INDEX_DIRECTORY}/${name}.idx`;
}

/** Where a segment grows. */
export function inProgressPath(name: string): string {
  return `${IN_PROGRESS_DIRECTORY}/${name}`;
}

/** Where what an earlier run received of a segment is kept. */
export function savedPath(name: string, count: number): string {
  return `${IN_PROGRESS_DIRECTORY}/${name}.saved-${count}`;
}

/** Where the compressed form of a published segment is written. */
export function compressingPath(name: string, form: typeof COMPRESSED_FORMS[number]): string {
  return `${IN_PROGRESS_DIRECTORY}/${temporaryName(name + form)}`;
}

/** Whether a name of `inprogress/` is one of `compressingPath`. */
export function isCompressingName(name: string): boolean {
  return /^[0-9A-F]{24}\.(zst|gz|lz4)\.tmp$/.test(name);
}

/** A file of `inprogress/`: which segment, and which saved copy (`undefined`: the growing file itself). */
export interface InProgressName {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  readonly savedCount: number | undefined;
}

/** In `inprogress/`: what was received of a segment, now or by an earlier run. */
const IN_PROGRESS_NAME = /^([0-9A-F]{24})(?:\.saved-([1-9][0-9]{0,8}))?$/;

/** The segment's name in a name of `inprogress/`, where its size is not known; `undefined` for one that is not ours. */
export function segmentInProgress(name: string): string | undefined {
  return IN_PROGRESS_NAME.exec(name)?.[1];
}

/** Takes a name of `inprogress/` apart; `undefined` for one that is not ours. */
export function parseInProgressName(name: string, size: SegmentSize): InProgressName | undefined {
  const match = IN_PROGRESS_NAME.exec(name);
  const segment = match === null ? undefined : parseSegmentName(match[1] ?? "", size);
  if (match === null || segment === undefined) return undefined;
  return { ...segment, savedCount: match[2] === undefined ? undefined : Number(match[2]) };
}

/** What a name in the archive directory stands for. */
export type ArchiveName =
  | { readonly kind: "segment"; readonly timeline: TimelineId; readonly number: SegmentNumber }
  | { readonly kind: "history"; readonly timeline: TimelineId }
  | { readonly kind: "own" }
  | { readonly kind: "temporary" }
  | { readonly kind: "neutral" }
  | { readonly kind: "foreign" };

/** Classifies a name of the archive directory. */
export function parseArchiveName(name: string, size: SegmentSize): ArchiveName {
  for (const form of SEGMENT_FORMS) {
    if (!name.endsWith(form)) continue;
    const segment = parseSegmentName(name.slice(0, name.length - form.length), size);
    if (segment !== undefined) return { kind: "segment", ...segment };
  }
  const timeline = parseHistoryFileName(name);
  if (timeline !== undefined) return { kind: "history", timeline };
  if (/^[0-9A-F]{24}\.[0-9A-F]{8}\.backup$/.test(name)) return { kind: "own" };
  return classifyOther(name);
}

/** Classifies a name without knowing the segment size: before there is an identity. */
export function classifyOther(name: string): ArchiveName {
  if (OWN_NAMES.has(name)) return { kind: "own" };
  if (NEUTRAL_NAMES.has(name)) return { kind: "neutral" };
  if (name === temporaryName(IDENTITY_FILE) || /^[0-9A-F]{8}\.history\.tmp$/.test(name)) {
    return { kind: "temporary" };
  }
  return { kind: "foreign" };
}

/** File name of a segment: 24 upper-case hexadecimal digits. */
export function nameOf(
  segment: { readonly timeline: TimelineId; readonly number: SegmentNumber },
  size: SegmentSize,
): string {
  return segmentName(segment.timeline, segment.number, size);
}

/** A file that a server hands to its archive_command, by its name. */
export type BroughtName =
  /** `partial`: the last one of a timeline that ended, as a new primary hands it over. */
  | { readonly kind: "segment"; readonly segment: string; readonly partial: boolean }
  | { readonly kind: "history"; readonly timeline: TimelineId }
  /** `offset`: bytes from the segment's start to where the backup began. */
  | { readonly kind: "backup label"; readonly segment: string; readonly offset: number };

/** Takes the name of a file for the archive apart; `undefined` for one that no server hands over. */
export function parseBroughtName(name: string): BroughtName | undefined {
  const segment = /^([0-9A-F]{24})(\.partial)?$/.exec(name);
  if (segment !== null) {
    return { kind: "segment", segment: segment[1] ?? "", partial: segment[2] !== undefined };
  }
  const timeline = parseHistoryFileName(name);
  if (timeline !== undefined) return { kind: "history", timeline };
  const label = /^([0-9A-F]{24})\.([0-9A-F]{8})\.backup$/.exec(name);
  if (label === null) return undefined;
  return { kind: "backup label", segment: label[1] ?? "", offset: parseInt(label[2] ?? "", 16) };
}
