/** A TCP proxy between a receiver and its server that does to the bytes what networks do. */
import { once } from "node:events";
import { connect, createServer, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** Who sent the bytes. */
export type Sender = "server" | "client";

/** What is to happen once to the bytes of one sender. */
interface Harm {
  readonly from: Sender;
  readonly kind: "truncate" | "flip";
  /** That many pass unharmed before. */
  leftBytes: number;
  readonly done: () => void;
}

const HOST = "127.0.0.1";

/**
 * Leads connections to a port of this machine. At peace bytes pass as they come; each fault lasts until `heal()`, but
 * for those that happen once.
 */
export class FaultProxy {
  readonly host = HOST;
  readonly port: number;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #targetPort: number;
  #isCut = false;
  #delayMs = 0;
  #bytesPerSecond = Infinity;
  #harm: Harm | undefined;
  #spoken: Promise<void> = Promise.resolve();
  #speak: () => void = () => {};

  private constructor(server: Server, port: number, targetPort: number) {
    this.#server = server;
    this.port = port;
    this.#targetPort = targetPort;
    server.on("connection", (client) => this.#accept(client));
  }

  static async open(targetPort: number): Promise<FaultProxy> {
    const server = createServer({ allowHalfOpen: true });
    server.listen(0, HOST);
    await once(server, "listening");
    const address = server.address();
    if (address === null || typeof address === "string") throw new Error("Cannot find the proxy's port");
    return new FaultProxy(server, address.port, targetPort);
  }

  /** New connections go there. */
  leadTo(targetPort: number): void {
    this.#targetPort = targetPort;
  }

  /** Every connection is reset, and none is let in. */
  cut(): void {
    this.#isCut = true;
    this.#reset();
  }

  /** Half-open: connections stay, and new ones are taken, but nothing passes, not even that one side has closed. */
  silence(): void {
    this.#spoken = new Promise((resolve) => this.#speak = resolve);
  }

  /** Each piece comes so much later. */
  delay(ms: number): void {
    this.#delayMs = ms;
  }

  slow(bytesPerSecond: number): void {
    this.#bytesPerSecond = bytesPerSecond;
  }

  /** Lets so many bytes of the server's pass, and closes in the middle of what comes then. Settles when it is done. */
  truncateAfter(bytes: number): Promise<void> {
    return this.#harmOnce("truncate", "server", bytes);
  }

  /** Lets so many bytes pass, and flips one bit of the next. Settles when it is done. */
  flipAfter(bytes: number, from: Sender): Promise<void> {
    return this.#harmOnce("flip", from, bytes);
  }

  /** Nothing is wrong any more; what was held back comes now. */
  heal(): void {
    this.#isCut = false;
    this.#delayMs = 0;
    this.#bytesPerSecond = Infinity;
    this.#harm?.done();
    this.#harm = undefined;
    this.#speak();
  }

  async close(): Promise<void> {
    this.heal();
    this.#reset();
    this.#server.close();
    await once(this.#server, "close");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #harmOnce(kind: Harm["kind"], from: Sender, bytes: number): Promise<void> {
    return new Promise((done) => this.#harm = { kind, from, leftBytes: bytes, done });
  }

  #reset(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  #accept(client: Socket): void {
    // Errors end the loops below; this one only keeps them from ending the process.
    client.on("error", () => {});
    if (this.#isCut) {
      client.resetAndDestroy();
      return;
    }
    const server = connect({ host: HOST, port: this.#targetPort, allowHalfOpen: true });
    server.on("error", () => {});
    for (const socket of [client, server]) {
      socket.setNoDelay(true);
      this.#sockets.add(socket);
      socket.once("close", () => this.#sockets.delete(socket));
    }
    void this.#carry(client, server, "client");
    void this.#carry(server, client, "server");
  }

  async #carry(from: Socket, to: Socket, sender: Sender): Promise<void> {
    try {
      for await (const piece of from) {
        await this.#spoken;
        if (this.#delayMs > 0) await sleep(this.#delayMs);
        const { bytes, isLast } = this.#harmed(piece, sender);
        if (!to.write(bytes)) await drained(to);
        if (isLast) {
          to.end();
          from.destroy();
          return;
        }
        if (Number.isFinite(this.#bytesPerSecond)) await sleep(bytes.length / this.#bytesPerSecond * 1000);
      }
      await this.#spoken;
      to.end();
    } catch {
      // One side is gone: so is the other, as soon as it can be known.
      await this.#spoken;
      from.destroy();
      to.destroy();
    }
  }

  #harmed(piece: Uint8Array, sender: Sender): { readonly bytes: Uint8Array; readonly isLast: boolean } {
    const harm = this.#harm;
    if (harm?.from !== sender) return { bytes: piece, isLast: false };
    if (harm.leftBytes >= piece.length) {
      harm.leftBytes -= piece.length;
      return { bytes: piece, isLast: false };
    }
    this.#harm = undefined;
    harm.done();
    const at = harm.leftBytes;
    if (harm.kind === "truncate") return { bytes: piece.slice(0, at), isLast: true };
    const bytes = piece.slice();
    bytes[at]! ^= 1 << (at % 8);
    return { bytes, isLast: false };
  }
}

/** Waits until it takes more, or nothing any more. */
async function drained(socket: Socket): Promise<void> {
  const enough = new AbortController();
  const { signal } = enough;
  try {
    await Promise.race([once(socket, "drain", { signal }), once(socket, "close", { signal })]);
  } finally {
    enough.abort();
  }
}
