import process from "node:process";
import { Worker } from "node:worker_threads";
import type {
  Disk,
  DiskEntry,
  DiskFile,
  DiskSpace,
  FileState,
  NamedEntry,
  RoadStart,
  ShortRoad,
} from "./disk.ts";
import {
  DISK_PROTOCOL,
  type DiskMessage,
  diskOperations,
  diskRules,
  type DiskThreadCall,
  type DiskThreadData,
  runDiskThread,
} from "./disk_executor.ts";
import { AlignedMemory } from "./aligned_memory.ts";
import { asNotAFile } from "./damaged_file.ts";
import { openParking, type Parking } from "./parking.ts";
import { openSocketCalls, type ShortRoadResult, takeShortRoad } from "./short_road.ts";

/** Through this much memory go the bytes of callers that did not `allocate`. */
const SCRATCH_BYTES = 256 * 1024;

/** The thread has this long to finish what it does. */
const CLOSE_TIMEOUT_MS = 2000;

/** Who ends the loan of a socket waits this often, for this long, for a status that is just being sent. */
const SEND_WAITS = 100;
const SEND_WAIT_MS = 10;

const { operations, status } = DISK_PROTOCOL;

/** Operations between two sequence numbers; they are 32-bit words of shared memory, and wrap. */
function distance(earlier: number, later: number): number {
  return (later - earlier) | 0;
}

interface Pending {
  readonly slot: number;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

interface Operation {
  readonly kind: number;
  readonly handle?: number;
  readonly offset?: number;
  readonly length?: number;
  readonly position?: number;
  readonly call?: DiskThreadCall;
}

/**
 * The real disk, on a thread of its own, so that a disk that stalls never stalls the thread that answers the server.
 *
 * Both threads share memory: an operation costs one wake-up on each side, and bytes from `allocate` are not copied.
 * @param memoryBytes how much `allocate` can hand out in all.
 * @param use `short`: for a command that does one thing and ends: a quick start counts for more than quick wake-ups, and
 * `close` leaves the thread to the end of the process.
 */
export function openDiskThread(root: string, memoryBytes: number, use: "long" | "short" = "long"): Disk {
  return new DiskThread(root, memoryBytes, use);
}

class DiskThread implements Disk {
  readonly #control: Int32Array;
  readonly #slots: Float64Array;
  readonly #texts: Uint8Array;
  readonly #memory: AlignedMemory;
  readonly #scratch: Uint8Array;
  readonly #parking: Parking;
  /** Whether the thread can read from a socket. */
  readonly #hasRoad: boolean;
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  readonly #messages = new Map<number, DiskMessage>();
  readonly #encoder = new TextEncoder();
  /** Each places its operation in a slot that is free; at most as many as there are callers. */
  readonly #waiting: (() => void)[] = [];
  #submitted = 0;
  #settled = 0;
  #watching = false;
  /** The scratch memory has one user at a time; who calls meanwhile waits, so that calls keep their order. */
  #scratchInUse = false;
  readonly #behindScratch: (() => void)[] = [];
  #dead: Error | undefined;
  #patienceMs = 0;
  /** Calls under way whose answers are messages. */
  #messagesAwaited = 0;

