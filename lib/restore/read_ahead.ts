import type { DirectDisk } from "../archive/direct_disk.ts";
import type { Disk, DiskFile } from "../archive/disk.ts";
import { removeName } from "../archive/durable.ts";
import { SEGMENT_FORMS } from "../archive/layout.ts";
import { parseSegmentName, segmentName, segmentNumber, segmentSize } from "../wal/segment.ts";
import { copyAhead, type Restore } from "./fetch_file.ts";
import { type Boot, isPrepared, preparingName } from "./prepared_file.ts";
import type { RestoringServer } from "./server_directory.ts";
import { FILE_MODE } from "./target_file.ts";

/** Where there is less room than for so many, nothing is read ahead: the server's own WAL comes first. */
const SPARE_SEGMENTS = 4;

/** A segment to be read ahead. */
export interface Preparing {
  readonly segment: string;
  /** The empty file, beside the target, that it is written into. */
  readonly into: string;
}

/**
 * Makes the file for the segment behind the one that was just delivered; `undefined` when the archive does not have it.
 *
 * Whoever fills that file only renames it, and never makes one: when it is removed, nothing stays.
 */
export async function beginNext(
  archive: Disk,
  { wal, targetName }: RestoringServer,
  { delivered, suffix }: { readonly delivered: string; readonly suffix: string },
): Promise<Preparing | undefined> {
  const size = segmentSize((await wal.entry(targetName))?.bytes ?? 0);
  const { timeline, number } = parseSegmentName(delivered, size) ?? {};
  if (timeline === undefined || number === undefined) return undefined;
  if ((await wal.space()).freeBytes < SPARE_SEGMENTS * size) return undefined;
  const segment = segmentName(timeline, segmentNumber(number + 1n), size);
  for (const form of SEGMENT_FORMS) {
    if ((await archive.entry(segment + form))?.kind !== "file") continue;
    const into = preparingName(segment, suffix);
    await (await wal.create(into, FILE_MODE)).close();
    return { segment, into };
  }
  return undefined;
}

/**
 * Removes whatever was read ahead, and whatever is being read: that goes on into a file without a name.
 *
 * Twice, as a listing may miss a file that gets its other name meanwhile; it has that when the next one begins.
 */
export async function removePrepared(wal: Disk): Promise<void> {
  for (let looks = 0; looks < 2; looks++) {
    for (const name of await wal.list(".") ?? []) if (isPrepared(name)) await removeName(wal, name);
  }
}

/** Fills the file that `beginNext` made, and gives it the name under which the next call looks for it. */
export async function prepareSegment(
  restore: Restore & { readonly ahead: Boot },
  wal: DirectDisk,
  { segment, into }: Preparing,
): Promise<void> {
  const file = await wal.openToWrite(into);
  if (file === undefined) return;
  try {
    let prepared: string | undefined;
    try {
      prepared = await copyAhead(restore, segment, whileNamed(wal, into, file));
      if (prepared !== undefined && (await wal.entry(into))?.inode !== await file.inode()) {
        prepared = undefined;
      }
    } finally {
      await file.close();
    }
    if (prepared !== undefined) return await wal.rename(into, prepared);
    await removeName(wal, into);
  } catch (error) {
    await removeName(wal, into);
    throw error;
  }
}

/** Writes only as long as somebody wants it. */
function whileNamed(wal: Disk, name: string, file: DiskFile): DiskFile {
  return {
    ...file,
    write: async (bytes, position) => {
      if (await wal.entry(name) === undefined) throw new Error(`"${name}" is not wanted any more`);
      await file.write(bytes, position);
    },
  };
}
