import type { ShortRoadEnd } from "./short_road.ts";

/** What stands under a name; symbolic links are told, never followed. */
export interface DiskEntry {
  readonly kind: "file" | "directory" | "symlink" | "other";
  readonly bytes: number;
  /** Permission bits. */
  readonly mode: number;
  /** User id of the owner. */
  readonly ownerId: number;
  /** Which file it is, whatever its name; unique on one file system. */
  readonly inode: number;
}

/** What changes when somebody writes to a file, as exactly as its file system and the runtime tell. */
export interface FileState {
  readonly inode: number;
  readonly bytes: number;
  /** Wall clock; the kernel's stands still for some milliseconds at a time. */
  readonly modifiedMs: number;
  readonly changedMs: number;
}

/** The room of a file system. */
export interface DiskSpace {
  /** That this user can still write. */
  readonly freeBytes: number;
  /** Used or not. */
  readonly totalBytes: number;
}

/** A name in a directory, and what stands under it. */
export interface NamedEntry extends DiskEntry {
  readonly name: string;
}

/** A socket that brings WAL, and where it goes in a file; all positions are bytes from the segment's start. */
export interface RoadStart {
  readonly descriptor: number;
  readonly segmentStartLsn: bigint;
  readonly segmentBytes: number;
  readonly position: number;
  /** To receive into; from `allocate`. */
  readonly memory: Uint8Array;
}

/** A file that takes WAL from a socket by itself, and tells the server; `short_road.ts` says how. */
export interface ShortRoad {
  /** Rejects only when the thread ends. `rest` is a copy. */
  readonly ended: Promise<
    { readonly end: ShortRoadEnd; readonly position: number; readonly rest: Uint8Array }
  >;
  /**
   * Ends it soon; at once if it waits for the server, else when the disk returns. From its return on nothing more is
   * sent to the socket.
   */
  revoke(): void;
  readonly received: number;
  readonly durable: number;
  readonly behind: number;
  /** Grows with whatever comes from the server. */
  readonly heardCount: number;
}

/** An open file. */
export interface DiskFile {
  /** Writes all of `bytes` at `position`. The bytes must not change until it settles. */
  write(bytes: Uint8Array, position: number): Promise<void>;
  /** Fills `buffer` from `position` on; resolves to how many bytes there were. */
  read(buffer: Uint8Array, position: number): Promise<number>;
  /** Sets the size; what is new reads as zeros. */
  truncate(bytes: number): Promise<void>;
  /**
   * `fdatasync`: data, and the metadata needed to read it back.
   *
   * A failed one must never be tried again: the kernel may have dropped the pages and call the next one a success.
   */
  sync(): Promise<void>;
  /** Nothing else may be asked of the disk until it has ended. Absent where the runtime can't. */
  takeShortRoad?(start: RoadStart): ShortRoad;
  bytes(): Promise<number>;
  /** Which file it is, whatever its name has become. */
  inode(): Promise<number>;
  state(): Promise<FileState>;
  close(): Promise<void>;
}

/**
 * The files below one directory, and the only way the archive touches them.
 *
 * Paths are relative to that directory, with `/`; no name is followed through a symbolic link. Calls take effect one
 * at a time in the order they are made, also when the caller does not wait in between; each rejects with what the
 * operating system says (`code` as in Node). The simulation replaces this interface.
 */
export interface Disk {
  /** For messages. */
  readonly root: string;
  /** Memory that `write` takes without a copy; zero-filled, at the start of a page, for the life of the disk. */
  allocate(bytes: number): Uint8Array;
  /** Opens for reading; `undefined` when absent. */
  open(path: string): Promise<DiskFile | undefined>;
  /** Creates for reading and writing; EEXIST when the name is taken. */
  create(path: string, mode: number): Promise<DiskFile>;
  /** Opens for reading and for writing at the end, wherever a write says; creates what is absent. */
  append(path: string, mode: number): Promise<DiskFile>;
  /** A second name for a file; EEXIST when the name is taken. */
  link(existing: string, added: string): Promise<void>;
  /** Replaces `to` when it exists. */
  rename(from: string, to: string): Promise<void>;
  unlink(path: string): Promise<void>;
  /** Names in a directory, in no order; `undefined` when it is absent. */
  list(path: string): Promise<readonly string[] | undefined>;
  /** As `list`, with what stands under each name. */
  entries(path: string): Promise<readonly NamedEntry[] | undefined>;
  /** `undefined` when absent. */
  entry(path: string): Promise<DiskEntry | undefined>;
  makeDirectory(path: string, mode: number): Promise<void>;
  /** Makes the names in a directory survive a power cut. */
  syncDirectory(path: string): Promise<void>;
  /** A caller may be kept standing for this long while it reads, writes or syncs; 0 at first: never. */
  setPatience?(ms: number): void;
  space(): Promise<DiskSpace>;
  /** Ends it; "stuck" when an operation has not returned in time, and may still take effect. */
  close(): Promise<"ended" | "stuck">;
}
