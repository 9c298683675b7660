import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { formatLsn, type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { PAGE_BYTES } from "../../lib/wal/page.ts";
import { RecordReader, type RecordReaderOptions } from "../../lib/wal/record_reader.ts";
import { parseSegmentName, segmentSize, segmentStart } from "../../lib/wal/segment.ts";
import { buildWal, MIB, readRecords, type RecordPlan } from "./wal_builder.ts";

const SIZE = segmentSize(MIB);
const START = 3n * BigInt(MIB);
const SWITCH: RecordPlan = { totalBytes: 24, resourceManager: 0, info: 0x40 };
/** Short, over a page, over many pages, over more than two segments; a switch; and two behind it. */
const PLANS: readonly RecordPlan[] = [
  { totalBytes: 24 },
  { totalBytes: 61 },
  ...Array.from({ length: 300 }, (_, index) => ({ totalBytes: 100 + index })),
  { totalBytes: 8200 },
  { totalBytes: 70_001 },
  { totalBytes: Math.floor(2.3 * MIB) },
  { totalBytes: 50 },
  SWITCH,
  { totalBytes: 99 },
  { totalBytes: 30 },
];

interface Taken {
  readonly lsn: Lsn;
  readonly endLsn: Lsn;
  readonly bytes: Uint8Array;
}

/** WAL of these records, and nothing after the last one. */
function build(plans: readonly RecordPlan[], startLsn = START) {
  const { segments, records } = buildWal({ startLsn, segmentBytes: MIB, records: plans });
  const wal = new Uint8Array(segments.length * MIB);
  for (const [index, segment] of segments.entries()) wal.set(segment, index * MIB);
  return { wal, records };
}

const { wal: WAL, records: RECORDS } = build(PLANS);

/** Records of this many bytes in all that fill a segment from its start, but for `left` bytes. */
function filler(left: number): RecordPlan {
  return { totalBytes: MIB - (MIB / PAGE_BYTES) * 24 - 16 - left };
}

function read(
  wal: Uint8Array,
  options: Partial<RecordReaderOptions> & {
    readonly pieceBytes?: number;
    readonly walStart?: bigint;
    readonly wants?: (resourceManager: number, info: number, totalBytes: number) => boolean;
  } = {},
) {
  const { pieceBytes = wal.length, walStart = START, wants = () => true, ...rest } = options;
  const taken: Taken[] = [];
  const overwritten: Lsn[] = [];
  const reader = new RecordReader({
    startLsn: lsn(walStart),
    segmentSize: SIZE,
    records: {
      wants,
      take({ lsn, endLsn, header, bytes }) {
        assert.equal(bytes.length, header.totalBytes);
        taken.push({ lsn, endLsn, bytes: bytes.slice() });
      },
      overwritten: (recordLsn) => overwritten.push(recordLsn),
    },
    ...rest,
  });
  for (let at = Number(reader.positionLsn - walStart); at < wal.length; at += pieceBytes) {
    reader.push(wal.subarray(at, at + pieceBytes));
  }
  return { taken, overwritten, reader, ...reader.result() };
}

for (const pieceBytes of [1, 7, 24, 8191, 8192, WAL.length]) {
  test(`RecordReader hands over every record, fed ${pieceBytes} bytes at a time`, () => {
    const { taken, recordCount, lastRecordLsn, end, endLsn, problem } = read(WAL, { pieceBytes });
    assert.deepEqual(
      taken.map((record) => [record.lsn, record.endLsn, record.bytes.length]),
      RECORDS.map((record, index) => [record.lsn, record.endLsn, PLANS[index]?.totalBytes]),
    );
    for (const [index, { bytes }] of taken.entries()) {
      assert.ok(bytes.subarray(24).every((byte, i) => byte === (((i + 24) * 31 + index * 7) & 255)));
    }
    assert.equal(recordCount, PLANS.length);
    assert.equal(lastRecordLsn, RECORDS.at(-1)?.lsn);
    assert.deepEqual([end, endLsn, problem], ["zero", RECORDS.at(-1)?.endLsn, undefined]);
  });
}

test("RecordReader begins at any record and at any page", () => {
  for (const [index, { lsn: startLsn, endLsn }] of RECORDS.entries()) {
    for (const start of PLANS[index] === SWITCH ? [startLsn] : [startLsn, endLsn]) {
      const wanted = RECORDS.filter((record) => record.lsn >= start);
      const { taken, recordCount, end } = read(WAL, { startLsn: lsn(start) });
      assert.deepEqual(
        taken.map((record) => record.lsn),
        wanted.map((record) => record.lsn),
        `record ${index}`,
      );
      assert.deepEqual([recordCount, end], [wanted.length, "zero"]);
    }
  }
  const untilSwitch = Number(RECORDS[PLANS.indexOf(SWITCH)]!.lsn - START);
  for (let page = 0; page < untilSwitch; page += PAGE_BYTES) {
    const start = START + BigInt(page);
    const { taken } = read(WAL, { startLsn: lsn(start) });
    const wanted = RECORDS.filter((record) => record.lsn >= start);
    assert.deepEqual(taken.map((record) => record.lsn), wanted.map((record) => record.lsn), `page ${page}`);
  }
});

test("RecordReader invents nothing when it begins inside a record", () => {
  for (const { lsn: inside } of RECORDS.slice(0, 100)) {
    const { taken, end } = read(WAL, { startLsn: lsn(inside + 8n) });
    assert.ok(taken.every((record) => RECORDS.some((real) => real.lsn === record.lsn)));
    if (taken.length === 0) assert.equal(end, "torn");
  }
  const long = RECORDS[PLANS.length - 5]!;
  const { end, problem } = read(WAL, { startLsn: lsn(long.lsn + BigInt(PAGE_BYTES)) });
  assert.equal(end, "torn");
  assert.match(problem ?? "", /bytes of an open record, want no more than/);
});

test("RecordReader keeps only what is wanted, and proves the rest all the same", () => {
  const { taken, recordCount } = read(WAL, { wants: (_, __, totalBytes) => totalBytes > 5000 });
  assert.deepEqual(taken.map((record) => record.bytes.length), [8200, 70_001, Math.floor(2.3 * MIB)]);
  assert.equal(recordCount, PLANS.length);
  const flipped = WAL.slice();
  flipped[Number(RECORDS[200]!.lsn - START) + 50]! ^= 1;
  const after = read(flipped, { wants: (_, __, totalBytes) => totalBytes > 5000 });
  assert.deepEqual([after.taken.length, after.recordCount, after.end], [0, 200, "torn"]);
});

for (const left of [0, 8, 16, 24, 40]) {
  test(`RecordReader joins a record that begins ${left} bytes before the segment's end`, () => {
    for (const totalBytes of [24, 33, 3000, MIB + 500]) {
      const plans = [filler(left), { totalBytes }, { totalBytes: 60 }];
      const { wal, records } = build(plans);
      for (const pieceBytes of [1000, wal.length]) {
        const { taken, endLsn } = read(wal, { pieceBytes });
        assert.deepEqual(taken.map((record) => record.lsn), records.map((record) => record.lsn));
        assert.deepEqual(taken.map((record) => record.bytes.length), plans.map((plan) => plan.totalBytes));
        assert.equal(endLsn, records[2]!.endLsn);
      }
      // The second segment never came, or came empty.
      for (const rest of [MIB, 2 * MIB]) {
        const cut = new Uint8Array(rest);
        cut.set(wal.subarray(0, MIB));
        const { taken, end, endLsn } = read(cut);
        if (left < totalBytes) assert.deepEqual(taken.map((record) => record.lsn), [records[0]!.lsn]);
        if (left < totalBytes) {
          assert.equal(endLsn, left === 0 && rest > MIB ? START + BigInt(MIB) : records[0]!.endLsn);
        }
        if (rest === MIB) assert.equal(end, "more");
        else if (left < totalBytes) assert.equal(end, left === 0 ? "zero" : "torn");
      }
    }
  });
}

test("RecordReader takes nothing after a switch that goes over the segment's end", () => {
  for (const left of [8, 16]) {
    const { wal, records } = build([filler(left), SWITCH]);
    const { wal: behind } = buildAfterSwitch(records[1]!.lsn);
    const whole = new Uint8Array(3 * MIB);
    whole.set(wal);
    whole.set(behind, 2 * MIB);
    const { taken, end } = read(whole);
    assert.deepEqual(taken.map((record) => record.bytes.length), [filler(left).totalBytes, 24, 77]);
    assert.equal(end, "zero");
  }
});

function buildAfterSwitch(prevLsn: bigint) {
  const { segments } = buildWal({
    startLsn: START + 2n * BigInt(MIB),
    segmentBytes: MIB,
    records: [{ totalBytes: 77 }],
    prevLsn,
  });
  return { wal: segments[0]! };
}

test("RecordReader stops where a segment's first record does not follow the last one", () => {
  const { wal, records } = build([filler(0), { totalBytes: 60 }, { totalBytes: 70 }]);
  for (const prevLsn of [START + 48n, START - 64n]) {
    const { segments } = buildWal({
      startLsn: START + BigInt(MIB),
      segmentBytes: MIB,
      records: [{ totalBytes: 60 }],
      prevLsn,
    });
    const other = wal.slice();
    other.set(segments[0]!, MIB);
    const { taken, end, endLsn, problem } = read(other);
    assert.deepEqual([taken.length, end, endLsn], [1, "torn", records[0]!.endLsn]);
    assert.match(problem ?? "", /link to a record before at .*, want 0\/300028/);
  }
});

test("RecordReader stops at a segment of another cluster, version or earlier timeline", () => {
  const { wal } = build([filler(0), { totalBytes: 60 }]);
  for (
    const [offset, text] of [[24, /system identifier/], [0, /page magic/], [32, /segment size/]] as const
  ) {
    const other = wal.slice();
    other[MIB + offset]! ^= 1;
    const { taken, end, problem } = read(other);
    assert.deepEqual([taken.length, end], [1, "page-header"]);
    assert.match(problem ?? "", text);
  }
  const later = wal.slice();
  for (let page = 0; page < MIB; page += PAGE_BYTES) later[page + 4] = 2;
  assert.match(read(later).problem ?? "", /timeline 1, want 2 or above/);
});

test("RecordReader finds every flipped byte of a record that spans segments", () => {
  const { wal, records } = build([filler(40), { totalBytes: 300 }, { totalBytes: 60 }]);
  const covered = readRecords(wal.subarray(0, MIB), START).covered;
  for (let at = MIB - 40; at < MIB + 300; at++) {
    assert.ok(!covered.has(at));
    wal[at]! ^= 0x20;
    const { taken } = read(wal);
    wal[at]! ^= 0x20;
    assert.ok(taken.every((record) => records.some((real) => real.lsn === record.lsn)), `byte ${at}`);
    // In a page's header: magic, flags and timeline may show elsewhere only; nothing looks at the padding.
    const isUnchecked = at >= MIB && at < MIB + 8 || at >= MIB + 20 && at < MIB + 24;
    if (!isUnchecked) assert.equal(taken.length, 1, `byte ${at}`);
  }
});

test("a record given up in the segment before is told, and WAL goes on behind it", () => {
  const { wal, records } = build([filler(40), { totalBytes: 300 }]);
  const { segments, records: after } = buildWal({
    startLsn: START + BigInt(MIB),
    segmentBytes: MIB,
    records: [{ totalBytes: 42, resourceManager: 0, info: 0xd0 }, { totalBytes: 70 }],
    prevLsn: records[0]!.lsn,
  });
  segments[0]![2]! |= 8;
  wal.set(segments[0]!, MIB);
  const { taken, overwritten, endLsn } = read(wal);
  assert.deepEqual(overwritten, [records[1]!.lsn]);
  assert.deepEqual(taken.map((record) => record.lsn), [records[0]!.lsn, after[0]!.lsn, after[1]!.lsn]);
  assert.equal(endLsn, after[1]!.endLsn);
});

test("RecordReader takes nothing once valid WAL has ended, and says where it stands", () => {
  const { reader, taken } = read(WAL);
  assert.ok(reader.done);
  const { positionLsn } = reader;
  reader.push(WAL);
  assert.equal(reader.positionLsn, positionLsn);
  assert.deepEqual([reader.result().recordCount, reader.timeline, reader.majorVersion], [
    taken.length,
    1,
    15,
  ]);
  assert.throws(() => read(WAL, { startLsn: lsn(START + 4n) }), /Cannot scan WAL from 0\/300004/);
});

test("the last segment that LSNs reach can be begun", () => {
  const walStart = (1n << 64n) - BigInt(MIB);
  const { wal, records } = build([{ totalBytes: 50 }, { totalBytes: 60 }], walStart);
  const { taken, end, endLsn } = read(wal, { walStart });
  assert.deepEqual([taken.length, end, endLsn], [2, "zero", records[1]!.endLsn]);
});

interface Expected {
  readonly file: string;
  readonly major: number;
  readonly name: string;
  readonly endLsn: string;
  readonly recordCount: number;
}
const FIXTURES = new URL("../fixtures/wal/", import.meta.url);
const EXPECTED: readonly Expected[] = JSON.parse(readFileSync(new URL("expected.json", FIXTURES), "utf8"));

for (const expected of EXPECTED) {
  test(`RecordReader reads ${expected.file}`, () => {
    const bytes = gunzipSync(readFileSync(new URL(expected.file, FIXTURES)));
    const size = segmentSize(bytes.length);
    const startLsn = segmentStart(parseSegmentName(expected.name, size)!.number, size);
    const { taken, recordCount, reader, overwritten } = read(bytes, {
      walStart: startLsn,
      segmentSize: size,
    });
    assert.equal(reader.majorVersion, expected.major);
    assert.equal(recordCount, expected.recordCount);
    assert.equal(taken.length, expected.recordCount);
    assert.equal(overwritten.length, /overwrite|15-fork/.test(expected.file) ? 1 : 0);
    const last = taken.at(-1);
    if (last !== undefined) assert.equal(formatLsn(last.endLsn), expected.endLsn);
  });
}
