/**
 * The one home of the orders of write, sync, link and unlink that keep a promise over a power cut.
 *
 * Each function says what stands on the disk if the power goes between any two of its steps.
 */
import { firstDifferentByte } from "../wal/bytes.ts";
import { allEnded } from "./all_ended.ts";
import { formatKind, NotAFileError } from "./damaged_file.ts";
import type { Disk, DiskFile } from "./disk.ts";
import { temporaryName } from "./layout.ts";

/** How a name is given to a finished file. */
export interface Naming {
  /** `false` only on file systems without hard links, and only where no other process adds files. */
  readonly hardLinks: boolean;
}

/** The operating system's error code (`ENOSPC`, `EIO`), if the error has one. */
export function errorCode(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const { code } = error as { code?: unknown };
  return typeof code === "string" ? code : undefined;
}

/** True for the errors that go away when somebody makes room. */
export function isOutOfSpace(error: unknown): boolean {
  const code = errorCode(error);
  return code === "ENOSPC" || code === "EDQUOT";
}

const NO_HARD_LINKS: ReadonlySet<string> = new Set(["EPERM", "ENOTSUP", "EOPNOTSUPP", "EMLINK", "ENOSYS"]);

/**
 * Gives `from` the new name `to`, in one step and never over an existing file; `from` may keep its old name too.
 *
 * Answers false when `to` is taken. The caller syncs the directory.
 * @throws Error with a hint when the file system has no hard links.
 */
export async function addName(
  disk: Disk,
  names: { readonly from: string; readonly to: string },
  naming: Naming,
): Promise<boolean> {
  if (!naming.hardLinks) {
    if (await disk.entry(names.to) !== undefined) return false;
    await disk.rename(names.from, names.to);
    return true;
  }
  try {
    await disk.link(names.from, names.to);
    return true;
  } catch (error) {
    const code = errorCode(error) ?? "";
    if (code === "EEXIST") return false;
    if (!NO_HARD_LINKS.has(code)) throw error;
    // EPERM is also the answer of a directory that is closed to everybody: chattr +i, or a security module.
    const closed = code === "EPERM" ? "the directory takes no new names (see: lsattr -d), or " : "";
    throw new Error(
      `Cannot link "${disk.root}/${names.to}": ${closed}this file system has no hard links (${code}); ` +
        `use another one${
          closed === "" ? "" : " if that is so"
        }, or --no-hard-links if nothing else writes to this archive`,
      { cause: error },
    );
  }
}

/** Removes a name; one that is gone already is fine, since a crash may have come between a removal and its sync. */
export async function removeName(disk: Disk, path: string): Promise<void> {
  try {
    await disk.unlink(path);
  } catch (error) {
    if (errorCode(error) !== "ENOENT") throw error;
  }
}

/** Opens a file for the time of `use`; `undefined` when it is absent. */
export function withFile<T>(
  disk: Pick<Disk, "open">,
  path: string,
  use: (file: DiskFile) => Promise<T>,
): Promise<T | undefined> {
  return whileOpen(disk.open(path), use);
}

async function whileOpen<T>(
  opening: Promise<DiskFile | undefined>,
  use: (file: DiskFile) => Promise<T>,
): Promise<T | undefined> {
  const file = await opening;
  if (file === undefined) return undefined;
  try {
    return await use(file);
  } finally {
    await file.close();
  }
}

/**
 * Opens a file that others may have put there; `undefined` when it is absent.
 *
 * @throws {NotAFileError} when something else than a file stands there.
 */
export async function openPlain(disk: Disk, path: string): Promise<DiskFile | undefined> {
  const entry = await disk.entry(path);
  if (entry === undefined) return undefined;
  if (entry.kind === "file") return await disk.open(path);
  throw new NotAFileError(`Cannot read "${disk.root}/${path}": it is ${formatKind(entry.kind)}, want a file`);
}

/**
 * As `withFile`, of a file that others may have put there.
 *
 * @throws {NotAFileError} when something else than a file stands there.
 */
export function withPlainFile<T>(
  disk: Disk,
  path: string,
  use: (file: DiskFile) => Promise<T>,
): Promise<T | undefined> {
  return whileOpen(openPlain(disk, path), use);
}

const START_BYTES = 4096;

