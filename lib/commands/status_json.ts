import type { TransactionMark } from "../archive/segment_index.ts";
import type { CommitLook } from "../observe/commit_window.ts";
import type { Hole } from "../observe/lineage_cover.ts";
import type { Lag } from "../observe/lag.ts";
import type { TimelineHoldings } from "../observe/timeline_holdings.ts";
import type { SenderView, SlotView } from "../protocol/replication_views.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { formatTimestamp } from "../wal/timestamp.ts";
import { messageChain } from "../log.ts";
import { gapJson } from "./gap_answer.ts";
import type { LostTail } from "./lost_tails.ts";
import { maskSecrets } from "./mask_secrets.ts";
import type { CommitWindow, JudgedBackup, ServerStatus, StatusReport } from "./status_report.ts";
import type { WalFile } from "./wal_file.ts";

// docs/json.md describes what is made here. Fields are added, never changed; one that is not known is left out.

/** The answer of `status --json`. */
export function statusJson(report: StatusReport, { check }: { readonly check: boolean }): object {
  const { survey, window, backups, recoverable, server, serverError, problems } = report;
  return {
    archive: archiveJson(report),
    timelines: survey.timelines.map(timelineJson),
    ...latestJson(report),
    holes: (survey.newest?.holes ?? []).map(holeJson),
    gaps: report.gaps.map((gap) => gapJson(gap, survey.segmentSize)),
    ...(window === undefined ? {} : { window: windowJson(window) }),
    lostTails: report.lostTails.map(lostTailJson),
    backups: backups.map(backupJson),
    ...(recoverable === undefined
      ? { ...(window === undefined ? {} : { needsBackupFromLsn: formatLsn(window.startLsn) }) }
      : { recoverable: { backup: recoverable.backup.file, ...windowJson(recoverable) } }),
    ...(server === undefined ? {} : serverJson(server)),
    ...(serverError === undefined
      ? {}
      : { server: { error: maskSecrets(messageChain(serverError)) }, receiver: { state: "unknown" } }),
    ...(check ? { healthy: problems.length === 0 } : {}),
    problems,
  };
}

function archiveJson({ path, survey, minFreeBytes, sinceChangeMs }: StatusReport) {
  return {
    path,
    kind: survey.directory.identity === undefined ? "pg_receivewal" : "walvault",
    ...known("systemIdentifier", survey.systemIdentifier?.toString()),
    segmentBytes: Number(survey.segmentSize),
    freeBytes: survey.space.freeBytes,
    minFreeBytes,
    conflicts: survey.conflicts,
    // Of a file's time in the future nobody knows how long ago it was.
    ...known(
      "sinceChangeSeconds",
      sinceChangeMs !== undefined && sinceChangeMs < 0 ? undefined : seconds(sinceChangeMs),
    ),
  };
}

function timelineJson({ timeline, startLsn, endLsn, segments, bytes, holes, parent }: TimelineHoldings) {
  return {
    timeline,
    ...lsnField("startLsn", startLsn),
    ...lsnField("endLsn", endLsn),
    segments: Number(segments),
    bytes: Number(bytes),
    holes: holes.map(holeJson),
    ...(parent === undefined
      ? {}
      : { parent: { timeline: parent.timeline, forkLsn: formatLsn(parent.forkLsn) } }),
  };
}

function holeJson({ timeline, startLsn, endLsn, segments, firstName }: Hole) {
  return {
    timeline,
    startLsn: formatLsn(startLsn),
    endLsn: formatLsn(endLsn),
    segments: Number(segments),
    firstFile: firstName,
  };
}

function latestJson({ survey }: StatusReport): object {
  const { newest } = survey;
  if (newest?.end.endLsn === undefined) return {};
  const { completeEndLsn, endLsn, receivedLsn, tail } = newest.end;
  return {
    latest: {
      timeline: newest.lineage.timeline,
      lsn: formatLsn(endLsn),
      ...lsnField("completeLsn", completeEndLsn),
      ...lsnField("receivedLsn", receivedLsn),
      ...(tail === undefined ? {} : { tail: tail.file.path, tailStartLsn: formatLsn(tail.startLsn) }),
    },
  };
}

function windowJson({ startLsn, endLsn, firstCommit, lastCommit }: CommitWindow) {
  const looks = [firstCommit, lastCommit];
  return {
    startLsn: formatLsn(startLsn),
    endLsn: formatLsn(endLsn),
    commits: looks.includes("unknown") ? "unknown" : looks.includes("none") ? "none" : "known",
    ...commitField("firstCommit", firstCommit),
    ...commitField("lastCommit", lastCommit),
  };
}

