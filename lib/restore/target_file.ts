import type { Disk, DiskFile } from "../archive/disk.ts";
import { removeName } from "../archive/durable.ts";
import { temporaryName } from "../archive/layout.ts";
import { OutageError } from "./obstacle.ts";

/** As the server makes its own. */
export const FILE_MODE = 0o600;
const ZERO_BYTES = 256 * 1024;

/**
 * Makes a file that is there whole or not at all: `fill` writes it under another name, which it gives up at the end.
 *
 * Nothing is synced: after a crash the server asks for the file again.
 */
export async function writeTarget(
  disk: Disk,
  name: string,
  fill: (file: DiskFile) => Promise<void>,
): Promise<void> {
  const temporary = temporaryName(name);
  // What a killed call left. The server makes one call at a time.
  await removeName(disk, temporary);
  const file = await disk.create(temporary, FILE_MODE);
  try {
    try {
      await fill(file);
      const entry = await disk.entry(temporary);
      if (entry?.inode !== await file.inode()) {
        throw new OutageError(
          `Cannot write "${disk.root}/${name}": another call writes it at the same time`,
          "Let only one process restore into a data directory",
        );
      }
    } finally {
      await file.close();
    }
    await disk.rename(temporary, name);
  } catch (error) {
    await removeName(disk, temporary);
    throw error;
  }
}

/** Fills a file with zeros from `start` up to, not including, `end`: a hole in it would have to be found room for later. */
export async function writeZeros(
  file: DiskFile,
  range: { readonly start: number; readonly end: number },
): Promise<void> {
  const zeros = new Uint8Array(ZERO_BYTES);
  for (let position = range.start; position < range.end;) {
    const count = Math.min(zeros.length, range.end - position);
    await file.write(zeros.subarray(0, count), position);
    position += count;
  }
}
