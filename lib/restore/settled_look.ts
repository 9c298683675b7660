import type { ArchiveDirectory } from "./archive_directory.ts";
import { IN_PROGRESS_DIRECTORY } from "../archive/layout.ts";
import { VanishedError } from "./obstacle.ts";
import type { UnfinishedFile } from "./stock.ts";

/** What one look into the archive found. */
export interface ArchiveLook {
  /** Nothing that a receiver does can make it wrong: there is no need for a second look. */
  readonly final: boolean;
  /** The unfinished files that it comes from; see `seenFiles`. */
  readonly seen: string;
}

/** Names of unfinished files, and which file stands under each. */
export async function seenFiles(
  archive: ArchiveDirectory,
  files: readonly UnfinishedFile[],
): Promise<string> {
  const seen: string[] = [];
  for (const { path } of files) {
    // Nobody moves what else there is.
    if (archive.identity !== undefined && !path.startsWith(`${IN_PROGRESS_DIRECTORY}/`)) continue;
    const entry = await archive.disk.entry(path);
    if (entry === undefined) throw new VanishedError(`"${archive.disk.root}/${path}" is gone`);
    seen.push(`${path} ${entry.inode}`);
  }
  return seen.sort().join("\n");
}

/**
 * Looks twice, and answers what the second look found.
 *
 * A receiver that comes back moves aside what it had of a segment, and begins a new file under the old name. A look that
 * this comes into may list the one, read the other, and find that there is nothing at all.
 * @throws {VanishedError} when a file was moved meanwhile.
 */
export async function settledLook<L extends ArchiveLook>(
  look: () => Promise<L>,
  between: { pause(): Promise<void>; seenNow(look: L): Promise<string> },
): Promise<L> {
  const first = await look();
  if (first.final) return first;
  await between.pause();
  const second = await look();
  if (second.final) return second;
  if (first.seen === second.seen && second.seen === await between.seenNow(second)) return second;
  throw new VanishedError("Files were moved");
}
