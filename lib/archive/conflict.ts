import type { Disk } from "./disk.ts";
import { addName, errorCode, type Naming, removeName, withFile } from "./durable.ts";
import { CONFLICTS_DIRECTORY } from "./layout.ts";

const READ_BYTES = 256 * 1024;

async function contentHash(disk: Disk, path: string): Promise<string> {
  // Only now: to load it takes a push longer than all that it asks of the disk, and conflicts are rare.
  const { createHash } = await import("node:crypto");
  const hash = createHash("sha256");
  await withFile(disk, path, async (file) => {
    const buffer = new Uint8Array(READ_BYTES);
    for (let position = 0;;) {
      const count = await file.read(buffer, position);
      if (count === 0) return;
      hash.update(buffer.subarray(0, count));
      position += count;
    }
  });
  return hash.digest("hex").slice(0, 8);
}

/**
 * Keeps the other side of a conflict under `conflicts/<name>-<first 8 of its sha256>`; resolves to that path.
 *
 * `from` is a synced file of `inprogress/` or a temporary one. The new name is synced before the old one goes.
 */
export async function keepConflict(
  disk: Disk,
  file: { readonly from: string; readonly name: string },
  options: { readonly modes: { readonly directory: number }; readonly naming: Naming },
): Promise<string> {
  try {
    await disk.makeDirectory(CONFLICTS_DIRECTORY, options.modes.directory);
  } catch (error) {
    if (errorCode(error) !== "EEXIST") throw error;
  }
  // Whoever made it, at this moment or before a kill, may not have come to sync its name.
  await disk.syncDirectory(".");
  const kept = `${CONFLICTS_DIRECTORY}/${file.name}-${await contentHash(disk, file.from)}`;
  // A taken name is the same content, kept at an earlier try.
  await addName(disk, { from: file.from, to: kept }, options.naming);
  await disk.syncDirectory(CONFLICTS_DIRECTORY);
  await removeName(disk, file.from);
  return kept;
}
