import { advance, bytesBetween, type Lsn, maxLsn } from "../wal/lsn.ts";
import type { Clock } from "./clock.ts";
import { isOutOfSpace } from "./durable.ts";
import type { SegmentWriter, WriterRoad } from "./segment_writer.ts";
import { isCatchingUp, planStep, SYNC_BYTES, wakeDue, type WriterState } from "./sync_policy.ts";
import type { ShortOfRoom } from "./minimum_free.ts";
import { ROOM_INTERVAL_MS, type RoomGuard } from "./room_guard.ts";
import { WalBuffer } from "./wal_buffer.ts";

/** Bytes received and not yet written, at most. What arrives beyond it is still kept, up to `OVERFLOW_BYTES`. */
export const BUFFER_BYTES = 2 << 20;
/** A reader that was told to pause may still hand over what it had read. */
const OVERFLOW_BYTES = 4 << 20;
/** No more than this is ever written and not yet synced: what a crash may leave in pieces. */
export const MAXIMUM_UNSYNCED_BYTES = SYNC_BYTES + BUFFER_BYTES + OVERFLOW_BYTES;
/** From here on the reader should pause. */
const CONGESTED_BYTES = BUFFER_BYTES - (1 << 19);
/** Down to here it should stay so: to pause and to go on costs as much as to read some hundred kilobytes. */
const RELIEVED_BYTES = BUFFER_BYTES / 2;
/** Near the server's end, a disk that is this fast is worth standing still for. */
const PATIENCE_MS = 3;
/** Room is looked for this often while the disk is full. */
const FULL_DISK_RETRY_MS = 1000;

/** What a leg's owner is told; called between two steps of the writer. */
export interface LegListener {
  /** `writeLsn`, `flushLsn`, `congested` or `shortOfRoom` may have changed. */
  onProgress(): void;
  /** The writer has given up: nothing more of this leg becomes durable. */
  onFailure(error: unknown): void;
  /** The disk is full; the writer tries again by itself. */
  onDiskFull(): void;
  /** Nothing is left to do: the owner may lend its socket, and reads no more from it until it gets it back. */
  onIdle?(): SocketLoan | undefined;
}

/** A socket that streams WAL, lent to whoever brings it to the disk. */
export interface SocketLoan {
  readonly descriptor: number;
  giveBack(state: LoanEnd): void;
}

/** How the loan of a socket ended. */
export interface LoanEnd {
  /** All WAL below it is durable. */
  readonly nextLsn: Lsn;
  /** Read already and not dealt with: from `nextLsn` on, and from a message's start. */
  readonly rest: Uint8Array;
  /** A status went out in part only. */
  readonly tornStatus: boolean;
  readonly serverEndLsn: Lsn;
  /** Grows with whatever comes from the server. */
  readonly heardCount: number;
}

/**
 * Takes the bytes of one leg from the thread that reads the socket and brings them to the disk.
 *
 * One `fdatasync` is under way at a time. What arrives meanwhile is buffered, written at once when it returns, and
 * covered by the next one. Nothing here blocks, and memory is bounded.
 */
export class LegSink {
  readonly #buffer: WalBuffer;
  readonly #overflow: Uint8Array[] = [];
  #overflowBytes = 0;
  #congested = false;
  #receivedLsn: Lsn;
  #serverEndLsn: Lsn;
  #unsyncedBytes = 0;
  #lastSyncMs: number;
  #finishing = false;
  #abandoned = false;
  #wake: (() => void) | undefined;
  /** The writer sleeps until something comes, however long that takes. */
  #sleeps = false;
  #road: WriterRoad | undefined;
  /** The socket had ended when it was lent: what comes next, if anything, comes by `push`. */
  #roadClosed = false;
  readonly #done: Promise<void>;
  #failed = false;

  constructor(
    private readonly writer: SegmentWriter,
    private readonly options: {
      readonly memory: Uint8Array;
      readonly clock: Clock;
      readonly listener: LegListener;
      /** Lets the disk keep this thread standing for so long. */
      readonly setPatience?: (ms: number) => void;
      /** Without it a disk is filled to its last byte. */
      readonly guard?: RoomGuard | undefined;
    },
  ) {
    this.#buffer = new WalBuffer(options.memory);
    this.#receivedLsn = writer.writeLsn;
    this.#serverEndLsn = writer.writeLsn;
    this.#lastSyncMs = options.clock.nowMs();
    this.#done = this.#run();
  }

  /** Everything below it was handed over by `push`. */
  get receivedLsn(): Lsn {
    return this.#road?.receivedLsn ?? this.#receivedLsn;
  }

  /** The loan of the socket, while there is one: what came over it, and the way to end it. */
  get loan(): { readonly serverEndLsn: Lsn; readonly heardCount: number; end(): void } | undefined {
    const road = this.#road;
    if (road === undefined) return undefined;
    return { serverEndLsn: road.serverEndLsn, heardCount: road.heardCount, end: () => road.revoke() };
  }

