import type { Gap } from "../archive/gaps.ts";
import type { BackupJudgement } from "./backup_judgement.ts";
import type { Lag } from "./lag.ts";
import type { Hole } from "./lineage_cover.ts";
import type { SlotView } from "../protocol/replication_views.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import type { TimelineId } from "../wal/timeline.ts";

/** From where on an archive is unhealthy; what is `undefined` is not looked at. */
export interface Thresholds {
  readonly maxLagMs: number;
  readonly maxLagBytes: bigint | undefined;
  /** Of the newest byte in the archive, whatever the server has. */
  readonly maxAgeMs: number | undefined;
  readonly minSafeWalBytes: bigint | undefined;
  readonly minFreeBytes: bigint | undefined;
  readonly requireBackup: boolean;
}

/** What is known of an archive and its server; `undefined`: not asked for, or not to be had. */
export interface HealthFacts {
  /** The newest one. */
  readonly timeline: TimelineId | undefined;
  /** Of the newest lineage. */
  readonly holes: readonly Hole[];
  /** Of all timelines. */
  readonly gaps: readonly Gap[];
  readonly backups: readonly { readonly startLsn: Lsn; readonly judgement: BackupJudgement }[];
  /** Of the archive itself, in words: what can't be read, what stands where a segment should. */
  readonly defects: readonly string[];
  readonly conflicts: number;
  readonly freeBytes: number | undefined;
  /** Negative: the newest file's time lies in the future. */
  readonly sinceChangeMs: number | undefined;
  readonly lag: Lag | undefined;
  /** `undefined`: nobody named one; "absent": the server has none of the name. */
  readonly slot: SlotView | "absent" | undefined;
}

/** What is unhealthy, one text for each; none: all is well. */
export function problemsOf(facts: HealthFacts, thresholds: Thresholds): readonly string[] {
  return [
    ...facts.defects,
    ...holeProblems(facts),
    ...gapProblems(facts),
    ...conflictProblems(facts),
    ...lagProblems(facts, thresholds),
    ...slotProblems(facts, thresholds),
    ...roomProblems(facts, thresholds),
    ...backupProblems(facts, thresholds),
  ];
}

/** Whether a base backup can be recovered to the end of all: that of another timeline is none that counts. */
export function leadsToEnd(judgement: BackupJudgement, newest: TimelineId | undefined): boolean {
  return judgement.kind === "recoverable" && judgement.toEnd && judgement.timeline === newest;
}

/** A hole before the newest base backup that can be recovered to the end is in nobody's way; one that was accepted is known. */
export function holesThatMatter(
  { holes, gaps, backups, timeline }: Pick<HealthFacts, "holes" | "gaps" | "backups" | "timeline">,
): readonly Hole[] {
  const starts = backups.filter(({ judgement }) => leadsToEnd(judgement, timeline))
    .map(({ startLsn }) => startLsn);
  return holes.filter((hole) =>
    !starts.some((startLsn) => startLsn >= hole.endLsn) && !isGivenUp(hole, gaps)
  );
}

/** Whether all of a hole lies in gaps that somebody accepted; on a lineage, each in the files of its own timeline. */
function isGivenUp({ startLsn, endLsn }: Hole, gaps: readonly Gap[]): boolean {
  let next = startLsn;
  const accepted = gaps.filter(({ state }) => state === "accepted")
    .toSorted((a, b) => a.startLsn < b.startLsn ? -1 : 1);
  for (const gap of accepted) {
    if (gap.startLsn <= next && gap.endLsn > next) next = gap.endLsn;
  }
  return next >= endLsn;
}

/** One that is recorded waits for somebody, wherever the base backups began: commits may wait for it, too. */
function gapProblems({ gaps }: HealthFacts): readonly string[] {
  const open = gaps.filter(({ state }) => state === "open" || state === "unproven");
  const [first] = open;
  if (first === undefined) return [];
  const where = `${formatLsn(first.startLsn)} to ${formatLsn(first.endLsn)} on timeline ${first.timeline}`;
  const many = open.length === 1 ? "1 recorded gap is" : `${open.length} recorded gaps are`;
  return [`${many} open (${where}): walvault gap list`];
}

