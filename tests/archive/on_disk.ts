/** Real disks below a temporary directory. */
import type { Disk } from "../../lib/archive/disk.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

export const MEMORY_BYTES = 1 << 20;

/** Opens a disk over a directory, with so much memory of its own. */
export type Open = (root: string, memoryBytes: number) => Disk;

/** Runs `use` on a disk over an empty directory, and closes it. */
export async function onDisk(open: Open, use: (disk: Disk, root: string) => Promise<void>): Promise<void> {
  await inTemporaryDirectory(async (root) => {
    const disk = open(root, MEMORY_BYTES);
    try {
      await use(disk, root);
    } finally {
      await disk.close();
    }
  });
}

/** What rejects with this error code of the operating system. */
export function code(value: string) {
  return (error: unknown) => (error as { code?: unknown }).code === value;
}

/** Bytes that tell where they are. */
export function pattern(length: number, seed = 1): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 31 + seed * 7 + (index >> 8)) & 255);
}
