import * as fs from "node:fs";
import { maskSecrets } from "../commands/mask_secrets.ts";
import { messageChain } from "../log.ts";
import { isServerShutdown } from "../receiver/receive.ts";
import { getopt, type OptionTable } from "./getopt.ts";
import type { OriginalCall, OriginalContext } from "./originals.ts";
import { helpEnding, programVersion } from "./program_version.ts";

const EXIT = { done: 0, failed: 1 } as const;

const OPTIONS: OptionTable = { letters: "c:d:b:prtv", long: [] };

const USAGE = `Usage:

Streaming mode:
 pg_streamrecv -c <connectionstring> -d <directory> [-v]

 -c <str>         libpq connection string to connect with
 -d <directory>   directory to write WAL files to
 -v               verbose
`;

interface CommandLine {
  readonly connection: string;
  readonly directory: string;
  readonly verbose: boolean;
}

/**
 * `pg_streamrecv`: receives until the server shuts down (exit code 0) or anything goes wrong (1).
 *
 * The directory becomes a walvault archive, which looks like the original's: segments, and the growing one in
 * `inprogress/`.
 */
export async function pgStreamrecv(call: OriginalCall, context: OriginalContext): Promise<number> {
  const [first] = call.words;
  if (first === "--help" || first === "-?") {
    context.stdout.write(USAGE + helpEnding(call.name));
    return EXIT.done;
  }
  if (first === "--version" || first === "-V") {
    context.stdout.write(programVersion(call.name));
    return EXIT.done;
  }
  const commandLine = readCommandLine(call, context);
  if (commandLine === undefined) return EXIT.failed;
  const { receive } = await import("../commands/receive.ts");
  const { receiveDefaults } = await import("../commands/receive_options.ts");
  context.stopBySignals();
  try {
    return await receive({
      ...receiveDefaults(),
      connection: commandLine.connection,
      archive: commandLine.directory,
      loop: false,
      verbose: commandLine.verbose,
    }, context);
  } catch (error) {
    if (isServerShutdown(error)) return EXIT.done;
    context.stderr.write(`${call.name}: ${maskSecrets(messageChain(error))}\n`);
    return EXIT.failed;
  }
}

/** `undefined` when it is wrong, which is told. */
function readCommandLine(
  { words, calledAs }: OriginalCall,
  { stdout, stderr }: OriginalContext,
): CommandLine | undefined {
  let connection: string | undefined;
  let directory: string | undefined;
  let verbose = false;
  const refuse = (text: string) => {
    stderr.write(`${text}\n`);
    return undefined;
  };
  const showUsage = () => {
    stdout.write(USAGE);
    return undefined;
  };
  const items = getopt(words, OPTIONS);
  let item = items.next();
  for (; !item.done; item = items.next()) {
    if (item.value.kind === "complaint") {
      stderr.write(`${calledAs}: ${item.value.text}\n`);
      return showUsage();
    }
    const { letter, argument } = item.value;
    if (letter === "c") connection = argument;
    else if (letter === "d") directory = argument;
    else if (letter === "v") verbose = true;
    else return refuse(`-${letter} is for base backups, which this program does not take: use pg_basebackup`);
  }
  if (item.value.length > 0 || connection === undefined || directory === undefined) return showUsage();
  if (!isDirectory(directory)) return refuse(`Base directory ${directory} does not exist`);
  return { connection, directory, verbose };
}

function isDirectory(path: string): boolean {
  try {
    return fs.statSync(path).isDirectory();
  } catch {
    // Whatever the reason: the original says that it does not exist.
    return false;
  }
}