function holeProblems(facts: HealthFacts): readonly string[] {
  return holesThatMatter(facts).slice(0, 1).map(({ segments, firstName, startLsn, endLsn }) => {
    const others = holesThatMatter(facts).length - 1;
    const more = others > 0 ? `, and ${others} more ${others === 1 ? "hole" : "holes"}` : "";
    const what = segments === 1n
      ? `${firstName} is missing`
      : `${segments} segments from ${firstName} on are missing`;
    return `${what} (${formatLsn(startLsn)} to ${formatLsn(endLsn)})${more}`;
  });
}

function conflictProblems({ conflicts }: HealthFacts): readonly string[] {
  if (conflicts === 0) return [];
  return [
    `${conflicts} ${conflicts === 1 ? "file" : "files"} in conflicts/: look at them, then move them away`,
  ];
}

function lagProblems({ lag, sinceChangeMs }: HealthFacts, thresholds: Thresholds): readonly string[] {
  const { maxLagMs, maxLagBytes, maxAgeMs } = thresholds;
  const found: string[] = [];
  if (lag !== undefined && lag.ms === undefined) {
    found.push(
      `${lag.bytes} bytes behind the server (${lag.state}), nothing tells for how long, ` +
        `want at most ${seconds(maxLagMs)}`,
    );
  } else if (lag?.ms !== undefined && lag.ms > maxLagMs) {
    found.push(`${seconds(lag.ms)} behind the server (${lag.state}), want at most ${seconds(maxLagMs)}`);
  }
  if (lag !== undefined && maxLagBytes !== undefined && lag.bytes > maxLagBytes) {
    found.push(`${lag.bytes} bytes behind the server (${lag.state}), want at most ${maxLagBytes}`);
  }
  if (maxAgeMs !== undefined && sinceChangeMs === undefined) {
    found.push(`no WAL has come yet, want some at most ${seconds(maxAgeMs)} old`);
  } else if (maxAgeMs !== undefined && sinceChangeMs !== undefined && sinceChangeMs < 0) {
    found.push(
      `the newest file's time lies ${seconds(-sinceChangeMs)} in the future, ` +
        `want WAL at most ${seconds(maxAgeMs)} old`,
    );
  } else if (maxAgeMs !== undefined && sinceChangeMs !== undefined && sinceChangeMs > maxAgeMs) {
    found.push(`no WAL has come for ${seconds(sinceChangeMs)}, want some at most ${seconds(maxAgeMs)} old`);
  }
  return found;
}

/** A slot in these states has lost WAL, or loses it at the next checkpoint. */
const LOSING: ReadonlySet<string> = new Set(["unreserved", "lost"]);

function slotProblems({ slot }: HealthFacts, { minSafeWalBytes }: Thresholds): readonly string[] {
  if (slot === undefined) return [];
  if (slot === "absent") return ["the server has no slot of that name: make it with receive --create-slot"];
  const { name, walStatus, safeWalBytes } = slot;
  const found: string[] = [];
  if (walStatus !== undefined && LOSING.has(walStatus)) {
    found.push(`slot ${name} is ${walStatus}, want reserved or extended`);
  }
  if (minSafeWalBytes !== undefined && safeWalBytes !== undefined && safeWalBytes < minSafeWalBytes) {
    found.push(`slot ${name} has ${safeWalBytes} bytes to its limit, want at least ${minSafeWalBytes}`);
  }
  return found;
}

function roomProblems({ freeBytes }: HealthFacts, { minFreeBytes }: Thresholds): readonly string[] {
  if (
    freeBytes === undefined || minFreeBytes === undefined || BigInt(Math.floor(freeBytes)) >= minFreeBytes
  ) return [];
  return [`${Math.floor(freeBytes)} bytes free in the archive, want at least ${minFreeBytes}`];
}

function backupProblems(
  { backups, timeline }: HealthFacts,
  { requireBackup }: Thresholds,
): readonly string[] {
  const isUsable = backups.some(({ judgement }) => leadsToEnd(judgement, timeline));
  return !requireBackup || isUsable ? [] : ["no known base backup can be recovered to the end"];
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}
