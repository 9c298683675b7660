import { openDirectDisk } from "../archive/direct_disk.ts";
import { errorCode } from "../archive/durable.ts";
import { minimumFreeBytes } from "../archive/minimum_free.ts";
import type { ConnectionSettings } from "../conninfo/settings.ts";
import { messageChain } from "../log.ts";
import { judgeBackup, type LineageState } from "../observe/backup_judgement.ts";
import type { CommitLook } from "../observe/commit_window.ts";
import { problemsOf, type Thresholds } from "../observe/health.ts";
import { judgeLag, type Lag, type LagFacts, sinceModified } from "../observe/lag.ts";
import { stretchesOf } from "../observe/lineage_cover.ts";
import { findOwnReceiver } from "../observe/own_receiver.ts";
import { limitInMs } from "../observe/slot_forecast.ts";
import { ArchiveDirectory } from "../restore/archive_directory.ts";
import { emptyHistory } from "../wal/history.ts";
import { segmentStart } from "../wal/segment.ts";
import { timelineId } from "../wal/timeline.ts";
import { unixMicroseconds } from "../wal/timestamp.ts";
import { archiveDirectory } from "./archive_directory.ts";
import { gapsOfSurvey, withHolesBefore } from "./archive_gaps.ts";
import { type CatchUp, watchCatchUp } from "./archive_lag.ts";
import { type ArchiveSurvey, surveyArchive, withLatestEnd } from "./archive_survey.ts";
import { newestWindow, recoverableWindow } from "./commit_windows.ts";
import { namedConnection } from "./connection.ts";
import { type CommandContext, EXIT, hintOf, UsageError } from "./context.ts";
import { indexDefects } from "./index_look.ts";
import { findLostTails } from "./lost_tails.ts";
import { commandLog } from "./logging.ts";
import { maskSecrets } from "./mask_secrets.ts";
import { lookAtServer, type ServerLook } from "./server_look.ts";
import { statusJson, walFilesJson } from "./status_json.ts";
import type { StatusCommandOptions } from "./status_options.ts";
import type { JudgedBackup, ServerStatus, StatusReport } from "./status_report.ts";
import { checkLine, statusText, walFilesText } from "./status_text.ts";
import { readWalFile, type WalFile } from "./wal_file.ts";

/** Tells about an archive, its server, and WAL files; resolves to the exit code. */
export async function status(
  files: readonly string[],
  options: StatusCommandOptions,
  context: CommandContext,
): Promise<number> {
  checkUsage(files, options);
  if (files.length > 0) return await tellFiles(files, options, context);
  const path = archiveDirectory(options.archive, context);
  // A connection string that can't be right is refused before anything is looked at.
  const connection = namedConnection(options.connection, context);
  const log = commandLog(context, { ...options, logFormat: "text" });
  for (const warning of connection?.warnings ?? []) log.warn("connection string", { warning });
  let report: StatusReport;
  try {
    report = await makeReport(path, { options, settings: connection?.settings, context });
  } catch (error) {
    if (!options.check || error instanceof UsageError) throw named(error, path);
    return tellUnknown(named(error, path), options, context);
  }
  if (options.json) {
    context.stdout.write(JSON.stringify(statusJson(report, { check: options.check ?? false })) + "\n");
  } else context.stdout.write(options.check ? checkLine(report) : statusText(report));
  if (options.check) return report.problems.length === 0 ? EXIT.done : EXIT.no;
  if (report.serverError === undefined) return EXIT.done;
  context.stderr.write(`walvault: ${maskSecrets(messageChain(report.serverError))}\n`);
  const hint = hintOf(report.serverError);
  if (hint !== undefined) context.stderr.write(`hint: ${maskSecrets(hint)}\n`);
  return EXIT.failed;
}

function checkUsage(files: readonly string[], options: StatusCommandOptions): void {
  if (options.verbose && options.quiet) {
    throw new UsageError("--verbose and --quiet exclude each other", "Give one of them");
  }
  if (
    files.length > 0 && (options.archive !== undefined || options.connection !== undefined || options.check)
  ) {
    throw new UsageError(
      "WAL files stand alone: --archive, --connection and --check are for an archive",
      "Ask twice: once with the files, once with the archive",
    );
  }
  for (
    const [flag, given] of [
      ["--max-lag-bytes", options.maxLagBytes],
      ["--max-age", options.maxAge],
      ["--min-safe-wal", options.minSafeWal],
      ["--require-backup", options.requireBackup],
    ] as const
  ) {
    if (given === undefined || options.check) continue;
    throw new UsageError(`${flag} is for --check`, "Without --check nothing is judged");
  }
}

