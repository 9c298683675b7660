import { Command, Option } from "commander";
import type { Compression } from "../archive/compression.ts";
import type { Verbosity } from "./context.ts";
import { compressionOption, secondsOption } from "./parse_values.ts";

/** Options of `walvault push`, checked. */
export interface PushCommandOptions extends Verbosity {
  readonly archive?: string;
  /** Milliseconds. */
  readonly timeout: number;
  readonly compress?: Compression | undefined;
}

/** `push` for the command line: its options, and what it does. */
export function pushCommand(
  run: (paths: readonly string[], options: PushCommandOptions) => Promise<void>,
): Command {
  return new Command("push")
    .summary("archive one file: PostgreSQL's archive_command")
    .description(
      "Archives one file that the server hands over: a segment, a partial one, a timeline history or a backup label. " +
        "When it exits 0 the file is safe on disk in the archive. It shares the archive with receive: whichever " +
        "comes first publishes a segment, the other compares and agrees.",
    )
    .argument("[path...]", "the file, as %p names it")
    .option(
      "-d, --archive <directory>",
      "the archive, made by receive or init (or WALVAULT_ARCHIVE)",
    )
    .addOption(
      new Option("--timeout <seconds>", "give up after this long; the server asks again")
        .argParser(secondsOption).default(60_000, "60"),
    )
    .option(
      "-Z, --compress <format>",
      "publish segments compressed: zstd, gzip or lz4, with :LEVEL; readers find either form",
      compressionOption,
    )
    .addOption(
      new Option("--log-format <format>", "log lines on stderr").choices(["text", "json"]).default("text"),
    )
    .option("-v, --verbose", "log also what went as it should")
    .option("-q, --quiet", "log errors only")
    .addHelpText(
      "after",
      `
Examples:
  In postgresql.conf:
    archive_mode = on
    archive_command = 'walvault push --archive /srv/archive/main %p'

A disk that is full is exit 1, and nothing is left behind. push fills it to the last byte, whatever the --min-free of a
receive beside it: what it refused would fill the server's disk, and be in one place only.

What is no complete segment (NAME.partial, a standby's last one) is kept in inprogress/, and used at restore.

Exit codes:
  0 safe in the archive   1 not archived: the server keeps the file and asks again`,
    )
    .action(run);
}
