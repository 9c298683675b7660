import { ancestorHistory, cutHistoryProblem, parseHistory, type TimelineHistory } from "../../wal/history.ts";
import { formatLsn, type Lsn } from "../../wal/lsn.ts";
import { historyFileName, type TimelineId } from "../../wal/timeline.ts";
import type { Finding } from "./finding.ts";
import type { TimelineMark } from "./recovery_marks.ts";

/** A timeline's history, as its file tells it, or what is wrong with the file. */
export type ReadHistory = { readonly history: TimelineHistory } | { readonly finding: Finding };

/** Reads a history file's content. */
export function readHistory(timeline: TimelineId, bytes: Uint8Array): ReadHistory {
  const path = historyFileName(timeline);
  try {
    const history = parseHistory(timeline, bytes);
    const problem = cutHistoryProblem(history, bytes);
    if (problem === undefined) return { history };
    return { finding: { kind: "history", path, timeline, problem } };
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    const problem = error.message.replace(/^Cannot parse history of timeline [0-9]+, /, "");
    return { finding: { kind: "history", path, timeline, problem } };
  }
}

/** Where histories contradict each other: each one says of its ancestors what their own say. */
export function contradictions(
  histories: ReadonlyMap<TimelineId, TimelineHistory>,
): readonly (Finding & { readonly timeline: TimelineId })[] {
  const findings: (Finding & { readonly timeline: TimelineId })[] = [];
  for (const history of histories.values()) {
    // The nearest one has the others in its own history, and these are held against each other too.
    const parent = history.entries.at(-1)?.timeline;
    const own = parent === undefined ? undefined : histories.get(parent);
    if (parent === undefined || own === undefined) continue;
    const told = ancestorHistory(history, parent);
    const problem = differenceOf(told, own);
    if (problem === undefined) continue;
    findings.push({
      kind: "history",
      path: historyFileName(history.timeline),
      timeline: history.timeline,
      problem,
    });
  }
  return findings;
}

function differenceOf(told: TimelineHistory, own: TimelineHistory): string | undefined {
  const length = Math.max(told.entries.length, own.entries.length);
  for (let index = 0; index < length; index++) {
    const [one, other] = [told.entries[index], own.entries[index]];
    if (one?.timeline === other?.timeline && one?.endLsn === other?.endLsn) continue;
    const text = (entry: typeof one) =>
      entry === undefined
        ? "no more ancestors"
        : `timeline ${entry.timeline} up to ${formatLsn(entry.endLsn)}`;
    return `${text(one)}, want ${text(other)} as in "${historyFileName(own.timeline)}"`;
  }
  return undefined;
}

/** Where a timeline begins, by the records of a file. */
export interface TimelineStart extends TimelineMark {
  readonly path: string;
}

/** What a history says of its timeline's beginning, where the WAL says something else. */
export function startProblem(start: TimelineStart, history: TimelineHistory): Finding | undefined {
  const fork = history.entries.at(-1);
  if (fork === undefined || history.timeline !== start.timeline) return undefined;
  const path = historyFileName(history.timeline);
  if (fork.timeline !== start.previousTimeline) {
    return {
      kind: "history",
      path,
      timeline: history.timeline,
      problem:
        `it comes from timeline ${fork.timeline}, want ${start.previousTimeline} as "${start.path}" says at ${
          formatLsn(start.lsn)
        }`,
    };
  }
  if (startsAt(fork.endLsn, start.lsn)) return undefined;
  return {
    kind: "history",
    path,
    timeline: history.timeline,
    lsn: fork.endLsn,
    problem: `it begins at ${formatLsn(fork.endLsn)}, want ${formatLsn(start.lsn)} as "${start.path}" says`,
  };
}

/** A record stands behind the header of a page that begins where the switch is. */
function startsAt(forkLsn: Lsn, recordLsn: Lsn): boolean {
  const distance = recordLsn - forkLsn;
  return distance === 0n || (forkLsn % 8192n === 0n && (distance === 24n || distance === 40n));
}
