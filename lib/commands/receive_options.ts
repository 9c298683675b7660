import { Command, Option } from "commander";
import type { Compression } from "../archive/compression.ts";
import { DEFAULT_MINIMUM_FREE, type MinimumFree } from "../archive/minimum_free.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { Verbosity } from "./context.ts";
import {
  bytesOption,
  compressionOption,
  listOption,
  lsnOption,
  minimumFreeOption,
  secondsOption,
  slotNameOption,
} from "./parse_values.ts";

/** Options of `walvault receive`, checked. */
export interface ReceiveCommandOptions extends Verbosity {
  readonly connection?: string;
  readonly archive?: string;
  readonly slot?: string;
  readonly createSlot?: boolean;
  readonly dropSlot?: boolean;
  /** Keep the slot on the standbys of the connection string too. */
  readonly slotOnStandbys?: boolean;
  readonly endpos?: Lsn;
  readonly loop: boolean;
  /** Write down WAL that no server has any more, and go on behind it. */
  readonly gaps: boolean;
  /** Directories where missing WAL may be. */
  readonly peer?: readonly string[];
  readonly statusInterval: number;
  readonly receiveTimeout: number;
  readonly stallTimeout: number;
  /** `undefined`: a disk is filled to its last byte. */
  readonly minFree?: MinimumFree | undefined;
  /** `undefined`: no limit. */
  readonly haltLag?: bigint;
  /** Milliseconds; `undefined`: no limit. */
  readonly haltAfter?: number;
  readonly haltAction: "warn" | "drop-slot";
  readonly hardLinks: boolean;
  /** "none", as without it: segments stay as the server wrote them. */
  readonly compress?: Compression | "none";
  /** Keep what segments hold in `index/`, for find, status and verify. */
  readonly index: boolean;
  readonly json?: boolean;
}

const DEFAULT_SECONDS = { statusInterval: 10, receiveTimeout: 60, stallTimeout: 15 } as const;

/** What counts where no option is given. */
export function receiveDefaults(): ReceiveCommandOptions {
  const { statusInterval, receiveTimeout, stallTimeout } = DEFAULT_SECONDS;
  return {
    loop: true,
    gaps: true,
    statusInterval: statusInterval * 1000,
    receiveTimeout: receiveTimeout * 1000,
    stallTimeout: stallTimeout * 1000,
    haltAction: "warn",
    hardLinks: true,
    index: true,
    logFormat: "text",
  };
}

/** `receive` for the command line: its options, and what it does. */
export function receiveCommand(run: (options: ReceiveCommandOptions) => Promise<void>): Command {
  return new Command("receive")
    .summary("stream WAL from a server into the archive, for ever")
    .description(
      "Streams WAL from a PostgreSQL server into an archive directory, record by record, and tells the server what is " +
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
    .option("--create-slot", "make the slot if it is not there, and reserve WAL at once")
    .option("--drop-slot", "drop the slot and exit; with --slot-on-standbys on each standby too")
    .option(
      "--slot-on-standbys",
      "keep the slot on each standby of the connection string too, and move it along: after a failover the new " +
        "primary then still has all that is missing here",
    )
    .option("-E, --endpos <lsn>", "exit when all WAL below this LSN is safe", lsnOption)
    .option("-n, --no-loop", "exit at the first disconnect")
    .option(
      "--no-gaps",
      "exit when no server has the WAL that is missing, as with --endpos and --no-loop; without it the gap is recorded " +
        "and receiving goes on behind it",
    )
    .option(
      "--peer <directory>",
      "look here for WAL that is missing, and only read: another archive, a directory of pg_receivewal, or a server's " +
        "pg_wal (may be repeated)",
      listOption,
    )
    .addOption(
      seconds(
        "-s, --status-interval <seconds>",
        "tell the server where we are at least this often",
        DEFAULT_SECONDS.statusInterval,
      ),
    )
    .addOption(
      seconds(
        "--receive-timeout <seconds>",
        "give up a server that says nothing for this long",
        DEFAULT_SECONDS.receiveTimeout,
      ),
    )
    .addOption(
      seconds(
        "--stall-timeout <seconds>",
        "disconnect when nothing reaches the disk for this long",
        DEFAULT_SECONDS.stallTimeout,
      ),
    )
    .addOption(
      new Option(
        "--min-free <size|percent>",
        "with less than this free in the archive's file system, stop reading until there is room; 0 never stops " +
          "before it is full. push takes no notice: the server would have to keep what it refuses",
      ).argParser(minimumFreeOption)
        .default(DEFAULT_MINIMUM_FREE, "two segments and at least 64MB, but at most 5%"),
    )
    .option(
      "--halt-lag <size>",
      "the server keeps more than this for the slot that is not durable here: do what --halt-action says (no limit)",
      bytesOption,
    )
    .option(
      "--halt-after <seconds>",
      "nothing has become durable here for so long, and the server keeps WAL for the slot: do what --halt-action says; with " +
        "--halt-lag both must be so (no limit)",
      secondsOption,
    )
    .addOption(
      new Option(
        "--halt-action <action>",
        "warn, or drop-slot: record the gap, drop the slot before it fills the server's disk, and exit with 3",
      ).choices(["warn", "drop-slot"]).default("warn"),
    )
    .option(
      "--no-hard-links",
      "for file systems without hard links, where nothing else writes to the archive: no gap can be filled there, so --no-gaps is meant too",
    )
    .option(
      "-Z, --compress <format>",
      "compress complete segments in the background: zstd, gzip or lz4, with :LEVEL; readers find either form",
      compressionOption,
    )
    .option("--no-index", "do not note in index/ what segments hold: find, status and verify then read them")
    .option("--json", "at the end, print where receiving stopped, as one JSON object")
    .addOption(
      new Option("--log-format <format>", "log lines on stderr").choices(["text", "json"]).default("text"),
    )
    .option("-v, --verbose", "log also each connection and each segment")
    .option("-q, --quiet", "log errors only")
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
      --archive /srv/archive/main --slot walvault --create-slot --slot-on-standbys

  --slot-on-standbys needs PostgreSQL 13 or newer, and an ordinary connection for the same role (a line of pg_hba.conf
  for the database that dbname= names, else postgres): where a slot can't be moved along none is made, as it would
  keep all WAL. Before a host is taken out of the connection string for good, drop the slot there. --halt-action
  drop-slot drops all of them; where a standby can't be reached, it says what to run there.

Exit codes:
  0 told to stop, or --endpos reached   2 usage   3 failed`,
    )
    .action(run);
}

function seconds(flags: string, description: string, byDefault: number): Option {
  return new Option(flags, description).argParser(secondsOption).default(byDefault * 1000, String(byDefault));
}
