import * as fs from "node:fs";
import { IDENTITY_FILE, IN_PROGRESS_DIRECTORY, SEGMENT_FORMS, segmentInProgress } from "../archive/layout.ts";
import type { OriginalCall, OriginalContext } from "./originals.ts";
import { getopt, type OptionTable } from "./getopt.ts";
import { ProgramLog } from "./program_log.ts";
import { helpEnding, programVersion } from "./program_version.ts";
import { systemErrorText } from "./system_error.ts";

const EXIT = { done: 0, failed: 1, usage: 2 } as const;

const OPTIONS: OptionTable = {
  letters: "bdnx:",
  long: [
    { name: "clean-backup-history", letter: "b", argument: "none" },
    { name: "debug", letter: "d", argument: "none" },
    { name: "dry-run", letter: "n", argument: "none" },
    { name: "strip-extension", letter: "x", argument: "required" },
  ],
};

const HELP = `pg_archivecleanup removes older WAL files from PostgreSQL archives.

Usage:
  pg_archivecleanup [OPTION]... ARCHIVELOCATION OLDESTKEPTWALFILE

Options:
  -b, --clean-backup-history  clean up files including backup history files
  -d, --debug                 generate debug output (verbose mode)
  -n, --dry-run               dry run, show the names of the files that would be
                              removed
  -V, --version               output version information, then exit
  -x, --strip-extension=EXT   strip this extension before identifying files for
                              clean up
  -?, --help                  show this help, then exit

For use as "archive_cleanup_command" in postgresql.conf:
  archive_cleanup_command = 'pg_archivecleanup [OPTION]... ARCHIVELOCATION %r'
e.g.
  archive_cleanup_command = 'pg_archivecleanup /mnt/server/archiverdir %r'

Or for use as a standalone archive cleaner:
e.g.
  pg_archivecleanup /mnt/server/archiverdir 000000010000000000000010.00000020.backup
`;

/** What is to be removed from where. */
interface Cleanup {
  readonly directory: string;
  /** Everything older goes. */
  readonly oldestKept: string;
  readonly extension: string;
  readonly backupHistory: boolean;
  readonly debug: boolean;
  readonly dryRun: boolean;
}

/**
 * `pg_archivecleanup`: removes the segments that come before one, whatever their timeline.
 *
 * Resolves to the exit code: 2 for a wrong command line, 1 when a file can't be removed.
 */
export async function pgArchivecleanup(call: OriginalCall, context: OriginalContext): Promise<number> {
  const log = new ProgramLog(call.name, context.stderr);
  const [first] = call.words;
  if (first === "--help" || first === "-?") {
    context.stdout.write(HELP + helpEnding(call.name));
    return EXIT.done;
  }
  if (first === "--version" || first === "-V") {
    context.stdout.write(programVersion(call.name));
    return EXIT.done;
  }
  const cleanup = readCommandLine(call, { context, log });
  if (cleanup === undefined) return EXIT.usage;
  if (cleanup.debug) log.info(`keeping WAL file "${cleanup.directory}/${cleanup.oldestKept}" and later`);
  return await removeOlder(cleanup, { context, log });
}

interface Surroundings {
  readonly context: OriginalContext;
  readonly log: ProgramLog;
}

/** `undefined` when it is wrong, which is told. */
function readCommandLine(
  { words, calledAs }: OriginalCall,
  { context, log }: Surroundings,
): Cleanup | undefined {
  const given = { extension: "", backupHistory: false, debug: false, dryRun: false };
  const items = getopt(words, OPTIONS);
  let item = items.next();
  for (; !item.done; item = items.next()) {
    if (item.value.kind === "complaint") {
      context.stderr.write(`${calledAs}: ${item.value.text}\n`);
      log.tryHelp();
      return undefined;
    }
    if (item.value.letter === "b") given.backupHistory = true;
    else if (item.value.letter === "d") given.debug = true;
    else if (item.value.letter === "n") given.dryRun = true;
    else given.extension = item.value.argument;
  }
  const [directory, oldest, surplus] = item.value;
  const refuse = (problem: string) => {
    log.error(problem);
    log.tryHelp();
    return undefined;
  };
  if (directory === undefined) return refuse("must specify archive location");
  if (oldest === undefined) return refuse("must specify oldest kept WAL file");
  if (surplus !== undefined) return refuse("too many command-line arguments");
  if (!isDirectory(directory)) {
    log.error(`archive location "${directory}" does not exist`);
    return undefined;
  }
  const oldestKept = segmentOf(withoutExtension(oldest, given.extension));
  if (oldestKept === undefined) return refuse("invalid file name argument");
  return { directory, oldestKept, ...given };
}

