import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  advanceSlotQuery,
  checkSlotName,
  createReplicationSlotCommand,
  dropReplicationSlotCommand,
  knowsReadReplicationSlot,
  readReplicationSlotCommand,
  readSlotQuery,
  showCommand,
  startReplicationCommand,
  timelineHistoryCommand,
} from "../../lib/protocol/commands.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

describe("commands", () => {
  it("have the words of each version", () => {
    const start = { startLsn: parseLsn("16/B3000000"), timeline: timelineId(10) };
    for (
      const [got, want] of [
        [createReplicationSlotCommand("a_1", 140_011), 'CREATE_REPLICATION_SLOT "a_1" PHYSICAL RESERVE_WAL'],
        [
          createReplicationSlotCommand("a_1", 150_000),
          'CREATE_REPLICATION_SLOT "a_1" PHYSICAL (RESERVE_WAL)',
        ],
        [readReplicationSlotCommand("a"), 'READ_REPLICATION_SLOT "a"'],
        [dropReplicationSlotCommand("a"), 'DROP_REPLICATION_SLOT "a"'],
        [timelineHistoryCommand(timelineId(4_294_967_295)), "TIMELINE_HISTORY 4294967295"],
        [
          advanceSlotQuery("a", { toLsn: start.startLsn, role: "primary" }),
          "SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN " +
          "(pg_catalog.pg_replication_slot_advance('a', '16/B3000000')).end_lsn END AS restart_lsn",
        ],
        [showCommand("wal_segment_size"), "SHOW wal_segment_size"],
        [
          startReplicationCommand({ slot: undefined, ...start }),
          "START_REPLICATION PHYSICAL 16/B3000000 TIMELINE 10",
        ],
        [
          startReplicationCommand({ slot: "s", ...start }),
          'START_REPLICATION SLOT "s" PHYSICAL 16/B3000000 TIMELINE 10',
        ],
      ] as const
    ) assert.equal(got, want);
    assert.ok(readSlotQuery("a").endsWith("WHERE slot_name = 'a'"));
    assert.deepEqual([149_999, 150_000].map(knowsReadReplicationSlot), [false, true]);
  });

  for (const name of ["", "A", "a-b", 'a"b', "a'b", "a b", "ä", "a\n", "a".repeat(64)]) {
    it(`checkSlotName() refuses ${JSON.stringify(name)}`, () => {
      assert.throws(() => checkSlotName(name), RangeError);
      for (const build of [readReplicationSlotCommand, readSlotQuery, dropReplicationSlotCommand]) {
        assert.throws(() => build(name), RangeError);
      }
    });
  }

  it("checkSlotName() takes 63 characters", () => {
    assert.equal(checkSlotName("a".repeat(63)), "a".repeat(63));
  });

  for (const name of ["", "a b", "a;b", "1a", "a'", "all\0"]) {
    it(`showCommand() refuses ${JSON.stringify(name)}`, () =>
      assert.throws(() => showCommand(name), RangeError));
  }
});
