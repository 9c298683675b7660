import * as fs from "node:fs";
import type { Disk, DiskEntry, DiskFile, NamedEntry } from "./disk.ts";
import { asNotAFile } from "./damaged_file.ts";
import { DISK_PROTOCOL, type DiskCall, diskOperations, diskRules } from "./disk_executor.ts";

/** A disk that also opens what somebody else has made, to write it. */
export interface DirectDisk extends Disk {
  /** Opens for reading and writing, and never makes it; `undefined` when absent. */
  openToWrite(path: string): Promise<DiskFile | undefined>;
}

/**
 * The real disk on the calling thread, which stands still for each operation but listings.
 *
 * For a command that does one thing and has nobody to answer meanwhile: it starts sooner than a thread does.
 */
export function openDirectDisk(root: string): DirectDisk {
  const operations = diskOperations(fs, diskRules(fs, { root, pastCache: false, ...DISK_PROTOCOL }));
  /** The listing under way, or the last call behind it: calls take effect in the order they are made. */
  let last: Promise<unknown> | undefined;
  const holdUpBy = <T>(call: Promise<T>): Promise<T> => {
    const settled = call.catch(() => {
      // Whoever made that call is told; those behind it go on.
    }).then(() => {
      if (last === settled) last = undefined;
    });
    last = settled;
    return call;
  };
  /** Runs it now, or behind a listing; what it throws rejects, as from any other disk. */
  const act = <T>(run: () => T | Promise<T>): Promise<T> => {
    if (last !== undefined) return holdUpBy(last.then(run));
    return new Promise((resolve) => {
      const result = run();
      resolve(result instanceof Promise ? holdUpBy(result) : result);
    });
  };
  const call = <T>(request: DiskCall): Promise<T> => act(() => operations.call(request) as T | Promise<T>);
  const fileOf = (handle: number): DiskFile => ({
    write: (bytes, position) =>
      act(() => operations.write(handle, { bytes, offset: 0, length: bytes.length }, position)),
    read: (bytes, position) =>
      act(() => operations.read(handle, { bytes, offset: 0, length: bytes.length }, position)),
    truncate: (bytes) => call({ kind: "truncate", handle, bytes }),
    sync: () => act(() => operations.sync(handle)),
    bytes: () => call({ kind: "bytes", handle }),
    inode: () => call({ kind: "inode", handle }),
    state: () => call({ kind: "state", handle }),
    close: () => call({ kind: "close", handle }),
  });
  const open = async (kind: "open" | "openToWrite", path: string): Promise<DiskFile | undefined> => {
    const handle = await call<number | undefined>({ kind, path }).catch((error) => {
      throw asNotAFile(error);
    });
    return handle === undefined ? undefined : fileOf(handle);
  };
  return {
    root,
    allocate: (bytes) => new Uint8Array(bytes),
    open: (path) => open("open", path),
    openToWrite: (path) => open("openToWrite", path),
    create: async (path, mode) => fileOf(await call<number>({ kind: "create", path, mode })),
    append: async (path, mode) => fileOf(await call<number>({ kind: "append", path, mode })),
    link: (existing, added) => call({ kind: "link", path: existing, to: added }),
    rename: (from, to) => call({ kind: "rename", path: from, to }),
    unlink: (path) => call({ kind: "unlink", path }),
    list: (path) => call<readonly string[] | undefined>({ kind: "list", path }),
    entries: (path) => call<readonly NamedEntry[] | undefined>({ kind: "entries", path }),
    entry: (path) => call<DiskEntry | undefined>({ kind: "entry", path }),
    makeDirectory: (path, mode) => call({ kind: "makeDirectory", path, mode }),
    syncDirectory: (path) => call({ kind: "syncDirectory", path }),
    space: () => call({ kind: "space" }),
    close: () => Promise.resolve("ended"),
  };
}
