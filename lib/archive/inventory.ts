import type { SegmentRun } from "../wal/lineage.ts";
import type { SegmentNumber, SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { NamedEntry } from "./disk.ts";
import { parseArchiveName, parseInProgressName } from "./layout.ts";

export type { SegmentRun } from "../wal/lineage.ts";

/** What the names in an archive say. */
export interface Inventory {
  /** By timeline, then by number; neighbours are joined. */
  readonly runs: readonly SegmentRun[];
  readonly histories: readonly TimelineId[];
  /** Segments of which `inprogress/` holds something. */
  readonly unfinished: readonly { readonly timeline: TimelineId; readonly number: SegmentNumber }[];
  readonly temporary: readonly string[];
  readonly foreign: readonly string[];
  /** Names of complete segments under which something else stands: no file, or one of another size. */
  readonly incomplete: readonly string[];
}

/** Whether what stands under a segment's name can be one: a file, and a plain one of a segment's size. */
export function isSegmentEntry(
  { name, kind, bytes }: Pick<NamedEntry, "name" | "kind" | "bytes">,
  size: SegmentSize,
): boolean {
  // Compressed forms have any size, and a longer name.
  return kind === "file" && (name.length > 24 || bytes === Number(size));
}

function bySegment(
  a: { readonly timeline: TimelineId; readonly number: SegmentNumber },
  b: { readonly timeline: TimelineId; readonly number: SegmentNumber },
): number {
  if (a.timeline !== b.timeline) return a.timeline - b.timeline;
  return a.number < b.number ? -1 : a.number > b.number ? 1 : 0;
}

/** Joins segments in any order, repeated or not, into runs. */
export function joinRuns(
  segments: readonly { readonly timeline: TimelineId; readonly number: SegmentNumber }[],
): readonly SegmentRun[] {
  const runs: { timeline: TimelineId; firstNumber: SegmentNumber; endNumber: SegmentNumber }[] = [];
  for (const { timeline, number } of [...segments].sort(bySegment)) {
    const last = runs.at(-1);
    if (last !== undefined && last.timeline === timeline && number < last.endNumber) continue;
    const endNumber = number + 1n as SegmentNumber;
    if (last !== undefined && last.timeline === timeline && number === last.endNumber) {
      last.endNumber = endNumber;
    } else {
      runs.push({ timeline, firstNumber: number, endNumber });
    }
  }
  return runs;
}

/** Takes stock of an archive by the names in it and in its `inprogress/`. */
export function takeInventory(
  names: { readonly archive: readonly NamedEntry[]; readonly inProgress: readonly string[] },
  size: SegmentSize,
): Inventory {
  const segments: { timeline: TimelineId; number: SegmentNumber }[] = [];
  const histories: TimelineId[] = [];
  const temporary: string[] = [];
  const foreign: string[] = [];
  const incomplete: string[] = [];
  for (const entry of names.archive) {
    const { name } = entry;
    const parsed = parseArchiveName(name, size);
    if (parsed.kind === "segment" && !isSegmentEntry(entry, size)) incomplete.push(name);
    else if (parsed.kind === "segment") segments.push(parsed);
    else if (parsed.kind === "history") histories.push(parsed.timeline);
    else if (parsed.kind === "temporary") temporary.push(name);
    else if (parsed.kind === "foreign") foreign.push(name);
  }
  const unfinished = new Map<string, { timeline: TimelineId; number: SegmentNumber }>();
  for (const name of names.inProgress) {
    const parsed = parseInProgressName(name, size);
    if (parsed === undefined) continue;
    unfinished.set(name.slice(0, 24), { timeline: parsed.timeline, number: parsed.number });
  }
  return {
    runs: joinRuns(segments),
    histories: histories.sort((a, b) => a - b),
    unfinished: [...unfinished.values()].sort(bySegment),
    temporary,
    foreign,
    incomplete: incomplete.sort(),
  };
}