function isDirectory(path: string): boolean {
  try {
    return fs.statSync(path).isDirectory();
  } catch {
    // Whatever the reason: the original says that it does not exist.
    return false;
  }
}

async function removeOlder(cleanup: Cleanup, { context, log }: Surroundings): Promise<number> {
  const { directory, dryRun, debug } = cleanup;
  const names = await listNames(directory, log);
  // First what was only begun: left behind alone it would be where the archive begins, with a hole behind it.
  const begun = names === undefined ? undefined : await begunBefore(names, cleanup, log);
  if (names === undefined || begun === undefined) return EXIT.failed;
  for (const name of [...begun, ...names.filter((each) => isOlder(each, cleanup))]) {
    const path = `${directory}/${name}`;
    if (dryRun) {
      context.stdout.write(`${path}\n`);
      if (debug) log.info(`file "${path}" would be removed`);
      continue;
    }
    if (debug) log.info(`removing file "${path}"`);
    try {
      removeFile(path);
    } catch (error) {
      log.error(`could not remove file "${path}": ${systemErrorText(error)}`);
      return EXIT.failed;
    }
  }
  return EXIT.done;
}

/** `undefined` when it can't be listed, which is told. */
async function listNames(directory: string, log: ProgramLog): Promise<readonly string[] | undefined> {
  try {
    // Not readdirSync: that of Deno (2.9) ends without an error where reading fails half way.
    return await fs.promises.readdir(directory);
  } catch (error) {
    log.error(`could not open archive location "${directory}": ${systemErrorText(error)}`);
    return undefined;
  }
}

/**
 * What an archive of ours keeps of older segments that were never completed, such as the end of a timeline that was left.
 *
 * Nothing while no complete segment is to be kept: then it may be what is received just now. `undefined` when it can't be
 * listed, which is told.
 */
async function begunBefore(
  names: readonly string[],
  cleanup: Cleanup,
  log: ProgramLog,
): Promise<readonly string[] | undefined> {
  const isKept = (name: string) =>
    SEGMENT_FORMS.some((form) =>
      name.endsWith(form) && SEGMENT.test(name.slice(0, name.length - form.length))
    ) &&
    name.slice(8, 24) >= cleanup.oldestKept.slice(8);
  const isOurs = names.includes(IDENTITY_FILE) && names.includes(IN_PROGRESS_DIRECTORY);
  if (!isOurs || !names.some(isKept)) return [];
  const begun = await listNames(`${cleanup.directory}/${IN_PROGRESS_DIRECTORY}`, log);
  return begun?.filter((name) => {
    const segment = segmentInProgress(name);
    return segment !== undefined && segment.slice(8) < cleanup.oldestKept.slice(8);
  }).map((name) => `${IN_PROGRESS_DIRECTORY}/${name}`);
}

function removeFile(path: string): void {
  // Deno 2.9 takes away an empty directory too.
  if (fs.lstatSync(path).isDirectory()) {
    throw Object.assign(new Error("it is a directory"), { code: "EISDIR" });
  }
  fs.unlinkSync(path);
}

/** What precedes the segment to be kept in the order of names, timelines left out: an ancestor's segments are needed too. */
function isOlder(
  name: string,
  { oldestKept, extension, backupHistory }: Pick<Cleanup, "oldestKept" | "extension" | "backupHistory">,
): boolean {
  const stripped = withoutExtension(name, extension);
  const matches = SEGMENT.test(stripped) || PARTIAL.test(stripped) ||
    (backupHistory && BACKUP_HISTORY.test(stripped));
  return matches && stripped.slice(8) < oldestKept.slice(8);
}

/** @see IsXLogFileName(), IsPartialXLogFileName(), IsBackupHistoryFileName(), src/include/access/xlog_internal.h */
const SEGMENT = /^[0-9A-F]{24}$/;
const PARTIAL = /^[0-9A-F]{24}\.partial$/;
const BACKUP_HISTORY = /^[0-9A-F]{24}(?![0-9A-F]).*\.backup$/;

/** The segment that a name stands for; `undefined` for the name of something else. */
function segmentOf(name: string): string | undefined {
  const matches = SEGMENT.test(name) || PARTIAL.test(name) || /^[0-9A-F]{24}\.[0-9A-Fa-f]+/.test(name) &&
      BACKUP_HISTORY.test(name);
  return matches ? name.slice(0, 24) : undefined;
}

function withoutExtension(name: string, extension: string): string {
  const shorter = extension !== "" && name.length > extension.length && name.endsWith(extension);
  return shorter ? name.slice(0, name.length - extension.length) : name;
}
