import process from "node:process";
import { Archive } from "../archive/archive.ts";
import { openDirectDisk } from "../archive/direct_disk.ts";
import { errorCode } from "../archive/durable.ts";
import { lockFile } from "../archive/flock.ts";
import type { ArchiveIdentity } from "../archive/identity.ts";
import { LOCK_FILE } from "../archive/layout.ts";
import { messageChain } from "../log.ts";
import { connect } from "../session/connect.ts";
import { formatSegmentSize, parseSegmentSize } from "../wal/segment.ts";
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
    try {
      const { systemIdentifier } = await source.identifySystem();
      server = { systemIdentifier, segmentSize: parseSegmentSize(await source.show("wal_segment_size")) };
    } finally {
      await source.close();
    }
    await makeArchive(directory, server);
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

async function makeArchive(directory: string, server: ArchiveIdentity): Promise<void> {
  const archive = await openArchive(directory);
  // Somebody may be at work in it: only the one who makes it needs the lock.
  if (archive.identity !== undefined) {
    archive.check(server);
    return;
  }
  const lock = lockFile(`${directory}/${LOCK_FILE}`, archive.modes.file);
  if (lock === undefined) {
    throw new Error(
      `Cannot make an archive of "${directory}": another walvault is at work there; try again when it has made it`,
    );
  }
  try {
    await (await openArchive(directory)).claim(server);
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
