import type { Gap } from "../archive/gaps.ts";
import type { CommitLook } from "../observe/commit_window.ts";
import { leadsToEnd } from "../observe/health.ts";
import type { Hole } from "../observe/lineage_cover.ts";
import type { Lag } from "../observe/lag.ts";
import type { TimelineHoldings } from "../observe/timeline_holdings.ts";
import { formatLsn } from "../wal/lsn.ts";
import { formatSegmentSize } from "../wal/segment.ts";
import { formatTimestamp } from "../wal/timestamp.ts";
import { formatTime } from "./gap_answer.ts";
import { formatBytes } from "./live_line.ts";
import type { CommitWindow, JudgedBackup, ServerStatus, StatusReport } from "./status_report.ts";
import type { WalFile } from "./wal_file.ts";

/** More than a person reads; `--json` has all. */
const MAXIMUM_LINES = 5;
const INDENT = " ".repeat(13);

/** What a person is told of an archive. */
export function statusText(report: StatusReport): string {
  const { survey, server, problems } = report;
  const lines = [
    ...archiveLines(report),
    ...(survey.timelines.length === 0 ? [] : ["", ...timelineTable(survey.timelines), ""]),
    ...holeLines(survey.newest?.holes ?? []),
    ...gapLines(report.gaps),
    ...latestLines(report),
    ...windowLines(report),
    ...lostLines(report),
    ...recoverableLines(report),
    ...(server === undefined ? [] : serverLines(server, isShortOfRoom(report))),
    ...problems.map((problem) => item("Problem", problem)),
  ];
  return lines.join("\n") + "\n";
}

function item(name: string, text: string): string {
  return name.padEnd(INDENT.length) + text;
}

function archiveLines({ path, survey, minFreeBytes }: StatusReport): readonly string[] {
  const { directory, systemIdentifier, segmentSize, space: { freeBytes } } = survey;
  const kind = directory.identity === undefined ? " (a directory of pg_receivewal)" : "";
  const cluster = systemIdentifier === undefined ? "" : `cluster ${systemIdentifier}, `;
  const low = isShortOfRoom({ survey, minFreeBytes })
    ? `, less than the ${formatBytes(minFreeBytes)} of --min-free`
    : "";
  return [
    item("Archive", `${path}${kind}`),
    INDENT + `${cluster}segments of ${formatSegmentSize(segmentSize)}, ${formatBytes(freeBytes)} free${low}`,
  ];
}

function timelineTable(timelines: readonly TimelineHoldings[]): readonly string[] {
  const header = ["Timeline", "From", "To", "Segments", "WAL", "Holes", "Came from"];
  const rows = timelines.map(({ timeline, startLsn, endLsn, segments, bytes, holes, parent }) => [
    String(timeline),
    startLsn === undefined ? "-" : formatLsn(startLsn),
    endLsn === undefined ? "-" : formatLsn(endLsn),
    String(segments),
    formatBytes(Number(bytes)),
    holes.length === 0 ? "none" : String(holes.length),
    parent === undefined ? "" : `${parent.timeline} at ${formatLsn(parent.forkLsn)}`,
  ]);
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => row[column]!.length))
  );
  return [header, ...rows].map((row) =>
    row.map((cell, column) => cell.padEnd(widths[column]!)).join("  ").trimEnd()
  );
}

function holeLines(holes: readonly Hole[]): readonly string[] {
  const shown = holes.slice(0, MAXIMUM_LINES).map(({ startLsn, endLsn, segments, firstName }) => {
    const many = segments === 1n ? "1 segment" : `${segments} segments`;
    return item(
      "Hole",
      `${formatLsn(startLsn)} to ${formatLsn(endLsn)}: ${many} missing, from ${firstName} on`,
    );
  });
  const left = holes.length - shown.length;
  return left === 0 ? shown : [...shown, INDENT + `and ${left} more`];
}

/** Of what the ledger tells something; the others are holes as any. */
function gapLines(gaps: readonly Gap[]): readonly string[] {
  const known = gaps.filter(({ state }) => state !== "unrecorded");
  const shown = known.slice(0, MAXIMUM_LINES).map(
    ({ timeline, startLsn, endLsn, state: known, record, acceptance }) => {
      const state = known === "unproven"
        ? `here, but not proven yet, recorded ${formatTime(record?.recordedAt ?? "")}: walvault gap heal`
        : acceptance !== undefined
        ? `accepted ${formatTime(acceptance.acceptedAt)} by ${acceptance.acceptedBy}: ${acceptance.reason}`
        : `open, recorded ${formatTime(record?.recordedAt ?? "")}: ${record?.reason}`;
      return item("Gap", `${formatLsn(startLsn)} to ${formatLsn(endLsn)} on timeline ${timeline}: ${state}`);
    },
  );
  const left = known.length - shown.length;
  return left === 0 ? shown : [...shown, INDENT + `and ${left} more: walvault gap list`];
}

