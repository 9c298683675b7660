import type { DiskFile } from "../../lib/archive/disk.ts";

/** An open file that can only be read. */
export function memoryFile(content: Uint8Array): DiskFile {
  const refuse = () => Promise.reject(new Error("Cannot write: this file is for reading"));
  return {
    write: refuse,
    truncate: refuse,
    sync: refuse,
    read(buffer, position) {
      const part = content.subarray(position, position + buffer.length);
      buffer.set(part);
      return Promise.resolve(part.length);
    },
    bytes: () => Promise.resolve(content.length),
    inode: () => Promise.resolve(1),
    state: () => Promise.resolve({ inode: 1, bytes: content.length, modifiedMs: 0, changedMs: 0 }),
    close: () => Promise.resolve(),
  };
}
