import net from "node:net";
import tls from "node:tls";
import type { Host, TcpKeepalive, TlsSettings } from "../conninfo/settings.ts";
import { ConnectionError, type ConnectionErrorKind, ProtocolError } from "../protocol/errors.ts";
import { tlsOptions } from "./tls_options.ts";

/** How a socket is to be made: without TLS, with it, or with it if the server can. */
export type Encryption = "plain" | "tls" | "tls-or-plain";

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
export async function openSocket(request: SocketRequest): Promise<net.Socket> {
  const { host, encryption, keepalive, signal } = request;
  signal.throwIfAborted();
  // Files first: nothing is sent when a certificate can't be read.
  const secure = encryption === "plain" ? undefined : await tlsOptions(host, request.tls);
  const socket = host.target.kind === "unix"
    ? net.connect({ path: host.target.path })
    : net.connect({ host: host.target.address, port: host.port, autoSelectFamily: true });
  try {
    await happened(socket, "connect", signal);
    if (host.target.kind === "tcp") {
      socket.setNoDelay(true);
      socket.setKeepAlive(keepalive.enabled, keepalive.idleMs);
    }
    if (secure === undefined) return socket;
    if (request.tls.negotiation === "postgres" && !await serverTakesTls(socket, signal)) {
      if (encryption === "tls-or-plain") return socket;
      throw new ConnectionError(
        "tls",
        `Cannot connect to ${formatAddress(host)}: the server does not offer TLS`,
        {
          hint: "Set ssl = on there, or sslmode=disable here",
        },
      );
    }
    return await startTls(socket, { request, options: secure });
  } catch (error) {
    socket.destroy();
    if (signal.aborted || error instanceof ConnectionError) throw error;
    throw connectFailure(error, host);
  }
}

async function startTls(
  plain: net.Socket,
  { request, options }: { readonly request: SocketRequest; readonly options: tls.ConnectionOptions },
): Promise<net.Socket> {
  const { host, signal } = request;
  const socket = tls.connect({ ...options, socket: plain });
  try {
    await happened(socket, "secureConnect", signal);
    if (request.tls.negotiation === "direct" && socket.alpnProtocol !== "postgresql") {
      throw new Error('the server did not agree to the protocol "postgresql"');
    }
    return socket;
  } catch (cause) {
    socket.destroy();
    if (signal.aborted) throw cause;
    throw new ConnectionError("tls", `Cannot start TLS with ${formatAddress(host)}: ${messageOf(cause)}`, {
      cause,
    });
  }
}

/** Asks for TLS; the answer is one byte. */
async function serverTakesTls(socket: net.Socket, signal: AbortSignal): Promise<boolean> {
  socket.write(Uint8Array.of(0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f)); // SSLRequest, 80877103
  const answer = await happened<Uint8Array>(socket, "data", signal);
  // More than one byte here would be read as if it had come encrypted (CVE-2021-23222).
  if (answer.length === 1 && answer[0] === 0x53) return true;
  if (answer.length === 1 && answer[0] === 0x4e) return false;
  throw new ProtocolError(
    `Cannot decode answer to SSLRequest: ${answer.length} bytes, first ${answer[0]}, want S or N`,
  );
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
  const kind = cause instanceof ProtocolError
    ? "protocol"
    : KINDS.get((cause as { readonly code?: unknown }).code) ?? "refused";
  return new ConnectionError(kind, `Cannot connect to ${formatAddress(host)}: ${messageOf(cause)}`, {
    cause,
  });
}

function messageOf(error: unknown): string {
  return error instanceof Error && error.message !== "" ? error.message : String(error);
}
