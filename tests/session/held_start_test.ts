/** What happens between CopyBothResponse and the caller's first word: nothing may be read on meanwhile. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ServerError } from "../../lib/protocol/errors.ts";
import { connect } from "../../lib/session/connect.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { errorFields, frame, xlogData } from "../protocol/frames.ts";
import { type FakeConnection, startFakeServer } from "./fake_server.ts";
import { COPY_BOTH, logIn, READY } from "./fake_walsender.ts";
import { Counting, settingsFor, SILENT, SLOW, tcpHost } from "./support.ts";

const MIB = 1024 * 1024;
const START = { slot: undefined, startLsn: parseLsn("0/3000000"), timeline: timelineId(1) };
const MESSAGE_BYTES = 128 * 1024;
const FLOOD_BYTES = 32 * MIB;

/** Streams as fast as the socket takes it, all of it ready before the client can say a word. */
function flood({ send, socket }: FakeConnection): void {
  const wal = new Uint8Array(MESSAGE_BYTES);
  send(COPY_BOTH);
  for (let sent = 0; sent < FLOOD_BYTES; sent += MESSAGE_BYTES) {
    socket.write(xlogData(START.startLsn + BigInt(sent), wal));
  }
}

function open(port: number) {
  return connect(settingsFor([tcpHost(port)]), { log: SILENT });
}

test(
  "startReplication() hands over at most 1 MiB before the caller can pause, and all of it after resume()",
  SLOW,
  async () => {
    await using server = await startFakeServer(async (connection) => {
      await logIn(connection);
      flood(connection);
    });
    const source = await open(server.port);
    const handler = new Counting();
    const stream = await source.startReplication(START, handler);
    stream.pause();
    const before = handler.bytes;
    assert.ok(before <= MIB, `${before} bytes came before the pause`);
    await sleep(300);
    assert.ok(handler.bytes <= MIB, `${handler.bytes} bytes came in spite of the pause`);
    stream.resume();
    await handler.reached(START.startLsn + BigInt(FLOOD_BYTES));
    assert.equal(handler.bytes, FLOOD_BYTES);
    await source.close();
  },
);

test("startReplication() flows by itself when the caller says nothing", SLOW, async () => {
  await using server = await startFakeServer(async (connection) => {
    await logIn(connection);
    flood(connection);
  });
  const source = await open(server.port);
  const handler = new Counting();
  await source.startReplication(START, handler);
  await handler.reached(START.startLsn + BigInt(FLOOD_BYTES));
  await source.close();
});

test("startReplication() whose caller pauses and resumes at once flows", SLOW, async () => {
  await using server = await startFakeServer(async (connection) => {
    await logIn(connection);
    flood(connection);
  });
  const source = await open(server.port);
  const handler = new Counting();
  const stream = await source.startReplication(START, handler);
  stream.pause();
  stream.resume();
  await handler.reached(START.startLsn + BigInt(FLOOD_BYTES));
  await source.close();
});

test(
  "startReplication() holds nobody up: an error right behind the start, and close() while held, come through",
  SLOW,
  async () => {
    const removed = frame("E", errorFields("SERROR", "VERROR", "C58P01", "Mremoved"));
    await using server = await startFakeServer(async (connection) => {
      await logIn(connection);
      connection.send(COPY_BOTH);
      await sleep(50);
      connection.send(removed, READY);
    });
    const source = await open(server.port);
    const stream = await source.startReplication(START, new Counting());
    await assert.rejects(stream.ended, (error) => error instanceof ServerError && error.sqlState === "58P01");
    await source.close();

    await using flooding = await startFakeServer(async (connection) => {
      await logIn(connection);
      flood(connection);
    });
    const other = await open(flooding.port);
    const held = await other.startReplication(START, new Counting());
    held.pause();
    const failed = assert.rejects(held.ended);
    const beganAt = performance.now();
    await other.close();
    await failed;
    assert.ok(performance.now() - beganAt < 4000);
  },
);

test(
  "readSlot() before 15 says which line of pg_hba.conf is missing: one for ordinary connections",
  SLOW,
  async () => {
    const refusal = frame(
      "E",
      errorFields("SFATAL", "VFATAL", "C28000", "Mno pg_hba.conf entry for host, user, database"),
    );
    let connections = 0;
    await using server = await startFakeServer(async (connection) => {
      if (connections++ === 0) return void await logIn(connection, "140010");
      await connection.receive();
      connection.send(refusal);
      connection.socket.end();
    });
    const source = await open(server.port);
    await assert.rejects(source.readSlot("wv"), (error) => {
      assert.ok(error instanceof ServerError, String(error));
      assert.match(error.hint ?? "", /^Before PostgreSQL 15 .*ordinary connection.*dbname=/);
      assert.doesNotMatch(error.hint ?? "", /host replication/);
      return true;
    });
    await source.close();
  },
);
