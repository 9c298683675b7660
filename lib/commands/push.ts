import process from "node:process";
import { basename, dirname } from "node:path";
import type { Accepted } from "../archive/acceptance.ts";
import type { Compression } from "../archive/compression.ts";
import { openDirectDisk } from "../archive/direct_disk.ts";
import type { Disk } from "../archive/disk.ts";
import { errorCode, withFile } from "../archive/durable.ts";
import { type Log, messageChain } from "../log.ts";
import { formatLsn } from "../wal/lsn.ts";
import { archiveDirectory } from "./archive_directory.ts";
import { type CommandContext, hintOf, UsageError } from "./context.ts";
import { commandLog } from "./logging.ts";
import type { PushCommandOptions } from "./push_options.ts";

/** 0 tells the server that it may forget the file; above 125 its archiver would restart. */
export const PUSH_EXIT = { done: 0, failed: 1 } as const;

/** One of them is written while the other is read and looked at; memory that is touched first costs more than it saves. */
const PIECE_BYTES = 1 << 19;
const PIECES = 2;

export interface PushContext extends CommandContext {
  /** Told when an operation does not return: it must not hold up the end of the process. */
  hangs(): void;
}

/** Archives one file; resolves to the exit code. */
export async function push(
  paths: readonly string[],
  options: PushCommandOptions,
  context: PushContext,
): Promise<number> {
  if (options.verbose && options.quiet) {
    throw new UsageError("--verbose and --quiet exclude each other", "Give one of them");
  }
  const log = commandLog(context, options);
  const directory = archiveDirectory(options.archive, context);
  try {
    const path = await checkPath(paths, hintFor(directory));
    const { compress: compression, timeout: timeoutMs } = options;
    tell(log, await pushFile(path, { directory, timeoutMs, compression, hangs: context.hangs }));
    return PUSH_EXIT.done;
  } catch (error) {
    // Who reads JSON lines has to find the one that matters most among them.
    if (options.logFormat !== "json") throw error;
    log.error("failed", { error: messageChain(error), hint: hintOf(error) });
    return PUSH_EXIT.failed;
  }
}

function hintFor(directory: string): string {
  return `In postgresql.conf the line reads: archive_command = 'walvault push --archive ${directory} %p'`;
}

/** Most of what goes wrong the first time is in the line of postgresql.conf. */
async function checkPath(paths: readonly string[], hint: string): Promise<string> {
  const [path] = paths;
  if (path === undefined || path === "") throw new UsageError("No file is given", hint);
  if (paths.length > 1) {
    const given = paths.map((each) => `"${each}"`).join(" ");
    throw new UsageError(`Cannot archive ${paths.length} files: ${given}, want the one that %p names`, hint);
  }
  const source = openDirectDisk(dirname(path));
  const entry = await source.entry(basename(path));
  if (entry === undefined) {
    throw new UsageError(`Cannot archive "${path}": there is no such file in "${process.cwd()}"`, hint);
  }
  if (entry.kind !== "file") {
    throw new UsageError(`Cannot archive "${path}": it is a ${entry.kind}, want a file`, hint);
  }
  try {
    await withFile(source, basename(path), () => Promise.resolve());
  } catch (error) {
    throw new UsageError(`Cannot read "${path}": ${(error as Error).message}`, hint);
  }
  return path;
}

interface PushPlace {
  readonly directory: string;
  readonly timeoutMs: number;
  readonly compression: Compression | undefined;
  hangs(): void;
}

async function pushFile(path: string, place: PushPlace): Promise<Accepted> {
  const { directory, timeoutMs } = place;
  const disk = await openDisk(directory, PIECES * PIECE_BYTES);
  try {
    return await inTime(acceptInto(disk, path, place.compression), {
      timeoutMs,
      problem: `Cannot archive ${basename(path)} in ${
        timeoutMs / 1000
      } s: the disk of "${directory}" does not answer`,
    });
  } catch (cause) {
    if (errorCode(cause) === undefined) throw cause;
    throw new Error(`Cannot archive ${basename(path)} into "${directory}"`, { cause });
  } finally {
    if (await disk.close() === "stuck") place.hangs();
  }
}

/**
 * Under Bun on the threads that it has anyway: to start one of our own takes longer than all that push asks of the disk.
 * Under Deno such calls stand still on this thread, and a disk that does not answer would end the time limit too.
 */
async function openDisk(directory: string, memoryBytes: number): Promise<Disk> {
  if (process.versions["bun"] !== undefined) {
    const { openPooledDisk } = await import("../archive/pooled_disk.ts");
    return openPooledDisk(directory, memoryBytes);
  }
  const { openDiskThread } = await import("../archive/disk_thread.ts");
  return openDiskThread(directory, memoryBytes, "short");
}

/** What accepting takes is loaded while the disk starts. */
async function acceptInto(
  disk: Disk,
  path: string,
  compression: Compression | undefined,
): Promise<Accepted> {
  const pieces = Array.from({ length: PIECES }, () => disk.allocate(PIECE_BYTES));
  const { acceptBrought } = await import("./push_file.ts");
  return await acceptBrought(disk, path, { pieces, compression });
}

async function inTime<T>(
  work: Promise<T>,
  { timeoutMs, problem }: { readonly timeoutMs: number; readonly problem: string },
): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(problem)), timeoutMs);
  });
  // Nobody waits for it after that.
  work.catch(() => {});
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

function tell(log: Log, accepted: Accepted): void {
  if (accepted.outcome !== "kept") {
    for (const { path, keptPath } of accepted.damaged ?? []) {
      log.error("damaged file moved aside, the server had a good one", {
        path,
        kept: keptPath,
        hint: "look for the reason: the archive's disk may be failing",
      });
    }
    return log.debug(`file ${accepted.outcome}`, { path: accepted.path });
  }
  const { path, validEndLsn, contradicted } = accepted;
  const kept = { path, validEndLsn: formatLsn(validEndLsn) };
  if (contradicted === undefined) return log.warn("unfinished segment kept", kept);
  log.error("unfinished segment kept, and other bytes of it are here", {
    ...kept,
    other: contradicted.path,
    differenceLsn: formatLsn(contradicted.differenceLsn),
    hint: "two servers wrote to this timeline: find out which one belongs to this archive",
  });
}
