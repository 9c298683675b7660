import process from "node:process";
import { Command, Option } from "commander";
import { Archive } from "../archive/archive.ts";
import { openDiskThread } from "../archive/disk_thread.ts";
import { type FileLock, lockFile } from "../archive/flock.ts";
import { LOCK_FILE } from "../archive/layout.ts";
import { RECEIVING_MEMORY_BYTES, ReceivingArchive } from "../archive/receiving_archive.ts";
import type { ConnectionSettings } from "../conninfo/settings.ts";
import type { Log } from "../log.ts";
import { PermanentError } from "../receiver/failure.ts";
import type { LegPosition } from "../receiver/leg.ts";
import type { WalSource } from "../receiver/wal_source.ts";
import { type ReceiveEnd, receiveWal } from "../receiver/receive.ts";
import { connect } from "../session/connect.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { realClock } from "./clock.ts";
import { commandConnection } from "./connection.ts";
import { type CommandContext, EXIT, UsageError, type Verbosity } from "./context.ts";
import { LiveLine } from "./live_line.ts";
import { commandLog } from "./logging.ts";
import { lsnOption, secondsOption, slotNameOption } from "./parse_values.ts";
import { notifyReady } from "./service_manager.ts";

/** Options of `walvault receive`, checked. */
export interface ReceiveCommandOptions extends Verbosity {
  readonly connection?: string;
  readonly archive?: string;
  readonly slot?: string;
  readonly createSlot: boolean;
  readonly dropSlot: boolean;
  readonly endpos?: Lsn;
  readonly loop: boolean;
  readonly statusInterval: number;
  readonly receiveTimeout: number;
  readonly stallTimeout: number;
  readonly hardLinks: boolean;
  readonly json: boolean;
}

/** The server has this long to confirm the end of the stream. */
const STOP_TIMEOUT_MS = 10_000;

/** `receive` for the command line: its options, and what it does. */
export function receiveCommand(run: (options: ReceiveCommandOptions) => Promise<void>): Command {
  return new Command("receive")
    .summary("stream WAL from a server into the archive, for ever")
    .description(
      "Streams WAL from a PostgreSQL server into an archive directory, record by record, and tells the server what is\n" +
        "safe on disk. It goes on after every disconnect, restart and failover from the first byte that is missing.",
    )
    .option(
      "-c, --connection <conninfo>",
      "connection string, keyword/value or URI; without it the PG* environment counts",
    )
    .option(
      "-d, --archive <directory>",
      "the archive: an existing directory, empty at the first use (or WALVAULT_ARCHIVE)",
    )
    .option(
      "-S, --slot <name>",
      "replication slot: the server keeps the WAL that is not yet received",
      slotNameOption,
    )
    .option("--create-slot", "make the slot if it is not there, and reserve WAL at once", false)
    .option("--drop-slot", "drop the slot and exit", false)
    .option("-E, --endpos <lsn>", "exit when all WAL below this LSN is safe", lsnOption)
    .option("-n, --no-loop", "exit at the first disconnect")
    .addOption(
      seconds("-s, --status-interval <seconds>", "tell the server where we are at least this often", 10),
    )
    .addOption(seconds("--receive-timeout <seconds>", "give up a server that says nothing for this long", 60))
    .addOption(
      seconds("--stall-timeout <seconds>", "disconnect when nothing reaches the disk for this long", 15),
    )
    .option(
      "--no-hard-links",
      "for file systems without hard links, where nothing else writes to the archive",
    )
    .option("--json", "at the end, print where receiving stopped, as one JSON object", false)
    .addOption(
      new Option("--log-format <format>", "log lines on stderr").choices(["text", "json"]).default("text"),
    )
    .option("-v, --verbose", "log every message of interest", false)
    .option("-q, --quiet", "log errors only", false)
    .addHelpText(
      "after",
      `
Examples:
  First time, with a slot, so that the server keeps what is not yet here:
    walvault receive --connection 'host=db1 user=replicator' --archive /srv/archive/main --slot walvault --create-slot

  As a synchronous standby nothing acknowledged is ever lost. On the server:
    ALTER SYSTEM SET synchronous_standby_names = 'walvault';
    SELECT pg_reload_conf();

  Follow the primary through failovers:
    walvault receive --connection 'host=db1,db2 target_session_attrs=primary user=replicator' \\
      --archive /srv/archive/main --slot walvault --create-slot

Exit codes:
  0 told to stop, or --endpos reached   2 usage   3 failed`,
    )
    .action(run);
}

function seconds(flags: string, description: string, byDefault: number): Option {
  return new Option(flags, description).argParser(secondsOption).default(byDefault * 1000, String(byDefault));
}

/** Streams until told to stop; resolves to the exit code. */
export async function receive(options: ReceiveCommandOptions, context: CommandContext): Promise<number> {
  const log = commandLog(context, options);
  checkUsage(options);
  const { settings, warnings } = commandConnection(options.connection, context);
  for (const warning of warnings) log.warn("connection string", { warning });
  if (options.dropSlot) return await dropSlot(options, settings, log, context.signal);
  const directory = options.archive ?? context.env["WALVAULT_ARCHIVE"];
  if (directory === undefined || directory === "") {
    throw new UsageError(
      "No archive is given",
      "Name the archive directory with --archive, or in WALVAULT_ARCHIVE",
    );
  }
  return await receiveInto(directory, { options, settings, log }, context);
}

