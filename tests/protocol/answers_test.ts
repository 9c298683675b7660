import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import {
  type Answer,
  decodeServerVersion,
  decodeSetting,
  decodeSlotPosition,
  decodeSystemIdentity,
  decodeTimelineEnd,
  decodeTimelineHistory,
} from "../../lib/protocol/answers.ts";
import { ProtocolError } from "../../lib/protocol/errors.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

type Cell = string | undefined;

function answer(columns: readonly string[], ...rows: readonly (readonly Cell[])[]): Answer {
  const bytes = (cell: Cell) => cell === undefined ? undefined : new TextEncoder().encode(cell);
  return { columns, rows: rows.map((row) => row.map(bytes)) };
}

const identity = (...row: Cell[]) => answer(["systemid", "timeline", "xlogpos", "dbname"], row);
const slot = (...row: Cell[]) => answer(["slot_type", "restart_lsn", "restart_tli"], row);
const timelineEnd = (...row: Cell[]) => answer(["next_tli", "next_tli_startpos"], row);

describe("answers", () => {
  it("decodeSystemIdentity() reads all 64 bits", () => {
    assert.deepEqual(decodeSystemIdentity(identity("18446744073709551615", "10", "16/B374D848", undefined)), {
      systemIdentifier: 2n ** 64n - 1n,
      timeline: 10,
      flushLsn: 0x16B374D848n,
    });
  });

  for (
    const [what, bad] of [
      ["no row", answer(["systemid", "timeline", "xlogpos"])],
      ["two rows", answer(["systemid"], ["1"], ["2"])],
      ["a missing column", answer(["systemid", "timeline"], ["1", "1"])],
      ["a short row", answer(["systemid", "timeline", "xlogpos"], ["1", "1"])],
      ["NULL", identity(undefined, "1", "0/1", undefined)],
      ["65 bits", identity("18446744073709551616", "1", "0/1", undefined)],
      ["a sign", identity("-1", "1", "0/1", undefined)],
      ["hex", identity("0x1", "1", "0/1", undefined)],
      ["timeline 0", identity("1", "0", "0/1", undefined)],
      ["timeline 2^32", identity("1", "4294967296", "0/1", undefined)],
      ["a bad LSN", identity("1", "1", "0x1", undefined)],
    ] as const
  ) {
    it(`decodeSystemIdentity() refuses ${what}`, () => {
      assert.throws(() => decodeSystemIdentity(bad), ProtocolError);
    });
  }

  it("decodeSystemIdentity() refuses bytes that are no text", () => {
    const broken = identity("1", "1", "0/1", undefined);
    assert.throws(
      () => decodeSystemIdentity({ ...broken, rows: [[Uint8Array.of(0xff), ...broken.rows[0]!.slice(1)]] }),
      ProtocolError,
    );
  });

  it("decodeSlotPosition() tells known, empty and unknown slots apart", () => {
    assert.deepEqual(decodeSlotPosition(slot("physical", "0/3000000", "2")), {
      kind: "physical",
      restartLsn: parseLsn("0/3000000"),
      restartTimeline: timelineId(2),
    });
    const empty = { kind: "physical", restartLsn: undefined, restartTimeline: undefined };
    assert.deepEqual(decodeSlotPosition(slot("physical", undefined, undefined)), empty);
    assert.equal(decodeSlotPosition(slot(undefined, undefined, undefined)), undefined);
    assert.equal(decodeSlotPosition(answer(["slot_type", "restart_lsn", "restart_tli"])), undefined);
    assert.throws(() => decodeSlotPosition(slot("odd", undefined, undefined)), ProtocolError);
    assert.throws(() => decodeSlotPosition(slot("physical", "x", undefined)), ProtocolError);
  });

  it("decodeTimelineHistory() wants the file that was asked for", () => {
    const file = answer(["filename", "content"], ["0000000A.history", "9\t0/3000000\tno\n"]);
    assert.equal(new TextDecoder().decode(decodeTimelineHistory(file, timelineId(10))), "9\t0/3000000\tno\n");
    assert.throws(() => decodeTimelineHistory(file, timelineId(11)), ProtocolError);
    const path = answer(["filename", "content"], ["../../etc/passwd", ""]);
    assert.throws(() => decodeTimelineHistory(path, timelineId(10)), ProtocolError);
  });

  it("decodeTimelineHistory() keeps bytes that are no text", () => {
    const rows = [[new TextEncoder().encode("00000002.history"), Uint8Array.of(0xff, 0, 0xfe)]];
    assert.deepEqual(
      [...decodeTimelineHistory({ columns: ["filename", "content"], rows }, timelineId(2))],
      [0xff, 0, 0xfe],
    );
  });

  it("decodeTimelineEnd() reads the switch, or that there is none", () => {
    assert.deepEqual(decodeTimelineEnd(timelineEnd("2", "0/3000060")), {
      nextTimeline: timelineId(2),
      switchLsn: parseLsn("0/3000060"),
    });
    assert.equal(decodeTimelineEnd(answer([])), undefined);
    assert.throws(() => decodeTimelineEnd(timelineEnd("2", undefined)), ProtocolError);
    assert.throws(() => decodeTimelineEnd(timelineEnd("0", "0/1")), ProtocolError);
  });

  it("decodeSetting() wants one text", () => {
    assert.equal(decodeSetting(answer(["wal_segment_size"], ["16MB"])), "16MB");
    assert.throws(() => decodeSetting(answer([])), ProtocolError);
    assert.throws(() => decodeSetting(answer(["a", "b"], ["1", "2"])), ProtocolError);
    assert.throws(() => decodeSetting(answer(["a"], [undefined])), ProtocolError);
  });

  it("decodeServerVersion() wants server_version_num's form", () => {
    assert.deepEqual(["90624", "130005", "150018"].map(decodeServerVersion), [90_624, 130_005, 150_018]);
    for (const text of ["", "15", "15.18", "-150018", "0150018", "15001800", "150018 "]) {
      assert.throws(() => decodeServerVersion(text), ProtocolError, text);
    }
  });

  it("decode or refuse any rows", () => {
    const names = [
      "systemid",
      "timeline",
      "xlogpos",
      "slot_type",
      "restart_lsn",
      "next_tli",
      "filename",
      "content",
    ];
    const cell = fc.option(fc.oneof(fc.string(), fc.constantFrom("physical", "0/1", "1")), {
      nil: undefined,
    });
    fc.assert(
      fc.property(
        fc.subarray(names),
        fc.array(fc.array(cell, { maxLength: 4 }), { maxLength: 2 }),
        (c, r) => {
          const any = answer(c, ...r);
          for (
            const decode of [
              decodeSystemIdentity,
              decodeSetting,
              decodeSlotPosition,
              decodeTimelineEnd,
              (a: Answer) => decodeTimelineHistory(a, timelineId(1)),
            ]
          ) {
            try {
              decode(any);
            } catch (error) {
              assert.ok(error instanceof ProtocolError, String(error));
            }
          }
        },
      ),
    );
  });
});
