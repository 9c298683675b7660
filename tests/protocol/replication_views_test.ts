import assert from "node:assert/strict";
import { test } from "node:test";
import type { Answer } from "../../lib/protocol/answers.ts";
import { ProtocolError } from "../../lib/protocol/errors.ts";
import {
  decodeClock,
  decodeSenders,
  decodeSlots,
  sendersQuery,
  slotsQuery,
} from "../../lib/protocol/replication_views.ts";

type Cell = string | undefined;

function answer(columns: readonly string[], ...rows: readonly (readonly Cell[])[]): Answer {
  const bytes = (cell: Cell) => cell === undefined ? undefined : new TextEncoder().encode(cell);
  return { columns, rows: rows.map((row) => row.map(bytes)) };
}

const SLOT_COLUMNS = ["slot_name", "active_pid", "restart_lsn", "wal_status", "safe_wal_size"];
const SENDER_COLUMNS = [
  "pid",
  "application_name",
  "state",
  "sent_lsn",
  "write_lsn",
  "flush_lsn",
  "sync_state",
  "since_reply",
];

test("decodeSlots() reads slots, those that reserve nothing too", () => {
  const slots = decodeSlots(answer(
    SLOT_COLUMNS,
    ["a", "123", "16/B374D848", "extended", "-5"],
    ["b", undefined, undefined, undefined, undefined],
  ));
  assert.deepEqual(slots, [
    { name: "a", activePid: 123, restartLsn: 0x16_B374_D848n, walStatus: "extended", safeWalBytes: -5n },
    { name: "b", activePid: undefined, restartLsn: undefined, walStatus: undefined, safeWalBytes: undefined },
  ]);
  assert.deepEqual(decodeSlots(answer(SLOT_COLUMNS)), []);
});

test("decodeSenders() reads senders, of which a role may see little", () => {
  const [all, hidden] = decodeSenders(answer(
    SENDER_COLUMNS,
    ["7", "walvault", "streaming", "0/3", "0/2", "0/1", "sync", "1500"],
    ["8", "standby", ...Array.from({ length: 6 }, () => undefined)],
  ));
  assert.deepEqual(all, {
    pid: 7,
    applicationName: "walvault",
    state: "streaming",
    sentLsn: 3n,
    writeLsn: 2n,
    flushLsn: 1n,
    syncState: "sync",
    sinceReplyMs: 1500,
  });
  assert.equal(hidden?.applicationName, "standby");
  assert.equal(hidden?.flushLsn, undefined);
});

test("decodeClock() reads milliseconds", () => {
  assert.equal(decodeClock(answer(["now"], ["1795605611204"])), 1795605611204);
});

for (
  const [what, decode] of [
    ["a missing column", () => decodeSlots(answer(SLOT_COLUMNS.slice(1), ["1", "0/1", "lost", "1"]))],
    [
      "a slot without a name",
      () => decodeSlots(answer(SLOT_COLUMNS, [undefined, undefined, undefined, undefined, undefined])),
    ],
    ["an LSN that is none", () => decodeSlots(answer(SLOT_COLUMNS, ["a", "1", "x", "lost", "1"]))],
    ["a size that is none", () => decodeSlots(answer(SLOT_COLUMNS, ["a", "1", "0/1", "lost", "1.5"]))],
    ["no clock", () => decodeClock(answer(["now"]))],
    ["a clock that is none", () => decodeClock(answer(["now"], ["noon"]))],
  ] as const
) {
  test(`the decoders of views refuse ${what}`, () => assert.throws(decode, ProtocolError));
}

test("the queries ask no server for columns that it does not have", () => {
  assert.match(slotsQuery(130_005), /restart_lsn, wal_status, safe_wal_size FROM/);
  assert.match(slotsQuery(120_010), /NULL AS wal_status, NULL AS safe_wal_size/);
  assert.match(sendersQuery(120_010), /reply_time/);
  assert.doesNotMatch(sendersQuery(110_010), /reply_time/);
});
