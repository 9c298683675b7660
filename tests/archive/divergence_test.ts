import assert from "node:assert/strict";
import { test } from "node:test";
import { judgeDifference } from "../../lib/archive/divergence.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { LONG_PAGE_HEADER_BYTES, PAGE_BYTES, SHORT_PAGE_HEADER_BYTES } from "../../lib/wal/page.ts";
import { Random } from "../simulation/random.ts";
import { buildWal, MIB } from "../wal/wal_builder.ts";
import { SEGMENT_SIZE, START } from "./on_sim_disk.ts";

/** So much of a segment is compared. */
const SPAN = 16 * PAGE_BYTES;

/** The beginning of a segment whose records from the first one on that ends behind `sharedBytes` are another transaction's. */
function wal(options: { readonly xid: number; readonly sharedBytes?: number; readonly stepBytes?: number }) {
  const { xid, sharedBytes = SPAN / 2, stepBytes = 0 } = options;
  const random = new Random(7);
  const plans = [];
  for (let total = 0; total < 2 * SPAN;) {
    const isShared = total < sharedBytes;
    const totalBytes = random.integer(24, 900) + (isShared ? 0 : stepBytes);
    plans.push({ totalBytes, xid: isShared ? 700 : xid });
    total += totalBytes;
  }
  const { segments, records } = buildWal({ startLsn: START, segmentBytes: MIB, records: plans });
  const held = records.filter((record) => record.lsn < START + BigInt(SPAN));
  return { bytes: segments[0]!.subarray(0, SPAN), records: held };
}

function judge(own: Uint8Array, sent: Uint8Array) {
  return judgeDifference({ startLsn: START, segmentSize: SEGMENT_SIZE, sides: [own, sent] });
}

const isInPageHeader = (at: number) =>
  at % PAGE_BYTES < (at < PAGE_BYTES ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES);

test("judgeDifference() tells nothing of the same bytes", () => {
  const { bytes } = wal({ xid: 1 });
  assert.equal(judge(bytes, bytes.slice()), undefined);
  assert.equal(judge(bytes, bytes.subarray(0, 1000)), undefined);
});

test("judgeDifference() takes no flipped bit of one side for another history", () => {
  const { bytes, records } = wal({ xid: 1 });
  const random = new Random(11);
  const end = Number(records.at(-1)!.lsn - START);
  const kinds = { damaged: 0, unproven: 0 };
  for (let count = 0; count < 800; count++) {
    const at = random.integer(0, end - 1);
    const rotten = bytes.slice();
    rotten[at]! ^= 1 << random.integer(0, 7);
    const verdict = judge(rotten, bytes);
    assert.ok(verdict !== undefined && verdict.kind !== "diverged", `byte ${at}: ${verdict?.kind}`);
    kinds[verdict.kind]++;
    if (verdict.kind === "damaged") {
      const holding = records.findLast((record) => record.lsn <= START + BigInt(at));
      assert.equal(verdict.recordLsn, holding?.lsn, `byte ${at}`);
      assert.equal(verdict.differenceLsn, lsn(START + BigInt(at)));
    } else {
      const isPadding = records.some((record) => {
        const left = record.endLsn - START - BigInt(at);
        return left > 0n && left < 8n;
      });
      assert.ok(isInPageHeader(at) || isPadding, `byte ${at}`);
    }
    // The other way round it is the server's that is damaged: it must not be followed.
    if (verdict.kind === "damaged") assert.equal(judge(bytes, rotten)?.kind, "diverged");
  }
  assert.ok(kinds.damaged > 700 && kinds.unproven < 50, JSON.stringify(kinds));
});

test("judgeDifference() finds another history before and behind damage, whatever of the archive is damaged", () => {
  const random = new Random(13);
  for (const stepBytes of [0, 8, 13]) {
    const own = wal({ xid: 1 });
    const other = wal({ xid: 2, stepBytes });
    const splitLsn = own.records.find((record, index) => {
      const theirs = other.records[index]!;
      const slice = ({ bytes }: typeof own, { lsn, endLsn }: typeof record) =>
        bytes.subarray(Number(lsn - START), Number(endLsn - START));
      return slice(own, record).some((byte, at) => byte !== slice(other, theirs)[at]);
    })!.lsn;
    assert.deepEqual(judge(own.bytes, other.bytes)?.kind, "diverged");
    for (let count = 0; count < 100; count++) {
      const rotten = own.bytes.slice();
      for (let flips = 0; flips < 5; flips++) {
        rotten[random.integer(0, SPAN - 1)]! ^= 1 << random.integer(0, 7);
      }
      // And a page that reads as zeros.
      const page = random.integer(0, SPAN / PAGE_BYTES - 1) * PAGE_BYTES;
      rotten.fill(0, page, page + PAGE_BYTES);
      const verdict = judge(rotten, other.bytes);
      assert.equal(verdict?.kind, "diverged");
      assert.ok("recordLsn" in verdict && verdict.recordLsn >= splitLsn);
    }
  }
});

test("judgeDifference() does not work for ever on bytes that pretend to be records", () => {
  const hostile = new Uint8Array(MIB);
  const view = new DataView(hostile.buffer);
  for (let at = 0; at + 24 <= MIB; at += 24) {
    view.setUint32(at, MIB - at, true);
    view.setBigUint64(at + 8, START, true);
  }
  const beganMs = performance.now();
  assert.equal(judge(hostile, new Uint8Array(MIB))?.kind, "unproven");
  assert.equal(judge(new Uint8Array(MIB), hostile)?.kind, "unproven");
  assert.ok(performance.now() - beganMs < 10_000);
});

test("judgeDifference() takes no damaged length of a record for another history, wherever it says that the record ends", () => {
  const { bytes, records } = wal({ xid: 1 });
  // In the last page: behind it the header of a page tells where its record goes on.
  for (const record of records.slice(0, -2).filter(({ lsn }) => lsn >= START + BigInt(SPAN - PAGE_BYTES))) {
    const at = Number(record.lsn - START);
    for (let byte = 0; byte < 4; byte++) {
      for (let bit = 0; bit < 8; bit++) {
        const rotten = bytes.slice();
        rotten[at + byte]! ^= 1 << bit;
        const verdict = judge(rotten, bytes);
        assert.equal(verdict?.kind, "damaged", `bit ${bit} of byte ${byte} at ${record.lsn}`);
        assert.equal(verdict?.recordLsn, record.lsn);
      }
    }
  }
});
