import assert from "node:assert/strict";
import { test } from "node:test";
import { SegmentIndexer } from "../../lib/archive/segment_indexer.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { timestamp } from "../../lib/wal/timestamp.ts";
import { checkpoint, filler, NOON, restorePoint, transactionEnd } from "../wal/record_plans.ts";
import { buildWal, MIB, type RecordPlan, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";

const SIZE = segmentSize(MIB);
const START = 3n * BigInt(MIB);
/** Of a segment that holds nothing but whole pages of these records' bytes. */
const CONTENT_BYTES = MIB - 40 - 127 * 24;

function build(records: readonly RecordPlan[]) {
  return buildWal({ startLsn: START, segmentBytes: MIB, records });
}

function indexerOf(index = 0) {
  return new SegmentIndexer({
    name: `00000001000000000000000${3 + index}`,
    startLsn: lsn(START + BigInt(index * MIB)),
    segmentSize: SIZE,
    systemIdentifier: SYSTEM_IDENTIFIER,
  });
}

/** Fills a segment up to its last `leftBytes`, so that the next record begins there. */
function fillUpTo(leftBytes: number): readonly RecordPlan[] {
  const plans: RecordPlan[] = [];
  let left = CONTENT_BYTES - leftBytes;
  for (; left > 40_000; left -= 8000) plans.push(filler(8000));
  plans.push(filler(left));
  return plans;
}

test("SegmentIndexer tells what ended in a segment, in whatever pieces it comes", () => {
  const { segments, records } = build([
    checkpoint({ redoLsn: START + 8n, nextXid: (5n << 32n) + 900n }),
    transactionEnd({ xid: 900, us: NOON }),
    transactionEnd({ xid: 905, us: NOON + 50n, subxids: [906, 910] }),
    filler(9000),
    transactionEnd({ xid: 904, us: NOON + 20n, kind: "abort" }),
    restorePoint("über", NOON + 60n),
    transactionEnd({ xid: 903, us: NOON + 40n }),
    transactionEnd({ xid: 920, us: NOON + 70n, kind: "abort" }),
  ]);
  const at = (i: number) => lsn(records[i]!.lsn);
  for (const pieceBytes of [MIB, 4096, 1013]) {
    const indexer = indexerOf();
    for (let i = 0; i < MIB; i += pieceBytes) indexer.push(segments[0]!.subarray(i, i + pieceBytes));
    const index = indexer.result();
    assert.deepEqual(index.transactions, {
      commitCount: 3,
      abortCount: 2,
      firstCommit: { lsn: at(1), xid: 900, time: timestamp(NOON) },
      lastCommit: { lsn: at(6), xid: 903, time: timestamp(NOON + 40n) },
      minCommitTime: timestamp(NOON),
      maxCommitTime: timestamp(NOON + 50n),
      minEndTime: timestamp(NOON),
      maxEndTime: timestamp(NOON + 70n),
      stepBackUs: 30n,
      minXid: 900,
      maxXid: 920,
    });
    assert.deepEqual([...index.xids], [900, 903, 904, 905, 920]);
    assert.deepEqual([...index.subxids], [906, 910]);
    assert.deepEqual(index.restorePoints, [{ lsn: at(5), time: timestamp(NOON + 60n), name: "über" }]);
    assert.deepEqual(index.checkpoints.map(({ lsn, redoLsn, nextXid }) => ({ lsn, redoLsn, nextXid })), [
      { lsn: at(0), redoLsn: START + 8n, nextXid: (5n << 32n) + 900n },
    ]);
    assert.equal(index.openRecord, "none");
  }
});

test("SegmentIndexer gives no index of a part of a segment, nor of more than one", () => {
  const { segments } = build([transactionEnd({ xid: 900, us: NOON })]);
  const indexer = indexerOf();
  indexer.push(segments[0]!.subarray(0, MIB - 1));
  assert.throws(() => indexer.result(), RangeError);
  indexer.push(segments[0]!.subarray(0, 2));
  assert.throws(() => indexer.result(), RangeError);
});

// A record header has 24 bytes, and records begin at multiples of 8.
for (const leftBytes of [8, 16, 24, 32]) {
  test(`a commit with ${leftBytes} bytes in its segment counts where it begins, once the next one is there`, () => {
    const end = transactionEnd({ xid: 4711, us: NOON, subxids: [4712, 4713, 4714] });
    const later = transactionEnd({ xid: 5000, us: NOON + 1n });
    const { segments, records } = build([...fillUpTo(leftBytes), end, later]);
    const [first, second] = segments;
    const place = records.at(-2)!;
    assert.equal(place.lsn, START + BigInt(MIB - leftBytes));
    const indexer = indexerOf();
    indexer.push(first!);
    assert.equal(indexer.result().openRecord, "unresolved");
    assert.equal(indexer.result().transactions.commitCount, 0);
    assert.equal(indexer.wantsNext, true);
    indexer.enterNext();
    for (let i = 0; i < MIB && indexer.wantsNext; i += 7) indexer.pushNext(second!.subarray(i, i + 7));
    const index = indexer.result();
    assert.equal(index.openRecord, "settled");
    assert.deepEqual(index.transactions.lastCommit, { lsn: place.lsn, xid: 4711, time: NOON });
    assert.deepEqual([...index.xids], [4711]);
    assert.deepEqual([...index.subxids], [4712, 4713, 4714]);
    // The next one begins with its rest, and does not count it.
    const next = indexerOf(1);
    next.push(second!);
    assert.deepEqual([...next.result().xids], [5000]);
  });

  test(`another record with ${leftBytes} bytes in its segment says nothing`, () => {
    const later = transactionEnd({ xid: 5000, us: NOON });
    const { segments } = build([...fillUpTo(leftBytes), filler(1000), later]);
    const indexer = indexerOf();
    indexer.push(segments[0]!);
    // Of a whole header it can be seen at once.
    assert.equal(indexer.wantsNext, leftBytes < 24);
    assert.equal(indexer.result().openRecord, leftBytes < 24 ? "unresolved" : "settled");
    if (indexer.wantsNext) {
      indexer.enterNext();
      indexer.pushNext(segments[1]!);
    }
    assert.equal(indexer.wantsNext, false);
    assert.equal(indexer.result().openRecord, "settled");
    assert.equal(indexer.result().xids.length, 0);
  });

  test(`a commit with ${leftBytes} bytes in its segment that was lost in a crash does not count`, () => {
    const end = transactionEnd({ xid: 4711, us: NOON, subxids: [4712] });
    const { segments } = build([...fillUpTo(leftBytes), end]);
    const indexer = indexerOf();
    indexer.push(segments[0]!);
    // The server goes on over it, with commits of its own.
    const prevLsn = segments.length > 1 ? buildPrev(leftBytes) : 0n;
    const after = buildWal({
      startLsn: START + BigInt(MIB),
      segmentBytes: MIB,
      prevLsn,
      records: [transactionEnd({ xid: 6000, us: NOON })],
    }).segments[0]!;
    const view = new DataView(after.buffer);
    view.setUint16(2, view.getUint16(2, true) | 8, true);
    indexer.enterNext();
    indexer.pushNext(after);
    assert.equal(indexer.wantsNext, false);
    assert.equal(indexer.result().openRecord, "settled");
    assert.equal(indexer.result().transactions.commitCount, 0);
  });
}

/** Where the last whole record of `fillUpTo` begins. */
function buildPrev(leftBytes: number): bigint {
  return build(fillUpTo(leftBytes)).records.at(-1)!.lsn;
}

test("a commit over three segments counts in the first", () => {
  const subxids = Array.from({ length: 300_000 }, (_, i) => 10_000 + i);
  const long = build([
    ...fillUpTo(4000),
    transactionEnd({
      xid: 9999,
      us: NOON,
      subxids: [...subxids, ...subxids.map((xid) => xid + 300_000)],
    }),
  ]).segments;
  assert.equal(long.length, 4);
  const indexer = indexerOf();
  for (const [i, segment] of long.entries()) {
    if (i === 0) indexer.push(segment);
    else {
      assert.equal(indexer.wantsNext, true);
      assert.equal(indexer.result().openRecord, "unresolved");
      indexer.enterNext();
      indexer.pushNext(segment);
    }
  }
  assert.equal(indexer.result().openRecord, "settled");
  assert.deepEqual([...indexer.result().xids], [9999]);
  assert.equal(indexer.result().subxids.length, 600_000);
  // The middle of it has nothing to say.
  const middle = indexerOf(1);
  middle.push(long[1]!);
  assert.equal(middle.result().xids.length, 0);
});

test("damage ends what is indexed, and shows in the index", () => {
  const { segments, records } = build([
    transactionEnd({ xid: 900, us: NOON }),
    transactionEnd({ xid: 901, us: NOON }),
    transactionEnd({ xid: 902, us: NOON }),
  ]);
  const bytes = segments[0]!;
  bytes[Number(records[1]!.lsn - START) + 30]! ^= 1;
  const indexer = indexerOf();
  indexer.push(bytes);
  const index = indexer.result();
  assert.equal(index.scan.end, "torn");
  assert.equal(index.scan.endLsn, records[1]!.lsn);
  assert.deepEqual([...index.xids], [900]);
});

test("pages of another cluster say nothing", () => {
  const { segments } = build([transactionEnd({ xid: 900, us: NOON })]);
  const indexer = new SegmentIndexer({
    name: "000000010000000000000003",
    startLsn: lsn(START),
    segmentSize: SIZE,
    systemIdentifier: SYSTEM_IDENTIFIER + 1n,
  });
  indexer.push(segments[0]!);
  assert.equal(indexer.result().scan.end, "page-header");
  assert.equal(indexer.result().xids.length, 0);
});
