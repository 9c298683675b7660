/** A server that says what a test wants it to say. */
import { once } from "node:events";
import net from "node:net";

/** One accepted connection. */
export interface FakeConnection {
  readonly socket: net.Socket;
  /** Waits for the client's next bytes; an empty text when it closed. */
  receive(): Promise<string>;
  send(...parts: readonly (Uint8Array | string)[]): void;
}

/** Listens on a free port; each connection runs the script. Free it with `await using`. */
export async function startFakeServer(
  script: (connection: FakeConnection) => Promise<void> | void,
): Promise<FakeServer> {
  const server = new FakeServer(script);
  await server.listening;
  return server;
}

/** Counts connections, and closes them all in the end. */
export class FakeServer {
  connections = 0;
  readonly listening: Promise<unknown>;
  readonly #server: net.Server;
  readonly #sockets = new Set<net.Socket>();

  constructor(script: (connection: FakeConnection) => Promise<void> | void) {
    this.#server = net.createServer((socket) => {
      this.connections++;
      this.#sockets.add(socket);
      socket.on("error", () => {});
      void script(connectionOf(socket));
    });
    this.#server.listen(0, "127.0.0.1");
    this.listening = once(this.#server, "listening");
  }

  get port(): number {
    return (this.#server.address() as net.AddressInfo).port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, "close");
  }
}

function connectionOf(socket: net.Socket): FakeConnection {
  const chunks: string[] = [];
  let wake = () => {};
  let closed = false;
  socket.on("data", (chunk) => {
    chunks.push(chunk.toString("latin1"));
    wake();
  });
  socket.on("close", () => {
    closed = true;
    wake();
  });
  return {
    socket,
    async receive() {
      while (chunks.length === 0 && !closed) await new Promise<void>((resolve) => wake = resolve);
      return chunks.shift() ?? "";
    },
    send(...parts) {
      for (const part of parts) socket.write(typeof part === "string" ? part : part.slice());
    },
  };
}
