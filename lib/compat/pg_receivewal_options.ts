import type { Compression } from "../archive/compression.ts";
import { type Lsn, lsn } from "../wal/lsn.ts";
import { parseCompressionOption } from "./compression_option.ts";
import { getopt, type LongOption, type OptionTable } from "./getopt.ts";
import type { OriginalCall } from "./originals.ts";
import { helpEnding, programVersion } from "./program_version.ts";

/** How much is synced, and told to the server as safe. */
export type Synchrony =
  /** All is synced; the server is told only when a slot needs to know. */
  | "default"
  /** The server is told each time. */
  | "synchronous"
  /** Nothing is synced, or complete segments only when a slot needs to know. */
  | "no-sync";

/** What `pg_receivewal` is told to do. */
export interface ReceivewalOptions {
  readonly action: "stream" | "create-slot" | "drop-slot";
  /** "" unless streaming. */
  readonly directory: string;
  readonly endpos: Lsn | undefined;
  readonly slot: string | undefined;
  readonly ifNotExists: boolean;
  readonly loop: boolean;
  /** 0: only when the server asks. */
  readonly statusIntervalSeconds: number;
  readonly synchrony: Synchrony;
  readonly compression: Compression | undefined;
  readonly verbose: boolean;
  readonly conninfo: string | undefined;
  /** Keywords that win over `conninfo`. */
  readonly overrides: Readonly<Record<string, string>>;
  readonly password: "when-asked" | "never" | "always";
}

/** What a command line asks for: work, or only an answer. */
export type ReceivewalCommandLine =
  | { readonly kind: "work"; readonly options: ReceivewalOptions }
  | { readonly kind: "answer"; readonly text: string }
  /** getopt's own complaint, which begins with the name as called. */
  | { readonly kind: "complaint"; readonly text: string }
  | { readonly kind: "wrong"; readonly problem: string; readonly hint: "try-help" | "none" };

const HELP = `pg_receivewal receives PostgreSQL streaming write-ahead logs.

Usage:
  pg_receivewal [OPTION]...

Options:
  -D, --directory=DIR    receive write-ahead log files into this directory
  -E, --endpos=LSN       exit after receiving the specified LSN
      --if-not-exists    do not error if slot already exists when creating a slot
  -n, --no-loop          do not loop on connection lost
      --no-sync          do not wait for changes to be written safely to disk
  -s, --status-interval=SECS
                         time between status packets sent to server (default: 10)
  -S, --slot=SLOTNAME    replication slot to use
      --synchronous      flush write-ahead log immediately after writing
  -v, --verbose          output verbose messages
  -V, --version          output version information, then exit
  -Z, --compress=METHOD[:DETAIL]
                         compress as specified
  -?, --help             show this help, then exit

Connection options:
  -d, --dbname=CONNSTR   connection string
  -h, --host=HOSTNAME    database server host or socket directory
  -p, --port=PORT        database server port number
  -U, --username=NAME    connect as specified database user
  -w, --no-password      never prompt for password
  -W, --password         force password prompt (should happen automatically)

Optional actions:
      --create-slot      create a new replication slot (for the slot's name see --slot)
      --drop-slot        drop the replication slot (for the slot's name see --slot)
`;

const required = (name: string, letter: string): LongOption => ({ name, letter, argument: "required" });
const plain = (name: string, letter: string): LongOption => ({ name, letter, argument: "none" });

const OPTIONS: OptionTable = {
  letters: "d:D:E:h:np:s:S:U:vwWZ:",
  // The order is that in which getopt lists what an abbreviation may mean.
  long: [
    plain("help", "help"),
    plain("version", "version"),
    required("directory", "D"),
    required("dbname", "d"),
    required("endpos", "E"),
    required("host", "h"),
    required("port", "p"),
    required("username", "U"),
    plain("no-loop", "n"),
    plain("no-password", "w"),
    plain("password", "W"),
    required("status-interval", "s"),
    required("slot", "S"),
    plain("verbose", "v"),
    required("compress", "Z"),
    plain("create-slot", "create-slot"),
    plain("drop-slot", "drop-slot"),
    plain("if-not-exists", "if-not-exists"),
    plain("synchronous", "synchronous"),
    plain("no-sync", "no-sync"),
  ],
};

const DEFAULT_STATUS_SECONDS = 10;
/** The most that milliseconds in 32 bits allow. */
const MAXIMUM_STATUS_SECONDS = 2_147_483;

