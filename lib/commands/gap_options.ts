import { Command, Option } from "commander";
import type { Lsn } from "../wal/lsn.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Verbosity } from "./context.ts";
import { listOption, lsnOption, secondsOption, timelineOption } from "./parse_values.ts";

/** Options of `walvault gap list`, checked. */
export interface GapListOptions {
  readonly archive?: string;
  readonly json?: boolean;
}

/** Options of `walvault gap accept`, checked. */
export interface GapAcceptOptions {
  readonly archive?: string;
  readonly timeline: TimelineId;
  readonly from: Lsn;
  readonly to?: Lsn;
  readonly reason: string;
}

/** Options of `walvault gap heal`, checked. */
export interface GapHealOptions extends Verbosity {
  readonly archive?: string;
  readonly connection?: string;
  readonly peer?: readonly string[];
  readonly receiveTimeout: number;
  readonly json?: boolean;
}

/** What the three do. */
export interface GapActions {
  list(options: GapListOptions): Promise<void>;
  accept(options: GapAcceptOptions): Promise<void>;
  heal(options: GapHealOptions): Promise<void>;
}

const ARCHIVE = ["-d, --archive <directory>", "the archive (or WALVAULT_ARCHIVE)"] as const;
const DEFAULT_TIMEOUT_SECONDS = 60;

/** `gap` for the command line: its commands, their options, and what they do. */
export function gapCommand(actions: GapActions): Command {
  return new Command("gap")
    .summary("list, heal or accept WAL that is missing")
    .description(
      "WAL that is missing between what is in the archive: which it is, where it can still be had, and that it is given " +
        "up. No restore can go across a gap.",
    )
    .addCommand(listCommand(actions))
    .addCommand(healCommand(actions))
    .addCommand(acceptCommand(actions));
}

function listCommand({ list }: GapActions): Command {
  return new Command("list")
    .summary("what is missing, since when and why")
    .description(
      "Lists the gaps of all timelines: open ones, recorded by receive or only seen now; unproven ones, which are filled " +
        "by name and wait for receive or gap heal to look at every byte; accepted ones; and those that were recorded and " +
        "are healed. It only reads.",
    )
    .option(...ARCHIVE)
    .option("--json", "print one JSON object; docs/json.md describes it")
    .addHelpText(
      "after",
      `
Example:
  walvault gap list --archive /srv/archive/main

Exit codes:
  0 no gap is open   1 one is open or unproven   2 usage   3 failed`,
    )
    .action(list);
}

function healCommand({ heal }: GapActions): Command {
  return new Command("heal")
    .summary("bring in what is missing, from whoever still has it")
    .description(
      "Asks for the segments of all open gaps, lowest first: the archive's own kept copies, each --peer, and every host of " +
        "the connection string, primary or standby, also for WAL of an older timeline. What comes is checked as push " +
        "checks it, and every record of it is proven; nothing is overwritten. What others brought into a gap is proven too. " +
        "It may run beside receive, which does the same each minute.",
    )
    .option(...ARCHIVE)
    .option(
      "-c, --connection <conninfo>",
      "ask these servers: connection string, keyword/value or URI; without it those that PGHOST, PGHOSTADDR or PGSERVICE names",
    )
    .option(
      "--peer <directory>",
      "look here too, and only read: another archive, a directory of pg_receivewal, or a server's pg_wal (may be repeated)",
      listOption,
    )
    .addOption(
      new Option("--receive-timeout <seconds>", "give up a server that sends nothing for this long")
        .argParser(secondsOption).default(DEFAULT_TIMEOUT_SECONDS * 1000, String(DEFAULT_TIMEOUT_SECONDS)),
    )
    .option("--json", "print one JSON object; docs/json.md describes it")
    .addOption(
      new Option("--log-format <format>", "log lines on stderr").choices(["text", "json"]).default("text"),
    )
    .option("-v, --verbose", "log also each connection")
    .option("-q, --quiet", "show no progress, and log errors only")
    .addHelpText(
      "after",
      `
Example:
  walvault gap heal --archive /srv/archive/main --connection 'host=db1,db2 user=replicator' --peer /mnt/second/archive

Exit codes:
  0 no gap is open any more   1 one is   2 usage   3 failed`,
    )
    .action(heal);
}

function acceptCommand({ accept }: GapActions): Command {
  return new Command("accept")
    .summary("give missing WAL up for good")
    .description(
      "Writes down that WAL which is missing will not come any more, and why. From then on status and verify do not count " +
        "the gap as a fault, and receive tells a server again what is safe behind it: commits that wait for that are " +
        "released. It does not bring the WAL back: no restore goes across the gap, and what lies behind it is of use only " +
        "with a base backup that began behind it.",
    )
    .option(...ARCHIVE)
    .requiredOption("--timeline <number>", "the gap's timeline", timelineOption)
    .requiredOption("--from <lsn>", "where the gap begins, as gap list tells it", lsnOption)
    .option("--to <lsn>", "where it ends; without it the whole gap from there on", lsnOption)
    .requiredOption("--reason <text>", "why nobody can bring it; gap list shows it")
    .addHelpText(
      "after",
      `
Example:
  walvault gap accept --archive /srv/archive/main --timeline 1 --from 16/B3000000 --reason 'disk of db1 lost on 3 May'

Exit codes:
  0 written down, and durable   2 usage: that is no gap   3 failed`,
    )
    .action(accept);
}
