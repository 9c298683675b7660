import process from "node:process";
import { Archive } from "../archive/archive.ts";
import { openDirectDisk } from "../archive/direct_disk.ts";
import { errorCode } from "../archive/durable.ts";
import { lockFile } from "../archive/flock.ts";
import type { ArchiveIdentity } from "../archive/identity.ts";
import { LOCK_FILE } from "../archive/layout.ts";
import { messageChain } from "../log.ts";
import { connect } from "../session/connect.ts";
import type { Session } from "../session/session.ts";
import { parseHistory } from "../wal/history.ts";
import { formatSegmentSize, parseSegmentSize } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import { archiveDirectory } from "./archive_directory.ts";
import { commandConnection } from "./connection.ts";
import { type CommandContext, EXIT, hintOf, UsageError } from "./context.ts";
import type { InitCommandOptions } from "./init_options.ts";
import { commandLog } from "./logging.ts";
import { maskSecrets } from "./mask_secrets.ts";

/** Makes an archive for a server; resolves to the exit code. */
export async function init(options: InitCommandOptions, context: CommandContext): Promise<number> {
  const log = commandLog(context, options);
  if (options.verbose && options.quiet) {
    throw new UsageError("--verbose and --quiet exclude each other", "Give one of them");
  }
  const { settings, warnings } = commandConnection(options.connection, context);
  const directory = archiveDirectory(options.archive, context);
  for (const warning of warnings) log.warn("connection string", { warning });
  try {
    const source = await connect(settings, { log, signal: context.signal });
    let server: ArchiveIdentity;
    let histories: readonly ServerHistory[];
    try {
      const { systemIdentifier, timeline } = await source.identifySystem();
      histories = await serverHistories(source, timeline);
      server = { systemIdentifier, segmentSize: parseSegmentSize(await source.show("wal_segment_size")) };
    } finally {
      await source.close();
    }
    for (const { timeline } of await makeArchive(directory, server, histories)) {
      log.info("history archived", { history: historyFileName(timeline) });
    }
    log.info("archive ready", {
      archive: directory,
      systemIdentifier: server.systemIdentifier,
      segmentSize: formatSegmentSize(server.segmentSize),
    });
    return EXIT.done;
  } catch (error) {
    // Who reads JSON lines has to find the one that matters most among them.
    if (options.logFormat !== "json") throw error;
    log.error("failed", { error: maskSecrets(messageChain(error)), hint: hintOf(error) });
    return EXIT.failed;
  }
}

interface ServerHistory {
  readonly timeline: TimelineId;
  readonly bytes: Uint8Array;
}

/** The histories of a server's timeline and those that it came from, as far as it has them; the oldest first. */
async function serverHistories(source: Session, timeline: TimelineId): Promise<readonly ServerHistory[]> {
  if (timeline === 1) return [];
  const own = await source.timelineHistory(timeline);
  // The archive may have it; and if not, push takes it from beside the first segment.
  if (own === undefined) return [];
  const histories: ServerHistory[] = [];
  for (const { timeline: ancestor } of parseHistory(timeline, own).entries) {
    const bytes = ancestor === 1 ? undefined : await source.timelineHistory(ancestor);
    // Ancestors are told again in every younger history: one that the server no longer has is no loss.
    if (bytes !== undefined) histories.push({ timeline: ancestor, bytes });
  }
  return [...histories, { timeline, bytes: own }];
}

/** Resolves to the histories that were not there yet. */
async function makeArchive(
  directory: string,
  server: ArchiveIdentity,
  histories: readonly ServerHistory[],
): Promise<readonly ServerHistory[]> {
  const archive = await openArchive(directory);
  const isMade = archive.identity !== undefined;
  if (isMade) archive.check(server);
  const lock = lockFile(`${directory}/${LOCK_FILE}`, archive.modes.file);
  if (lock === undefined) {
    // A receiver is at work in it, and stores the histories itself.
    if (isMade) return [];
    throw new Error(
      `Cannot make an archive of "${directory}": another walvault is at work there; try again when it has made it`,
    );
  }
  try {
    const own = await openArchive(directory);
    // Another may have made it since; who pushes into it meanwhile is not to be disturbed.
    if (own.identity === undefined) await own.claim(server);
    else own.check(server);
    const stored: ServerHistory[] = [];
    for (const history of histories) {
      if (await own.storeHistory(history.timeline, history.bytes) === "stored") stored.push(history);
    }
    return stored;
  } finally {
    lock.release();
  }
}

async function openArchive(directory: string): Promise<Archive> {
  try {
    const disk = openDirectDisk(directory);
    return await Archive.open(disk, { naming: { hardLinks: true }, userId: process.geteuid?.() });
  } catch (cause) {
    if (errorCode(cause) === undefined) throw cause;
    throw new Error(`Cannot open the archive "${directory}"`, { cause });
  }
}
