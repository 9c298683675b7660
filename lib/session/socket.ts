import * as fs from "node:fs";
import net from "node:net";
import process from "node:process";
import tls from "node:tls";
import type { Host, TcpKeepalive, TlsSettings } from "../conninfo/settings.ts";
import { ConnectionError, type ConnectionErrorKind, ProtocolError } from "../protocol/errors.ts";
import { tlsOptions } from "./tls_options.ts";

/** How a socket is to be made. */
export type Encryption = "plain" | "tls";

/** Read at once from a socket without TLS. Larger is not faster; 64 kB costs a third more CPU time. */
const READ_BUFFER_BYTES = 256 * 1024;

/** Bun has the option, but fills a buffer of its own each time and copies. */
const READS_INTO_OUR_BUFFER = process.versions["bun"] === undefined;

/** A chunk this long tells that the server has more to send than we have read. */
const FAST_CHUNK_BYTES = 64 * 1024;

/** Read at most between two events, so that what else waits has its turn. */
const DIRECT_BYTES = 4 << 20;

/** Where the garbage collector can be called, it is after this much: left alone, it lets six times as much pile up. */
const GARBAGE_BYTES = 16 << 20;

/** A name's addresses in turn; the runtimes' own 250 ms for each is too short for a long way. */
const BOTH_FAMILIES = { autoSelectFamily: true, autoSelectFamilyAttemptTimeout: 3000 } as const;

/** A socket, and the way to read it. */
export interface OpenSocket {
  readonly socket: net.Socket;
  /** A socket without TLS that others may read, where the runtime shows its descriptor. */
  readonly lendable?: LendableSocket | undefined;
  /** Hands over what comes, from now on. A chunk is valid during the call only. Called once. */
  read(onChunk: (chunk: Uint8Array) => void): void;
}

/** A socket that the runtime can be kept from reading. */
export interface LendableSocket {
  readonly descriptor: number;
  /** The runtime reads no more; what it has read ahead is still in the socket's own buffer. */
  stopReading(): void;
  goOnReading(): void;
  /** Hands over what stands in a socket whose end the runtime has seen; nothing when it is closed already. */
  readRest(onChunk: (chunk: Uint8Array) => void): void;
}

/** What `openSocket()` needs to know. */
export interface SocketRequest {
  readonly host: Host;
  readonly encryption: Encryption;
  readonly tls: TlsSettings;
  readonly keepalive: TcpKeepalive;
  /** Ends the attempt, with its reason as the error. */
  readonly signal: AbortSignal;
}

/** `host:port` or the socket's path, for messages. */
export function formatAddress(host: Host): string {
  if (host.target.kind === "unix") return host.target.path;
  return host.name.includes(":") ? `[${host.name}]:${host.port}` : `${host.name}:${host.port}`;
}

/**
 * A socket ready for the startup message. Never tries twice.
 *
 * @throws {ConnectionError} when there is none, or the signal's reason.
 */
export async function openSocket(request: SocketRequest): Promise<OpenSocket> {
  const { host, encryption, signal } = request;
  signal.throwIfAborted();
  if (encryption === "plain" && READS_INTO_OUR_BUFFER) {
    const reader = new BufferReader();
    const socket = await connectSocket(request, reader.onread);
    return { socket, read: (onChunk) => reader.start(socket, onChunk) };
  }
  if (encryption === "plain") {
    // Half open: the runtime must not close by itself what is lent, and not read to its end.
    const socket = await connectSocket(request, undefined, { allowHalfOpen: true });
    const fd = descriptorOf(socket);
    if (fd === undefined) return readEvents(socket);
    const readDirectly = directReader(fd);
    const wanted = () => !socket.destroyed && !socket.isPaused();
    return {
      ...readEvents(socket, (onChunk) => readDirectly(onChunk, wanted)),
      lendable: lendableSocket(socket, fd, readDirectly),
    };
  }
  // Files first: nothing is sent when a certificate can't be read.
  const options = await tlsOptions(host, request.tls);
  const plain = await connectSocket(request, undefined);
  const socket = await startTls(plain, { request, options });
  return readEvents(socket);
}

/**
 * A socket read by `data` events: a new buffer for each.
 *
 * @param readRest takes what has come since without an event, after a chunk that others most likely follow.
 */
function readEvents(
  socket: net.Socket,
  readRest?: (onChunk: (chunk: Uint8Array) => void) => void,
): OpenSocket {
  const { gc } = globalThis as { readonly gc?: () => void };
  return {
    socket,
    read(onChunk) {
      let garbageBytes = 0;
      socket.on("data", (chunk) => {
        onChunk(chunk);
        if (chunk.length >= FAST_CHUNK_BYTES) readRest?.(onChunk);
        garbageBytes += chunk.length;
        if (gc === undefined || garbageBytes < GARBAGE_BYTES) return;
        garbageBytes = 0;
        gc();
      }).resume();
    },
  };
}

