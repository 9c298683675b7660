import { NOT_A_FILE } from "./damaged_file.ts";
import type { DiskEntry, FileState } from "./disk.ts";
import type { Parking, ParkingKind } from "./parking.ts";
import type { ShortRoadRequest, ShortRoadResult } from "./short_road.ts";

/** The numbers that both threads agree on; the executor gets them as data, since its source text travels alone. */
export const DISK_PROTOCOL = {
  /** Words of the control block. */
  submitted: 0,
  completed: 1,
  /** 1 while the disk thread stands still: whoever submits then must wake it, and takes the 1 away. */
  asleep: 2,
  /** 1 while the main thread stands still; else it waits in its event loop, if it waits. */
  standing: 3,
  /** Of the short road. */
  road: { revoked: 4, received: 5, durable: 6, behind: 7, heard: 8, sending: 9 },
  controlWords: 10,
  /** A power of two. */
  slots: 64,
  /** Numbers per slot: operation, handle, offset into the shared memory, length, position, status, result. */
  slotNumbers: 7,
  /** Bytes of JSON text per slot, for the calls with paths. */
  textBytes: 16384,
  notAFile: NOT_A_FILE,
  /** What is written past the page cache must be aligned to this, in memory and in the file. */
  directUnit: 4096,
  /** Shorter writes go through the page cache: a commit waits for them, and they end inside a page. */
  directBytes: 128 * 1024,
  /**
   * Longer writes through the page cache are cut: for each the kernel looks for as much memory in one piece, which takes it
   * 0.8 ms for 256 KiB where memory is in use, and next to nothing for so much.
   */
  cachedBytes: 64 * 1024,
  operations: { call: 0, write: 1, read: 2, sync: 3, stop: 4 },
  status: { done: 0, message: 1, failed: 2 },
} as const;

/** What the main thread hands over at the start. */
export interface DiskThreadData {
  readonly root: string;
  readonly control: SharedArrayBuffer;
  readonly slots: SharedArrayBuffer;
  readonly texts: SharedArrayBuffer;
  readonly memory: SharedArrayBuffer;
  readonly parking: ParkingKind;
  readonly protocol: typeof DISK_PROTOCOL;
}

/** A call with paths, as JSON text in a slot. */
export type DiskCall =
  | {
    readonly kind: "open" | "openToWrite" | "unlink" | "list" | "entries" | "entry" | "syncDirectory";
    readonly path: string;
  }
  | { readonly kind: "create" | "append" | "makeDirectory"; readonly path: string; readonly mode: number }
  | { readonly kind: "link" | "rename"; readonly path: string; readonly to: string }
  | { readonly kind: "truncate"; readonly handle: number; readonly bytes: number }
  | { readonly kind: "bytes" | "inode" | "state" | "close"; readonly handle: number }
  | { readonly kind: "space" };

/** What else can be asked of the thread, in the same way. */
export type DiskThreadCall = DiskCall | { readonly kind: "shortRoad"; readonly request: ShortRoadRequest };

/** Sent beside the shared memory: an answer that is no number, or an error. */
export interface DiskMessage {
  readonly sequence: number;
  readonly value?: unknown;
  readonly error?: { readonly message: string; readonly code: string | undefined };
}

/** Some bytes of a larger memory. */
export interface DiskBytes {
  readonly bytes: Uint8Array;
  readonly offset: number;
  readonly length: number;
}

/** What a disk can do, each call blocking until it is done, but for listings; errors are the operating system's. */
export interface DiskOperations {
  /** A promise where the runtime reports all errors to those only who do not block: for `list` and `entries`. */
  call(request: DiskCall): unknown;
  write(handle: number, bytes: DiskBytes, position: number): void;
  /** How many bytes there were. */
  read(handle: number, bytes: DiskBytes, position: number): number;
  sync(handle: number): void;
}

/** How the runtime's own calls are used, whether they block or not. */
export interface DiskRules {
  readonly flags: {
    readonly read: number;
    readonly readWaiting: number;
    readonly write: number;
    readonly create: number;
    readonly append: number;
    /** Also what is absent. */
    readonly appendNew: number;
    readonly directory: number;
    /** Written past the page cache; `undefined` where the system or the use has no such thing. */
    readonly direct: number | undefined;
  };
  at(path: string): string;
  describe(stat: import("node:fs").Stats): DiskEntry;
  /** Why what stands under a name can't be read as a file, with `NOT_A_FILE` as its code; `undefined` when it can. */
  refusal(stat: import("node:fs").Stats, path: string): Error | undefined;
  /** Whether it can be no file that was not opened: a socket. */
  isNoFile(error: unknown): boolean;
  /** Whether it is a file that a file server has a lease on: whoever waits gets it. */
  isLeased(error: unknown): boolean;
  state(stat: import("node:fs").Stats): FileState;
  /**
   * How many bytes of a write go on past the page cache, where memory and file are aligned alike: to copy the bytes
   * once more costs more processor time than all else. 0 when it is not their turn.
   */
  pastCache(place: WritePlace): number;
  /** Else this many through it: up to the next boundary only, if from there on the way past the cache is open. */
  throughCache(place: WritePlace, isDirect: boolean): number;
}

