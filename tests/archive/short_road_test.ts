import assert from "node:assert/strict";
import { test } from "node:test";
import { DISK_PROTOCOL } from "../../lib/archive/disk_executor.ts";
import { type ShortRoadResult, takeShortRoad } from "../../lib/archive/short_road.ts";
import { concat, frame, keepalive, walBytes, xlogData } from "../protocol/frames.ts";

const MIB = 1 << 20;
/** In the third segment of a log, so that both halves of an LSN count. */
const START = 0x5_0020_0000n;
const POSITION = 4096;
const MEMORY_BYTES = 4096;
const OFFSET = 64;
const words = DISK_PROTOCOL.road;

interface Given {
  /** What comes, chunk by chunk; after the last one the loan is ended. */
  readonly chunks: readonly Uint8Array[];
  readonly position?: number;
  readonly memoryBytes?: number;
  /** Throws at this call of write or sync, counted from 1. */
  readonly failAt?: { readonly step: "write" | "sync"; readonly call: number };
  /** Bytes that a send takes; -1 for none. */
  readonly sendTakes?: number;
  /** Ends the loan while the disk is at work. */
  readonly revokeInSync?: boolean;
  /** Ends the loan while it waits for the server. */
  readonly revokeInPoll?: boolean;
}

/** What happened, in order: `write AT+LENGTH`, `sync`, `status FLUSH`. */
function run(given: Given) {
  const { chunks, position = POSITION, memoryBytes = MEMORY_BYTES, failAt, sendTakes = 39 } = given;
  const events: string[] = [];
  const file = new Uint8Array(MIB);
  const memory = new Uint8Array(new SharedArrayBuffer(OFFSET + memoryBytes));
  const control = new Int32Array(new SharedArrayBuffer(DISK_PROTOCOL.controlWords * 4));
  const left = [...chunks];
  const calls = { write: 0, sync: 0 };
  const failWhenDue = (step: "write" | "sync") => {
    calls[step]++;
    if (failAt?.step === step && failAt.call === calls[step]) {
      throw Object.assign(new Error(`no ${step}`), { code: "EIO" });
    }
  };
  const request = {
    handle: 7,
    descriptor: 9,
    startHigh: Number(START >> 32n),
    startLow: Number(START & 0xffff_ffffn),
    segmentBytes: MIB,
    position,
    offset: OFFSET,
    length: memoryBytes,
  };
  const result: ShortRoadResult = takeShortRoad(request, {
    memory,
    control,
    words,
    nowMs: () => 946_684_800_000 + 5,
    sockets: {
      poll: () => {
        if (given.revokeInPoll === true) Atomics.store(control, words.revoked, 1);
        if (left.length > 0) return 1;
        Atomics.store(control, words.revoked, 1);
        return 0;
      },
      receive: (descriptor, offset, length) => {
        assert.equal(descriptor, 9);
        const chunk = left.shift() ?? new Uint8Array(0);
        assert.ok(chunk.length <= length, "there is room");
        memory.set(chunk, offset);
        return chunk.length;
      },
      send: (descriptor, offset, length) => {
        assert.equal(descriptor, 9);
        const view = new DataView(memory.buffer, offset, length);
        assert.deepEqual([view.getUint8(0), view.getUint32(1), view.getUint8(5)], [0x64, 38, 0x72]);
        assert.equal(view.getBigUint64(6), view.getBigUint64(14), "all that is written is durable");
        assert.equal(view.getBigUint64(22), 0n, "apply is never claimed");
        assert.equal(view.getBigInt64(30), 5000n);
        assert.equal(view.getUint8(38), 0);
        assert.equal(Atomics.load(control, words.sending), 1, "whoever ends the loan now waits");
        events.push(`status ${view.getBigUint64(14) - START}`);
        return sendTakes;
      },
    },
    disk: {
      write: (handle, { bytes, offset, length }, at) => {
        assert.equal(handle, 7);
        failWhenDue("write");
        assert.equal(Atomics.load(control, words.received) >= at + length, true);
        file.set(bytes.subarray(offset, offset + length), at);
        events.push(`write ${at}+${length}`);
      },
      sync: () => {
        failWhenDue("sync");
        if (given.revokeInSync === true) Atomics.store(control, words.revoked, 1);
        events.push("sync");
      },
    },
  });
  assert.equal(Atomics.load(control, words.sending), 0);
  const rest = memory.slice(OFFSET, OFFSET + result.restBytes);
  return { result, events, file, rest, control, unread: left.length };
}

