/**
 * The short road: one thread takes WAL from the socket, brings it to the disk, and tells the server.
 *
 * Near the server's end somebody waits for each commit, and to hand bytes from the thread that reads the socket to the
 * one that writes, and the answer back, costs more than both system calls. So the disk thread gets the socket lent for
 * the plain case: whole messages, contiguous WAL inside one segment. Whatever else comes it hands back unread, and the
 * long road has it. The main thread stays free all the while: it watches, and ends the loan before it sends anything
 * itself, as it does when the disk stalls. So two never write to the socket at the same time: a status that went out in
 * part only must not have another one in its middle.
 */

/** Why the short road ended. `handed-back` also when nothing special came: the loan was ended. */
export type ShortRoadEnd =
  | { readonly kind: "handed-back" }
  /** Nothing more comes, or the socket has failed: what it is, the runtime finds out. */
  | { readonly kind: "socket-ended" }
  /** A status went out in part only: the connection is of no use any more. */
  | { readonly kind: "torn-status" }
  | {
    readonly kind: "failed";
    readonly step: "write" | "sync";
    readonly message: string;
    readonly code: string | undefined;
  };

/** What is asked for. All positions are bytes from the segment's start. */
export interface ShortRoadRequest {
  readonly handle: number;
  /** The socket's descriptor; nobody else reads from it meanwhile. */
  readonly descriptor: number;
  /** The halves of the segment's first LSN. */
  readonly startHigh: number;
  readonly startLow: number;
  readonly segmentBytes: number;
  /** Everything below it is durable. */
  readonly position: number;
  /** Memory to receive into: from `offset` on, `length` bytes. */
  readonly offset: number;
  readonly length: number;
}

/** How it ended, and where. */
export interface ShortRoadResult {
  readonly end: ShortRoadEnd;
  /** Everything below it is durable and came in whole messages. */
  readonly position: number;
  /** Bytes read from the socket behind that, from a message's start on: the first so many of the memory. */
  readonly restBytes: number;
}

/** The words of shared memory through which the two threads see each other. */
export interface ShortRoadWords {
  /** Set to 1 to end the loan. */
  readonly revoked: number;
  /** Bytes from the segment's start: received, and durable. */
  readonly received: number;
  readonly durable: number;
  /** How far the server's end is ahead of what was received, in bytes. */
  readonly behind: number;
  /** Counts what came from the server. */
  readonly heard: number;
  /** 1 while a status may be on its way to the socket: whoever ends the loan waits for that. */
  readonly sending: number;
}

/** System calls on a socket; addresses are of the shared memory. */
export interface SocketCalls {
  /** Above 0 when there is something to read, or the socket has ended; 0 when time is up. */
  poll(descriptor: number, timeoutMs: number): number;
  /** Bytes received; 0 at the end, below 0 when nothing is there or it failed. */
  receive(descriptor: number, offset: number, length: number): number;
  /** Bytes sent; below 0 when none could be. */
  send(descriptor: number, offset: number, length: number): number;
}

/** What `openSocketCalls` uses of the module `node:process`. */
interface ShortRoadProcess {
  readonly platform: string;
  getBuiltinModule(name: "bun:ffi"): unknown;
}

/**
 * The kernel's calls where the runtime can make them; `undefined` elsewhere.
 *
 * Its source text runs in the disk thread, so it uses nothing but its parameters and globals.
 */