/** What is left of a write: where it lies in memory and in the file. */
export interface WritePlace {
  readonly offset: number;
  readonly length: number;
  readonly position: number;
}

/**
 * The rules of the files below `root`.
 *
 * Its source text runs in the disk thread too (a thread's module file would need read access to the program's own
 * source), so it uses nothing but its parameters and globals.
 * @param options.pastCache whether long writes go past the page cache: their memory must begin at a page.
 */
export function diskRules(
  fs: typeof import("node:fs"),
  { root, pastCache, notAFile, directUnit, directBytes, cachedBytes }: {
    readonly root: string;
    readonly pastCache: boolean;
    readonly notAFile: string;
    readonly directUnit: number;
    readonly directBytes: number;
    readonly cachedBytes: number;
  },
): DiskRules {
  const { O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_WRONLY, O_RDWR, O_DIRECTORY } = fs.constants;
  // Absent on systems without them.
  const { O_DIRECT, O_NONBLOCK } = fs.constants as {
    readonly O_DIRECT?: number;
    readonly O_NONBLOCK?: number;
  };
  const describe = (stat: import("node:fs").Stats): DiskEntry => ({
    kind: stat.isFile()
      ? "file"
      : stat.isDirectory()
      ? "directory"
      : stat.isSymbolicLink()
      ? "symlink"
      : "other",
    bytes: stat.size,
    mode: stat.mode & 0o7777,
    ownerId: stat.uid,
    inode: stat.ino,
  });
  return {
    flags: {
      // Whoever opens a pipe for reading waits until somebody opens it for writing.
      read: O_RDONLY | O_NOFOLLOW | (O_NONBLOCK ?? 0),
      readWaiting: O_RDONLY | O_NOFOLLOW,
      write: O_RDWR | O_NOFOLLOW,
      create: O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW,
      append: O_RDWR | O_APPEND | O_NOFOLLOW,
      appendNew: O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW,
      directory: O_RDONLY | O_DIRECTORY | O_NOFOLLOW,
      direct: pastCache && O_DIRECT !== undefined ? O_WRONLY | O_DIRECT | O_NOFOLLOW : undefined,
    },
    at: (path) => (path === "." ? root : root + "/" + path),
    describe,
    refusal: (stat, path) => {
      const { kind } = describe(stat);
      if (kind === "file") return undefined;
      const what = kind === "other" ? "a pipe, a socket or a device" : "a " + kind;
      const text = 'Cannot read "' + root + "/" + path + '": it is ' + what + ", want a file";
      return Object.assign(new Error(text), { code: notAFile });
    },
    isNoFile: (error) => (error as { code?: string }).code === "ENXIO",
    isLeased: (error) => (error as { code?: string }).code === "EAGAIN",
    state: (stat) => ({
      inode: stat.ino,
      bytes: stat.size,
      modifiedMs: stat.mtimeMs,
      changedMs: stat.ctimeMs,
    }),
    pastCache: ({ offset, length, position }) => {
      if (position % directUnit !== 0 || offset % directUnit !== 0) return 0;
      const whole = length - length % directUnit;
      return whole < directBytes ? 0 : whole;
    },
    throughCache: ({ length, position }, isDirect) => {
      const boundary = directUnit - position % directUnit;
      const opens = isDirect && boundary < directUnit && length - boundary >= directBytes;
      return opens ? boundary : Math.min(length, cachedBytes);
    },
  };
}

/**
 * The files of `rules`, by the runtime's own calls, which block.
 *
 * Its source text runs in the disk thread too, so it uses nothing but its parameters and globals.
 */
