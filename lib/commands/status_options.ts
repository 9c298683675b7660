import { Command, Option } from "commander";
import { DEFAULT_MINIMUM_FREE, type MinimumFree } from "../archive/minimum_free.ts";
import { bytesOption, minimumFreeOption, secondsOption, slotNameOption } from "./parse_values.ts";

/** Options of `walvault status`, checked. */
export interface StatusCommandOptions {
  readonly archive?: string;
  readonly connection?: string;
  readonly slot?: string;
  readonly check?: boolean;
  /** Milliseconds. */
  readonly maxLag: number;
  readonly maxLagBytes?: bigint;
  /** Milliseconds. */
  readonly maxAge?: number;
  readonly minSafeWal?: bigint;
  readonly minFree: MinimumFree;
  readonly requireBackup?: boolean;
  readonly json?: boolean;
  readonly verbose?: boolean;
  readonly quiet?: boolean;
}

const DEFAULT_MAX_LAG_SECONDS = 60;

/** `status` for the command line: its options, and what it does. */
export function statusCommand(
  run: (files: readonly string[], options: StatusCommandOptions) => Promise<void>,
): Command {
  return new Command("status")
    .summary("what the archive holds, what of it can be recovered, and how far it is behind its server")
    .description(
      "Tells what an archive holds, from which commit to which it can be recovered, and with a connection how far it is " +
        "behind its server, whether WAL still comes, and how the slot stands. Of WAL files given as arguments it tells " +
        "the latest LSN. It only reads.",
    )
    .argument("[file...]", "WAL files: segments, complete or not, compressed or not")
    .option("-d, --archive <directory>", "the archive, or a directory of pg_receivewal (or WALVAULT_ARCHIVE)")
    .option(
      "-c, --connection <conninfo>",
      "ask this server too: connection string, keyword/value or URI; without it one that PGHOST, PGHOSTADDR or PGSERVICE names",
    )
    .option(
      "-S, --slot <name>",
      "the receiver's slot; without it the one it uses, or one called walvault",
      slotNameOption,
    )
    .option("--check", "for monitoring: one line, exit 0 when all is well, 1 when something is not")
    .addOption(
      new Option("--max-lag <seconds>", "with --check: WAL may be missing for this long at most")
        .argParser(secondsOption).default(DEFAULT_MAX_LAG_SECONDS * 1000, String(DEFAULT_MAX_LAG_SECONDS)),
    )
    .option(
      "--max-lag-bytes <size>",
      "with --check: the server may be this far ahead (no limit)",
      bytesOption,
    )
    .option(
      "--max-age <seconds>",
      "with --check: the newest WAL may be this old, whatever the server has (no limit)",
      secondsOption,
    )
    .option(
      "--min-safe-wal <size>",
      "with --check: the slot must be this far from losing WAL, safe_wal_size (no limit)",
      bytesOption,
    )
    .addOption(
      new Option(
        "--min-free <size|percent>",
        "this much must be free in the archive's file system, as receive wants it; 0: no limit",
      ).argParser(minimumFreeOption)
        .default(DEFAULT_MINIMUM_FREE, "two segments and at least 64MB, but at most 5%"),
    )
    .option("--require-backup", "with --check: a base backup known here must be recoverable to the end")
    .option("--json", "print one JSON object; docs/json.md describes it")
    .option("-v, --verbose", "log also the connection")
    .option("-q, --quiet", "log errors only")
    .addHelpText(
      "after",
      `
Examples:
  walvault status --archive /srv/archive/main --connection 'host=db1 user=replicator'

  For a monitoring system; with archive_command alone what is in no complete segment yet counts as missing:
    walvault status --archive /srv/archive/main --connection 'host=db1 user=replicator' --check --max-lag 30

  The latest LSN of files:
    walvault status /srv/archive/main/inprogress/*

Exit codes:
  0 told; with --check: all is well   1 with --check: something is not, or can't be told; a file holds no WAL
  2 usage   3 failed: what is left out could not be had`,
    )
    .action(run);
}
