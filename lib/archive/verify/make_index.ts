import type { Disk } from "../disk.ts";
import type { ArchiveIdentity } from "../identity.ts";
import { writeIndex } from "../index.ts";
import { indexOf } from "../index_worker.ts";
import type { Modes } from "../segment_writer.ts";

/** An index that is to be made. Plain data: it travels to threads. */
export interface IndexTask {
  /** Of the segment: 24 digits. */
  readonly name: string;
  readonly identity: ArchiveIdentity;
  readonly modes: Modes;
  /** Of the bytes that were proven. */
  readonly contentCrc: number;
}

/** Makes the index of a segment, in the place of any that is there, if its bytes are still those; whether it did. */
export async function makeIndex(
  disk: Disk,
  { name, identity, modes, contentCrc }: IndexTask,
): Promise<boolean> {
  try {
    const index = await indexOf(disk, name, identity);
    if (index?.contentCrc !== contentCrc) return false;
    await writeIndex(disk, index, modes);
    return true;
  } catch {
    // It is a cache: whoever needs it and may write makes it. What is wrong with the next segment is told there.
    return false;
  }
}