/** Reads what stands in a socket, as long as it is `wanted`. */
type ReadDirectly = (onChunk: (chunk: Uint8Array) => void, wanted: () => boolean) => void;

/**
 * Reads a socket's descriptor into one buffer, until it is empty.
 *
 * Bun has no other way to read without a new buffer for each chunk, and these cost as much as the rest of the road.
 */
function directReader(fd: number): ReadDirectly {
  const buffer = new Uint8Array(READ_BUFFER_BYTES);
  return (onChunk, wanted) => {
    for (let bytes = 0; bytes < DIRECT_BYTES && wanted();) {
      const count = readWhatIsThere(fd, buffer);
      if (count === 0) return;
      onChunk(buffer.subarray(0, count));
      bytes += count;
    }
  };
}

/** What lies below a socket of Bun. */
interface SocketHandle {
  readonly fd: number;
  pause(): void;
  resume(): void;
}

/** `undefined` where the runtime does not show it, or the socket is closed: then its number may be another file's. */
function descriptorOf(socket: net.Socket): number | undefined {
  const { fd } = handleOf(socket) ?? {};
  return typeof fd === "number" && fd >= 0 ? fd : undefined;
}

function handleOf(socket: net.Socket): Partial<SocketHandle> | null | undefined {
  return (socket as { readonly _handle?: Partial<SocketHandle> | null })._handle;
}

function lendableSocket(
  socket: net.Socket,
  descriptor: number,
  readDirectly: ReadDirectly,
): LendableSocket | undefined {
  const handle = handleOf(socket);
  if (handle === undefined || handle === null) return undefined;
  return {
    descriptor,
    // `socket.pause()` alone does not do it: Bun goes on reading into the socket's buffer.
    stopReading: () => handle.pause?.(),
    goOnReading: () => handle.resume?.(),
    readRest: (onChunk) => readDirectly(onChunk, () => descriptorOf(socket) === descriptor),
  };
}

/** 0 when nothing has come. An end or an error is left to the runtime, whose own next read meets it too. */
function readWhatIsThere(fd: number, buffer: Uint8Array): number {
  try {
    return fs.readSync(fd, buffer, 0, buffer.length, null);
  } catch {
    return 0;
  }
}

/**
 * Reads into one buffer again and again, so that a fast stream makes no garbage.
 *
 * Deno spends 0.3 s of CPU time on a GB this way, and 0.9 s and 200 MB of memory on `data` events.
 */
class BufferReader {
  #onChunk: ((chunk: Uint8Array) => void) | undefined;
  /** What a server said before it was asked; ours never do. */
  #early: Uint8Array | undefined;

