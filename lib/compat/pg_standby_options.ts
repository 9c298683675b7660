import type { OriginalCall } from "./originals.ts";
import { getopt, type OptionTable } from "./getopt.ts";
import { helpEnding, programVersion } from "./program_version.ts";

const OPTIONS: OptionTable = { letters: "cdk:lr:s:t:w:", long: [] };

const HELP = `pg_standby allows PostgreSQL warm standby servers to be configured.

Usage:
  pg_standby [OPTION]... ARCHIVELOCATION NEXTWALFILE XLOGFILEPATH [RESTARTWALFILE]

Options:
  -c                 copies file from archive (default)
  -d                 generate lots of debugging output (testing only)
  -k NUMFILESTOKEEP  if RESTARTWALFILE not used, removes files prior to limit
                     (0 keeps all)
  -l                 does nothing; use of link is now deprecated
  -r MAXRETRIES      max number of times to retry, with progressive wait
                     (default=3)
  -s SLEEPTIME       seconds to wait between file checks (min=1, max=60,
                     default=5)
  -t TRIGGERFILE     trigger file to initiate failover (no default)
  -V, --version      output version information, then exit
  -w MAXWAITTIME     max seconds to wait for a file (0=no limit) (default=0)
  -?, --help         show this help, then exit

Main intended use as restore_command in recovery.conf:
  restore_command = 'pg_standby [OPTION]... ARCHIVELOCATION %f %p %r'
e.g.
  restore_command = 'pg_standby /mnt/server/archiverdir %f %p %r'

Exit codes:
  0    the file is there, or this help was asked for
  1    failover, or a history file that is not there
  2    wrong usage, or no archive location
  3    the file is longer than a segment
  200  the file is there and can't be delivered: recovery stops, where the
       original's 1 has the server promoted without it
`;

/** What `pg_standby` is told to do. */
export interface StandbyOptions {
  readonly debug: boolean;
  /** How many segments before the delivered one are kept; 0 keeps all. Counts only without `oldestNeeded`. */
  readonly keepSegments: number;
  readonly maximumRetries: number;
  readonly sleepSeconds: number;
  readonly triggerPath: string | undefined;
  /** 0 waits for ever. */
  readonly maximumWaitSeconds: number;
  readonly directory: string;
  /** The file that the server asks for: `%f`. */
  readonly name: string;
  /** Where it is to be put: `%p`. */
  readonly target: string;
  /** The oldest segment that a restart would need: `%r`. */
  readonly oldestNeeded: string | undefined;
}

/** What a command line asks for: work, or only an answer. */
export type StandbyCommandLine =
  | { readonly kind: "work"; readonly options: StandbyOptions }
  | { readonly kind: "answer"; readonly text: string }
  | { readonly kind: "wrong"; readonly text: string };

/** Reads the command line; the texts are the original's. */
export function readStandbyCommandLine({ name: program, calledAs, words }: OriginalCall): StandbyCommandLine {
  const [first] = words;
  if (first === "--help" || first === "-?") return { kind: "answer", text: HELP + helpEnding(program) };
  if (first === "--version" || first === "-V") return { kind: "answer", text: programVersion(program) };
  const wrong = (problem: string) => ({ kind: "wrong" as const, text: `${program}: ${problem}\n` });
  const tryHelp = `Try "${program} --help" for more information.\n`;
  const given: { -readonly [Key in "k" | "r" | "s" | "t" | "w"]?: string } = {};
  let debug = false;
  const items = getopt(words, OPTIONS);
  let item = items.next();
  for (; !item.done; item = items.next()) {
    if (item.value.kind === "complaint") {
      return { kind: "wrong", text: `${calledAs}: ${item.value.text}\n${tryHelp}` };
    }
    const { letter, argument } = item.value;
    if (letter === "d") debug = true;
    else if (letter !== "c" && letter !== "l") given[letter as keyof typeof given] = argument;
    const problem = valueProblem(letter, leadingNumber(argument));
    if (problem !== undefined) return wrong(problem);
  }
  if (words.length === 0) return wrong("not enough command-line arguments");
  const [directory, name, target, oldestNeeded] = item.value;
  const refuse = (problem: string) => ({ kind: "wrong" as const, text: wrong(problem).text + tryHelp });
  if (directory === undefined) return refuse("must specify archive location");
  if (name === undefined) {
    return refuse('must specify WAL file name as second non-option argument (use "%f")');
  }
  if (target === undefined) {
    return refuse('must specify xlog destination as third non-option argument (use "%p")');
  }
  const options = {
    debug,
    keepSegments: leadingNumber(given.k ?? "0"),
    maximumRetries: leadingNumber(given.r ?? "3"),
    sleepSeconds: leadingNumber(given.s ?? "5"),
    triggerPath: given.t,
    maximumWaitSeconds: leadingNumber(given.w ?? "0"),
    directory,
    name,
    target,
    oldestNeeded,
  };
  return { kind: "work", options };
}

function valueProblem(letter: string, value: number): string | undefined {
  if (letter === "k" && value < 0) return "-k keepfiles must be >= 0";
  if (letter === "r" && value < 0) return "-r maxretries must be >= 0";
  if (letter === "s" && (value <= 0 || value > 60)) return "-s sleeptime incorrectly set";
  if (letter === "w" && value < 0) return "-w maxwaittime incorrectly set";
  return undefined;
}

/** As atoi() reads it: what follows the digits does not matter, and no digits are 0. */
function leadingNumber(text: string): number {
  return Number(/^\s*([+-]?[0-9]{1,10})/.exec(text)?.[1] ?? "0");
}