  constructor(readonly root: string, memoryBytes: number, private readonly use: "long" | "short") {
    const { slots, slotNumbers, textBytes, controlWords } = DISK_PROTOCOL;
    const control = new SharedArrayBuffer(controlWords * 4);
    this.#control = new Int32Array(control);
    const { kind, parking } = openParking(process, this.#control, use === "short" ? "atomics" : undefined);
    this.#parking = parking;
    this.#memory = new AlignedMemory(memoryBytes + SCRATCH_BYTES);
    const data: DiskThreadData = {
      root,
      control,
      slots: new SharedArrayBuffer(slots * slotNumbers * 8),
      texts: new SharedArrayBuffer(slots * textBytes),
      memory: this.#memory.bytes.buffer,
      parking: kind,
      protocol: DISK_PROTOCOL,
    };
    this.#slots = new Float64Array(data.slots);
    this.#texts = new Uint8Array(data.texts);
    this.#scratch = this.allocate(SCRATCH_BYTES);
    this.#hasRoad = openSocketCalls(process, this.#memory.bytes) !== undefined;
    const source = `import * as fs from "node:fs";
import process from "node:process";
import { parentPort, workerData } from "node:worker_threads";
const { parking } = (${openParking})(process, new Int32Array(workerData.control), workerData.parking);
const { root, protocol } = workerData;
const rules = (${diskRules})(fs, { root, pastCache: true, ...protocol });
const operations = (${diskOperations})(fs, rules);
const memory = new Uint8Array(workerData.memory);
const sockets = (${openSocketCalls})(process, memory);
const road = { memory, control: new Int32Array(workerData.control), words: workerData.protocol.road };
const takeRoad = (request) =>
  (${takeShortRoad})(request, { ...road, sockets, disk: operations, nowMs: () => Date.now() });
const parts = { data: workerData, parking, operations, takeRoad };
await (${runDiskThread})((message) => parentPort.postMessage(message), parts);`;
    const url = new URL("data:text/javascript," + encodeURIComponent(source));
    this.#worker = new Worker(url, { workerData: data, name: "disk" });
    this.#worker.on("message", (message: DiskMessage) => {
      this.#messages.set(message.sequence, message);
      this.#settle();
    });
    this.#worker.on("error", (error) => this.#die(error instanceof Error ? error : new Error(String(error))));
    this.#worker.on("exit", () => this.#die(new Error("Cannot use the disk: its thread has ended")));
  }

  allocate(bytes: number): Uint8Array {
    return this.#memory.allocate(bytes);
  }

