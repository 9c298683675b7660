import type { DiskEntry } from "./disk.ts";

/** A compressed file that is cut off, damaged, or holds another number of bytes than it should. */
export class DamagedFileError extends Error {
  override readonly name = "DamagedFileError";
}

/** What stands under a file's name is none. It is not opened: a pipe would hold up whoever reads it for ever. */
export class NotAFileError extends Error {
  override readonly name = "NotAFileError";
}

/** The code of such an error where its class is lost: on its way from a thread. */
export const NOT_A_FILE = "ENOTFILE";

/** What opening a file said, with its class. */
export function asNotAFile(error: unknown): unknown {
  if (!(error instanceof Error) || (error as { readonly code?: unknown }).code !== NOT_A_FILE) return error;
  return new NotAFileError(error.message);
}

/** What stands under a name, in words. */
export function formatKind(kind: DiskEntry["kind"]): string {
  return kind === "other" ? "a pipe, a socket or a device" : `a ${kind}`;
}

/**
 * Whether a file can't be read for what it is itself: damaged, too short, or no file at all.
 *
 * Then the others can be, unlike on a disk that fails.
 */
export function isFilesFault(error: unknown): boolean {
  if (error instanceof DamagedFileError || error instanceof NotAFileError) return true;
  if (error instanceof RangeError) return true;
  return error instanceof Error && (error as { readonly code?: unknown }).code === "EISDIR";
}
