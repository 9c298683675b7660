import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { parseLsn } from "../../../lib/wal/lsn.ts";
import { decodeTransactionEnd, endsTransaction } from "../../../lib/wal/rmgr/transaction.ts";
import { decodeXlogRecord, isXlogRecord } from "../../../lib/wal/rmgr/xlog.ts";
import { timestampOfUnix } from "../../../lib/wal/timestamp.ts";

/** A record of a real server, and what that server said it had done. */
interface Golden {
  readonly major: number;
  readonly what: string;
  readonly resourceManager: number;
  readonly info: number;
  readonly xid: number;
  /** Hexadecimal. */
  readonly mainData: string;
  // deno-lint-ignore no-explicit-any -- as many shapes as kinds
  readonly expected: any;
}

const GOLDENS: readonly Golden[] = JSON.parse(
  readFileSync(new URL("../../fixtures/wal/rmgr_records.json", import.meta.url), "utf8"),
);

function dataOf(golden: Golden): Uint8Array {
  return Uint8Array.from(Buffer.from(golden.mainData, "hex"));
}

const ENDS = GOLDENS.filter(({ resourceManager }) => resourceManager === 1);
const XLOG = GOLDENS.filter(({ resourceManager }) => resourceManager === 0);

for (const golden of ENDS) {
  test(`decodeTransactionEnd() of PostgreSQL ${golden.major}: ${golden.what}`, () => {
    const { info, xid, expected } = golden;
    assert.ok(endsTransaction(info));
    const end = decodeTransactionEnd({ info, xid, mainData: dataOf(golden) }, golden.major)!;
    assert.equal(end.kind, expected.kind);
    assert.equal(end.xid, expected.xid);
    assert.deepEqual([...end.subxids].sort(), [...expected.subxids].sort());
    assert.equal(end.isPrepared, expected.isPrepared);
    assert.equal(end.gid, expected.gid);
    if (expected.time !== undefined) assert.equal(end.time, BigInt(expected.time));
    const [from, to] = expected.between.map(BigInt);
    assert.ok(from <= end.time && end.time <= to);
  });
}

for (const golden of XLOG) {
  test(`decodeXlogRecord() of PostgreSQL ${golden.major}: ${golden.what}`, () => {
    const { info, expected } = golden;
    assert.ok(isXlogRecord(info));
    const record = decodeXlogRecord({ info, mainData: dataOf(golden) }, golden.major)!;
    assert.equal(record.kind, expected.kind);
    switch (record.kind) {
      case "checkpoint": {
        const [epoch, xid] = expected.nextXid.split(":").map(BigInt);
        assert.deepEqual(record, {
          kind: "checkpoint",
          redoLsn: parseLsn(expected.redoLsn),
          isShutdown: expected.isShutdown,
          timeline: expected.timeline,
          previousTimeline: expected.previousTimeline,
          nextXid: (epoch << 32n) + xid,
          time: timestampOfUnix(BigInt(expected.seconds) * 1_000_000n),
        });
        break;
      }
      case "restore point": {
        assert.equal(record.name, expected.name);
        const [from, to] = expected.between.map(BigInt);
        assert.ok(from <= record.time && record.time <= to);
        break;
      }
      case "backup end":
        assert.deepEqual(record, { kind: "backup end", startLsn: parseLsn(expected.startLsn) });
        break;
      default:
        assert.deepEqual(record, expected);
    }
  });
}

test("the goldens hold each kind in each version", () => {
  for (const major of [13, 14, 15, 16, 17, 18]) {
    assert.ok(ENDS.filter((golden) => golden.major === major).length >= 8, String(major));
    assert.equal(XLOG.filter((golden) => golden.major === major).length, 6, String(major));
  }
});

test("main data cut off anywhere is refused, or what is missing does not matter", () => {
  for (const golden of GOLDENS) {
    const { info, xid, major } = golden;
    const data = dataOf(golden);
    const decode = (mainData: Uint8Array) =>
      golden.resourceManager === 1
        ? decodeTransactionEnd({ info, xid, mainData }, major)
        : decodeXlogRecord({ info, mainData }, major);
    const whole = decode(data);
    let refused = true;
    for (let cut = 0; cut < data.length; cut++) {
      let part: ReturnType<typeof decode>;
      try {
        part = decode(data.subarray(0, cut));
      } catch (error) {
        assert.ok(error instanceof SyntaxError);
        // Once enough is there, it stays enough.
        assert.ok(refused, `${golden.what}, cut after ${cut}`);
        continue;
      }
      refused = false;
      assert.deepEqual(part, whole, `${golden.what}, cut after ${cut}`);
    }
    assert.throws(() => decode(new Uint8Array(0)), SyntaxError);
  }
});

test("counts beyond the record's end are refused, whatever they claim", () => {
  const golden = ENDS.find(({ what, major }) => what === "subtransactions" && major === 15)!;
  const { info, xid } = golden;
  for (let at = 12; at < 24; at++) {
    const mainData = dataOf(golden);
    mainData.fill(0xff, at, at + 4);
    try {
      decodeTransactionEnd({ info, xid, mainData }, 15);
    } catch (error) {
      assert.ok(error instanceof SyntaxError, String(error));
    }
  }
});

test("decodeTransactionEnd() and decodeXlogRecord() leave other records alone", () => {
  const mainData = new Uint8Array(0);
  for (const info of [0x10, 0x50, 0x60, 0x90]) {
    assert.equal(decodeTransactionEnd({ info, xid: 1, mainData }, 15), undefined);
  }
  for (const info of [0x20, 0x30, 0x40, 0x80, 0xa0, 0xb0, 0xd0, 0xe0]) {
    assert.equal(isXlogRecord(info), false);
    assert.equal(decodeXlogRecord({ info, mainData }, 15), undefined);
  }
});