function commitField(name: string, look: CommitLook): object {
  return look === "none" || look === "unknown" ? {} : { [name]: commitJson(look) };
}

function commitJson({ lsn, xid, time }: TransactionMark) {
  return { lsn: formatLsn(lsn), xid, time: formatTimestamp(time) };
}

function lostTailJson({ timeline, forkLsn, endLsn, commits }: LostTail) {
  return {
    timeline,
    forkLsn: formatLsn(forkLsn),
    endLsn: formatLsn(endLsn),
    ...(commits === undefined ? {} : {
      commits: commits.count,
      allCounted: commits.isAll,
      ...commitField("firstCommit", commits.first ?? "none"),
      ...commitField("lastCommit", commits.last ?? "none"),
    }),
  };
}

function backupJson(
  { file, label, timeline, startLsn, stopLsn, startTime, stopTime, judgement }: JudgedBackup,
) {
  return {
    file,
    label,
    timeline,
    startLsn: formatLsn(startLsn),
    stopLsn: formatLsn(stopLsn),
    ...known("startTime", startTime),
    ...known("stopTime", stopTime),
    recoverable: judgement.kind === "recoverable",
    ...(judgement.kind === "recoverable"
      ? { endTimeline: judgement.timeline, endLsn: formatLsn(judgement.endLsn), toEnd: judgement.toEnd }
      : { reason: judgement.reason }),
  };
}

function serverJson({ look, lag, slot, senders }: ServerStatus): object {
  return {
    server: {
      address: look.address,
      version: look.serverVersion,
      systemIdentifier: look.systemIdentifier.toString(),
      timeline: look.timeline,
      flushLsn: formatLsn(look.flushLsn),
      ...(look.viewsProblem === undefined
        ? {}
        : { slotsError: maskSecrets(messageChain(look.viewsProblem)) }),
    },
    ...(lag === undefined ? {} : { lag: lagJson(lag) }),
    receiver: { state: lag?.state ?? "unknown", connections: senders.map(senderJson) },
    ...(slot === undefined ? {} : { slot: slotJson(slot, look.flushLsn) }),
  };
}

function lagJson({ bytes, ms }: Lag) {
  return { bytes: Number(bytes), ...known("seconds", ms === undefined ? undefined : ms / 1000) };
}

function senderJson(sender: SenderView) {
  return {
    pid: sender.pid,
    applicationName: sender.applicationName,
    ...known("state", sender.state),
    ...lsnField("sentLsn", sender.sentLsn),
    ...lsnField("writeLsn", sender.writeLsn),
    ...lsnField("flushLsn", sender.flushLsn),
    ...known("syncState", sender.syncState),
    ...known("sinceReplySeconds", seconds(sender.sinceReplyMs)),
  };
}

function slotJson(slot: SlotView | "absent", flushLsn: Lsn) {
  if (slot === "absent") return { exists: false };
  const { name, activePid, restartLsn, walStatus, safeWalBytes } = slot;
  return {
    exists: true,
    name,
    ...known("activePid", activePid),
    ...lsnField("restartLsn", restartLsn),
    ...(restartLsn === undefined ? {} : { retainedBytes: Math.max(0, Number(flushLsn - restartLsn)) }),
    ...known("walStatus", walStatus),
    ...(safeWalBytes === undefined ? {} : { safeWalBytes: Number(safeWalBytes) }),
  };
}

/** The answer of `status FILE… --json`. */
export function walFilesJson(files: readonly WalFile[]): object {
  return {
    files: files.map(({ path, content }) => {
      if (content.kind === "none") return { path, wal: false, reason: content.reason };
      const { scan, page, timeline, segment, isNamedSo } = content;
      return {
        path,
        wal: true,
        segment,
        named: isNamedSo,
        timeline,
        startLsn: formatLsn(scan.startLsn),
        latestLsn: formatLsn(scan.endLsn),
        receivedLsn: formatLsn(scan.contentEndLsn),
        ...lsnField("lastRecordLsn", scan.lastRecordLsn),
        records: scan.recordCount,
        end: scan.end,
        ...known("problem", scan.problem),
        ...known("systemIdentifier", page.systemIdentifier?.toString()),
        segmentBytes: Number(scan.segmentSize),
        ...known("majorVersion", page.majorVersion),
      };
    }),
  };
}

function lsnField(name: string, value: Lsn | undefined): object {
  return value === undefined ? {} : { [name]: formatLsn(value) };
}

function known(name: string, value: string | number | undefined): object {
  return value === undefined ? {} : { [name]: value };
}

function seconds(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : Math.round(ms) / 1000;
}
