import { formatLsn, type Lsn, parseLsn } from "./lsn.ts";
import { type TimelineId, timelineId } from "./timeline.ts";

/** One ancestor of a timeline, as a line of the history file tells it. */
export interface TimelineHistoryEntry {
  readonly timeline: TimelineId;
  /** Where it was left for the next timeline: the first byte that is not its own any more. */
  readonly endLsn: Lsn;
  /** The server's words, e.g. "no recovery target specified"; "" when there are none. */
  readonly reason: string;
}

/** A timeline and its ancestors: which timeline each byte of WAL up to it belongs to. */
export interface TimelineHistory {
  readonly timeline: TimelineId;
  /** The ancestors, oldest first; none for a timeline that began with the cluster. */
  readonly entries: readonly TimelineHistoryEntry[];
}

const HISTORY_LINE = /^\s*([0-9]{1,10})\s+([0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8})(?:\s(.*))?$/s;
const IGNORED_LINE = /^\s*(#|$)/;

/** The history of a timeline without ancestors, such as timeline 1. */
export function emptyHistory(timeline: TimelineId): TimelineHistory {
  return { timeline, entries: [] };
}

/**
 * Reads the history file of `timeline`: one ancestor to a line, `#` comments and blank lines between.
 *
 * @throws {SyntaxError} naming the line, when it is no ancestor, or its timeline is not greater than the one before
 * and smaller than `timeline`.
 * @see readTimeLineHistory(), src/backend/access/transam/timeline.c
 */
export function parseHistory(timeline: TimelineId, content: Uint8Array | string): TimelineHistory {
  const text = typeof content === "string" ? content : new TextDecoder().decode(content);
  const entries: TimelineHistoryEntry[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    if (IGNORED_LINE.test(line)) continue;
    const refuse = (problem: string) =>
      new SyntaxError(`Cannot parse history of timeline ${timeline}, line ${index + 1}: ${problem}`);
    const fields = HISTORY_LINE.exec(line);
    if (fields === null) {
      throw refuse(`${JSON.stringify(line)}, want a timeline, the LSN where it ended and a reason`);
    }
    const ancestor = Number(fields[1]);
    const parent = entries.at(-1)?.timeline ?? 0;
    if (ancestor <= parent || ancestor >= timeline) {
      throw refuse(`timeline ${ancestor}, want one above ${parent} and below ${timeline}`);
    }
    const reason = (fields[3] ?? "").trimEnd();
    entries.push({ timeline: timelineId(ancestor), endLsn: parseLsn(fields[2] ?? ""), reason });
  }
  return { timeline, entries };
}

/**
 * What shows that a history file that parses is not whole: no server writes one without ancestors, and each line has
 * its end, so what is cut off would still parse. `undefined` when nothing does.
 */
export function cutHistoryProblem(history: TimelineHistory, content: Uint8Array): string | undefined {
  if (history.entries.length === 0) return "it names no ancestor";
  return content.at(-1) === 0x0a ? undefined : "its last line is cut off";
}

/**
 * Writes a history file's text as the server does: tabs between the fields, a blank line between the ancestors.
 *
 * @see writeTimeLineHistory(), src/backend/access/transam/timeline.c
 */
export function formatHistory(history: TimelineHistory): string {
  return history.entries
    .map((entry) => `${entry.timeline}\t${formatLsn(entry.endLsn)}\t${entry.reason}\n`)
    .join("\n");
}

/** Where this ancestor was left; `undefined` for the history's own timeline and those outside the lineage. */
export function switchPointOf(history: TimelineHistory, timeline: TimelineId): Lsn | undefined {
  return history.entries.find((entry) => entry.timeline === timeline)?.endLsn;
}

/** Whether this is the history's own timeline or one of its ancestors. */
export function isInLineage(history: TimelineHistory, timeline: TimelineId): boolean {
  return timeline === history.timeline || history.entries.some((entry) => entry.timeline === timeline);
}

/**
 * The timeline of the lineage that the byte at this LSN belongs to.
 *
 * A byte at exactly the switch point belongs to the newer timeline.
 * @see tliOfPointInHistory(), src/backend/access/transam/timeline.c
 */
export function timelineAt(history: TimelineHistory, lsn: Lsn): TimelineId {
  return history.entries.find((entry) => lsn < entry.endLsn)?.timeline ?? history.timeline;
}

/**
 * The history of `timeline` itself, which must be the lineage's own or one of its ancestors.
 *
 * @throws {RangeError} when it is neither.
 */
export function ancestorHistory(lineage: TimelineHistory, timeline: TimelineId): TimelineHistory {
  if (timeline === lineage.timeline) return lineage;
  const index = lineage.entries.findIndex((entry) => entry.timeline === timeline);
  if (index === -1) {
    throw new RangeError(`Cannot find timeline ${timeline} in the history of timeline ${lineage.timeline}`);
  }
  return { timeline, entries: lineage.entries.slice(0, index) };
}
