/** The files that a connection string may lead to, as the caller lets us see them. Nothing here may throw. */
export interface ConninfoFiles {
  /** UTF-8 text; `undefined` when the file is absent or may not be read. */
  readText(path: string): string | undefined;
  /** `st_mode`, symbolic links followed; `undefined` when absent, or where modes mean nothing (Windows). */
  mode(path: string): number | undefined;
  exists(path: string): boolean;
  /** `st_uid`. Without it no file counts as root's, so keys need 0600. */
  owner?(path: string): number | undefined;
}

/** Whether `mode` is that of something other than a plain file; a mode without type bits counts as plain. */
export function isSpecialFile(mode: number): boolean {
  const type = mode & 0o170000;
  return type !== 0 && type !== 0o100000;
}
