import assert from "node:assert/strict";
import { EventEmitter } from "node:events";
import type { Socket } from "node:net";
import { test } from "node:test";
import { CopyBothDecoder } from "../../lib/protocol/copy_both.ts";
import type { AuthGuard } from "../../lib/session/auth_guard.ts";
import { SocketTap } from "../../lib/session/socket_tap.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { frame } from "../protocol/frames.ts";
import { COPY_BOTH } from "./fake_walsender.ts";
import { Counting } from "./support.ts";

const LSN = parseLsn("0/3000000");
const NOTHING: Uint8Array = new Uint8Array(0);
const SHUT_DOWN = frame("C", [...new TextEncoder().encode("COPY 0"), 0]);
const NO_GUARD = { sent() {}, check() {} } as unknown as AuthGuard;

/** A socket of which a test says what comes, and when it ends. */
class FakeSocket extends EventEmitter {
  readonly writableLength = 0;
  readonly readableLength = 0;
  readonly writableNeedDrain = false;
  readonly written: Uint8Array[] = [];
  isDestroyed = false;

  write(bytes: Uint8Array): void {
    this.written.push(bytes);
  }

  destroy(): void {
    this.isDestroyed = true;
  }

  pause(): void {}
  resume(): void {}
}

/** A stream that has begun, on a socket that is lent; `unread`: what stands in it and nobody has read. */
function lendOne(unread: Uint8Array = NOTHING) {
  const socket = new FakeSocket();
  const told: string[] = [];
  let take: (chunk: Uint8Array) => void = () => {};
  const tap = new SocketTap({
    socket: socket as unknown as Socket,
    read: (onChunk) => void (take = onChunk),
    lendable: {
      descriptor: 7,
      stopReading() {},
      goOnReading: () => void told.push("reads again"),
      readRest: (onChunk) => onChunk(unread),
    },
  }, {
    guard: NO_GUARD,
    listener: {
      onParameter() {},
      onNotice() {},
      onServerError() {},
      onEnd: (cause) => void told.push(cause === undefined ? "closed" : (cause as Error).message),
    },
  });
  tap.awaitCopy({
    decoder: new CopyBothDecoder(LSN, new Counting()),
    onStart() {},
    onDrained() {},
    onServerDone() {},
    onShutdown: () => void told.push("shutdown"),
  });
  take(COPY_BOTH);
  assert.equal(tap.lend(), 7);
  const giveBack = (rest: Uint8Array) =>
    tap.takeBack({ nextLsn: LSN, rest, tornStatus: false, serverEndLsn: LSN, heardCount: 1 });
  return { socket, tap, told, giveBack };
}

const END = "the server shut down";

test("the end of a lent socket waits for the last words that its borrower has read", () => {
  const { socket, tap, told, giveBack } = lendOne();
  socket.emit("end");
  socket.emit("error", new Error("EPIPE"));
  socket.emit("close");
  assert.deepEqual(told, []);
  tap.sendStatus(NOTHING);
  assert.equal(socket.written.length, 0, "nobody is there to take a status");
  giveBack(SHUT_DOWN);
  assert.deepEqual(told, ["shutdown", END]);
  assert.ok(socket.isDestroyed);
});

test("last words that nobody has read are read when a lent socket comes back", () => {
  const { socket, told, giveBack } = lendOne(SHUT_DOWN);
  socket.emit("end");
  giveBack(NOTHING);
  assert.deepEqual(told, ["shutdown", END]);
});

test("a lent socket that ends without last words has ended when it comes back, for the first reason", () => {
  const { socket, told, giveBack } = lendOne();
  socket.emit("error", new Error("read ECONNRESET"));
  socket.emit("close");
  assert.deepEqual(told, []);
  giveBack(NOTHING);
  assert.deepEqual(told, ["read ECONNRESET"]);
  assert.ok(socket.isDestroyed);
});

test("a lent socket that is cut here ends at once, and one that came back ends when it does", () => {
  const cut = lendOne();
  cut.tap.cut();
  assert.deepEqual(cut.told, ["it was closed here"]);
  cut.giveBack(SHUT_DOWN);
  assert.deepEqual(cut.told, ["it was closed here"]);
  const back = lendOne();
  back.giveBack(NOTHING);
  back.socket.emit("end");
  assert.deepEqual(back.told, ["reads again", "closed"]);
});