export function diskOperations(fs: typeof import("node:fs"), rules: DiskRules): DiskOperations {
  const { flags, at } = rules;
  /** By handle: the same file once more, written past the page cache. */
  const direct = new Map<number, number>();
  const unlessAbsent = <T>(act: () => T): T | undefined => {
    try {
      return act();
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return undefined;
      throw error;
    }
  };
  /**
   * `undefined` when there is no such directory.
   *
   * Not by `readdirSync`: where reading fails half way, that of Deno (2.9) ends the listing there without an error, and
   * `opendirSync` reads by it. The asynchronous call rejects.
   */
  const namesIn = async (path: string): Promise<readonly string[] | undefined> => {
    try {
      return await fs.promises.readdir(at(path));
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return undefined;
      throw error;
    }
  };
  /** A file, and nothing else: `undefined` when the name is free. */
  const openFile = (path: string): number | undefined => {
    const handle = unlessAbsent(() => {
      try {
        return fs.openSync(at(path), flags.read);
      } catch (error) {
        const isLeased = rules.isLeased(error);
        if (!isLeased && !rules.isNoFile(error)) throw error;
        const refusal = rules.refusal(fs.lstatSync(at(path)), path);
        if (refusal !== undefined || !isLeased) throw refusal ?? error;
        return fs.openSync(at(path), flags.readWaiting);
      }
    });
    const refusal = handle === undefined ? undefined : rules.refusal(fs.fstatSync(handle), path);
    if (handle === undefined || refusal === undefined) return handle;
    fs.closeSync(handle);
    throw refusal;
  };
  const openDirect = (handle: number, path: string): void => {
    if (flags.direct === undefined) return;
    try {
      const again = fs.openSync(path, flags.direct);
      // Somebody may have put another file under the name in between.
      if (fs.fstatSync(again).ino === fs.fstatSync(handle).ino) direct.set(handle, again);
      else fs.closeSync(again);
    } catch {
      // Not every file system has it; the page cache is only slower.
    }
  };
  const closeDirect = (handle: number): void => {
    const again = direct.get(handle);
    if (again === undefined) return;
    direct.delete(handle);
    fs.closeSync(again);
  };
  /** Writes what it can of a long piece past the page cache; returns how many bytes that were. */
  const writeDirect = (handle: number, bytes: Uint8Array, place: WritePlace): number => {
    const again = direct.get(handle);
    const count = again === undefined ? 0 : rules.pastCache(place);
    if (again === undefined || count === 0) return 0;
    try {
      return fs.writeSync(again, bytes, place.offset, count, place.position);
    } catch (error) {
      if ((error as { code?: string }).code !== "EINVAL") throw error;
      closeDirect(handle);
      return 0;
    }
  };
  const write = (handle: number, { bytes, offset, length }: DiskBytes, position: number): void => {
    for (let done = 0; done < length;) {
      const rest = { offset: offset + done, length: length - done, position: position + done };
      const written = writeDirect(handle, bytes, rest);
      if (written > 0) {
        done += written;
        continue;
      }
      const count = rules.throughCache(rest, direct.has(handle));
      done += fs.writeSync(handle, bytes, rest.offset, count, rest.position);
    }
  };
  const read = (handle: number, { bytes, offset, length }: DiskBytes, position: number): number => {
    let done = 0;
    while (done < length) {
      const count = fs.readSync(handle, bytes, offset + done, length - done, position + done);
      if (count === 0) break;
      done += count;
    }
    return done;
  };
  const call = (request: DiskCall): unknown => {
    switch (request.kind) {
      case "open":
        return openFile(request.path);
      case "openToWrite":
        return unlessAbsent(() => fs.openSync(at(request.path), flags.write));
      case "create": {
        const handle = fs.openSync(at(request.path), flags.create, request.mode);
        // The umask took its part; the mode of the archive directory is what decides.
        fs.fchmodSync(handle, request.mode);
        openDirect(handle, at(request.path));
        return handle;
      }
      case "append": {
        const known = unlessAbsent(() => fs.openSync(at(request.path), flags.append));
        if (known !== undefined) return known;
        const handle = fs.openSync(at(request.path), flags.appendNew, request.mode);
        fs.fchmodSync(handle, request.mode);
        return handle;
      }
      case "link":
        return fs.linkSync(at(request.path), at(request.to));
      case "rename":
        return fs.renameSync(at(request.path), at(request.to));
      case "unlink":
        return fs.unlinkSync(at(request.path));
      case "list":
        return namesIn(request.path);
      case "entries":
        return namesIn(request.path).then((names) =>
          names?.flatMap((name) => {
            // One that is gone since is not there.
            const stat = unlessAbsent(() => fs.lstatSync(at(request.path) + "/" + name));
            return stat === undefined ? [] : [{ name, ...rules.describe(stat) }];
          })
        );
      case "entry":
        return unlessAbsent(() => rules.describe(fs.lstatSync(at(request.path))));
      case "makeDirectory":
        fs.mkdirSync(at(request.path), { mode: request.mode });
        return fs.chmodSync(at(request.path), request.mode);
      case "syncDirectory": {
        const handle = fs.openSync(at(request.path), flags.directory);
        try {
          return fs.fsyncSync(handle);
        } finally {
          fs.closeSync(handle);
        }
      }
      case "truncate":
        return fs.ftruncateSync(request.handle, request.bytes);
      case "bytes":
        return fs.fstatSync(request.handle).size;
      case "inode":
        return fs.fstatSync(request.handle).ino;
      case "state":
        return rules.state(fs.fstatSync(request.handle));
      case "close":
        closeDirect(request.handle);
        return fs.closeSync(request.handle);
      case "space": {
        const stat = fs.statfsSync(at("."));
        return { freeBytes: stat.bavail * stat.bsize, totalBytes: stat.blocks * stat.bsize };
      }
    }
  };
  return { call, write, read, sync: (handle) => fs.fdatasyncSync(handle) };
}