/** WAL for `position` of the segment. */
function wal(position: number, count: number, serverEnd = position + count): Uint8Array {
  return xlogData(START + BigInt(position), walBytes(count, position), START + BigInt(serverEnd));
}

test("the short road writes, syncs, and only then reports (P2)", () => {
  const { result, events, file, control } = run({ chunks: [wal(4096, 100), wal(4196, 8)] });
  assert.deepEqual(events, ["write 4096+100", "sync", "status 4196", "write 4196+8", "sync", "status 4204"]);
  assert.deepEqual(result, { end: { kind: "handed-back" }, position: 4204, restBytes: 0 });
  assert.deepEqual(file.slice(4096, 4196), walBytes(100, 4096));
  assert.equal(Atomics.load(control, words.durable), 4204);
  assert.equal(Atomics.load(control, words.heard), 2);
});

test("the short road: messages that come together have one sync and one status", () => {
  const chunk = concat(wal(4096, 10), keepalive(START + 4200n, 0), wal(4106, 20, 5000));
  const { events, control } = run({ chunks: [chunk] });
  assert.deepEqual(events, ["write 4096+10", "write 4106+20", "sync", "status 4126"]);
  assert.equal(Atomics.load(control, words.behind), 5000 - 4126);
});

test("the short road takes messages cut anywhere, and hands a part back from the message's start", () => {
  const messages = concat(wal(4096, 30), keepalive(START + 4126n, 1), wal(4126, 5));
  for (let cut = 1; cut < messages.length; cut++) {
    const parts = [messages.slice(0, cut), messages.slice(cut)];
    const { result, file } = run({ chunks: parts });
    assert.deepEqual(result, { end: { kind: "handed-back" }, position: 4131, restBytes: 0 }, `cut at ${cut}`);
    assert.deepEqual(file.slice(4096, 4131), concat(walBytes(30, 4096), walBytes(5, 4126)));

    const short = run({ chunks: parts.slice(0, 1) });
    const taken = short.result.position;
    const handled = taken === 4096 ? 0 : cut < 30 + 30 + 23 ? 60 : 83;
    assert.deepEqual(short.rest, messages.slice(handled, cut), `the rest of a cut at ${cut}`);
  }
});

test("the short road answers a request for a reply, without a sync when nothing came", () => {
  const asked = run({ chunks: [keepalive(START + 4096n, 1), keepalive(START + 4096n, 0)] });
  assert.deepEqual(asked.events, ["status 4096"]);
});

const UNUSUAL: readonly (readonly [name: string, message: Uint8Array])[] = [
  ["a gap", wal(4100, 10)],
  ["an overlap", wal(4090, 10)],
  ["WAL of another log", xlogData(START + (1n << 32n) + 4096n, walBytes(10))],
  ["the server's CopyDone", frame("c", [])],
  ["an error", frame("E", [0])],
  ["an unknown message", frame("d", [0x78, 1, 2, 3])],
  ["a keepalive that is too long", frame("d", [0x6b, ...new Uint8Array(18)])],
  ["WAL that is too short for its header", frame("d", [0x77, ...new Uint8Array(10)])],
  ["a message longer than the memory", frame("d", [0x77, ...new Uint8Array(MEMORY_BYTES)]).slice(0, 100)],
  ["a length of nothing", Uint8Array.of(0x64, 0, 0, 0, 0, 0, 0, 0)],
];

