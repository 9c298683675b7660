import type { Compression } from "../archive/compression.ts";
import type { CommandTable } from "./command_table.ts";
import type { Verbosity } from "./context.ts";
import { compressionOption, secondsOption } from "./parse_values.ts";

/** Options of `walvault push`, checked. */
export interface PushCommandOptions extends Verbosity {
  readonly archive?: string;
  /** Milliseconds. */
  readonly timeout: number;
  readonly compress?: Compression | undefined;
}

/** The command line of `walvault push`. */
export const PUSH_TABLE: CommandTable = {
  name: "push",
  summary: "archive one file: PostgreSQL's archive_command",
  description:
    "Archives one file that the server hands over: a segment, a partial one, a timeline history or a backup label. " +
    "When it exits 0 the file is safe on disk in the archive. It shares the archive with receive: whichever " +
    "comes first publishes a segment, the other compares and agrees.",
  operands: [{ form: "[path...]", description: "the file, as %p names it" }],
  options: [
    {
      flags: "-d, --archive <directory>",
      description: "the archive, made by receive or init (or WALVAULT_ARCHIVE)",
    },
    {
      flags: "--timeout <seconds>",
      description: "give up after this long; the server asks again",
      parse: secondsOption,
      fallback: { value: 60_000, shown: "60" },
    },
    {
      flags: "-Z, --compress <format>",
      description: "publish segments compressed: zstd, gzip or lz4, with :LEVEL; readers find either form",
      parse: compressionOption,
    },
    {
      flags: "--log-format <format>",
      description: "log lines on stderr",
      choices: ["text", "json"],
      fallback: { value: "text" },
    },
    { flags: "-v, --verbose", description: "log also what went as it should" },
    { flags: "-q, --quiet", description: "log errors only" },
  ],
  helpText: `
Examples:
  In postgresql.conf:
    archive_mode = on
    archive_command = 'walvault push --archive /srv/archive/main %p'

A disk that is full is exit 1, and nothing is left behind. push fills it to the last byte, whatever the --min-free of a
receive beside it: what it refused would fill the server's disk, and be in one place only.

What is no complete segment (NAME.partial, a standby's last one) is kept in inprogress/, and used at restore.

Exit codes:
  0 safe in the archive   1 not archived: the server keeps the file and asks again`,
};