function latestLines({ survey, sinceChangeMs }: StatusReport): readonly string[] {
  const { newest } = survey;
  const end = newest?.end;
  if (newest === undefined || end?.endLsn === undefined) return [item("Latest", "no WAL yet")];
  const where = end.tail === undefined ? "the end of the last complete segment" : `in ${end.tail.file.path}`;
  const age = sinceChangeMs === undefined ? "" : `, ${writtenText(sinceChangeMs)}`;
  return [item("Latest", `${formatLsn(end.endLsn)} on timeline ${newest.lineage.timeline}, ${where}${age}`)];
}

function writtenText(sinceChangeMs: number): string {
  return sinceChangeMs < 0
    ? `by its time written in the future, ${formatDuration(-sinceChangeMs)} from now`
    : `written ${formatDuration(sinceChangeMs)} ago`;
}

function windowLines({ window }: StatusReport): readonly string[] {
  if (window === undefined) return [];
  return [
    item("Window", `${formatLsn(window.startLsn)} to ${formatLsn(window.endLsn)}, without a hole`),
    ...commitLines(window),
  ];
}

function commitLines({ firstCommit, lastCommit }: CommitWindow): readonly string[] {
  if (firstCommit === "none" || lastCommit === "none") return [INDENT + "no commit in it"];
  return [
    INDENT + `first commit ${formatCommit(firstCommit)}`,
    INDENT + `last commit  ${formatCommit(lastCommit)}`,
  ];
}

function formatCommit(look: CommitLook): string {
  if (look === "none" || look === "unknown") return "not known: walvault verify reads all of it";
  return `${formatTimestamp(look.time)} at ${formatLsn(look.lsn)} (transaction ${look.xid})`;
}

function lostLines({ lostTails, survey }: StatusReport): readonly string[] {
  const newest = survey.newest?.lineage.timeline;
  return lostTails.slice(-MAXIMUM_LINES).flatMap(({ timeline, forkLsn, endLsn, commits }) => [
    item(
      "Beyond fork",
      `${formatLsn(forkLsn)} to ${formatLsn(endLsn)} of timeline ${timeline}: ${
        commits === undefined
          ? "commits not known"
          : `${commits.isAll ? "" : "at least "}${
            commits.count === 1 ? "1 commit" : `${commits.count} commits`
          }`
      }, not on timeline ${newest}`,
    ),
    ...(commits?.first === undefined ? [] : [INDENT + `first commit ${formatCommit(commits.first)}`]),
    ...(commits?.last === undefined ? [] : [INDENT + `last commit  ${formatCommit(commits.last)}`]),
  ]);
}

function recoverableLines({ recoverable, window, backups, survey }: StatusReport): readonly string[] {
  const newest = survey.newest?.lineage.timeline;
  const unusable = backups.filter(({ judgement }) => !leadsToEnd(judgement, newest));
  const others = [
    ...unusable.slice(-MAXIMUM_LINES).map((backup) => INDENT + unusableText(backup)),
    ...(unusable.length > MAXIMUM_LINES ? [INDENT + `and ${unusable.length - MAXIMUM_LINES} more`] : []),
  ];
  if (recoverable !== undefined) {
    const { backup, startLsn, endLsn } = recoverable;
    const many = backups.length - unusable.length;
    return [
      item("Recoverable", `${formatLsn(startLsn)} to ${formatLsn(endLsn)}, from ${nameOfBackup(backup)}`),
      ...commitLines(recoverable),
      ...(many > 1 ? [INDENT + `and from ${many - 1} newer ${many === 2 ? "backup" : "backups"}`] : []),
      ...others,
    ];
  }
  const needs = window === undefined
    ? "nothing yet"
    : `needs a base backup started at or after ${formatLsn(window.startLsn)}; none is known here`;
  return [item("Recoverable", needs), ...others];
}

function nameOfBackup({ file, label }: JudgedBackup): string {
  return label === "" ? file : `${file} "${label}"`;
}

function unusableText(backup: JudgedBackup): string {
  const { judgement } = backup;
  return judgement.kind === "recoverable"
    ? `${nameOfBackup(backup)} only to ${formatLsn(judgement.endLsn)} on timeline ${judgement.timeline}`
    : `not from ${nameOfBackup(backup)}: ${judgement.reason}`;
}

/** Receive, with the same limit, does not read; whether one runs, nobody knows from here. */
function isShortOfRoom({ survey, minFreeBytes }: Pick<StatusReport, "survey" | "minFreeBytes">): boolean {
  return survey.space.freeBytes < minFreeBytes;
}

