import { isInLineage, switchPointOf, type TimelineHistory } from "../../wal/history.ts";
import { type Lsn, lsn } from "../../wal/lsn.ts";
import {
  parseSegmentName,
  type SegmentNumber,
  segmentNumberAt,
  type SegmentSize,
} from "../../wal/segment.ts";
import { parseHistoryFileName, type TimelineId } from "../../wal/timeline.ts";
import { type CompressionFormat, FORMAT_OF_FORM } from "../compression_format.ts";
import { formatKind } from "../damaged_file.ts";
import type { NamedEntry } from "../disk.ts";
import {
  CONFLICTS_DIRECTORY,
  IDENTITY_FILE,
  IN_PROGRESS_DIRECTORY,
  nameOf,
  parseArchiveName,
  parseInProgressName,
} from "../layout.ts";
import type { Finding } from "./finding.ts";
import type { SegmentRole } from "./segment_verdict.ts";

/**
 * How WAL lies in a directory.
 *
 * - `archive`: ours.
 * - `plain`: as `pg_receivewal` keeps it.
 * - `server`: a server's own `pg_wal`.
 */
export type DirectoryLayout = "archive" | "plain" | "server";

/** A range that is none. */
export class RangeBoundError extends RangeError {
  override readonly name = "RangeBoundError";
}

/** All entries of a directory, and of its `inprogress/`. */
export interface DirectoryEntries {
  readonly root: readonly NamedEntry[];
  readonly inProgress: readonly NamedEntry[];
}

/** A file that holds WAL of a segment, or the beginning of it. */
export interface PlannedFile {
  /** Below the directory. */
  readonly path: string;
  readonly format: CompressionFormat | undefined;
  readonly role: SegmentRole;
}

/** A segment of which something is here. */
export interface PlannedSegment {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  /** Those under the segment's own name first, as a reader looks for them. */
  readonly files: readonly PlannedFile[];
}

/** What is to be proven. */
export interface VerifyPlan {
  /** By timeline, then by number. */
  readonly segments: readonly PlannedSegment[];
  readonly histories: readonly TimelineId[];
  /** What the names alone show. */
  readonly findings: readonly Finding[];
}

/** Which part of the WAL is asked for; a bound that is not given is where the directory begins or ends. */
export interface VerifyRange {
  /** The first byte, or the segment of that name. */
  readonly from?: RangeBound | undefined;
  /** The first byte behind it, or the last segment. */
  readonly to?: RangeBound | undefined;
  /** This timeline and those it came from. */
  readonly timeline?: TimelineId | undefined;
}

/** A place in the WAL, or a segment's name. */
export type RangeBound = { readonly lsn: Lsn } | { readonly segment: string };

const PARTIAL_NAME = /^([0-9A-F]{24})(\.gz|\.lz4|\.zst)?\.partial(?:\.saved-[1-9][0-9]*)?$/;
const WAL_NAME =
  /^(?:[0-9A-F]{24}(?:\.(?:gz|lz4|zst))?(?:\.partial(?:\.saved-[1-9][0-9]*)?)?|[0-9A-F]{8}\.history)$/;

/** How WAL lies there, by the names; `undefined` when there is none. */
export function layoutOf(root: readonly NamedEntry[]): DirectoryLayout | undefined {
  const has = (name: string, kind: NamedEntry["kind"]) =>
    root.some((entry) => entry.name === name && entry.kind === kind);
  if (root.some(({ name }) => name === IDENTITY_FILE)) return "archive";
  if (has("archive_status", "directory")) return "server";
  // An archive whose identity is lost.
  if (has(IN_PROGRESS_DIRECTORY, "directory") && has(CONFLICTS_DIRECTORY, "directory")) return "archive";
  return root.some(({ name }) => WAL_NAME.test(name)) ? "plain" : undefined;
}

/** Plans the proof of all that is in a directory. */
export function planVerify(
  entries: DirectoryEntries,
  { layout, segmentSize: size }: { readonly layout: DirectoryLayout; readonly segmentSize: SegmentSize },
): VerifyPlan {
  const planner = new Planner(size);
  for (const entry of entries.root) planner.addRoot(entry, layout);
  for (const entry of entries.inProgress) planner.addInProgress(entry);
  return planner.plan();
}

/** Collects the files of each segment. */
class Planner {
  readonly #segments = new Map<string, { segment: Omit<PlannedSegment, "files">; files: PlannedFile[] }>();
  readonly #histories: TimelineId[] = [];
  readonly #findings: Finding[] = [];

  constructor(private readonly size: SegmentSize) {}