  readonly onread: net.OnReadOpts = {
    buffer: new Uint8Array(READ_BUFFER_BYTES),
    callback: (bytes, buffer) => {
      const chunk = buffer.subarray(0, bytes);
      if (this.#onChunk !== undefined) this.#onChunk(chunk);
      else this.#early ??= chunk.slice();
      return true;
    },
  };

  start(socket: net.Socket, onChunk: (chunk: Uint8Array) => void): void {
    this.#onChunk = onChunk;
    if (this.#early !== undefined) onChunk(this.#early);
    this.#early = undefined;
    socket.resume();
  }
}

async function connectSocket(
  { host, keepalive, signal }: SocketRequest,
  onread: net.OnReadOpts | undefined,
  { allowHalfOpen }: { readonly allowHalfOpen: boolean } = { allowHalfOpen: false },
): Promise<net.Socket> {
  const target = host.target.kind === "unix"
    ? { path: host.target.path }
    : { host: host.target.address, port: host.port, ...BOTH_FAMILIES };
  const options = { ...target, allowHalfOpen };
  const socket = net.connect(onread === undefined ? options : { ...options, onread });
  try {
    await happened(socket, "connect", signal);
  } catch (cause) {
    socket.destroy();
    throw signal.aborted ? cause : connectFailure(cause, host);
  }
  if (host.target.kind === "tcp") {
    socket.setNoDelay(true);
    socket.setKeepAlive(keepalive.enabled, keepalive.idleMs);
  }
  return socket;
}

async function startTls(
  plain: net.Socket,
  { request, options }: { readonly request: SocketRequest; readonly options: tls.ConnectionOptions },
): Promise<net.Socket> {
  const { host, signal } = request;
  let socket = plain;
  try {
    if (request.tls.negotiation === "postgres" && !await serverTakesTls(plain, { host, signal })) {
      throw new ConnectionError(
        "tls",
        `Cannot connect to ${formatAddress(host)}: the server does not offer TLS`,
        {
          hint: "Set ssl = on there, or sslmode=disable here",
        },
      );
    }
    const secure = tls.connect({ ...options, socket: plain });
    socket = secure;
    await happened(secure, "secureConnect", signal);
    if (request.tls.negotiation === "direct" && secure.alpnProtocol !== "postgresql") {
      throw new Error('the server did not agree to the protocol "postgresql"');
    }
    return secure;
  } catch (cause) {
    socket.destroy();
    plain.destroy();
    if (signal.aborted || cause instanceof ConnectionError) throw cause;
    throw new ConnectionError("tls", `Cannot start TLS with ${formatAddress(host)}: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/** Asks for TLS; the answer is one byte. */
async function serverTakesTls(
  socket: net.Socket,
  { host, signal }: Pick<SocketRequest, "host" | "signal">,
): Promise<boolean> {
  try {
    socket.write(Uint8Array.of(0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f)); // SSLRequest, 80877103
    const answer = await happened<Uint8Array>(socket, "data", signal);
    // More than one byte here would be read as if it had come encrypted (CVE-2021-23222).
    if (answer.length === 1 && answer[0] === 0x53) return true;
    if (answer.length === 1 && answer[0] === 0x4e) return false;
    // An error instead of an answer, as from a server that can start no session just now. Who says so is not proven, so
    // its words are not told; libpq does the same.
    if (answer[0] === 0x45) {
      throw new ConnectionError(
        "refused",
        `Cannot connect to ${formatAddress(host)}: the server can start no session now`,
        { hint: "it may be starting, stopping, or out of processes or memory: look at its log" },
      );
    }
    throw new ProtocolError(
      `Cannot decode answer to SSLRequest: ${answer.length} bytes, the first ${answer[0]}, want S or N`,
    );
  } catch (cause) {
    throw signal.aborted || cause instanceof ConnectionError ? cause : connectFailure(cause, host);
  }
}

/** The event's first value; an error or an end that comes before it, or the signal, rejects. */
function happened<T>(socket: net.Socket, event: string, signal: AbortSignal): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const onEnd = () => {
    reject(Object.assign(new Error("the other side closed the connection"), { code: "ECONNRESET" }));
  };
  const onAbort = () => reject(signal.reason);
  socket.once(event, resolve).once("error", reject).once("end", onEnd).once("close", onEnd);
  signal.addEventListener("abort", onAbort, { once: true });
  return promise.finally(() => {
    socket.off(event, resolve).off("end", onEnd).off("close", onEnd);
    // An error may still follow the first one; nobody else listens yet, and without a listener it would be thrown.
    socket.off("error", reject).on("error", ignore);
    if (event === "data") socket.pause();
    signal.removeEventListener("abort", onAbort);
  });
}

function ignore(): void {}

/** What the operating system's words mean. */
const KINDS: ReadonlyMap<unknown, ConnectionErrorKind> = new Map([
  ["ENOTFOUND", "unresolved"],
  ["EAI_AGAIN", "unresolved"],
  ["ETIMEDOUT", "timeout"],
  ["ECONNRESET", "closed"],
  ["EPIPE", "closed"],
]);

function connectFailure(cause: unknown, host: Host): ConnectionError {
  const text = `Cannot connect to ${formatAddress(host)}: ${messageOf(cause)}`;
  if (isForbidden(cause)) {
    return new ConnectionError("forbidden", text, {
      cause,
      hint: `allow it with --allow-net=${
        formatAddress(host)
      }, or for a socket also --allow-read and --allow-write`,
    });
  }
  const kind = cause instanceof ProtocolError
    ? "protocol"
    : KINDS.get((cause as { readonly code?: unknown }).code) ?? "refused";
  return new ConnectionError(kind, text, { cause, hint: CONNECT_ADVICE.get(kind) });
}

/** The sandbox says so in two ways: for names as if the name server had, for addresses with an error of its own. */
function isForbidden(error: unknown): boolean {
  const { name, code } = error as { readonly name?: unknown; readonly code?: unknown };
  return name === "NotCapable" || code === "EPERM";
}

/** The next command for what the network refuses. */
const CONNECT_ADVICE: ReadonlyMap<ConnectionErrorKind, string> = new Map([
  ["refused", "look whether the server runs, and whether its listen_addresses and port are these"],
  ["unresolved", "look for a mistake in host=, or give the address with hostaddr="],
  ["timeout", "look whether a firewall is in the way, or raise connect_timeout="],
]);

function messageOf(error: unknown): string {
  // A name with several addresses: the runtimes give the causes, and no message.
  if (error instanceof AggregateError) return error.errors.map(messageOf).join(", ");
  return error instanceof Error && error.message !== "" ? error.message : String(error);
}
