import { posix } from "node:path";
import type { Disk } from "./disk.ts";
import { NotAFileError } from "./damaged_file.ts";
import {
  addName,
  errorCode,
  firstDifferenceInFiles,
  type Naming,
  removeName,
  withFile,
  withPlainFile,
} from "./durable.ts";
import { CONFLICTS_DIRECTORY } from "./layout.ts";

const READ_BYTES = 256 * 1024;

/** Digits of the hash in a name; more of them where other bytes have the name already. */
const HASH_DIGITS = [8, 16, 64];

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
  return hash.digest("hex");
}

/** The other side of a conflict. */
export interface ConflictFile {
  /** A synced file of `inprogress/`, or a temporary one. */
  readonly from: string;
  /** Of the segment or history. */
  readonly name: string;
  /** How much of it was received, if that is not all of it: the rest is no content. */
  readonly receivedBytes?: number | undefined;
}

/**
 * Keeps the other side of a conflict under `conflicts/<name>-<first 8 of its sha256>`; resolves to that path.
 *
 * What is kept already is not kept twice: a server that went another way comes back again and again, and each time sends
 * the same, and more or less of it. The new name is synced before the old one goes.
 */
export async function keepConflict(
  disk: Disk,
  file: ConflictFile,
  options: { readonly modes: { readonly directory: number }; readonly naming: Naming },
): Promise<string> {
  try {
    await disk.makeDirectory(CONFLICTS_DIRECTORY, options.modes.directory);
  } catch (error) {
    if (errorCode(error) !== "EEXIST") throw error;
  }
  // Whoever made it, at this moment or before a kill, may not have come to sync its name.
  await disk.syncDirectory(".");
  const kept = await findKept(disk, file) ?? await addKept(disk, file, options);
  await disk.syncDirectory(CONFLICTS_DIRECTORY);
  await removeName(disk, file.from);
  // Else a power cut brings it back, and then it contradicts the right server.
  await disk.syncDirectory(posix.dirname(file.from));
  return kept;
}

/** A file that is kept of the same name and has all these bytes. */
async function findKept(disk: Disk, file: ConflictFile): Promise<string | undefined> {
  for (const entry of [...await disk.list(CONFLICTS_DIRECTORY) ?? []].sort()) {
    const path = `${CONFLICTS_DIRECTORY}/${entry}`;
    if (entry.startsWith(`${file.name}-`) && await holds(disk, path, file)) return path;
  }
  return undefined;
}

async function holds(
  disk: Disk,
  path: string,
  { from, receivedBytes }: ConflictFile,
): Promise<boolean> {
  try {
    const isSame = await withPlainFile(disk, path, (kept) =>
      withFile(disk, from, async (file) => {
        const bytes = await file.bytes();
        if (await kept.bytes() !== bytes) return false;
        const range = { start: 0, end: Math.min(bytes, receivedBytes ?? bytes) };
        return await firstDifferenceInFiles(kept, file, range) === undefined;
      }));
    return isSame === true;
  } catch (error) {
    if (!(error instanceof NotAFileError)) throw error;
    return false;
  }
}

async function addKept(
  disk: Disk,
  { from, name }: ConflictFile,
  { naming }: { readonly naming: Naming },
): Promise<string> {
  const hash = await contentHash(disk, from);
  for (const digits of HASH_DIGITS) {
    const kept = `${CONFLICTS_DIRECTORY}/${name}-${hash.slice(0, digits)}`;
    if (await addName(disk, { from, to: kept }, naming)) return kept;
    // Another process may have kept the same at this moment.
    if (await holds(disk, kept, { from, name })) return kept;
  }
  throw new Error(
    `Cannot keep "${disk.root}/${from}": something else stands under "${CONFLICTS_DIRECTORY}/${name}-${hash}"; move it away`,
  );
}