/** What the operating system refuses gets its subject. */
function named(error: unknown, path: string): unknown {
  if (errorCode(error) === undefined) return error;
  return new Error(`Cannot read the archive "${path}"`, { cause: error });
}

/** A monitoring system wants a line and 0 or 1, whatever went wrong. */
function tellUnknown(error: unknown, { json }: StatusCommandOptions, { stdout }: CommandContext): number {
  const problem = maskSecrets(messageChain(error));
  stdout.write(
    json ? JSON.stringify({ healthy: false, problems: [problem] }) + "\n" : `UNHEALTHY: ${problem}\n`,
  );
  return EXIT.no;
}

interface ReportOptions {
  readonly options: StatusCommandOptions;
  /** `undefined`: no server is asked. */
  readonly settings: ConnectionSettings | undefined;
  readonly context: CommandContext;
}

async function makeReport(
  path: string,
  { options, settings, context }: ReportOptions,
): Promise<StatusReport> {
  // The server first: what it has by then is what the archive is held against.
  const asked = settings === undefined ? undefined : await askServer(settings, { options, context });
  const look = asked?.look;
  const directory = await ArchiveDirectory.open(openDirectDisk(path));
  let survey = await surveyArchive(directory);
  const mismatch = look === undefined ? undefined : mismatchOf(look, survey);
  const catchUp = look === undefined || mismatch !== undefined
    ? undefined
    : await watchCatchUp(survey, look, context.signal);
  if (
    catchUp !== undefined && survey.newest?.lineage.timeline === look?.timeline && survey.newest !== undefined
  ) {
    survey = { ...survey, newest: withLatestEnd(survey.newest, catchUp.end) };
  }
  const nowMs = Date.now();
  const modifiedMs = survey.newest?.end.modifiedMs;
  const sinceChangeMs = modifiedMs === undefined ? undefined : sinceModified(modifiedMs, nowMs);
  // Of an archive that has nothing yet, all is missing since it was made.
  const sinceMadeMs = survey.madeMs === undefined ? undefined : sinceModified(survey.madeMs, nowMs);
  const backups = judgeBackups(survey);
  const window = await newestWindow(survey);
  const lag = look === undefined || catchUp === undefined ? undefined : lagOf(catchUp, look, {
    sinceChangeMs: sinceChangeMs ?? sinceMadeMs,
    sinceCommitMs: sinceCommit(window?.lastCommit, look, nowMs),
    segmentSize: survey.segmentSize,
  });
  const server = look === undefined ? undefined : serverStatus(look, lag, {
    slot: options.slot,
    applicationName: settings?.applicationName ?? "walvault",
  });
  const defects = [
    ...survey.defects,
    ...await indexDefects(survey),
    ...(mismatch === undefined ? [] : [mismatch]),
    ...(asked?.error === undefined ? [] : [maskSecrets(messageChain(asked.error))]),
  ];
  const minFreeBytes = minimumFreeBytes(options.minFree, {
    totalBytes: survey.space.totalBytes,
    segmentBytes: survey.segmentSize,
  });
  const gaps = await gapsOfSurvey(survey);
  if (survey.newest !== undefined) {
    survey = { ...survey, newest: withHolesBefore(survey.newest, gaps, survey.segmentSize) };
  }
  const problems = problemsOf({
    timeline: survey.newest?.lineage.timeline,
    holes: survey.newest?.holes ?? [],
    gaps,
    backups,
    defects,
    conflicts: survey.conflicts,
    freeBytes: survey.space.freeBytes,
    sinceChangeMs,
    lag: server?.lag,
    slot: server?.slot,
  }, thresholdsOf(options, minFreeBytes));
  return {
    path,
    survey,
    minFreeBytes,
    gaps,
    sinceChangeMs,
    window,
    lostTails: await findLostTails(survey),
    backups,
    recoverable: await recoverableWindow(survey, backups),
    server,
    serverError: asked?.error,
    problems,
  };
}

async function askServer(
  settings: ConnectionSettings,
  { options, context }: Pick<ReportOptions, "options" | "context">,
): Promise<{ readonly look: ServerLook | undefined; readonly error: unknown }> {
  const log = commandLog(context, { ...options, logFormat: "text" });
  try {
    const look = await lookAtServer(settings, { log, signal: context.signal, slot: options.slot });
    if (look.viewsProblem !== undefined) {
      const error = maskSecrets(messageChain(look.viewsProblem));
      log.warn("slots not read", { error, hint: hintOf(look.viewsProblem) });
    }
    return { look, error: undefined };
  } catch (error) {
    // What is in the archive is worth telling without it; then the command fails with this error.
    return { look: undefined, error };
  }
}