function checkUsage(options: ReceiveCommandOptions): void {
  if (options.verbose && options.quiet) {
    throw new UsageError("--verbose and --quiet exclude each other", "Give one of them");
  }
  for (
    const [flag, given] of [["--create-slot", options.createSlot], ["--drop-slot", options.dropSlot]] as const
  ) {
    if (given && options.slot === undefined) {
      throw new UsageError(`${flag} needs a slot`, "Name it with --slot");
    }
  }
  if (options.createSlot && options.dropSlot) {
    throw new UsageError("--create-slot and --drop-slot exclude each other", "Give one of them");
  }
}

async function dropSlot(
  options: ReceiveCommandOptions,
  settings: ConnectionSettings,
  log: Log,
  signal: AbortSignal,
): Promise<number> {
  const slot = options.slot ?? "";
  const source = await connect(settings, { log, signal });
  try {
    await source.dropSlot(slot);
  } finally {
    await source.close();
  }
  log.info("slot dropped", { slot });
  return EXIT.done;
}

interface Receiving {
  readonly options: ReceiveCommandOptions;
  readonly settings: ConnectionSettings;
  readonly log: Log;
}

async function receiveInto(
  directory: string,
  receiving: Receiving,
  context: CommandContext,
): Promise<number> {
  const { options } = receiving;
  const disk = openDiskThread(directory, RECEIVING_MEMORY_BYTES);
  let lock: FileLock | undefined;
  try {
    const archive = await Archive.open(disk, {
      naming: { hardLinks: options.hardLinks },
      userId: process.geteuid?.(),
    });
    lock = lockArchive(directory, archive.modes.file);
    // The look before was without the lock: somebody may have made it an archive meanwhile.
    const claimed = await Archive.open(disk, {
      naming: { hardLinks: options.hardLinks },
      userId: process.geteuid?.(),
    });
    return await stream(claimed, receiving, context);
  } finally {
    lock?.release();
    await disk.close();
  }
}

function lockArchive(directory: string, mode: number): FileLock {
  const lock = lockFile(`${directory}/${LOCK_FILE}`, mode);
  if (lock !== undefined) return lock;
  throw new PermanentError(
    `Cannot receive into "${directory}": another walvault receives into it; stop that one first, or use another directory`,
  );
}

async function stream(archive: Archive, receiving: Receiving, context: CommandContext): Promise<number> {
  const { options, settings, log } = receiving;
  const live = new LiveLine(context.stderr, realClock, {
    enabled: !options.quiet && options.logFormat === "text",
  });
  let position: LegPosition | undefined;
  const events = {
    segmentPublished: (event: { segment: string; endLsn: Lsn }) =>
      log.debug("segment archived", { segment: event.segment, flushLsn: formatLsn(event.endLsn) }),
    savedCopyKept: (event: { path: string; validEndLsn: Lsn }) =>
      log.info("unfinished segment kept", { path: event.path, validEndLsn: formatLsn(event.validEndLsn) }),
    savedCopyPassed: (event: { path: string }) => log.info("unfinished segment received again", event),
  };
  const dependencies = {
    connect: (accept: (source: WalSource) => Promise<boolean>, signal: AbortSignal) =>
      connect(settings, { log, accept, signal }),
    archive: new ReceivingArchive(archive, { clock: realClock, events }),
    clock: realClock,
    log: live.above(log),
    random: Math.random,
    onPosition: (now: LegPosition) => {
      position = now;
      live.show(now);
      showInTitle(now);
    },
    onStreaming: (address: string) => notifyReady(address, context.env, log),
  };
  const timing = {
    statusIntervalMs: options.statusInterval,
    receiveTimeoutMs: options.receiveTimeout,
    stallTimeoutMs: options.stallTimeout,
    stopTimeoutMs: STOP_TIMEOUT_MS,
  };
  const { slot, createSlot, endpos: endLsn, loop } = options;
  try {
    const end = await receiveWal(dependencies, { slot, createSlot, endLsn, loop, timing }, context.signal);
    live.clear();
    log.info("stopped", {
      reason: end,
      ...(position === undefined ? {} : { flushLsn: formatLsn(position.flushLsn) }),
    });
    if (options.json) context.stdout.write(formatEnd(end, position));
    return EXIT.done;
  } finally {
    live.clear();
  }
}

function formatEnd(end: ReceiveEnd, position: LegPosition | undefined): string {
  const where = position === undefined
    ? {}
    : { timeline: position.timeline, flushLsn: formatLsn(position.flushLsn) };
  return JSON.stringify({ end, ...where }) + "\n";
}

function showInTitle(position: LegPosition): void {
  process.title = `walvault receive ${formatLsn(position.flushLsn)}`;
}