  async open(path: string): Promise<DiskFile | undefined> {
    const handle = await this.#call({ kind: "open", path }).catch((error) => {
      throw asNotAFile(error);
    }) as number | undefined;
    return handle === undefined ? undefined : this.#file(handle);
  }

  async create(path: string, mode: number): Promise<DiskFile> {
    return this.#file(await this.#call({ kind: "create", path, mode }) as number);
  }

  async append(path: string, mode: number): Promise<DiskFile> {
    return this.#file(await this.#call({ kind: "append", path, mode }) as number);
  }

  async link(existing: string, added: string): Promise<void> {
    await this.#call({ kind: "link", path: existing, to: added });
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#call({ kind: "rename", path: from, to });
  }

  async unlink(path: string): Promise<void> {
    await this.#call({ kind: "unlink", path });
  }

  async list(path: string): Promise<readonly string[] | undefined> {
    return await this.#call({ kind: "list", path }) as readonly string[] | undefined;
  }

  async entries(path: string): Promise<readonly NamedEntry[] | undefined> {
    return await this.#call({ kind: "entries", path }) as readonly NamedEntry[] | undefined;
  }

  async entry(path: string): Promise<DiskEntry | undefined> {
    return await this.#call({ kind: "entry", path }) as DiskEntry | undefined;
  }

  async makeDirectory(path: string, mode: number): Promise<void> {
    await this.#call({ kind: "makeDirectory", path, mode });
  }

  async syncDirectory(path: string): Promise<void> {
    await this.#call({ kind: "syncDirectory", path });
  }

  async space(): Promise<DiskSpace> {
    return await this.#call({ kind: "space" }) as DiskSpace;
  }

  async close(): Promise<"ended" | "stuck"> {
    if (this.#dead !== undefined) return "ended";
    if (this.use === "short") {
      this.#worker.unref();
      return this.#pending.size === 0 ? "ended" : "stuck";
    }
    const ended = new Promise<"ended">((resolve) => this.#worker.once("exit", () => resolve("ended")));
    this.#inTurn(() => this.#submit({ kind: operations.stop })).catch(() => {
      // The thread ends instead of answering: that is what was asked for.
    });
    // A disk that stalls must not keep the process from ending: the thread goes with it.
    const late = new Promise<"stuck">((resolve) =>
      setTimeout(() => resolve("stuck"), CLOSE_TIMEOUT_MS).unref()
    );
    const result = await Promise.race([ended, late]);
    this.#worker.unref();
    return result;
  }

  #file(handle: number): DiskFile {
    const disk = this.#transfer;
    return {
      write: async (bytes, position) => {
        await disk("write", handle, bytes, position);
      },
      read: (buffer, position) => disk("read", handle, buffer, position),
      truncate: async (bytes) => {
        await this.#call({ kind: "truncate", handle, bytes });
      },
      sync: async () => {
        await this.#inTurn(() => this.#submit({ kind: operations.sync, handle }));
      },
      ...(this.#hasRoad ? { takeShortRoad: (start: RoadStart) => this.#takeShortRoad(handle, start) } : {}),
      bytes: async () => await this.#call({ kind: "bytes", handle }) as number,
      inode: async () => await this.#call({ kind: "inode", handle }) as number,
      state: async () => await this.#call({ kind: "state", handle }) as FileState,
      close: async () => {
        await this.#call({ kind: "close", handle });
      },
    };
  }

  #takeShortRoad(
    handle: number,
    { descriptor, segmentStartLsn, segmentBytes, position, memory }: RoadStart,
  ): ShortRoad {
    const control = this.#control;
    const { revoked, received, durable, behind, heard, sending } = DISK_PROTOCOL.road;
    Atomics.store(control, revoked, 0);
    Atomics.store(control, received, position);
    Atomics.store(control, durable, position);
    Atomics.store(control, behind, 0);
    const { byteOffset: offset, length } = memory;
    const [startHigh, startLow] = [Number(segmentStartLsn >> 32n), Number(segmentStartLsn & 0xffff_ffffn)];
    const request = { handle, descriptor, startHigh, startLow, segmentBytes, position, offset, length };
    const ended = this.#call({ kind: "shortRoad", request }).then((value) => {
      const { end, position, restBytes } = value as ShortRoadResult;
      return { end, position, rest: memory.slice(0, restBytes) };
    });
    return {
      ended,
      revoke: () => {
        Atomics.store(control, revoked, 1);
        // A send does not block: this is over at once, but for a thread that has crashed there.
        for (let tries = 0; tries < SEND_WAITS && Atomics.load(control, sending) === 1; tries++) {
          Atomics.wait(control, sending, 1, SEND_WAIT_MS);
        }
      },
      get received() {
        return Atomics.load(control, received);
      },
      get durable() {
        return Atomics.load(control, durable);
      },
      get behind() {
        return Atomics.load(control, behind);
      },
      get heardCount() {
        return Atomics.load(control, heard);
      },
    };
  }

  readonly #transfer = async (
    kind: "read" | "write",
    handle: number,
    bytes: Uint8Array,
    position: number,
  ): Promise<number> => {
    if (this.#memory.holds(bytes)) {
      const { byteOffset: offset, length } = bytes;
      const operation = { kind: operations[kind], handle, offset, length, position };
      return await this.#inTurn(() => this.#submit(operation)) as number;
    }
    return await this.#inTurn(() => {
      this.#scratchInUse = true;
      return this.#transferInPieces(kind, handle, bytes, position).finally(() => this.#leaveScratch());
    });
  };

  /** Starts what is called now, or after the transfer through the scratch memory that was called before it. */
  #inTurn<T>(start: () => Promise<T>): Promise<T> {
    if (!this.#scratchInUse) return start();
    return new Promise((resolve) => this.#behindScratch.push(() => resolve(start())));
  }

  #leaveScratch(): void {
    this.#scratchInUse = false;
    while (!this.#scratchInUse) {
      const start = this.#behindScratch.shift();
      if (start === undefined) return;
      start();
    }
  }

  async #transferInPieces(
    kind: "read" | "write",
    handle: number,
    bytes: Uint8Array,
    position: number,
  ): Promise<number> {
    const { byteOffset: offset } = this.#scratch;
    for (let done = 0;;) {
      const length = Math.min(SCRATCH_BYTES, bytes.length - done);
      if (length === 0) return done;
      if (kind === "write") this.#scratch.set(bytes.subarray(done, done + length));
      const operation = { kind: operations[kind], handle, offset, length, position: position + done };
      const count = await this.#submit(operation) as number;
      if (kind === "read") bytes.set(this.#scratch.subarray(0, count), done);
      done += count;
      if (count < length) return done;
    }
  }

  #call(call: DiskThreadCall): Promise<unknown> {
    return this.#inTurn(() => this.#submit({ kind: operations.call, call }));
  }

  #submit(operation: Operation): Promise<unknown> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    if (distance(this.#settled, this.#submitted) >= DISK_PROTOCOL.slots || this.#waiting.length > 0) {
      return new Promise((resolve) => this.#waiting.push(() => resolve(this.#place(operation))));
    }
    return this.#place(operation);
  }

  #place(operation: Operation): Promise<unknown> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    const slot = this.#submitted & (DISK_PROTOCOL.slots - 1);
    let { length = 0 } = operation;
    if (operation.call !== undefined) {
      const text = this.#encoder.encode(JSON.stringify(operation.call));
      if (text.length > DISK_PROTOCOL.textBytes) {
        return Promise.reject(new RangeError(`Cannot use a path of ${text.length} bytes`));
      }
      this.#texts.set(text, slot * DISK_PROTOCOL.textBytes);
      length = text.length;
    }
    const { kind, handle = 0, offset = 0, position = 0 } = operation;
    const base = slot * DISK_PROTOCOL.slotNumbers;
    this.#slots[base] = kind;
    this.#slots[base + 1] = handle;
    this.#slots[base + 2] = offset;
    this.#slots[base + 3] = length;
    this.#slots[base + 4] = position;
    return new Promise((resolve, reject) => {
      this.#pending.set(this.#submitted, { slot, resolve, reject });
      if (operation.call !== undefined || kind === operations.stop) this.#messagesAwaited++;
      this.#submitted = (this.#submitted + 1) | 0;
      Atomics.store(this.#control, DISK_PROTOCOL.submitted, this.#submitted);
      const { asleep } = DISK_PROTOCOL;
      if (Atomics.exchange(this.#control, asleep, 0) === 1) this.#parking.wake(asleep);
      if (!this.#watching) void this.#watch();
    });
  }

  /** Waits for the thread as long as anything is pending. */
  async #watch(): Promise<void> {
    this.#watching = true;
    // Whoever writes and syncs asks for both before anybody waits.
    await undefined;
    while (this.#pending.size > 0) {
      this.#linger();
      const completed = Atomics.load(this.#control, DISK_PROTOCOL.completed);
      this.#settle();
      if (this.#pending.size === 0) break;
      const wait = Atomics.waitAsync(this.#control, DISK_PROTOCOL.completed, completed);
      // What is completed but not settled yet waits for its message, which settles it by itself.
      if (wait.async) await wait.value;
    }
    this.#watching = false;
  }

  /**
   * Stands still until all is completed, or the patience is used up: the way through the event loop takes longer than
   * a fast disk. Not for answers that come as messages: they need the event loop.
   */
  #linger(): void {
    if (this.#patienceMs === 0 || this.#messagesAwaited > 0) return;
    Atomics.store(this.#control, DISK_PROTOCOL.standing, 1);
    for (;;) {
      const completed = Atomics.load(this.#control, DISK_PROTOCOL.completed);
      if (completed === this.#submitted) break;
      this.#parking.wait(DISK_PROTOCOL.completed, completed, this.#patienceMs);
      if (completed === Atomics.load(this.#control, DISK_PROTOCOL.completed)) break;
    }
    Atomics.store(this.#control, DISK_PROTOCOL.standing, 0);
  }

  setPatience(ms: number): void {
    this.#patienceMs = ms;
  }

  /** Settles in order what the thread has completed. */
  #settle(): void {
    const completed = Atomics.load(this.#control, DISK_PROTOCOL.completed);
    while (distance(this.#settled, completed) > 0) {
      const sequence = this.#settled;
      const pending = this.#pending.get(sequence);
      if (pending === undefined) return;
      const base = pending.slot * DISK_PROTOCOL.slotNumbers;
      const message = this.#messages.get(sequence);
      if (this.#slots[base + 5] !== status.done && message === undefined) return;
      const result = this.#slots[base + 6];
      this.#settled = (this.#settled + 1) | 0;
      this.#pending.delete(sequence);
      if (this.#slots[base] === operations.call) this.#messagesAwaited--;
      this.#messages.delete(sequence);
      if (message === undefined) pending.resolve(result);
      else if (message.error === undefined) pending.resolve(message.value);
      else pending.reject(diskError(message.error));
      this.#waiting.shift()?.();
    }
  }

  #die(error: Error): void {
    this.#dead ??= error;
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const { reject } of pending) reject(this.#dead);
    for (const place of this.#waiting.splice(0)) place();
  }
}

function diskError(error: NonNullable<DiskMessage["error"]>): Error {
  return Object.assign(new Error(error.message), error.code === undefined ? {} : { code: error.code });
}
