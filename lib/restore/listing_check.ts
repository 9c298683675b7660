import { COMPRESSED_FORMS, inProgressPath, savedPath, SEGMENT_FORMS } from "../archive/layout.ts";
import type { ArchiveDirectory, ArchiveNames } from "./archive_directory.ts";
import { VanishedError } from "./obstacle.ts";

/** Saved copies that are asked for by name; more than one is rare. */
const SAVED_COPIES = 3;

/** Where files stand that change the answer for a segment: its own copies, and the segment after it. */
export function pathsBeside(name: string, next: string): readonly string[] {
  const saved = Array.from({ length: SAVED_COPIES }, (_, index) => savedPath(name, index + 1));
  const partials = [name, next].flatMap((segment) =>
    ["", ...COMPRESSED_FORMS].map((form) => `${segment}${form}.partial`)
  );
  const published = SEGMENT_FORMS.map((form) => next + form);
  return [inProgressPath(name), ...saved, inProgressPath(next), ...partials, ...published];
}

/**
 * Asks for files by name that a listing must have, if they are there: what is not listed would be proof that it never was.
 *
 * A listing that the system could not read to its end is an error already. This is for those that are short and call
 * themselves whole: of a directory that changes meanwhile, or that a network file system remembers.
 * @throws {VanishedError} when one is there and not listed: it may also have come in between.
 */
export async function checkListing(
  archive: ArchiveDirectory,
  names: ArchiveNames,
  paths: readonly string[],
): Promise<void> {
  const listed = new Set([...names.root, ...names.inProgress.map(inProgressPath)]);
  for (const path of paths) {
    if (listed.has(path) || await archive.disk.entry(path) === undefined) continue;
    throw new VanishedError(
      `"${archive.disk.root}/${path}" is there, and not in the listing of its directory`,
    );
  }
}