for (const [name, message] of UNUSUAL) {
  test(`the short road hands back ${name}, unread, and what came before it is durable`, () => {
    const alone = run({ chunks: [message] });
    assert.deepEqual(alone.events, []);
    assert.deepEqual(alone.rest, message);
    assert.equal(alone.result.position, 4096);
    assert.equal(alone.result.end.kind, "handed-back");
    const before = wal(4096, 12);
    const behind = run({ chunks: [concat(before, message.slice())], position: 4096 });
    if (name === "a gap" || name === "an overlap") return;
    assert.deepEqual(behind.events, ["write 4096+12", "sync", "status 4108"]);
    assert.deepEqual(behind.rest, message);
  });
}

test("the short road leaves the segment's last byte to the one who publishes", () => {
  const position = MIB - 100;
  const inside = run({ chunks: [wal(position, 99)], position });
  assert.equal(inside.result.position, MIB - 1);
  for (const count of [100, 101, 500]) {
    const message = wal(position, count);
    const { result, rest, events } = run({ chunks: [message], position });
    assert.deepEqual(events, []);
    assert.equal(result.position, position);
    assert.deepEqual(rest, message);
  }
});

test("the short road is left when the server is far ahead", () => {
  const near = run({ chunks: [wal(4096, 10, 4106 + MIB), wal(4106, 1)] });
  assert.equal(near.unread, 0);
  const far = run({ chunks: [wal(4096, 10, 4107 + MIB), wal(4106, 1)] });
  assert.equal(far.unread, 1);
  assert.deepEqual(far.events, ["write 4096+10", "sync", "status 4106"]);
});

for (const step of ["write", "sync"] as const) {
  test(`the short road hands everything back when a ${step} fails, and reports nothing`, () => {
    const chunk = concat(wal(4106, 10), wal(4116, 10));
    const { result, rest, events } = run({
      chunks: [wal(4096, 10), chunk],
      failAt: { step, call: step === "write" ? 3 : 2 },
    });
    assert.deepEqual(result.end, { kind: "failed", step, message: `no ${step}`, code: "EIO" });
    assert.equal(result.position, 4106);
    assert.deepEqual(rest, chunk);
    assert.equal(events.filter((event) => event.startsWith("status")).join(), "status 4106");
  });
}

test("the short road says nothing when the loan ended while the disk was at work", () => {
  const { result, events } = run({ chunks: [wal(4096, 10), wal(4106, 10)], revokeInSync: true });
  assert.deepEqual(events, ["write 4096+10", "sync"]);
  assert.deepEqual(result, { end: { kind: "handed-back" }, position: 4106, restBytes: 0 });
});

test("the short road ends at a status that goes out in part, or not at all", () => {
  assert.equal(run({ chunks: [wal(4096, 10), wal(4106, 10)], sendTakes: 20 }).result.end.kind, "torn-status");
  const full = run({ chunks: [wal(4096, 10), wal(4106, 10)], sendTakes: -1 });
  assert.deepEqual(full.result, { end: { kind: "handed-back" }, position: 4106, restBytes: 0 });
  assert.equal(full.unread, 1);
});

test("the short road ends when the socket ends", () => {
  const { result, unread } = run({ chunks: [new Uint8Array(0), wal(4096, 10)] });
  assert.deepEqual(result, { end: { kind: "socket-ended" }, position: 4096, restBytes: 0 });
  assert.equal(unread, 1);
});

test("the short road reads nothing any more once the loan has ended", () => {
  const { result, events, unread } = run({ chunks: [wal(4096, 100)], revokeInPoll: true });
  assert.deepEqual(result, { end: { kind: "handed-back" }, position: 4096, restBytes: 0 });
  assert.deepEqual({ events, unread }, { events: [], unread: 1 });
});