/** Reads the command line; the texts, and which one comes first, are the original's. */
export function readReceivewalCommandLine({ name, words }: OriginalCall): ReceivewalCommandLine {
  const [first] = words;
  if (first === "--help" || first === "-?") return { kind: "answer", text: HELP + helpEnding(name) };
  if (first === "--version" || first === "-V") return { kind: "answer", text: programVersion(name) };
  const given = new Map<string, string>();
  const items = getopt(words, OPTIONS);
  let item = items.next();
  for (; !item.done; item = items.next()) {
    if (item.value.kind === "complaint") return item.value;
    const { letter, argument } = item.value;
    // These two count in the first place only.
    if (letter === "help" || letter === "version") return { kind: "complaint", text: "" };
    const problem = argumentProblem(letter, argument);
    if (problem !== undefined) return { kind: "wrong", problem, hint: "none" };
    // What is given again counts from there on.
    given.delete(letter);
    given.set(letter, argument);
  }
  return checkTogether(given, item.value[0]);
}

function argumentProblem(letter: string, argument: string): string | undefined {
  if (letter === "E" && parseEndpos(argument) === undefined) {
    return `could not parse end position "${argument}"`;
  }
  if (letter === "s") {
    if (!/^\s*([+-]?[0-9]+)?\s*$/.test(argument)) {
      return `invalid value "${argument}" for option -s/--status-interval`;
    }
    const seconds = Number(argument);
    if (seconds < 0 || seconds > MAXIMUM_STATUS_SECONDS) {
      return `-s/--status-interval must be in range 0..${MAXIMUM_STATUS_SECONDS}`;
    }
  }
  return undefined;
}

function checkTogether(
  given: ReadonlyMap<string, string>,
  surplus: string | undefined,
): ReceivewalCommandLine {
  const refuse = (problem: string): ReceivewalCommandLine => ({ kind: "wrong", problem, hint: "try-help" });
  const [creates, drops] = [given.has("create-slot"), given.has("drop-slot")];
  const [directory, slot] = [given.get("D"), given.get("S")];
  if (surplus !== undefined) return refuse(`too many command-line arguments (first is "${surplus}")`);
  if (drops && creates) return refuse("cannot use --create-slot together with --drop-slot");
  if (slot === undefined && (drops || creates)) {
    return refuse(`${drops ? "--drop-slot" : "--create-slot"} needs a slot to be specified using --slot`);
  }
  if (given.has("synchronous") && given.has("no-sync")) {
    return refuse("cannot use --synchronous together with --no-sync");
  }
  if (directory === undefined && !drops && !creates) return refuse("no target directory specified");
  const compression = parseCompressionOption(given.get("Z") ?? "none");
  if (compression.kind === "wrong") return { ...compression, hint: "none" };
  const endpos = given.get("E");
  const overrides = { host: given.get("h"), port: given.get("p"), user: given.get("U") };
  const options: ReceivewalOptions = {
    action: drops ? "drop-slot" : creates ? "create-slot" : "stream",
    directory: directory ?? "",
    endpos: endpos === undefined ? undefined : parseEndpos(endpos),
    slot,
    ifNotExists: given.has("if-not-exists"),
    loop: !given.has("n"),
    statusIntervalSeconds: Number(given.get("s") ?? DEFAULT_STATUS_SECONDS),
    synchrony: given.has("synchronous") ? "synchronous" : given.has("no-sync") ? "no-sync" : "default",
    compression: compression.compression,
    verbose: given.has("v"),
    conninfo: given.get("d"),
    overrides: Object.fromEntries(
      Object.entries(overrides).filter((entry): entry is [string, string] => entry[1] !== undefined),
    ),
    password: passwordPrompt(given),
  };
  return { kind: "work", options };
}

/** The one given last counts. */
function passwordPrompt(given: ReadonlyMap<string, string>): ReceivewalOptions["password"] {
  const last = [...given.keys()].findLast((letter) => letter === "w" || letter === "W");
  return last === undefined ? "when-asked" : last === "w" ? "never" : "always";
}

/** As sscanf("%X/%X") reads it: what follows does not matter. */
function parseEndpos(text: string): Lsn | undefined {
  const [, high, low] = /^\s*(?:0x)?([0-9a-f]+)\/\s*(?:0x)?([0-9a-f]+)/i.exec(text) ?? [];
  if (high === undefined || low === undefined) return undefined;
  return lsn(BigInt.asUintN(32, BigInt(`0x${high}`)) << 32n | BigInt.asUintN(32, BigInt(`0x${low}`)));
}
