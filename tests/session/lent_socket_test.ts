import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "../../lib/session/connect.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { type FakeConnection, startFakeServer } from "./fake_server.ts";
import { COPY_BOTH, logIn } from "./fake_walsender.ts";
import { Counting, settingsFor, SILENT, SLOW, tcpHost } from "./support.ts";

const STATUS_BYTES = 39;
const LSN = parseLsn("0/3000000");
/** More than the buffers of both ends hold. */
const MAXIMUM_STATUSES = 1_000_000;

/** What lies below a socket of Bun; `pause()` of the socket alone does not keep it from reading. */
interface Pausable {
  pause(): void;
  resume(): void;
}

test("a socket is not lent while a status of ours waits in front of a server that does not read", {
  ...SLOW,
  skip: process.versions["bun"] === undefined ? "Bun alone lends sockets" : false,
}, async () => {
  let server: FakeConnection | undefined;
  const received: Uint8Array[] = [];
  const handleOf = ({ socket }: FakeConnection) =>
    (socket as unknown as { readonly _handle: Pausable })._handle;
  await using listening = await startFakeServer(async (connection) => {
    await logIn(connection);
    server = connection;
    connection.socket.on("data", (chunk) => void received.push(chunk));
    connection.send(COPY_BOTH);
  });
  const source = await connect(settingsFor([tcpHost(listening.port)]), { log: SILENT });
  const start = { slot: undefined, startLsn: LSN, timeline: timelineId(1) };
  const stream = await source.startReplication(start, new Counting());
  const sendStatus = () => stream.sendStatus({ writeLsn: LSN, flushLsn: LSN, replyRequested: false });
  const lendable = () => {
    const loan = stream.lend?.();
    loan?.giveBack({
      nextLsn: LSN,
      rest: new Uint8Array(0),
      tornStatus: false,
      serverEndLsn: LSN,
      heardCount: 0,
    });
    return loan !== undefined;
  };
  await sleep(100);
  assert.ok(lendable(), "nothing waits");
  handleOf(server!).pause();
  let count = 0;
  while (lendable()) {
    assert.ok(++count < MAXIMUM_STATUSES, "the send buffer is never full");
    sendStatus();
  }
  // Whatever comes later does not open it either.
  sendStatus();
  await sleep(100);
  assert.ok(!lendable());
  handleOf(server!).resume();
  while (!lendable()) await sleep(20);
  await sleep(100);
  const bytes = new Uint8Array(await new Blob(received as BlobPart[]).arrayBuffer());
  assert.equal(bytes.length % STATUS_BYTES, 0);
  assert.ok(bytes.length >= count * STATUS_BYTES);
  for (let at = 0; at < bytes.length; at += STATUS_BYTES) {
    if (bytes[at] !== 0x64 || bytes[at + 5] !== 0x72) assert.fail(`no status begins at byte ${at}`);
  }
  await source.close();
});
