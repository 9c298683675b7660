import { Command, InvalidArgumentError } from "commander";
import type { Lsn } from "../wal/lsn.ts";
import { type TimelineId, timelineId } from "../wal/timeline.ts";
import type { Timestamp } from "../wal/timestamp.ts";
import { parseTime } from "./parse_time.ts";
import { lsnOption } from "./parse_values.ts";

/** Options of `walvault find`, checked. */
export interface FindCommandOptions {
  readonly archive?: string;
  readonly time?: Timestamp;
  /** Up to 64 bits. */
  readonly xid?: bigint;
  readonly lsn?: Lsn;
  readonly name?: string;
  readonly timeline?: TimelineId;
  readonly exclusive?: boolean;
  readonly json?: boolean;
  readonly quiet?: boolean;
}

/** `find` for the command line: its options, and what it does. */
export function findCommand(run: (options: FindCommandOptions) => Promise<void>): Command {
  return new Command("find")
    .summary("tell where a time, transaction, LSN or restore point is, and how to recover to it")
    .description(
      "Finds a place in the archived WAL: the commit before it, the commit after it, and the recovery_target_* lines " +
        "that stop a recovery there. All but those lines begins with #, so the answer may go into postgresql.conf as it is.",
    )
    .option("-d, --archive <directory>", "the archive (or WALVAULT_ARCHIVE)")
    .option("--time <time>", "a moment: local time, or with Z, an offset or a zone's name", timeOption)
    .option("--xid <number>", "a transaction, or one of its subtransactions", xidOption)
    .option("--lsn <lsn>", "a position in the WAL", lsnOption)
    .option("--name <name>", "a restore point, as pg_create_restore_point() made it")
    .option("--timeline <number>", "along this timeline; without it, the newest", timelineOption)
    .option("--exclusive", "stop just before it: what happens at that very place is left out")
    .option("--json", "print the answer as one JSON object")
    .option("-q, --quiet", "show no progress")
    .addHelpText(
      "after",
      `
Examples:
  Before somebody dropped the table, by the clock on the wall:
    walvault find --archive /srv/archive/main --time '2026-11-25 14:30:00'

  Just before a transaction:
    walvault find --archive /srv/archive/main --xid 48213 --exclusive

A segment is read once; what it holds is remembered in index/ below the archive, if this user may write there.

Exit codes:
  0 it is there   1 it is not there   2 usage   3 failed`,
    )
    .action(run);
}

function timeOption(text: string): Timestamp {
  try {
    return parseTime(text);
  } catch (error) {
    throw new InvalidArgumentError(`${(error as Error).message}, got "${text}".`);
  }
}

function xidOption(text: string): bigint {
  if (/^[0-9]{1,20}$/.test(text)) {
    const xid = BigInt(text);
    if ((xid & 0xffff_ffffn) !== 0n && xid < 1n << 64n) return xid;
  }
  throw new InvalidArgumentError(`want the number of a transaction, such as 48213, got "${text}".`);
}

/** As PostgreSQL takes it for recovery_target_timeline: a plain number, or as file names have it. */
function timelineOption(text: string): TimelineId {
  const value = /^0x[0-9A-Fa-f]{1,8}$/.test(text)
    ? Number(text)
    : /^[0-9A-F]{8}$/.test(text)
    ? parseInt(text, 16)
    : /^[0-9]{1,10}$/.test(text)
    ? Number(text)
    : 0;
  try {
    return timelineId(value);
  } catch {
    throw new InvalidArgumentError(`want the number of a timeline, such as 2, got "${text}".`);
  }
}
