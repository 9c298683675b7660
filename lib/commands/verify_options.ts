import { Command, Option } from "commander";
import type { RangeBound } from "../archive/verify/plan.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Verbosity } from "./context.ts";
import { jobsOption, rangeBoundOption, timelineOption } from "./parse_values.ts";

/** Options of `walvault verify`, checked. */
export interface VerifyCommandOptions extends Verbosity {
  readonly archive?: string;
  readonly from?: RangeBound;
  readonly to?: RangeBound;
  readonly timeline?: TimelineId;
  readonly jobs?: number;
  readonly json?: boolean;
}

/** `verify` for the command line: its options, and what it does. */
export function verifyCommand(run: (options: VerifyCommandOptions) => Promise<void>): Command {
  return new Command("verify")
    .summary("prove the archive: every record, and that nothing is missing")
    .description(
      "Reads all WAL in a directory and proves it: the CRC of every record and its link to the one before, over " +
        "segments and timelines; page headers, histories, compressed files, unfinished and saved copies, whose cluster " +
        "it is, and that there is no hole. Tells what is wrong and what can still be used. It changes nothing but the indexes in an archive, and may " +
        "run beside everything else. The directory is an archive, one that pg_receivewal fills, or a server's pg_wal.",
    )
    .option("-d, --archive <directory>", "the directory with the WAL (or WALVAULT_ARCHIVE)")
    .option(
      "--from <lsn|segment>",
      "begin with the segment of this LSN, or with the segment of this name",
      rangeBoundOption,
    )
    .option(
      "--to <lsn|segment>",
      "end with the WAL below this LSN, or with the segment of this name",
      rangeBoundOption,
    )
    .option("--timeline <number>", "only this timeline and those it came from", timelineOption)
    .option(
      "-j, --jobs <number>",
      "read so many files at a time; by default, one for each processor",
      jobsOption,
    )
    .option("--json", "print the answer as one JSON object")
    .addOption(
      new Option("--log-format <format>", "log lines on stderr").choices(["text", "json"]).default("text"),
    )
    .option("-v, --verbose", "log also how the work is done")
    .option("-q, --quiet", "show no progress, and log errors only")
    .addHelpText(
      "after",
      `
Examples:
  walvault verify --archive /srv/archive/main
  walvault verify --archive /srv/archive/main --from 16/B374D848 --timeline 3 --json

Exit codes:
  0 all of it is right   1 something is damaged or missing   2 usage   3 failed`,
    )
    .action(run);
}
