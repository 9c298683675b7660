import { Command, Option } from "commander";
import type { Verbosity } from "./context.ts";

/** Options of `walvault init`, checked. */
export interface InitCommandOptions extends Verbosity {
  readonly connection?: string;
  readonly archive?: string;
}

/** `init` for the command line: its options, and what it does. */
export function initCommand(run: (options: InitCommandOptions) => Promise<void>): Command {
  return new Command("init")
    .summary("make an empty archive for a server")
    .description(
      "Makes an archive of an empty directory, for the one cluster that the server belongs to. Receive does this by " +
        "itself; push needs it where nothing else has made the archive.",
    )
    .option(
      "-c, --connection <conninfo>",
      "connection string, keyword/value or URI; without it the PG* environment counts",
    )
    .option("-d, --archive <directory>", "the archive: an existing, empty directory (or WALVAULT_ARCHIVE)")
    .addOption(
      new Option("--log-format <format>", "log lines on stderr").choices(["text", "json"]).default("text"),
    )
    .option("-v, --verbose", "log also the connection")
    .option("-q, --quiet", "log errors only")
    .addHelpText(
      "after",
      `
Examples:
  mkdir -m 700 /srv/archive/main
  walvault init --archive /srv/archive/main --connection 'host=db1 user=replicator'

Exit codes:
  0 it is this cluster's archive, now or since before   2 usage   3 failed, or another cluster's archive`,
    )
    .action(run);
}
