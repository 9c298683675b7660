import { Buffer } from "node:buffer";
import type { Disk, DiskEntry, DiskFile, DiskSpace, NamedEntry } from "../../lib/archive/disk.ts";
import type { Random } from "./random.ts";
import type { Scheduler } from "./sim_clock.ts";

/** The smallest piece that a power cut leaves whole. */
const SECTOR_BYTES = 512;

/** What runs on the machine; a dead one's calls never settle. */
export interface SimProcess {
  alive: boolean;
}

/** The operations of a disk, by what faults tell apart. */
export type OperationKind =
  | "open"
  | "create"
  | "link"
  | "rename"
  | "unlink"
  | "list"
  | "entry"
  | "makeDirectory"
  | "syncDirectory"
  | "space"
  | "write"
  | "read"
  | "truncate"
  | "sync"
  | "bytes"
  | "close";

/** How many were made: the next one's number. */
let inodes = 0;

/** A file: what programs see of it, and what a power cut leaves of it for certain. */
export class Inode {
  bytes = 0;
  durableBytes = 0;
  #data: Uint8Array;
  #durable: Uint8Array;
  /** One flag per sector: written, not synced. */
  #dirty: Uint8Array;
  #firstDirty = Infinity;
  #lastDirty = -1;
  /** Above it nothing was ever written. */
  #highest = 0;
  /** Its data bear a published name: it must not change any more. */
  published = false;
  /** How far it is known to hold, durably, what it should; by what it should hold. */
  readonly #verified = new Map<Uint8Array, number>();

  readonly number = ++inodes;

  constructor(readonly mode: number, capacity: number) {
    this.#data = takeZeros(capacity);
    this.#durable = takeZeros(capacity);
    this.#dirty = new Uint8Array(Math.ceil(capacity / SECTOR_BYTES));
  }