/**
 * The life of the disk thread: takes operations in order, one after the other, and blocks in between.
 *
 * Its source text is what the thread runs, so it uses nothing but its parameters and globals.
 */
export async function runDiskThread(
  post: (message: DiskMessage) => void,
  { data, parking, operations, takeRoad }: {
    readonly data: DiskThreadData;
    readonly parking: Parking;
    readonly operations: DiskOperations;
    readonly takeRoad: (request: ShortRoadRequest) => ShortRoadResult;
  },
): Promise<void> {
  const { protocol } = data;
  const control = new Int32Array(data.control);
  const slots = new Float64Array(data.slots);
  const texts = new Uint8Array(data.texts);
  const bytes = new Uint8Array(data.memory);
  /** A promise only where the operation is one: all else is done when it returns. */
  const perform = (sequence: number, slot: number): Promise<void> | undefined => {
    const base = slot * protocol.slotNumbers;
    const operation = slots[base]!;
    const handle = slots[base + 1]!;
    const offset = slots[base + 2]!;
    const length = slots[base + 3]!;
    const position = slots[base + 4]!;
    const settle = (status: number, result: number) => {
      slots[base + 5] = status;
      slots[base + 6] = result;
    };
    const answer = (value: unknown) => {
      post({ sequence, value });
      settle(protocol.status.message, 0);
    };
    const fail = (error: unknown) => {
      const { code } = error as { code?: unknown };
      post({
        sequence,
        error: {
          message: String((error as Error).message),
          code: typeof code === "string" ? code : undefined,
        },
      });
      settle(protocol.status.failed, 0);
    };
    try {
      if (operation === protocol.operations.write) {
        operations.write(handle, { bytes, offset, length }, position);
        settle(protocol.status.done, length);
      } else if (operation === protocol.operations.read) {
        settle(protocol.status.done, operations.read(handle, { bytes, offset, length }, position));
      } else if (operation === protocol.operations.sync) {
        operations.sync(handle);
        settle(protocol.status.done, 0);
      } else {
        // A copy: text decoders refuse shared memory.
        const text = texts.slice(slot * protocol.textBytes, slot * protocol.textBytes + length);
        const request = JSON.parse(new TextDecoder().decode(text)) as DiskThreadCall;
        const value = request.kind === "shortRoad" ? takeRoad(request.request) : operations.call(request);
        if (value instanceof Promise) return value.then(answer, fail);
        answer(value);
      }
    } catch (error) {
      fail(error);
    }
    return undefined;
  };
  const wakeMain = (): void => {
    if (Atomics.load(control, protocol.standing) === 1) parking.wake(protocol.completed);
    else Atomics.notify(control, protocol.completed);
  };
  for (let done = 0;;) {
    let submitted = Atomics.load(control, protocol.submitted);
    while (done === submitted) {
      // In this order: what is submitted after the look finds us asleep.
      Atomics.store(control, protocol.asleep, 1);
      submitted = Atomics.load(control, protocol.submitted);
      if (done === submitted) parking.wait(protocol.asleep, 1);
      Atomics.store(control, protocol.asleep, 0);
    }
    while (done !== submitted) {
      const slot = done & (protocol.slots - 1);
      if (slots[slot * protocol.slotNumbers] === protocol.operations.stop) return wakeMain();
      const pending = perform(done, slot);
      if (pending !== undefined) await pending;
      // Sequence numbers are 32-bit words of shared memory, and wrap.
      done = (done + 1) | 0;
      Atomics.store(control, protocol.completed, done);
      // A write and its sync come together: one wake-up for both, and that is half of all there are.
      if (done === Atomics.load(control, protocol.submitted)) wakeMain();
    }
  }
}