function serverLines(
  { look, lag, slot, senders, limitMs }: ServerStatus,
  shortOfRoom: boolean,
): readonly string[] {
  const lines = [
    item("Server", `${look.address}, timeline ${look.timeline}, flushed to ${formatLsn(look.flushLsn)}`),
  ];
  if (lag !== undefined) {
    lines.push(item("Lag", lagText(lag)));
    const waits = shortOfRoom && lag.state === "stalled";
    lines.push(
      item("Receiver", waits ? "reading stops until the archive has room" : RECEIVER_TEXTS[lag.state]),
    );
  }
  for (
    const { pid, applicationName, state, flushLsn, syncState, sinceReplyMs } of senders.slice(
      0,
      MAXIMUM_LINES,
    )
  ) {
    const facts = [
      ...(state === undefined ? [] : [state]),
      ...(syncState === undefined ? [] : [syncState]),
      ...(flushLsn === undefined ? [] : [`flushed to ${formatLsn(flushLsn)}`]),
      ...(sinceReplyMs === undefined ? [] : [`replied ${formatDuration(sinceReplyMs)} ago`]),
    ];
    lines.push(INDENT + `connected as ${applicationName}, server process ${pid}: ${facts.join(", ")}`);
  }
  if (slot === "absent") lines.push(item("Slot", "the server has none of that name"));
  else if (slot !== undefined) {
    const facts = [
      slot.walStatus ?? "state not known",
      ...(slot.restartLsn === undefined ? ["reserves nothing"] : [
        `restart ${formatLsn(slot.restartLsn)}`,
        `keeps ${formatBytes(Math.max(0, Number(look.flushLsn - slot.restartLsn)))}`,
      ]),
      ...(slot.safeWalBytes === undefined
        ? []
        : [`${formatBytes(Number(slot.safeWalBytes))} to its limit${limitText(limitMs)}`]),
      slot.activePid === undefined ? "not in use" : "in use",
    ];
    lines.push(item("Slot", `${slot.name}: ${facts.join(", ")}`));
  } else if (look.viewsProblem !== undefined) {
    lines.push(item("Slot", "not known: the server did not let us in for SQL"));
  }
  return lines;
}

function limitText(limitMs: number | undefined): string {
  return limitMs === undefined ? "" : `, in ${formatDuration(limitMs)} if nothing comes`;
}

function lagText({ bytes, ms }: Lag): string {
  return `${formatBytes(Number(bytes))}, ${
    ms === undefined ? "nothing tells for how long" : formatDuration(ms)
  }`;
}

const RECEIVER_TEXTS = {
  current: "all that the server had is here",
  receiving: "WAL comes, and not all is here yet",
  stalled: "WAL is missing, and none came while it was looked for",
} as const;

/** The one line of `--check`. */
export function checkLine({ path, survey, sinceChangeMs, server, problems }: StatusReport): string {
  if (problems.length > 0) return `UNHEALTHY: ${problems.join("; ")}\n`;
  const newest = survey.newest;
  const facts = [
    newest?.end.endLsn === undefined
      ? "no WAL yet"
      : `timeline ${newest.lineage.timeline} to ${formatLsn(newest.end.endLsn)}`,
    ...(server?.lag === undefined ? [] : [`lag ${lagText(server.lag)}`]),
    ...(server !== undefined || sinceChangeMs === undefined
      ? []
      : [`${writtenText(sinceChangeMs)}, no server asked`]),
    ...(server?.slot === undefined || server.slot === "absent"
      ? []
      : [`slot ${server.slot.name} ${server.slot.walStatus ?? ""}`.trimEnd()]),
  ];
  return `OK: ${path}: ${facts.join("; ")}\n`;
}

/** `1.2 s`, `3 min`, `5 h`, `9 days`. */
export function formatDuration(ms: number): string {
  if (ms < 9950) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} days`;
}

/** What a person is told of WAL files: the latest LSN of each. */
export function walFilesText(files: readonly WalFile[]): string {
  return files.map(({ path, content }) => {
    if (content.kind === "none") return `${path}: no WAL: ${content.reason}\n`;
    const { scan, segment, isNamedSo } = content;
    const facts = [
      `${scan.recordCount} records`,
      ...(isNamedSo ? [] : [`it is ${segment}`]),
      END_TEXTS[scan.end],
      ...(scan.problem === undefined ? [] : [scan.problem]),
    ];
    return `${path}: latest LSN ${formatLsn(scan.endLsn)} (${facts.join("; ")})\n`;
  }).join("");
}

const END_TEXTS = {
  "segment-end": "full",
  switch: "ended by a switch",
  zero: "the rest is empty",
  torn: "then no valid record",
  "page-header": "then no valid page",
  truncated: "the file ends there",
} as const;