export function openSocketCalls(process: ShortRoadProcess, memory: Uint8Array): SocketCalls | undefined {
  /** poll.h and socket.h of Linux. */
  const POLLIN = 1;
  const MSG_DONTWAIT = 0x40;
  const MSG_NOSIGNAL = 0x4000;
  if (process.platform !== "linux") return undefined;
  try {
    const ffi = process.getBuiltinModule("bun:ffi") as {
      dlopen(library: string, symbols: object): {
        readonly symbols: {
          poll(descriptors: number, count: number, timeoutMs: number): number;
          recv(descriptor: number, address: number, length: number, flags: number): number;
          send(descriptor: number, address: number, length: number, flags: number): number;
        };
      };
      ptr(view: ArrayBufferView): number;
    } | undefined;
    if (ffi === undefined) return undefined;
    const { poll, recv, send } = ffi.dlopen("libc.so.6", {
      poll: { args: ["ptr", "usize", "int"], returns: "int" },
      recv: { args: ["int", "ptr", "usize", "int"], returns: "int" },
      send: { args: ["int", "ptr", "usize", "int"], returns: "int" },
    }).symbols;
    const address = ffi.ptr(memory);
    /** A `struct pollfd`: descriptor, events, returned events. Shared memory never moves. */
    const one = new DataView(new SharedArrayBuffer(8));
    const oneAddress = ffi.ptr(one);
    return {
      poll(descriptor, timeoutMs) {
        one.setInt32(0, descriptor, true);
        one.setInt16(4, POLLIN, true);
        one.setInt16(6, 0, true);
        return poll(oneAddress, 1, timeoutMs);
      },
      receive: (descriptor, offset, length) => recv(descriptor, address + offset, length, MSG_DONTWAIT),
      send: (descriptor, offset, length) =>
        send(descriptor, address + offset, length, MSG_DONTWAIT | MSG_NOSIGNAL),
    };
  } catch {
    // Another C library, or none that can be called.
    return undefined;
  }
}

/** The disk, as far as the short road needs it. */
export interface ShortRoadDisk {
  write(
    handle: number,
    bytes: { readonly bytes: Uint8Array; readonly offset: number; readonly length: number },
    position: number,
  ): void;
  sync(handle: number): void;
}

/**
 * Receives, writes, syncs and reports until the loan ends, or something comes that is not plain.
 *
 * P2 holds as on the long road: a status says only what a completed `fdatasync` covers, and apply stays 0. Nothing is
 * taken off the memory before it is durable: after a failure all of it is handed back.
 *
 * Its source text runs in the disk thread, so it uses nothing but its parameters and globals.
 */