  get writeLsn(): Lsn {
    return this.writer.writeLsn;
  }

  get flushLsn(): Lsn {
    return this.writer.flushLsn;
  }

  /** True while the disk does not keep up: the reader should pause. */
  get congested(): boolean {
    return this.#congested;
  }

  /** There is too little room left: the reader should pause. What was received before is brought to safety. */
  get shortOfRoom(): ShortOfRoom | undefined {
    return this.options.guard?.short;
  }

  /** True when the writer has nothing to do. */
  get idle(): boolean {
    return this.flushLsn === this.receivedLsn;
  }

  /**
   * Takes a copy of bytes that follow `receivedLsn`.
   *
   * @throws {RangeError} when the reader does not heed `congested`.
   */
  push(bytes: Uint8Array): void {
    const taken = this.#overflowBytes === 0 ? this.#buffer.push(bytes) : 0;
    if (taken < bytes.length) {
      const rest = bytes.slice(taken);
      if (this.#overflowBytes + rest.length > OVERFLOW_BYTES) {
        throw new RangeError(`Cannot buffer ${rest.length} bytes of WAL: the disk is too far behind`);
      }
      this.#overflow.push(rest);
      this.#overflowBytes += rest.length;
    }
    this.#receivedLsn = advance(this.#receivedLsn, bytes.length);
    this.#roadClosed = false;
    this.#judgeCongestion();
    if (this.#buffer.bytes >= BUFFER_BYTES / 2) this.#wake?.();
  }

  /** The server's own end of WAL: tells whether a commit may wait for what was received last. */
  setServerEnd(lsn: Lsn): void {
    this.#serverEndLsn = lsn;
  }

  /** Nothing more is at hand to `push` right now: whatever is due may start. */
  drained(): void {
    const state = this.#state();
    // The first bytes after a pause are worth waking up for, however few: from then on their time runs.
    if (wakeDue(state) || (this.#sleeps && state.bufferedBytes > 0)) this.#wake?.();
  }

  /** Everything received becomes durable, then the files are let go. Pends as long as the disk stalls or is full. */
  async finish(): Promise<void> {
    this.#finishing = true;
    this.#wake?.();
    await this.#done;
  }

  /** Lets go of the files as soon as the operation under way returns; what is not yet durable is given up. */
  async abandon(): Promise<void> {
    this.#abandoned = true;
    await this.finish();
  }

  #state(): WriterState {
    return {
      bufferedBytes: this.#buffer.bytes,
      unsyncedBytes: this.#unsyncedBytes,
      // What was received and not yet written is no reason to wait: it is here.
      behindBytes: Number(bytesBetween({ startLsn: this.#receivedLsn, endLsn: this.#serverEndLsn })),
      sinceSyncMs: this.options.clock.nowMs() - this.#lastSyncMs,
    };
  }

  async #run(): Promise<void> {
    try {
      while (!this.#abandoned && await this.#step());
    } catch (error) {
      this.#failed = true;
      this.options.listener.onFailure(error);
    }
    try {
      await this.writer.close();
    } catch (error) {
      if (!this.#failed) this.options.listener.onFailure(error);
    }
  }

  /** One thing after the other; false when everything is durable and `finish` was asked for. */
  async #step(): Promise<boolean> {
    try {
      return await this.#act();
    } catch (error) {
      if (this.writer.spent || !isOutOfSpace(error)) throw error;
      this.options.listener.onDiskFull();
      await this.#wait(FULL_DISK_RETRY_MS, "uninterrupted");
      return true;
    }
  }

  async #act(): Promise<boolean> {
    if (this.writer.segmentFull) {
      await this.writer.publish();
      this.#synced();
      return true;
    }
    const { guard } = this.options;
    if (!this.#finishing && guard?.lookDue) {
      await this.#lookForRoom(guard);
      return true;
    }
    const state = this.#state();
    const step = planStep(this.#finishing ? { ...state, behindBytes: 0 } : state);
    // Only the last bytes of the server's end are waited for by somebody.
    this.options.setPatience?.(isCatchingUp(state) ? 0 : PATIENCE_MS);
    if (step.kind === "write") {
      await this.#write(step.then);
    } else if (step.kind === "sync") {
      await this.writer.sync();
      this.#synced();
    } else if (this.#finishing) {
      return false;
    } else if (this.shortOfRoom !== undefined) {
      // Nothing is laid out ahead, and nobody is lent the socket; what still comes is taken.
      await this.#wait(Math.min(step.waitMs ?? Infinity, ROOM_INTERVAL_MS), "woken");
    } else if (step.waitMs !== undefined || isCatchingUp(state) || !await this.writer.prepareAhead()) {
      // Something may have come while the writer prepared: only a writer that finds nothing to do may sleep.
      if (this.#finishing || wakeDue(this.#state())) return true;
      const loan = step.waitMs === undefined ? this.#borrowSocket() : undefined;
      if (loan !== undefined) {
        await this.#takeShortRoad(loan);
        return true;
      }
      // Without an await in between: who calls `finish` meanwhile would find nobody to wake.
      this.#sleeps = step.waitMs === undefined;
      if (!this.#sleeps || this.#buffer.bytes === 0) await this.#wait(step.waitMs, "woken");
      this.#sleeps = false;
    }
    return true;
  }

  async #lookForRoom(guard: RoomGuard): Promise<void> {
    const before = guard.short;
    const now = await guard.look();
    if (before !== undefined || now !== undefined) this.options.listener.onProgress();
  }

  /** The socket itself, if it can be had. */
  #borrowSocket(): SocketLoan | undefined {
    if (this.#buffer.bytes > 0 || this.#roadClosed || !this.writer.roadOpen) return undefined;
    return this.options.listener.onIdle?.();
  }

  async #takeShortRoad(loan: SocketLoan): Promise<void> {
    const road = this.writer.takeShortRoad(loan.descriptor, this.options.memory);
    this.#road = road;
    this.#wake = () => road.revoke();
    const cancelLook = this.#endWhenLookDue(road);
    try {
      const { nextLsn, rest, tornStatus, socketEnded, error } = await road.ended;
      const { serverEndLsn, heardCount } = road;
      this.#road = undefined;
      this.#wake = undefined;
      this.#receivedLsn = nextLsn;
      this.#serverEndLsn = maxLsn(this.#serverEndLsn, serverEndLsn);
      this.#roadClosed = socketEnded;
      loan.giveBack({ nextLsn, rest, tornStatus, serverEndLsn, heardCount });
      if (error !== undefined) throw error;
    } finally {
      this.#road = undefined;
      cancelLook();
    }
    this.#synced();
    // The runtime's own look at the socket comes before the next loan.
    await new Promise<void>((resolve) => this.options.clock.setTimer(0, resolve));
  }

  /** Nothing else can be asked of the disk meanwhile: from time to time the loan ends, if anything was written. */
  #endWhenLookDue(road: WriterRoad): () => void {
    const { clock, guard } = this.options;
    if (guard === undefined) return () => {};
    const startLsn = road.receivedLsn;
    let cancel = () => {};
    const check = () => {
      if (road.receivedLsn > startLsn) road.revoke();
      else cancel = clock.setTimer(ROOM_INTERVAL_MS, check);
    };
    cancel = clock.setTimer(ROOM_INTERVAL_MS, check);
    return () => cancel();
  }

  async #write(then: "sync" | "leave"): Promise<void> {
    const piece = this.#buffer.peek();
    const whole = piece.length === this.#buffer.bytes;
    if (whole && then === "sync") this.#lastSyncMs = this.options.clock.nowMs();
    const startLsn = this.writer.writeLsn;
    try {
      await this.writer.append(piece, whole ? then : "leave");
    } finally {
      // Also when what came after the write failed: the next try must not write the same bytes behind themselves.
      const taken = Number(bytesBetween({ startLsn, endLsn: this.writer.writeLsn }));
      this.#unsyncedBytes += taken;
      this.options.guard?.wrote(taken);
      if (this.writer.flushLsn === this.writer.writeLsn) this.#unsyncedBytes = 0;
      this.#buffer.consume(taken);
      this.#refill();
      this.#judgeCongestion();
    }
    this.options.listener.onProgress();
  }

  #synced(): void {
    this.#unsyncedBytes = 0;
    this.#lastSyncMs = this.options.clock.nowMs();
    this.options.listener.onProgress();
  }

  #judgeCongestion(): void {
    const bytes = this.#buffer.bytes + this.#overflowBytes;
    if (bytes >= CONGESTED_BYTES) this.#congested = true;
    else if (bytes <= RELIEVED_BYTES) this.#congested = false;
  }

  #refill(): void {
    for (let first = this.#overflow[0]; first !== undefined; first = this.#overflow[0]) {
      const taken = this.#buffer.push(first);
      this.#overflowBytes -= taken;
      if (taken < first.length) {
        this.#overflow[0] = first.subarray(taken);
        return;
      }
      this.#overflow.shift();
    }
  }

  #wait(delayMs: number | undefined, kind: "woken" | "uninterrupted"): Promise<void> {
    return new Promise((resolve) => {
      let cancel: (() => void) | undefined;
      const wake = () => {
        if (this.#wake === wake) this.#wake = undefined;
        cancel?.();
        resolve();
      };
      if (delayMs !== undefined) cancel = this.options.clock.setTimer(Math.max(0, delayMs), wake);
      // A full disk is not asked more often because more data comes; only the end of the leg interrupts.
      if (kind === "woken") this.#wake = wake;
      else this.#wakeAtEnd(wake);
    });
  }

  #wakeAtEnd(wake: () => void): void {
    this.#wake = () => {
      if (this.#abandoned) wake();
    };
  }
}