  addRoot(entry: NamedEntry, layout: DirectoryLayout): void {
    const { name } = entry;
    const partial = PARTIAL_NAME.exec(name);
    if (partial !== null && layout !== "archive") {
      const format = formatOf(partial[2]);
      return this.#add(partial[1] ?? "", entry, { path: name, format, role: "unfinished" });
    }
    const parsed = parseArchiveName(name, this.size);
    if (parsed.kind === "segment") {
      const format = formatOf(name.slice(24));
      const role = layout === "server" && format === undefined ? "server" : "complete";
      return this.#add(name.slice(0, 24), entry, { path: name, format, role });
    }
    const timeline = parseHistoryFileName(name);
    if (timeline !== undefined && entry.kind !== "file") {
      this.#findings.push({ kind: "history", path: name, timeline, problem: problemOfKind(entry) });
    } else if (timeline !== undefined) this.#histories.push(timeline);
    else if (layout === "archive" && parsed.kind === "foreign") {
      this.#findings.push({ kind: "note", path: name, problem: "no file of an archive" });
    }
  }

  addInProgress(entry: NamedEntry): void {
    const segment = entry.name.slice(0, 24);
    const isOurs = parseInProgressName(entry.name, this.size) !== undefined;
    // `pg_streamrecv` kept what it had as NAME.save.
    if (!isOurs && entry.name !== `${segment}.save`) return;
    const path = `${IN_PROGRESS_DIRECTORY}/${entry.name}`;
    this.#add(segment, entry, { path, format: undefined, role: "unfinished" });
  }

  plan(): VerifyPlan {
    const segments = [...this.#segments.values()].map(({ segment, files }) => ({
      ...segment,
      files: files.sort((a, b) => rank(a) - rank(b) || (a.path < b.path ? -1 : 1)),
    }));
    segments.sort((a, b) => a.timeline - b.timeline || (a.number < b.number ? -1 : 1));
    return {
      segments,
      histories: this.#histories.sort((a, b) => a - b),
      findings: this.#findings,
    };
  }

  #add(name: string, entry: NamedEntry, file: PlannedFile): void {
    const parsed = parseSegmentName(name, this.size);
    if (parsed === undefined) return;
    if (entry.kind !== "file") {
      this.#findings.push({
        kind: "damage",
        path: file.path,
        timeline: parsed.timeline,
        problem: problemOfKind(entry),
      });
      return;
    }
    const found = this.#segments.get(name);
    if (found === undefined) this.#segments.set(name, { segment: parsed, files: [file] });
    else found.files.push(file);
  }
}

function formatOf(form: string | undefined): CompressionFormat | undefined {
  return form === undefined || form === "" ? undefined : FORMAT_OF_FORM[form as keyof typeof FORMAT_OF_FORM];
}

function problemOfKind({ kind }: NamedEntry): string {
  return `${formatKind(kind)}, want a file`;
}

function rank({ role, format }: PlannedFile): number {
  return (role === "unfinished" ? 2 : 0) + (format === undefined ? 0 : 1);
}

/** A range in segments of one size; both ends belong to it. */
export interface NumberRange {
  readonly first: SegmentNumber | undefined;
  readonly last: SegmentNumber | undefined;
}

/**
 * The segments of a range.
 *
 * @throws {RangeBoundError} when a name is none of a segment of this size, or the range ends before it begins.
 */
export function numbersOf({ from, to }: VerifyRange, size: SegmentSize): NumberRange {
  const numberOf = (bound: RangeBound, isEnd: boolean): SegmentNumber => {
    if ("lsn" in bound) {
      return segmentNumberAt(isEnd && bound.lsn > 0n ? lsn(bound.lsn - 1n) : bound.lsn, size);
    }
    const parsed = parseSegmentName(bound.segment, size);
    if (parsed === undefined) {
      throw new RangeBoundError(`"${bound.segment}" is no name of a segment of ${size} bytes`);
    }
    return parsed.number;
  };
  const first = from === undefined ? undefined : numberOf(from, false);
  const last = to === undefined ? undefined : numberOf(to, true);
  if (first !== undefined && last !== undefined && last < first) {
    throw new RangeBoundError("The range ends before it begins");
  }
  return { first, last };
}

/** Whether a segment belongs to what is asked for. */
export function isInRange(
  { timeline, number }: Pick<PlannedSegment, "timeline" | "number">,
  range: NumberRange,
  lineage: { readonly history: TimelineHistory; readonly segmentSize: SegmentSize } | undefined,
): boolean {
  if (range.first !== undefined && number < range.first) return false;
  if (range.last !== undefined && number > range.last) return false;
  if (lineage === undefined) return true;
  const { history, segmentSize } = lineage;
  if (!isInLineage(history, timeline)) return false;
  const fork = switchPointOf(history, timeline);
  return fork === undefined || number <= segmentNumberAt(fork, segmentSize);
}

/** A segment's name, as files carry it. */
export function segmentNameOf(
  segment: Pick<PlannedSegment, "timeline" | "number">,
  size: SegmentSize,
): string {
  return nameOf(segment, size);
}
