import { Buffer } from "node:buffer";
import { EventEmitter } from "node:events";
import type { Socket } from "node:net";
import {
  type BackendMessage,
  BackendSplitter,
  type ByteCursor,
  checkDataRow,
  decodeColumnCount,
  decodeParameterStatus,
  decodeServerMessage,
  MESSAGE,
  messageName,
} from "../protocol/backend_messages.ts";
import type { CopyBothDecoder } from "../protocol/copy_both.ts";
import { ConnectionError, ProtocolError, type ServerMessage } from "../protocol/errors.ts";
import type { LoanEnd } from "../protocol/replication.ts";
import { encodeCopyDone } from "../protocol/standby_status.ts";
import type { AuthGuard } from "./auth_guard.ts";
import type { LendableSocket, OpenSocket } from "./socket.ts";

/** Most bytes of one command's answer; the driver keeps them all in memory. */
export const MAX_ANSWER_BYTES = 64 << 20;

/** A chunk shorter than this emptied the socket, most likely. */
const FULL_CHUNK_BYTES = 8192;

/** What a running copy wants to know. */
export interface CopyListener {
  readonly decoder: CopyBothDecoder;
  /** The server begins to send. */
  onStart(): void;
  /** The socket is empty for now. */
  onDrained(): void;
  /** The server sent its CopyDone; ours is on its way. */
  onServerDone(): void;
  /** The server shuts down: it has sent all it has, and closes. */
  onShutdown(): void;
}

/** What the tap tells its owner. */
export interface TapListener {
  onParameter(parameter: { readonly name: string; readonly value: string }): void;
  onNotice(notice: ServerMessage): void;
  onServerError(error: ServerMessage): void;
  /** Once: nothing comes or goes any more. `undefined` when the other side closed without giving a reason. */
  onEnd(cause: unknown): void;
}

/** How long `close()` waits for the other side before it cuts the line. */
export const CLOSE_TIMEOUT_MS = 2000;

/**
 * Stands between the socket and the driver, and looks like a socket to the driver.
 *
 * It passes whole messages to the driver, except for what it does better itself: streamed WAL goes to the copy's
 * decoder uncopied, notices and errors are noted, and a login that must not go on is stopped. The driver is never
 * told that the socket closed or failed: it would connect again at once, for ever (postgres 3.4.9, `closed()`).
 */
export class SocketTap extends EventEmitter {
  readonly #socket: Socket;
  readonly #lendable: LendableSocket | undefined;
  readonly #guard: AuthGuard;
  readonly #listener: TapListener;
  readonly #splitter = new BackendSplitter();
  readonly #socketClosed: Promise<void>;
  #copy: CopyListener | undefined;
  #copyStage: "none" | "awaited" | "running" = "none";
  #copyDoneSent = false;
  #answerBytes = 0;
  #columnCount = 0;
  #drainDue = false;
  #ended = false;
  /** The newest status while the socket takes no more: older ones are worth nothing then. */
  #heldStatus: Uint8Array | undefined;
  #lent = false;
  /** The socket ended while it was lent: what its borrower has read of it comes first. */
  #heldEnd: { readonly cause: unknown } | undefined;

