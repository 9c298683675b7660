import type { Compression } from "./compression.ts";
import { openCompressionThread } from "./compression_thread.ts";
import type { Disk } from "./disk.ts";
import { openDiskThread } from "./disk_thread.ts";
import { PIECE_BYTES } from "./piece_encoder.ts";
import { OUTPUT_BYTES, type PieceWorker } from "./piece_worker.ts";

/** What the disk allocates begins at a page: some is lost in between. */
const MEMORY_BYTES = PIECE_BYTES + OUTPUT_BYTES + 8192;

/** What compression beside receiving runs on: one thread waits for the disk, one computes. */
export interface CompressionThreads {
  readonly disk: Disk;
  readonly worker: PieceWorker;
  /** "stuck" when the disk still has something of what was under way. */
  close(): Promise<"ended" | "stuck">;
}

/** Opens both threads, on the files below `root`, or neither. */
export async function openCompressionThreads(
  root: string,
  compression: Compression,
): Promise<CompressionThreads> {
  const disk = openDiskThread(root, MEMORY_BYTES);
  try {
    const memory = { content: disk.allocate(PIECE_BYTES), output: disk.allocate(OUTPUT_BYTES) };
    const worker = openCompressionThread(compression, memory);
    return {
      disk,
      worker,
      close: async () => {
        await worker.close();
        return await disk.close();
      },
    };
  } catch (error) {
    await disk.close();
    throw error;
  }
}