export function takeShortRoad(
  request: ShortRoadRequest,
  { memory, control, words, sockets, disk, nowMs }: {
    readonly memory: Uint8Array;
    readonly control: Int32Array;
    readonly words: ShortRoadWords;
    readonly sockets: SocketCalls;
    readonly disk: ShortRoadDisk;
    readonly nowMs: () => number;
  },
): ShortRoadResult {
  /** The loan's end is looked for this often while nothing comes. */
  const POLL_MS = 100;
  /** A server that is further ahead is caught up with on the long road: it reads while it writes. */
  const FAR_BEHIND_BYTES = 1 << 20;
  const COPY_DATA = 0x64;
  const TYPE_OFFSET = 5;
  const XLOG_DATA = 0x77;
  const XLOG_DATA_HEADER_BYTES = 30;
  const KEEPALIVE = 0x6b;
  const KEEPALIVE_BYTES = 23;
  const STATUS_BYTES = 39;
  /** Milliseconds from 1970 to 2000, where PostgreSQL's clock begins. */
  const POSTGRES_EPOCH_MS = 946_684_800_000;
  const HALF = 2 ** 32;
  const { handle, descriptor, startHigh, startLow, segmentBytes, offset } = request;
  const capacity = request.length - STATUS_BYTES;
  const status = offset + capacity;
  const view = new DataView(memory.buffer, memory.byteOffset);
  /** Bytes in the memory; they begin at a message's start. */
  let filled = 0;
  let position = request.position;

  const sendStatus = (): number => {
    const low = startLow + position;
    view.setUint8(status, COPY_DATA);
    view.setUint32(status + 1, STATUS_BYTES - 1);
    view.setUint8(status + TYPE_OFFSET, 0x72);
    for (const field of [status + 6, status + 14]) {
      view.setUint32(field, startHigh);
      view.setUint32(field + 4, low);
    }
    view.setUint32(status + 22, 0);
    view.setUint32(status + 26, 0);
    const microseconds = (nowMs() - POSTGRES_EPOCH_MS) * 1000;
    view.setInt32(status + 30, Math.floor(microseconds / HALF));
    view.setUint32(status + 34, microseconds % HALF);
    view.setUint8(status + 38, 0);
    return sockets.send(descriptor, status, STATUS_BYTES);
  };

  /**
   * Sends nothing once the loan has ended: the socket may be closed by now, and its number another file's, or a part of
   * what its owner sends may stand in the send buffer.
   */
  const sendUnlessRevoked = (): number => {
    // In this order: then one of the two sees the other.
    Atomics.store(control, words.sending, 1);
    const sent = Atomics.load(control, words.revoked) === 1 ? 0 : sendStatus();
    Atomics.store(control, words.sending, 0);
    Atomics.notify(control, words.sending);
    return sent;
  };

  /** What the memory holds, as far as it is plain: whole messages of WAL that follow each other, and keepalives. */
  const survey = () => {
    let taken = 0;
    let next = position;
    let behind: number | undefined;
    let replyRequested = false;
    let plain = true;
    while (plain && taken < filled) {
      const at = offset + taken;
      if (memory[at] !== COPY_DATA) {
        plain = false;
        break;
      }
      if (filled - taken <= TYPE_OFFSET) break;
      const messageBytes = view.getUint32(at + 1) + 1;
      const type = memory[at + TYPE_OFFSET];
      const walBytes = messageBytes - XLOG_DATA_HEADER_BYTES;
      if (messageBytes > capacity) plain = false;
      else if (filled - taken < messageBytes) break;
      else if (type === KEEPALIVE && messageBytes === KEEPALIVE_BYTES) {
        behind = (view.getUint32(at + 6) - startHigh) * HALF + view.getUint32(at + 10) - startLow - next;
        replyRequested ||= memory[at + 22] !== 0;
      } else {
        const follows = view.getUint32(at + 6) === startHigh && view.getUint32(at + 10) === startLow + next;
        // The segment's last byte is the long road's: it publishes.
        if (type !== XLOG_DATA || walBytes < 0 || !follows || next + walBytes >= segmentBytes) plain = false;
        else {
          next += walBytes;
          behind = (view.getUint32(at + 14) - startHigh) * HALF + view.getUint32(at + 18) - startLow - next;
        }
      }
      if (plain) taken += messageBytes;
    }
    return { taken, next, behind, replyRequested, plain };
  };

  const writeWal = (takenBytes: number): void => {
    let to = position;
    for (let at = 0; at < takenBytes;) {
      const messageBytes = view.getUint32(offset + at + 1) + 1;
      const length = messageBytes - XLOG_DATA_HEADER_BYTES;
      if (memory[offset + at + TYPE_OFFSET] === XLOG_DATA && length > 0) {
        disk.write(handle, { bytes: memory, offset: offset + at + XLOG_DATA_HEADER_BYTES, length }, to);
        to += length;
      }
      at += messageBytes;
    }
  };

  const ended = (end: ShortRoadEnd): ShortRoadResult => ({ end, position, restBytes: filled });
  for (;;) {
    if (Atomics.load(control, words.revoked) === 1) return ended({ kind: "handed-back" });
    const ready = sockets.poll(descriptor, POLL_MS);
    if (ready === 0) continue;
    // A signal came in between; or the loan ended while there was nothing to read, and the socket may be closed by now.
    if (ready < 0 || Atomics.load(control, words.revoked) === 1) return ended({ kind: "handed-back" });
    const count = sockets.receive(descriptor, offset + filled, capacity - filled);
    if (count <= 0) return ended({ kind: "socket-ended" });
    filled += count;
    Atomics.add(control, words.heard, 1);
    const { taken, next, behind, replyRequested, plain } = survey();
    if (behind !== undefined) {
      Atomics.store(control, words.behind, Math.max(0, Math.min(behind, 0x7fff_ffff)));
    }
    if (next > position) {
      Atomics.store(control, words.received, next);
      let step: "write" | "sync" = "write";
      try {
        writeWal(taken);
        step = "sync";
        disk.sync(handle);
      } catch (error) {
        const { message, code } = error as { message?: unknown; code?: unknown };
        return ended({
          kind: "failed",
          step,
          message: String(message),
          code: typeof code === "string" ? code : undefined,
        });
      }
    }
    const progressed = next > position;
    position = next;
    Atomics.store(control, words.durable, next);
    memory.copyWithin(offset, offset + taken, offset + filled);
    filled -= taken;
    if (progressed || replyRequested) {
      const sent = sendUnlessRevoked();
      if (sent > 0 && sent < STATUS_BYTES) return ended({ kind: "torn-status" });
      // What could not be sent is due on the long road.
      if (sent <= 0) return ended({ kind: "handed-back" });
    }
    if (!plain || (behind ?? 0) > FAR_BEHIND_BYTES) return ended({ kind: "handed-back" });
  }
}
