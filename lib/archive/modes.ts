import type { DiskEntry } from "./disk.ts";
import type { Modes } from "./segment_writer.ts";

/** The modes of what is made in an archive directory: as PostgreSQL does it, its own group mode decides for all below it. */
export function modesBelow(root: Pick<DiskEntry, "mode">): Modes {
  const group = (root.mode & 0o050) === 0o050;
  return group
    // The set-group-ID bit goes on too: files then belong to the directory's group, whoever writes.
    ? { file: 0o640, directory: 0o750 | (root.mode & 0o2000) }
    : { file: 0o600, directory: 0o700 };
}
