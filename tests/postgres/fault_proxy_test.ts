import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { FaultProxy } from "./fault_proxy.ts";

/** A server that sends back what it gets, behind a proxy, and one client of it. */
class Echo {
  received = Buffer.alloc(0);
  ended: "open" | "closed" | "reset" = "open";
  readonly #close: () => void;

  private constructor(readonly proxy: FaultProxy, readonly client: Socket, close: () => void) {
    this.#close = close;
    client.on("data", (bytes: Uint8Array) => this.received = Buffer.concat([this.received, bytes]));
    client.on("error", () => this.ended = "reset");
    client.on("end", () => this.ended = this.ended === "open" ? "closed" : this.ended);
  }

  static async open(): Promise<Echo> {
    const server = createServer((socket) => {
      socket.on("error", () => {});
      socket.on("data", (bytes) => socket.write(bytes));
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    const proxy = await FaultProxy.open((server.address() as { port: number }).port);
    const client = connect(proxy.port, proxy.host);
    await once(client, "connect");
    return new Echo(proxy, client, () => server.close());
  }

  async until(what: string, done: () => boolean): Promise<void> {
    for (let tries = 0; !done(); tries++) {
      if (tries > 500) throw new Error(`${what} did not happen`);
      await sleep(10);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.client.destroy();
    await this.proxy.close();
    this.#close();
  }
}

const BYTES = Buffer.from(Array.from({ length: 1000 }, (_, index) => index % 251));

test("FaultProxy at peace passes bytes as they are", async () => {
  await using echo = await Echo.open();
  echo.client.write(BYTES);
  await echo.until("the echo", () => echo.received.length === BYTES.length);
  assert.deepEqual(echo.received, BYTES);
});

test("FaultProxy.cut() resets what is there and what comes, until heal()", async () => {
  await using echo = await Echo.open();
  echo.client.write(BYTES);
  await echo.until("the echo", () => echo.received.length === BYTES.length);
  echo.proxy.cut();
  await echo.until("the reset", () => echo.ended === "reset");
  const refused = connect(echo.proxy.port, echo.proxy.host);
  // Not once(): that fails at the reset.
  await new Promise((resolve) => refused.on("error", resolve).on("close", resolve));
  echo.proxy.heal();
  const taken = connect(echo.proxy.port, echo.proxy.host);
  taken.write("again");
  const [bytes] = await once(taken, "data");
  assert.equal(String(bytes), "again");
  taken.destroy();
});

test("FaultProxy.silence() keeps connections and passes nothing, until heal()", async () => {
  await using echo = await Echo.open();
  echo.proxy.silence();
  echo.client.write(BYTES);
  await sleep(200);
  assert.equal(echo.received.length, 0);
  assert.equal(echo.ended, "open");
  echo.proxy.heal();
  await echo.until("the echo", () => echo.received.length === BYTES.length);
  assert.deepEqual(echo.received, BYTES);
});

test("FaultProxy.truncateAfter() closes in the middle of what the server sends", async () => {
  await using echo = await Echo.open();
  const done = echo.proxy.truncateAfter(300);
  echo.client.write(BYTES);
  await done;
  await echo.until("the end", () => echo.ended !== "open");
  assert.deepEqual(echo.received, BYTES.subarray(0, 300));
});

for (const from of ["server", "client"] as const) {
  test(`FaultProxy.flipAfter() changes one bit of what the ${from} sends`, async () => {
    await using echo = await Echo.open();
    const done = echo.proxy.flipAfter(300, from);
    echo.client.write(BYTES);
    await done;
    await echo.until("the echo", () => echo.received.length === BYTES.length);
    const different = [...BYTES.keys()].filter((index) => echo.received[index] !== BYTES[index]);
    assert.deepEqual(different, [300]);
  });
}

test("FaultProxy.delay() and slow() let everything through, later", async () => {
  await using echo = await Echo.open();
  echo.proxy.delay(50);
  echo.proxy.slow(10_000);
  const startedMs = performance.now();
  echo.client.write(BYTES);
  echo.client.write(BYTES);
  await echo.until("the echo", () => echo.received.length === 2 * BYTES.length);
  assert.ok(performance.now() - startedMs >= 95);
  assert.deepEqual(echo.received, Buffer.concat([BYTES, BYTES]));
});
