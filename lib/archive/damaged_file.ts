/** A compressed file that is cut off, damaged, or holds another number of bytes than it should. */
export class DamagedFileError extends Error {
  override readonly name = "DamagedFileError";
}

/**
 * Whether a file can't be read for what it is itself: damaged, too short, or no file at all but a directory.
 *
 * Then the others can be, unlike on a disk that fails.
 */
export function isFilesFault(error: unknown): boolean {
  if (error instanceof DamagedFileError || error instanceof RangeError) return true;
  return error instanceof Error && (error as { readonly code?: unknown }).code === "EISDIR";
}