  constructor(
    { socket, read, lendable }: OpenSocket,
    options: { readonly guard: AuthGuard; readonly listener: TapListener },
  ) {
    super();
    this.#socket = socket;
    this.#lendable = lendable;
    this.#guard = options.guard;
    this.#listener = options.listener;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#socketClosed = promise;
    socket.on("close", resolve);
    socket.on("drain", () => this.#sendHeldStatus());
    socket.on("error", (error) => this.#socketEnded(error));
    socket.on("end", () => this.#socketEnded(undefined));
    socket.on("close", () => this.#socketEnded(undefined));
    read((chunk) => this.#takeChunk(chunk));
  }

  // What the driver calls, besides the listener methods of EventEmitter.

  get readyState(): string {
    return this.#ended ? "closed" : "open";
  }

  write(bytes: Uint8Array): boolean {
    if (this.#ended) return true;
    this.#guard.sent(bytes);
    this.#socket.write(bytes);
    return true;
  }

  end(): void {
    this.destroy();
  }

  destroy(): void {
    this.#fail(new ConnectionError("auth", "the server did not prove that it knows the password"));
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  // What the session calls, besides pause() and resume().

  /** The command about to be sent may open a copy. */
  awaitCopy(copy: CopyListener): void {
    this.#copy = copy;
    this.#copyStage = "awaited";
    this.#copyDoneSent = false;
  }

  /** Sends a framed status, or keeps the newest one until the socket takes it. */
  sendStatus(frame: Uint8Array): void {
    if (this.#ended || this.#copyStage !== "running" || this.#copyDoneSent) return;
    if (this.#heldEnd !== undefined) return;
    if (this.#socket.writableNeedDrain) this.#heldStatus = frame;
    else this.#socket.write(frame);
  }

  /**
   * Stops reading and gives the descriptor away; `undefined` unless the stream stands between two messages, with
   * nothing read ahead and nothing still to be sent. It goes on with `takeBack`.
   */
  lend(): number | undefined {
    if (this.#ended || this.#copyStage !== "running" || this.#copyDoneSent || this.#drainDue) {
      return undefined;
    }
    if (!this.#splitter.atBoundary || !this.#copy!.decoder.atBoundary) return undefined;
    const { writableLength } = this.#socket;
    const lendable = this.#lendable;
    if (this.#heldStatus !== undefined || writableLength > 0 || lendable === undefined) return undefined;
    this.#socket.pause();
    lendable.stopReading();
    if (this.#socket.readableLength === 0) {
      this.#lent = true;
      return lendable.descriptor;
    }
    lendable.goOnReading();
    this.#socket.resume();
    return undefined;
  }

  /** The socket is ours again: first what was read of it meanwhile, and not dealt with. The caller resumes it. */
  takeBack({ nextLsn, rest, tornStatus }: LoanEnd): void {
    this.#lent = false;
    if (this.#ended) return;
    const end = this.#heldEnd;
    if (end === undefined) this.#lendable?.goOnReading();
    if (tornStatus) {
      return this.#fail(new ConnectionError("closed", "a status could be sent only in part"));
    }
    this.#copy?.decoder.skipTo(nextLsn);
    if (rest.length > 0) this.#takeChunk(rest);
    if (end === undefined) return;
    // The runtime saw the end without reading what stands before it, and does not read any more.
    this.#lendable?.readRest((chunk) => this.#takeChunk(chunk));
    this.#fail(end.cause);
  }

  /** Sends CopyDone, once. */
  sendCopyDone(): void {
    if (this.#ended || this.#copyStage !== "running" || this.#copyDoneSent) return;
    this.#sendHeldStatus();
    this.#copyDoneSent = true;
    this.#socket.write(encodeCopyDone());
  }

  /** Says good-bye; after `CLOSE_TIMEOUT_MS` without an answer it cuts the line. Idempotent, never rejects. */
  async close(): Promise<void> {
    if (!this.#ended) {
      this.#ended = true;
      this.#listener.onEnd(new ConnectionError("closed", "it was closed here"));
      this.#socket.end(Uint8Array.of(0x58, 0, 0, 0, 4)); // Terminate
      this.#socket.resume();
    }
    const timer = setTimeout(() => this.#socket.destroy(), CLOSE_TIMEOUT_MS);
    await this.#socketClosed;
    clearTimeout(timer);
  }

  /** Ends without a good-bye. */
  cut(): void {
    this.#fail(new ConnectionError("closed", "it was closed here"));
  }

  #socketEnded(cause: unknown): void {
    if (this.#lent) this.#heldEnd ??= { cause };
    else this.#fail(cause);
  }

  #fail(cause: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#listener.onEnd(cause);
    this.#socket.destroy();
  }

  #sendHeldStatus(): void {
    if (this.#heldStatus !== undefined && !this.#ended) this.#socket.write(this.#heldStatus);
    this.#heldStatus = undefined;
  }

  #takeChunk(chunk: Uint8Array): void {
    if (this.#ended) return;
    try {
      this.#takeBytes({ bytes: chunk, index: 0 });
      if (this.#copyStage === "running") this.#drained(chunk.length);
    } catch (error) {
      this.#fail(error);
    }
  }

  #takeBytes(cursor: ByteCursor): void {
    while (cursor.index < cursor.bytes.length && !this.#ended) {
      if (this.#copyStage === "running" && this.#splitter.atBoundary) {
        this.#copy!.decoder.decode(cursor);
        if (cursor.index === cursor.bytes.length) return;
      }
      const message = this.#splitter.next(cursor);
      if (message === undefined) return;
      this.#takeMessage(message);
    }
  }

  /** A chunk that fills the buffer is followed by another one: look once more before saying that all is read. */
  #drained(chunkBytes: number): void {
    if (chunkBytes < FULL_CHUNK_BYTES) {
      this.#copy!.onDrained();
    } else if (!this.#drainDue) {
      this.#drainDue = true;
      setImmediate(() => {
        this.#drainDue = false;
        if (this.#ended || this.#copyStage !== "running") return;
        try {
          this.#copy!.onDrained();
        } catch (error) {
          this.#fail(error);
        }
      });
    }
  }

  #takeMessage(message: BackendMessage): void {
    this.#guard.check(message);
    switch (message.type) {
      case MESSAGE.notice:
        return this.#listener.onNotice(decodeServerMessage(message.body));
      case MESSAGE.notification:
        return;
      case MESSAGE.parameterStatus:
        return this.#listener.onParameter(decodeParameterStatus(message.body));
      case MESSAGE.error:
        this.#listener.onServerError(decodeServerMessage(message.body));
        this.#endCopy();
        return this.#forward(message);
      case MESSAGE.copyBothResponse:
        return this.#startCopy(message);
      case MESSAGE.copyDone:
        return this.#takeCopyDone();
      case MESSAGE.commandComplete:
        if (this.#copyStage !== "running") return this.#forward(message);
        // The end of a walsender whose server shuts down; the socket closes after it.
        this.#endCopy()!.onShutdown();
        return this.#fail(new ConnectionError("closed", "the server shut down"));
      case MESSAGE.readyForQuery:
        this.#refuseDuringCopy(message);
        this.#copyStage = "none";
        this.#answerBytes = 0;
        this.#columnCount = 0;
        return this.#forward(message);
      case MESSAGE.rowDescription:
        this.#refuseDuringCopy(message);
        this.#columnCount = decodeColumnCount(message.body);
        return this.#forward(message);
      case MESSAGE.dataRow:
        this.#refuseDuringCopy(message);
        checkDataRow(message.body, this.#columnCount);
        return this.#forward(message);
      case MESSAGE.authentication:
      case MESSAGE.backendKeyData:
      case MESSAGE.emptyQuery:
        this.#refuseDuringCopy(message);
        return this.#forward(message);
      default:
        throw new ProtocolError(`Cannot take message ${messageName(message.type)}: it does not belong here`);
    }
  }

  #startCopy(message: BackendMessage): void {
    if (this.#copyStage !== "awaited") {
      throw new ProtocolError("Cannot take CopyBothResponse: nothing was asked to stream");
    }
    const { body } = message;
    if (body.length !== 3 || body[0] !== 0 || body[1] !== 0 || body[2] !== 0) {
      throw new ProtocolError("Cannot take CopyBothResponse: it has columns, want none");
    }
    this.#copyStage = "running";
    this.#copy!.onStart();
  }

  #takeCopyDone(): void {
    if (this.#copyStage !== "running") throw new ProtocolError("Cannot take CopyDone: nothing is streaming");
    this.sendCopyDone();
    this.#endCopy()!.onServerDone();
  }

  #endCopy(): CopyListener | undefined {
    const copy = this.#copy;
    this.#copy = undefined;
    this.#copyStage = "none";
    this.#heldStatus = undefined;
    return copy;
  }

  #refuseDuringCopy(message: BackendMessage): void {
    if (this.#copyStage !== "running") return;
    throw new ProtocolError(`Cannot take message ${messageName(message.type)}: a stream is running`);
  }

  #forward({ frame }: BackendMessage): void {
    this.#answerBytes += frame.length;
    if (this.#answerBytes > MAX_ANSWER_BYTES) {
      throw new ProtocolError(`Cannot take answer: it is longer than ${MAX_ANSWER_BYTES} bytes`);
    }
    // A copy: the driver keeps views of it, and the bytes are the socket's.
    this.emit("data", Buffer.from(frame));
  }
}