function thresholdsOf(options: StatusCommandOptions, minFreeBytes: number): Thresholds {
  return {
    maxLagMs: options.maxLag,
    maxLagBytes: options.maxLagBytes,
    maxAgeMs: options.maxAge,
    minSafeWalBytes: options.minSafeWal,
    minFreeBytes: BigInt(minFreeBytes),
    requireBackup: options.requireBackup ?? false,
  };
}

/** Why a server's position says nothing about the archive; `undefined` when it does. */
function mismatchOf(server: ServerLook, { systemIdentifier, newest }: ArchiveSurvey): string | undefined {
  if (systemIdentifier !== undefined && server.systemIdentifier !== systemIdentifier) {
    return `the server at ${server.address} has system identifier ${server.systemIdentifier}, the archive ${systemIdentifier}: another cluster`;
  }
  const timeline = newest?.lineage.timeline;
  if (timeline === undefined || server.timeline >= timeline) return undefined;
  return `the server at ${server.address} is on timeline ${server.timeline}, the archive on ${timeline}: an old primary, or a standby that lags`;
}

function lagOf(
  { end, receivedAtFirstLsn, elapsedMs }: CatchUp,
  { flushLsn }: ServerLook,
  facts: Pick<LagFacts, "sinceChangeMs" | "sinceCommitMs" | "segmentSize">,
): Lag {
  const { receivedLsn } = end;
  return judgeLag({ serverFlushLsn: flushLsn, receivedLsn, receivedAtFirstLsn, elapsedMs, ...facts });
}

function sinceCommit(
  commit: CommitLook | undefined,
  { views, askedAtMs }: ServerLook,
  nowMs: number,
): number | undefined {
  if (commit === undefined || commit === "none" || commit === "unknown") return undefined;
  const serverNowMs = views === undefined ? nowMs : views.clockMs + performance.now() - askedAtMs;
  return Math.max(0, serverNowMs - Number(unixMicroseconds(commit.time) / 1000n));
}

function serverStatus(
  look: ServerLook,
  lag: Lag | undefined,
  names: { readonly slot: string | undefined; readonly applicationName: string },
): ServerStatus {
  const own = ownReceiver(look, names);
  const safeWalBytes = own.slot === "absent" ? undefined : own.slot?.safeWalBytes;
  // One look shows no growth; but where nothing comes, all that is missing has grown since something last came.
  const limitMs = safeWalBytes === undefined || lag?.state !== "stalled" || lag.ms === undefined
    ? undefined
    : limitInMs(safeWalBytes, Number(lag.bytes) / lag.ms);
  return { look, lag, ...own, limitMs };
}

function ownReceiver(
  { views, slotRestartLsn }: ServerLook,
  names: { readonly slot: string | undefined; readonly applicationName: string },
): Pick<ServerStatus, "slot" | "senders"> {
  if (views !== undefined) {
    const { slot, senders } = findOwnReceiver(views, names);
    return { slot: slot ?? (names.slot === undefined ? undefined : "absent"), senders };
  }
  if (names.slot === undefined || slotRestartLsn === undefined) return { slot: undefined, senders: [] };
  if (slotRestartLsn === "absent") return { slot: "absent", senders: [] };
  const untold = { activePid: undefined, walStatus: undefined, safeWalBytes: undefined };
  return { slot: { name: names.slot, restartLsn: slotRestartLsn, ...untold }, senders: [] };
}

function judgeBackups(
  { backups, newest, runs, histories, segmentSize }: ArchiveSurvey,
): readonly JudgedBackup[] {
  // The first timeline has no history.
  const known = histories.some(({ timeline }) => timeline === 1)
    ? histories
    : [emptyHistory(timelineId(1)), ...histories];
  const older = known.filter(({ timeline }) => timeline !== newest?.lineage.timeline).reverse();
  const states: readonly LineageState[] = [
    ...(newest === undefined
      ? []
      : [{ lineage: newest.lineage, stretches: newest.wholeStretches, endLsn: newest.end.endLsn }]),
    ...older.map((lineage) => {
      const stretches = stretchesOf(runs, lineage, segmentSize);
      const last = stretches.at(-1);
      return { lineage, stretches, endLsn: last && segmentStart(last.endNumber, segmentSize) };
    }),
  ];
  return backups.map((backup) => ({ ...backup, judgement: judgeBackup(backup, states, segmentSize) }));
}

async function tellFiles(
  paths: readonly string[],
  { json }: StatusCommandOptions,
  { stdout }: CommandContext,
): Promise<number> {
  const files: WalFile[] = [];
  for (const path of paths) files.push(await readWalFile(path));
  stdout.write(json ? JSON.stringify(walFilesJson(files)) + "\n" : walFilesText(files));
  return files.every(({ content }) => content.kind === "wal") ? EXIT.done : EXIT.no;
}
