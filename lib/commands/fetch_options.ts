import type { CommandTable } from "./command_table.ts";
import { absentExitOption, secondsOption } from "./parse_values.ts";

/** Options of `walvault fetch`, checked. */
export interface FetchCommandOptions {
  readonly archive?: string;
  readonly wait?: boolean;
  readonly trigger?: string;
  readonly timeout?: number;
  readonly pollInterval?: number;
  readonly verify: boolean;
  readonly untilGap?: boolean;
  readonly ahead?: boolean;
  /** The file that another call with `ahead` made for this segment. */
  readonly prepare?: string;
  readonly absentExit?: number;
  readonly verbose?: boolean;
}

/** The command line of `walvault fetch`. */
export const FETCH_TABLE: CommandTable = {
  name: "fetch",
  summary: "deliver one file of the archive: PostgreSQL's restore_command",
  description:
    "Delivers one file of the archive to a PostgreSQL server that recovers. It answers that there is no such file only " +
    "where the archive proves it, since PostgreSQL then ends its recovery.",
  operands: [
    { form: "<file>", description: "the name of the file: %f" },
    { form: "<target>", description: "where to write it: %p, from the server's data directory" },
  ],
  options: [
    {
      flags: "-d, --archive <directory>",
      description: "the archive, or a directory of pg_receivewal (or WALVAULT_ARCHIVE)",
    },
    {
      flags: "--wait",
      description: "wait for a segment that is not there yet, until --trigger tells that there will be none",
    },
    {
      flags: "--trigger <file>",
      description:
        'with --wait: a file that ends the wait when it is there; empty or "smart" after all that is archived, "fast" now',
    },
    {
      flags: "--timeout <seconds>",
      description: "with --wait: fail after this long (for ever)",
      parse: secondsOption,
    },
    {
      flags: "--poll-interval <seconds>",
      description: "with --wait: look again after this long (1)",
      parse: secondsOption,
    },
    {
      flags: "--no-verify",
      description:
        "look only at a segment's pages, not at every record: faster; a changed byte inside a record would end the recovery there",
    },
    {
      flags: "--until-gap",
      description:
        "take a recorded gap (walvault gap list) for the end of all WAL: what was received of the segment where it begins is " +
        "delivered, and PostgreSQL ends its recovery there. Without it a gap stops recovery, and nothing is promoted",
    },
    {
      flags: "--ahead",
      description:
        "for a fast recovery: after each segment, start a process that copies and checks the next one while the server is at " +
        "this one. Needs room for one segment more in pg_wal, and the executable made with Bun, on Linux; nothing is read ahead where the server is process 1 of a container",
    },
    { flags: "--prepare <name>", description: "what --ahead starts", hidden: true },
    {
      flags: "--absent-exit <code>",
      description:
        "exit with this where it would be 1 (1): a script can tell it from a 1 of the runtime or of the shell",
      parse: absentExitOption,
    },
    { flags: "-v, --verbose", description: "tell also why a file is not delivered, and what was" },
  ],
  helpText: `
Examples, in postgresql.conf:
  Recover to the last byte that was received:
    restore_command = 'walvault fetch --archive /srv/archive/main %f %p'

  The same, faster, with the next segment read ahead:
    restore_command = 'walvault fetch --ahead --archive /srv/archive/main %f %p'

  A warm standby that waits for its next segment, with recovery.signal (the second line from PostgreSQL 15 on):
    restore_command = 'walvault fetch --archive /srv/archive/main --wait --trigger /srv/promote %f %p'
    recovery_prefetch = off

  The same, where not even a runtime that can't start (no memory, no file descriptors) may end the recovery:
    restore_command = 'walvault fetch --archive /srv/archive/main --absent-exit 66 %f %p; r=$?; [ $r = 66 ] && exit 1; [ $r = 0 ] || exit 200'

Exit codes:
  0 delivered   1 there is no such file, which is proven   200 everything else
  In standby mode (standby.signal) what may heal is 1 as well: the server asks again.`,
};