/** Reads a small file whole, opened by `open`; `undefined` when absent. */
export function readWhole<Files extends Pick<Disk, "root" | "open">>(
  disk: Files,
  path: string,
  maximumBytes: number,
  open: <T>(disk: Files, path: string, use: (file: DiskFile) => Promise<T>) => Promise<T | undefined> =
    withFile,
): Promise<Uint8Array | undefined> {
  return open(disk, path, async (file) => {
    const start = new Uint8Array(Math.min(maximumBytes, START_BYTES));
    // The usual one ends in there.
    const [size, read] = await allEnded([file.bytes(), file.read(start, 0)]);
    const bytes = await size;
    if (bytes > maximumBytes) {
      throw new RangeError(
        `Cannot read "${disk.root}/${path}": ${bytes} bytes, want at most ${maximumBytes}`,
      );
    }
    if (bytes <= start.length) return start.subarray(0, Math.min(bytes, await read));
    const buffer = new Uint8Array(bytes);
    return buffer.subarray(0, await file.read(buffer, 0));
  });
}

/** A small file that is to get a name in the archive directory. */
export interface SmallFile {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly mode: number;
}

/** Writes and syncs a small file under its temporary name, over what a crash left there; resolves to that name. */
export async function writeTemporary(disk: Disk, file: SmallFile): Promise<string> {
  const temporary = temporaryName(file.name);
  await removeName(disk, temporary);
  const handle = await disk.create(temporary, file.mode);
  try {
    await handle.write(file.bytes, 0);
    await handle.sync();
  } finally {
    await handle.close();
  }
  return temporary;
}

/**
 * Publishes a small file under `name` in the archive directory: whole and synced, or not there at all.
 *
 * A power cut leaves nothing, or a temporary file, or the file under both names; never a part under `name`.
 * Answers false, and changes nothing, when `name` is taken.
 */
export async function publishBytes(
  disk: Disk,
  file: SmallFile,
  naming: Naming,
): Promise<boolean> {
  const temporary = await writeTemporary(disk, file);
  const added = await addName(disk, { from: temporary, to: file.name }, naming);
  // The name is synced before the temporary one goes: at least one of them always leads to the bytes.
  await disk.syncDirectory(".");
  await removeName(disk, temporary);
  return added;
}

const COPY_BYTES = 256 * 1024;

/**
 * Writes the content of a file anew under another name, which must be free, and syncs it; false when `from` is absent.
 *
 * To sync the old file instead would prove nothing: when a sync of it failed, in this process or an earlier one, the
 * kernel calls the pages clean and the next sync a success. The caller syncs the directory.
 */
export async function copyAnew(
  disk: Disk,
  names: { readonly from: string; readonly to: string },
  file: { readonly fileBytes: number; readonly mode: number },
): Promise<boolean> {
  const copied = await withFile(disk, names.from, async (source) => {
    const target = await disk.create(names.to, file.mode);
    try {
      try {
        await target.truncate(file.fileBytes);
        const buffer = new Uint8Array(COPY_BYTES);
        for (let position = 0;;) {
          const count = await source.read(buffer, position);
          if (count === 0) break;
          await target.write(buffer.subarray(0, count), position);
          position += count;
        }
        await target.sync();
      } finally {
        await target.close();
      }
    } catch (error) {
      await removeName(disk, names.to);
      throw error;
    }
    return true;
  });
  return copied === true;
}

const COMPARE_BYTES = 256 * 1024;

/**
 * Offset of the first byte from `start` up to, not including, `end` that differs between two files; `undefined` when
 * none does.
 *
 * A file that is absent or ends early differs where it ends.
 */
export async function firstDifference(
  disk: Disk,
  paths: readonly [string, string],
  range: { readonly start: number; readonly end: number },
): Promise<number | undefined> {
  const difference = await withFile(disk, paths[0], (a) =>
    withFile(disk, paths[1], async (b) => {
      const at = await firstDifferenceInFiles(a, b, range);
      return { at };
    }));
  return difference === undefined ? range.start : difference.at;
}

/** As `firstDifference`, of files that are open. */
export async function firstDifferenceInFiles(
  a: DiskFile,
  b: DiskFile,
  { start, end }: { readonly start: number; readonly end: number },
): Promise<number | undefined> {
  const left = new Uint8Array(Math.min(COMPARE_BYTES, Math.max(0, end - start)));
  const right = new Uint8Array(left.length);
  for (let position = start; position < end; position += left.length) {
    const want = Math.min(left.length, end - position);
    const gotLeft = await a.read(left.subarray(0, want), position);
    const gotRight = await b.read(right.subarray(0, want), position);
    const shorter = Math.min(gotLeft, gotRight);
    const differs = firstDifferentByte(left, right, { start: 0, end: shorter });
    if (differs !== undefined) return position + differs;
    if (gotLeft < want || gotRight < want) return position + shorter;
  }
  return undefined;
}