  /** Gives the memory to files of later runs. */
  release(): void {
    for (const memory of [this.#data, this.#durable]) {
      memory.fill(0, 0, this.#highest);
      give(memory);
    }
  }

  get content(): Uint8Array {
    return this.#data.subarray(0, this.bytes);
  }

  get durableContent(): Uint8Array {
    return this.#durable.subarray(0, this.durableBytes);
  }

  /** Whether a sync would have nothing to do. */
  get clean(): boolean {
    return this.#lastDirty < 0 && this.bytes === this.durableBytes;
  }

  write(bytes: Uint8Array, position: number): void {
    const end = position + bytes.length;
    this.#reserve(end);
    for (const [expected, verified] of this.#verified) {
      if (position >= verified) continue;
      const until = Math.min(verified, end);
      if (!sameBytes(this.#durable.subarray(position, until), bytes.subarray(0, until - position))) {
        this.#verified.set(expected, position);
      }
    }
    this.#data.set(bytes, position);
    this.#highest = Math.max(this.#highest, end);
    this.bytes = Math.max(this.bytes, end);
    this.#taint(position, end);
  }

  read(buffer: Uint8Array, position: number): number {
    const count = Math.max(0, Math.min(buffer.length, this.bytes - position));
    buffer.set(this.#data.subarray(position, position + count));
    return count;
  }

  truncate(bytes: number): void {
    this.#reserve(bytes);
    if (bytes < this.bytes) {
      this.#data.fill(0, bytes, this.bytes);
      this.#taint(bytes, this.bytes);
      for (const [expected, verified] of this.#verified) {
        this.#verified.set(expected, Math.min(verified, bytes));
      }
    }
    this.bytes = bytes;
  }

  sync(): void {
    for (const [start, end] of this.#dirtyRuns()) {
      this.#durable.set(this.#data.subarray(start, end), start);
    }
    this.durableBytes = this.bytes;
    this.#forgetDirty();
  }

  /** What Linux does when a write-back fails: the pages count as clean, and the next sync has nothing to do. */
  failSync(): void {
    this.#forgetDirty();
  }

  /** Every sector not synced is kept or lost by chance; then only the durable state is left. */
  cutPower(random: Random): void {
    if (this.#lastDirty >= 0 || this.bytes !== this.durableBytes) {
      const style = random.pick(["none", "all", "some", "first"] as const);
      const share = random.next();
      let end = this.durableBytes;
      for (const [start, stop] of this.#dirtyRuns()) {
        for (let at = start; at < stop; at += SECTOR_BYTES) {
          const kept = style === "all" || (style === "some" && random.chance(share)) ||
            (style === "first" && at < this.#firstDirty * SECTOR_BYTES + share * 65536);
          if (!kept) continue;
          const until = Math.min(at + SECTOR_BYTES, stop);
          this.#durable.set(this.#data.subarray(at, until), at);
          end = Math.max(end, Math.min(until, this.bytes));
        }
      }
      this.durableBytes = random.chance(0.5) ? Math.max(end, this.bytes) : end;
    }
    this.bytes = this.durableBytes;
    this.#data.set(this.#durable);
    this.#data.fill(0, this.bytes);
    this.#durable.fill(0, this.bytes);
    this.#forgetDirty();
  }

  /** Whether a power cut right now would leave the first `bytes` of `expected` here for certain. */
  holds(expected: Uint8Array, bytes: number): boolean {
    const verified = this.#verified.get(expected) ?? 0;
    if (bytes <= verified) return true;
    if (bytes > this.durableBytes || bytes > this.bytes) return false;
    if (!sameBytes(this.#durable.subarray(verified, bytes), expected.subarray(verified, bytes))) return false;
    // A dirty sector may come to the disk at any moment, synced or not.
    for (const [start, end] of this.#dirtyRuns()) {
      const from = Math.max(start, verified);
      const until = Math.min(end, bytes);
      if (from < until && !sameBytes(this.#data.subarray(from, until), expected.subarray(from, until))) {
        return false;
      }
    }
    this.#verified.set(expected, bytes);
    return true;
  }

  #reserve(bytes: number): void {
    if (bytes <= this.#data.length) return;
    const capacity = Math.max(bytes, 2 * this.#data.length);
    const grown = (old: Uint8Array, length: number) => {
      const fresh = new Uint8Array(length);
      fresh.set(old);
      return fresh;
    };
    this.#data = grown(this.#data, capacity);
    this.#durable = grown(this.#durable, capacity);
    this.#dirty = grown(this.#dirty, Math.ceil(capacity / SECTOR_BYTES));
  }

  #taint(start: number, end: number): void {
    if (start >= end) return;
    const first = Math.floor(start / SECTOR_BYTES);
    const last = Math.floor((end - 1) / SECTOR_BYTES);
    this.#dirty.fill(1, first, last + 1);
    this.#firstDirty = Math.min(this.#firstDirty, first);
    this.#lastDirty = Math.max(this.#lastDirty, last);
  }

  #forgetDirty(): void {
    if (this.#lastDirty >= 0) this.#dirty.fill(0, this.#firstDirty, this.#lastDirty + 1);
    this.#firstDirty = Infinity;
    this.#lastDirty = -1;
  }

  *#dirtyRuns(): Iterable<readonly [number, number]> {
    for (let sector = this.#firstDirty; sector <= this.#lastDirty; sector++) {
      if (this.#dirty[sector] === 0) continue;
      const next = this.#dirty.indexOf(0, sector);
      const end = next === -1 ? this.#lastDirty + 1 : Math.min(next, this.#lastDirty + 1);
      yield [sector * SECTOR_BYTES, Math.min(end * SECTOR_BYTES, this.#data.length)];
      sector = end;
    }
  }
}

class Directory {
  readonly names = new Map<string, Inode | Directory>();
  durable = new Map<string, Inode | Directory>();
  pending: NameChange[] = [];

  constructor(readonly mode: number) {}
}

/** A change of names that no sync of its directory has covered yet. */
interface NameChange {
  readonly sets: readonly {
    readonly directory: Directory;
    readonly name: string;
    readonly to: Inode | Directory;
  }[];
  readonly deletes: readonly { readonly directory: Directory; readonly name: string }[];
}

/** A disaster that a fault plan asks for. */
export interface Fault {
  readonly kinds: readonly OperationKind[];
  readonly code: "ENOSPC" | "EIO" | "EMFILE" | "EDQUOT";
  /** The number of the disk's operation at which it begins. */
  readonly fromOperation: number;
  /** How long it lasts; 0: this one operation of the right kind. */
  readonly durationMs: number;
  startedMs?: number;
  spent?: boolean;
}

/** What file systems may ask room for. */
export const NEEDING_ROOM: readonly OperationKind[] = [
  "write",
  "create",
  "link",
  "rename",
  "makeDirectory",
  "unlink",
  "syncDirectory",
  "truncate",
];

/** Free where nothing is wrong. */
export const ROOMY_BYTES = 1e12;

/** What the disk tells whoever watches; called right after an operation took effect. */
export interface DiskWatcher {
  /** Called before (`effect` false) and after each operation: the place to stop the process. */
  onOperation(count: number, when: "before" | "after", kind: OperationKind): void;
  /** Something that was certain may not be so any more, or the other way round. */
  onNamesOrSync(): void;
  onPublished(name: string, inode: Inode): void;
  violation(text: string): void;
  trace(text: string): void;
}

interface Queued {
  readonly process: SimProcess;
  readonly kind: OperationKind;
  readonly label: string;
  readonly effect: () => unknown;
  /** What a failing operation still does. */
  readonly partly: ((code: string) => void) | undefined;
  readonly resolve: (value: never) => void;
  readonly reject: (error: Error) => void;
}

/** Memory of what has ended, for what comes: fresh memory costs more than all the rest. */
const pool = new Map<number, Uint8Array[]>();

function give(memory: Uint8Array): void {
  const free = pool.get(memory.length);
  if (free === undefined) pool.set(memory.length, [memory]);
  else free.push(memory);
}

/** Zeros: who gives memory of a file's size wipes it first. */
function takeZeros(bytes: number): Uint8Array {
  return pool.get(bytes)?.pop() ?? new Uint8Array(bytes);
}

const ZEROS = new Uint8Array(256 * 1024);

/**
 * The disk of one machine: what is durable, what is only in memory, and one operation after the other.
 *
 * The worst that a power cut may do is the model: every sector not synced, and every name whose directory was not
 * synced, is kept or lost on its own.
 */
export class SimDisk {
  readonly #root = new Directory(0o700);
  readonly #queue: Queued[] = [];
  #busy = false;
  #settledAtMs = 0;
  #changes: NameChange[] = [];
  readonly #inodes: Inode[] = [];
  operations = 0;
  faults: Fault[] = [];
  /** The operation at which the disk stalls, and for how long. */
  stalls: { readonly fromOperation: number; readonly durationMs: number }[] = [];
  slownessMs = 0.2;
  /** What the file system says to be free. */
  freeBytes = ROOMY_BYTES;
  stalledUntilMs = 0;

  constructor(
    private readonly scheduler: Scheduler,
    private readonly random: Random,
    private readonly watcher: DiskWatcher,
  ) {}

  /** The disk as one process sees it. */
  open(process: SimProcess): Disk & { readonly allocated: Uint8Array[] } {
    return new ProcessDisk(this, process);
  }

  /** After the end: all files' memory is given away. */
  release(): void {
    for (const inode of this.#inodes.splice(0)) inode.release();
  }

  /** True while a fault or a stall is at work. */
  get troubled(): boolean {
    return this.stalledUntilMs > this.scheduler.nowMs ||
      this.faults.some((fault) => fault.startedMs !== undefined && fault.spent !== true);
  }

  submit<T>(
    process: SimProcess,
    operation: {
      readonly kind: OperationKind;
      readonly label: string;
      readonly effect: () => T;
      readonly partly?: (code: string) => void;
    },
  ): Promise<T> {
    return new Promise((resolve, reject) => {
      if (!process.alive) return;
      this.#queue.push({ process, partly: undefined, ...operation, resolve: resolve as never, reject });
      if (!this.#busy) this.#next();
    });
  }

  /** Ends what a process had under way: what took effect stays, a write may be half done. */
  kill(process: SimProcess): void {
    process.alive = false;
    const kept = this.#queue.filter((queued) => queued.process !== process);
    this.#queue.splice(0, this.#queue.length, ...kept);
  }

  cutPower(): void {
    const share = this.random.pick([0, 0.5, 1, this.random.next()]);
    for (const change of this.#changes) {
      if (!this.random.chance(share)) continue;
      apply(change, (directory) => directory.durable);
    }
    this.#changes = [];
    const visit = (directory: Directory, seen: Set<Inode>) => {
      directory.pending = [];
      directory.names.clear();
      for (const [name, node] of directory.durable) {
        directory.names.set(name, node);
        if (node instanceof Directory) visit(node, seen);
        else if (!seen.has(node)) {
          seen.add(node);
          node.cutPower(this.random);
        }
      }
    };
    visit(this.#root, new Set());
    this.stalledUntilMs = 0;
    this.watcher.onNamesOrSync();
  }

  /** The files whose names a power cut would leave for certain. */
  *certainFiles(directoryPath: string): Iterable<readonly [string, Inode]> {
    const directory = directoryPath === "." ? this.#root : this.#certainDirectory(directoryPath);
    if (directory === undefined) return;
    for (const [name, node] of directory.durable) {
      if (node instanceof Inode && this.#nameIsCertain(directory, name)) yield [name, node];
    }
  }

  /** The names that programs see. */
  names(directoryPath: string): readonly string[] {
    const node = directoryPath === "." ? this.#root : this.#root.names.get(directoryPath);
    return node instanceof Directory ? [...node.names.keys()] : [];
  }

  file(path: string): Inode | undefined {
    const { directory, name } = this.#locate(path, "ENOENT");
    const node = directory.names.get(name);
    return node instanceof Inode ? node : undefined;
  }

  /** A name is sure to lead to its bytes when no change of it is pending, but one that moves it. */
  #nameIsCertain(directory: Directory, name: string): boolean {
    for (const change of directory.pending) {
      if (change.sets.some((set) => set.directory === directory && set.name === name)) return false;
      if (change.deletes.some((gone) => gone.directory === directory && gone.name === name)) {
        // A rename happened, or it did not: the file has one of the names. Anything after it may undo that.
        const [moved] = change.sets;
        if (moved === undefined) return false;
        const later = moved.directory.pending.slice(moved.directory.pending.indexOf(change) + 1);
        const touched = later.some(({ sets, deletes }) =>
          [...sets, ...deletes].some((other) =>
            other.directory === moved.directory && other.name === moved.name
          )
        );
        if (touched) return false;
      }
    }
    return true;
  }

  /** Whether a power cut would leave a compressed form of it for certain. */
  #standsCompressed(name: string): boolean {
    return [".zst", ".gz", ".lz4"].some((form) => {
      const node = this.#root.durable.get(name + form);
      return node instanceof Inode && node.clean && this.#nameIsCertain(this.#root, name + form);
    });
  }

  #certainDirectory(name: string): Directory | undefined {
    const node = this.#root.durable.get(name);
    return node instanceof Directory && this.#nameIsCertain(this.#root, name) ? node : undefined;
  }

  #next(): void {
    const queued = this.#queue[0];
    if (queued === undefined) {
      this.#busy = false;
      return;
    }
    this.#busy = true;
    const stall = this.stalls[0];
    if (stall !== undefined && this.operations + 1 >= stall.fromOperation) {
      this.stalls.shift();
      this.stalledUntilMs = this.scheduler.nowMs + stall.durationMs;
      this.watcher.trace(`disk stalls for ${Math.round(stall.durationMs)} ms`);
    }
    const stalledMs = Math.max(0, this.stalledUntilMs - this.scheduler.nowMs);
    this.scheduler.after(stalledMs + this.slownessMs * this.random.next(), () => {
      // It may have been killed with its process.
      if (this.#queue[0] === queued) this.#perform(this.#queue.shift()!);
      this.#next();
    });
  }

  #perform(queued: Queued): void {
    const count = ++this.operations;
    this.watcher.onOperation(count, "before", queued.kind);
    if (!queued.process.alive) {
      // A write that the kill met may be half done.
      if (queued.kind === "write" && this.random.chance(0.5)) queued.partly?.("killed");
      return;
    }
    let settle: () => void;
    const fault = this.#faultFor(count, queued.kind);
    try {
      if (fault !== undefined) {
        queued.partly?.(fault.code);
        throw diskError(fault.code, queued.kind, queued.label);
      }
      const value = queued.effect();
      settle = () => queued.resolve(value as never);
      this.watcher.trace(`disk ${count} ${queued.label}`);
    } catch (error) {
      this.watcher.trace(`disk ${count} ${queued.label}: ${(error as Error).message}`);
      settle = () => queued.reject(error as Error);
    }
    this.watcher.onOperation(count, "after", queued.kind);
    const delayMs = this.random.chance(0.5) ? 0 : this.slownessMs * this.random.next();
    this.#settledAtMs = Math.max(this.#settledAtMs, this.scheduler.nowMs + delayMs);
    this.scheduler.after(this.#settledAtMs - this.scheduler.nowMs, () => {
      if (queued.process.alive) settle();
    });
  }

  #faultFor(count: number, kind: OperationKind): Fault | undefined {
    const nowMs = this.scheduler.nowMs;
    for (const fault of this.faults) {
      if (fault.spent === true || count < fault.fromOperation) continue;
      if (fault.startedMs === undefined) {
        if (!fault.kinds.includes(kind)) continue;
        fault.startedMs = nowMs;
        if (fault.durationMs === 0) fault.spent = true;
        return fault;
      }
      if (nowMs > fault.startedMs + fault.durationMs) fault.spent = true;
      else if (fault.kinds.includes(kind)) return fault;
    }
    return undefined;
  }

  // What follows takes effect at once; `ProcessDisk` brings it into the queue.

  lookUp(path: string): Inode | Directory | undefined {
    if (path === ".") return this.#root;
    const slash = path.indexOf("/");
    const parent = slash < 0 ? this.#root : this.#root.names.get(path.slice(0, slash));
    return parent instanceof Directory ? parent.names.get(path.slice(slash + 1)) : undefined;
  }

  create(path: string, mode: number): Inode {
    const { directory, name } = this.#locate(path, "create");
    if (directory.names.has(name)) throw diskError("EEXIST", "create", path);
    const inode = new Inode(mode, path.includes("/") ? 1 << 20 : 4096);
    this.#inodes.push(inode);
    this.#change({ sets: [{ directory, name, to: inode }], deletes: [] });
    return inode;
  }

  link(existing: string, added: string): void {
    const node = this.lookUp(existing);
    if (!(node instanceof Inode)) throw diskError("ENOENT", "link", existing);
    const { directory, name } = this.#locate(added, "link");
    if (directory.names.has(name)) throw diskError("EEXIST", "link", added);
    this.#change({ sets: [{ directory, name, to: node }], deletes: [] });
    if (directory === this.#root) this.watcher.onPublished(name, node);
  }

  rename(from: string, to: string): void {
    const node = this.lookUp(from);
    if (node === undefined) throw diskError("ENOENT", "rename", from);
    const source = this.#locate(from, "rename");
    const target = this.#locate(to, "rename");
    const replaced = target.directory.names.get(target.name);
    if (replaced instanceof Inode && replaced.published) {
      this.watcher.violation(`P1: the published file ${to} is replaced`);
    }
    this.#change({ sets: [{ ...target, to: node }], deletes: [source] });
    if (target.directory === this.#root && node instanceof Inode) this.watcher.onPublished(target.name, node);
  }

  unlink(path: string): void {
    const { directory, name } = this.#locate(path, "unlink");
    const node = directory.names.get(name);
    if (!(node instanceof Inode)) throw diskError(node === undefined ? "ENOENT" : "EISDIR", "unlink", path);
    if (
      directory === this.#root && node.published && !name.endsWith(".tmp") && !this.#standsCompressed(name)
    ) {
      this.watcher.violation(`P1: the published file ${path} is removed`);
    }
    this.#change({ sets: [], deletes: [{ directory, name }] });
  }

  makeDirectory(path: string, mode: number): void {
    const { directory, name } = this.#locate(path, "mkdir");
    if (directory.names.has(name)) throw diskError("EEXIST", "mkdir", path);
    this.#change({ sets: [{ directory, name, to: new Directory(mode) }], deletes: [] });
  }

  syncDirectory(path: string): void {
    const directory = this.lookUp(path);
    if (!(directory instanceof Directory)) {
      throw diskError(directory === undefined ? "ENOENT" : "ENOTDIR", "syncDirectory", path);
    }
    for (const change of directory.pending) {
      apply(change, (changed) => changed.durable);
      for (const { directory: other } of [...change.sets, ...change.deletes]) {
        if (other !== directory) other.pending = other.pending.filter((left) => left !== change);
      }
    }
    const done = new Set(directory.pending);
    directory.pending = [];
    this.#changes = this.#changes.filter((change) => !done.has(change));
    this.watcher.onNamesOrSync();
  }

  write(inode: Inode, bytes: Uint8Array, position: number, label: string): void {
    if (inode.published) this.watcher.violation(`P1: the published ${label} is written to`);
    inode.write(bytes, position);
  }

  truncate(inode: Inode, bytes: number, label: string): void {
    if (inode.published) this.watcher.violation(`P1: the published ${label} is cut`);
    inode.truncate(bytes);
    this.watcher.onNamesOrSync();
  }

  sync(inode: Inode): void {
    inode.sync();
    this.watcher.onNamesOrSync();
  }

  list(path: string): readonly string[] | undefined {
    const directory = this.lookUp(path);
    if (directory === undefined) return undefined;
    if (!(directory instanceof Directory)) throw diskError("ENOTDIR", "list", path);
    const names = [...directory.names.keys()];
    // In no order: the one that nobody sorted.
    return this.random.chance(0.5) ? names.reverse() : names;
  }

  entry(path: string): DiskEntry | undefined {
    const node = this.lookUp(path);
    if (node === undefined) return undefined;
    const isFile = node instanceof Inode;
    return {
      kind: isFile ? "file" : "directory",
      bytes: isFile ? node.bytes : 0,
      mode: node.mode,
      ownerId: 1000,
      inode: isFile ? node.number : 0,
    };
  }

  entries(path: string): readonly NamedEntry[] | undefined {
    return this.list(path)?.flatMap((name) => {
      const entry = this.entry(path === "." ? name : `${path}/${name}`);
      return entry === undefined ? [] : [{ name, ...entry }];
    });
  }

  #locate(path: string, call: string): { readonly directory: Directory; readonly name: string } {
    const slash = path.indexOf("/");
    const directory = slash < 0 ? this.#root : this.#root.names.get(path.slice(0, slash));
    if (!(directory instanceof Directory)) throw diskError("ENOENT", call, path);
    return { directory, name: path.slice(slash + 1) };
  }

  #change(change: NameChange): void {
    apply(change, (directory) => directory.names);
    this.#changes.push(change);
    for (const directory of new Set([...change.sets, ...change.deletes].map((part) => part.directory))) {
      directory.pending.push(change);
    }
    if (change.deletes.length > 0) this.watcher.onNamesOrSync();
  }
}

class ProcessDisk implements Disk {
  readonly root = "/archive";
  readonly allocated: Uint8Array[] = [];

  constructor(private readonly disk: SimDisk, private readonly process: SimProcess) {}

  /** The zeros of all processes are the same memory, which nobody writes; other memory comes unwiped from the pool. */
  allocate(bytes: number): Uint8Array {
    if (bytes === ZEROS.length) return ZEROS;
    const memory = pool.get(bytes)?.pop() ?? new Uint8Array(bytes);
    this.allocated.push(memory);
    return memory;
  }

  async open(path: string): Promise<DiskFile | undefined> {
    const inode = await this.#call("open", path, () => {
      const node = this.disk.lookUp(path);
      if (node instanceof Directory) throw diskError("EISDIR", "open", path);
      return node;
    });
    return inode === undefined ? undefined : this.#file(inode, path, "read");
  }

  async create(path: string, mode: number): Promise<DiskFile> {
    return this.#file(await this.#call("create", path, () => this.disk.create(path, mode)), path, "write");
  }

  async append(path: string, mode: number): Promise<DiskFile> {
    const inode = await this.#call("create", path, () => {
      const node = this.disk.lookUp(path);
      if (node instanceof Directory) throw diskError("EISDIR", "open", path);
      return node ?? this.disk.create(path, mode);
    });
    return this.#file(inode, path, "append");
  }

  link(existing: string, added: string): Promise<void> {
    return this.#call("link", `${existing} ${added}`, () => this.disk.link(existing, added));
  }

  rename(from: string, to: string): Promise<void> {
    return this.#call("rename", `${from} ${to}`, () => this.disk.rename(from, to));
  }

  unlink(path: string): Promise<void> {
    return this.#call("unlink", path, () => this.disk.unlink(path));
  }

  list(path: string): Promise<readonly string[] | undefined> {
    return this.#call("list", path, () => this.disk.list(path));
  }

  entries(path: string): Promise<readonly NamedEntry[] | undefined> {
    return this.#call("list", path, () => this.disk.entries(path));
  }

  entry(path: string): Promise<DiskEntry | undefined> {
    return this.#call("entry", path, () => this.disk.entry(path));
  }

  makeDirectory(path: string, mode: number): Promise<void> {
    return this.#call("makeDirectory", path, () => this.disk.makeDirectory(path, mode));
  }

  syncDirectory(path: string): Promise<void> {
    return this.#call("syncDirectory", path, () => this.disk.syncDirectory(path));
  }

  space(): Promise<DiskSpace> {
    return this.#call("space", "", () => ({ freeBytes: this.disk.freeBytes, totalBytes: ROOMY_BYTES }));
  }

  close(): Promise<"ended" | "stuck"> {
    return Promise.resolve("ended");
  }

  /** Gives the memory to the next process. */
  release(): void {
    for (const memory of this.allocated.splice(0)) give(memory);
  }

  #call<T>(kind: OperationKind, label: string, effect: () => T): Promise<T> {
    return this.disk.submit(this.process, { kind, label: `${kind} ${label}`, effect });
  }

  #file(inode: Inode, path: string, use: "read" | "write" | "append"): DiskFile {
    const { disk, process } = this;
    let closed = false;
    const call = <T>(kind: OperationKind, label: string, effect: () => T, partly?: (code: string) => void) =>
      disk.submit(process, {
        kind,
        label: `${kind} ${path}${label}`,
        effect: () => {
          if (closed) throw diskError("EBADF", kind, path);
          return effect();
        },
        ...(partly === undefined ? {} : { partly }),
      });
    const writable = (kind: string) => {
      if (use === "read") throw diskError("EBADF", kind, path);
    };
    return {
      write: (bytes, position) =>
        call("write", ` ${position}+${bytes.length}`, () => {
          writable("write");
          disk.write(inode, bytes, use === "append" ? inode.bytes : position, path);
        }, () => {
          const half = Math.floor(bytes.length / 2);
          disk.write(inode, bytes.subarray(0, half), use === "append" ? inode.bytes : position, path);
        }),
      read: (buffer, position) =>
        call("read", ` ${position}+${buffer.length}`, () => inode.read(buffer, position)),
      truncate: (bytes) =>
        call("truncate", ` ${bytes}`, () => {
          writable("truncate");
          disk.truncate(inode, bytes, path);
        }),
      sync: () => call("sync", "", () => disk.sync(inode), () => inode.failSync()),
      bytes: () => call("bytes", "", () => inode.bytes),
      inode: () => call("bytes", "", () => inode.number),
      state: () =>
        call("bytes", "", () => ({ inode: inode.number, bytes: inode.bytes, modifiedMs: 0, changedMs: 0 })),
      close: () =>
        call("close", "", () => {
          closed = true;
        }),
    };
  }
}

function apply(change: NameChange, namesOf: (directory: Directory) => Map<string, Inode | Directory>): void {
  // A rename takes the old name away only from the file that it moved.
  const moved = change.sets[0]?.to;
  for (const { directory, name } of change.deletes) {
    const names = namesOf(directory);
    if (moved === undefined || names.get(name) === moved) names.delete(name);
  }
  for (const { directory, name, to } of change.sets) namesOf(directory).set(name, to);
}

function diskError(code: string, call: string, path: string): Error {
  return Object.assign(new Error(`${code}: ${call} ${path}`), { code });
}

/** Compares natively: a loop over a megabyte costs a millisecond. */
export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  return bufferOf(a).equals(bufferOf(b));
}

function bufferOf(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength);
}
