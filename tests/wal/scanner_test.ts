import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { lsn } from "../../lib/wal/lsn.ts";
import { PAGE_BYTES } from "../../lib/wal/page.ts";
import { isAllZero, isCompleteSegment, type SegmentScan, SegmentScanner } from "../../lib/wal/scanner.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import {
  buildWal,
  MIB,
  readRecords,
  type RecordPlan,
  SYSTEM_IDENTIFIER,
  writePageHeader,
} from "./wal_builder.ts";

const START = 0x16_0000_0000n;
const SWITCH: RecordPlan = { totalBytes: 24, resourceManager: 0, info: 0x40 };
const SIZE = segmentSize(MIB);

type Options = Partial<ConstructorParameters<typeof SegmentScanner>[0]>;

function scan(bytes: Uint8Array, options: Options = {}): SegmentScan {
  const scanner = new SegmentScanner({ startLsn: lsn(START), segmentSize: SIZE, ...options });
  scanner.push(bytes);
  return scanner.result();
}

function build(records: readonly RecordPlan[]) {
  return buildWal({ startLsn: START, segmentBytes: MIB, records });
}

/** Records of this many bytes that fill the first page of a segment but for `left` bytes. */
function fillFirstPage(left: number): RecordPlan[] {
  return [{ totalBytes: PAGE_BYTES - 40 - left }];
}

function many(count: number, totalBytes: number): RecordPlan[] {
  return Array.from({ length: count }, () => ({ totalBytes }));
}

test("an empty segment holds nothing", () => {
  const result = scan(new Uint8Array(MIB));
  assert.equal(result.end, "zero");
  assert.equal(result.endLsn, START);
  assert.equal(result.contentEndLsn, START);
  assert.equal(result.recordCount, 0);
  assert.equal(result.firstPage, undefined);
  assert.equal(isCompleteSegment(result, MIB), false);
});

test("no bytes at all are a truncated segment", () => {
  const result = scan(new Uint8Array(0));
  assert.equal(result.end, "truncated");
  assert.equal(result.endLsn, START);
  assert.equal(result.problem, "at 16/0: 0 bytes, want 1048576");
});

test("records and then nothing end at the last record", () => {
  const { segments, records } = build([{ totalBytes: 24 }, { totalBytes: 25 }, { totalBytes: 31 }]);
  const result = scan(segments[0]!);
  assert.equal(result.end, "zero");
  assert.equal(result.problem, undefined);
  assert.equal(result.endLsn, records[2]!.endLsn);
  assert.equal(result.contentEndLsn, records[2]!.endLsn);
  assert.equal(result.firstRecordLsn, START + 40n);
  assert.equal(result.firstRecordPrevLsn, START - 64n);
  assert.equal(result.lastRecordLsn, records[2]!.lsn);
  assert.equal(result.recordCount, 3);
  assert.equal(result.switched, false);
  assert.equal(result.restIsZero, undefined);
  assert.equal(result.firstPage?.systemIdentifier, SYSTEM_IDENTIFIER);
  assert.equal(isCompleteSegment(result, MIB), false);
});

test("a cluster's very first record follows none", () => {
  const { segments } = buildWal({ startLsn: START, segmentBytes: MIB, records: many(2, 100), prevLsn: 0n });
  assert.equal(scan(segments[0]!).recordCount, 2);
  assert.equal(scan(segments[0]!).firstRecordPrevLsn, 0n);
});

test("the first record may not follow one of its own segment", () => {
  const { segments } = buildWal({
    startLsn: START,
    segmentBytes: MIB,
    records: many(2, 100),
    prevLsn: START,
  });
  assert.equal(scan(segments[0]!).end, "torn");
});

for (const left of [0, 8, 16, 24, 32]) {
  test(`a record that begins ${left} bytes before a page's end is read`, () => {
    for (const totalBytes of [24, 32, 33, 100, 8168, 8169, 20_000]) {
      const { segments, records } = build([...fillFirstPage(left), { totalBytes }, { totalBytes: 48 }]);
      const result = scan(segments[0]!);
      assert.equal(result.recordCount, 3, `${totalBytes} bytes`);
      assert.equal(result.endLsn, records[2]!.endLsn);
      assert.equal(result.end, "zero");
    }
  });
}

for (const left of [0, 8, 16, 24, 32]) {
  test(`a record that begins ${left} bytes before the segment's end is open there`, () => {
    const pages = MIB / PAGE_BYTES;
    const filler = MIB - pages * 24 - 16 - left; // 16: the long header
    const wal = build([{ totalBytes: filler }, { totalBytes: 3000 }, { totalBytes: 100 }]);
    const first = scan(wal.segments[0]!);
    assert.equal(first.end, "segment-end");
    assert.equal(first.recordCount, 1);
    assert.equal(first.endLsn, START + BigInt(MIB - left));
    assert.equal(first.contentEndLsn, START + BigInt(MIB));
    assert.equal(first.openRecordLsn, left === 0 ? undefined : START + BigInt(MIB - left));
    assert.equal(first.lastPageHasOwnAddress, true);
    assert.equal(isCompleteSegment(first, MIB), true);
    const second = scan(wal.segments[1]!, { startLsn: lsn(START + BigInt(MIB)) });
    assert.equal(second.continuesFrom, left > 0);
    assert.equal(second.contrecordBytes, left === 0 ? 0 : 3000 - left);
    assert.equal(second.recordCount, left === 0 ? 2 : 1);
    assert.equal(second.firstRecordPrevLsn, left === 0 ? wal.records[0]!.lsn : wal.records[1]!.lsn);
    assert.equal(second.endLsn, wal.records[2]!.endLsn);
  });
}

test("a record open at the segment's end may be the only one, and its link may be cut off", () => {
  for (const [left, hasLink] of [[8, false], [16, true], [24, true]] as const) {
    // A record from the segment before fills this one but for `left` bytes.
    const filler = MIB + MIB - 2 * (MIB / PAGE_BYTES) * 24 - 32 - left;
    const wal = build([{ totalBytes: filler }, { totalBytes: 3000 }]);
    const result = scan(wal.segments[1]!, { startLsn: lsn(START + BigInt(MIB)) });
    assert.equal(result.end, "segment-end");
    assert.equal(result.recordCount, 0);
    assert.equal(result.endLsn, START + BigInt(MIB));
    assert.equal(result.openRecordLsn, wal.records[1]!.lsn);
    assert.equal(result.firstRecordLsn, wal.records[1]!.lsn);
    assert.equal(result.firstRecordPrevLsn, hasLink ? wal.records[0]!.lsn : undefined);
    assert.equal(result.lastRecordLsn, undefined);
    assert.equal(result.contentEndLsn, START + BigInt(2 * MIB));
  }
});

test("a segment within one long record is all content and no proof", () => {
  const wal = build([{ totalBytes: 3 * MIB }]);
  const result = scan(wal.segments[1]!, { startLsn: lsn(START + BigInt(MIB)) });
  assert.equal(result.end, "segment-end");
  assert.equal(result.endLsn, START + BigInt(MIB));
  assert.equal(result.contentEndLsn, START + BigInt(2 * MIB));
  assert.equal(result.continuesFrom, true);
  assert.equal(result.firstRecordLsn, undefined);
  assert.equal(result.openRecordLsn, undefined);
  assert.equal(isCompleteSegment(result, MIB), true);
});

test("of a continuation that is cut off only the pages count that a good page follows", () => {
  const wal = build([{ totalBytes: 3 * MIB }]);
  const bytes = wal.segments[1]!;
  bytes.fill(0, 5 * PAGE_BYTES + 100);
  const result = scan(bytes, { startLsn: lsn(START + BigInt(MIB)) });
  assert.equal(result.end, "torn");
  assert.equal(result.endLsn, START + BigInt(MIB));
  assert.equal(result.contentEndLsn, START + BigInt(MIB + 5 * PAGE_BYTES));
  assert.equal(isCompleteSegment(result, MIB), false);
});

test("an XLOG_SWITCH ends the segment, and the rest is zero", () => {
  const wal = build([{ totalBytes: 100 }, SWITCH, { totalBytes: 60 }]);
  const result = scan(wal.segments[0]!);
  assert.equal(result.end, "switch");
  assert.equal(result.switched, true);
  assert.equal(result.restIsZero, true);
  assert.equal(result.endLsn, wal.records[1]!.endLsn);
  assert.equal(result.lastPageHasOwnAddress, false);
  assert.equal(isCompleteSegment(result, MIB), true);
  assert.equal(
    scan(wal.segments[1]!, { startLsn: lsn(START + BigInt(MIB)) }).firstRecordPrevLsn,
    wal.records[1]!.lsn,
  );
});

for (const left of [0, 8, 16, 24]) {
  test(`an XLOG_SWITCH that begins ${left} bytes before a page's end is read`, () => {
    const result = scan(build([...fillFirstPage(left), SWITCH]).segments[0]!);
    assert.equal(result.end, "switch");
    assert.equal(result.restIsZero, true);
  });
}

test("an XLOG_SWITCH may be a segment's very last bytes", () => {
  const filler = MIB - (MIB / PAGE_BYTES) * 24 - 16 - 24;
  const result = scan(build([{ totalBytes: filler }, SWITCH]).segments[0]!);
  assert.equal(result.end, "switch");
  assert.equal(result.endLsn, START + BigInt(MIB));
  assert.equal(result.restIsZero, true);
  assert.equal(isCompleteSegment(result, MIB), true);
});

test("after an XLOG_SWITCH each byte of the rest counts", () => {
  const good = build([{ totalBytes: 100 }, SWITCH]).segments[0]!;
  for (const offset of [200, 8191, 8192, 8200, 8215, 8216, MIB - 8192, MIB - 1]) {
    const bytes = good.slice();
    bytes[offset] = 1;
    const result = scan(bytes);
    assert.equal(result.end, "switch");
    assert.equal(result.restIsZero, false, `offset ${offset}`);
    assert.equal(isCompleteSegment(result, MIB), false);
  }
});

test("after an XLOG_SWITCH pages of nothing but their own header are as good as zeros", () => {
  const bytes = build([{ totalBytes: 100 }, SWITCH]).segments[0]!;
  for (let page = PAGE_BYTES; page < MIB; page += PAGE_BYTES) {
    writePageHeader(bytes, page, { pageLsn: START + BigInt(page), timeline: 1, remainingBytes: 0, flags: 4 });
  }
  assert.equal(scan(bytes).restIsZero, true);
  assert.equal(scan(bytes).lastPageHasOwnAddress, true);
  assert.equal(isCompleteSegment(scan(bytes), MIB), true);
  for (const [pageLsn, remainingBytes] of [[START, 0], [START + 8192n, 5]] as const) {
    writePageHeader(bytes, PAGE_BYTES, { pageLsn, timeline: 1, remainingBytes });
    assert.equal(scan(bytes).restIsZero, false);
  }
});

test("after an XLOG_SWITCH too few bytes prove nothing about the rest", () => {
  const bytes = build([{ totalBytes: 100 }, SWITCH]).segments[0]!;
  const result = scan(bytes.subarray(0, MIB - 1));
  assert.equal(result.end, "switch");
  assert.equal(result.restIsZero, undefined);
  assert.equal(isCompleteSegment(result, MIB - 1), false);
});

test("a record given up after a crash is passed over, in the next page or many pages on", () => {
  for (const brokenPage of [1, 2, 7]) {
    const wal = build([{ totalBytes: 1000 }, { totalBytes: 100_000 }]);
    const after = buildWal({
      startLsn: START + BigInt(MIB),
      segmentBytes: MIB,
      records: many(5, 500),
      prevLsn: wal.records[0]!.lsn,
    });
    // The new records stand behind a short header where the lost page was: as the server writes OVERWRITE_CONTRECORD.
    const bytes = wal.segments[0]!;
    const page = brokenPage * PAGE_BYTES;
    bytes.fill(0, page);
    writePageHeader(bytes, page, { pageLsn: START + BigInt(page), timeline: 1, remainingBytes: 0, flags: 8 });
    const shifted = relink(after, { from: START + BigInt(MIB) + 40n, to: START + BigInt(page) + 24n });
    bytes.set(shifted, page + 24);
    const result = scan(bytes);
    assert.equal(result.recordCount, 6);
    assert.equal(result.end, "zero");
    assert.equal(result.endLsn, START + BigInt(page + 24 + shifted.length));
  }
});

/** The first records of `wal`, moved: their links to each other follow, and so do their CRCs. */
function relink(
  wal: ReturnType<typeof buildWal>,
  move: { readonly from: bigint; readonly to: bigint },
): Uint8Array {
  const first = wal.records[0]!;
  const page = { startLsn: move.to - 24n, segmentBytes: MIB };
  const count = wal.records.length;
  // Built again at an address that gives each record its new place, one long header off.
  const again = buildWal({
    startLsn: page.startLsn - 16n,
    segmentBytes: page.segmentBytes,
    records: many(count, 500),
    prevLsn: first.prevLsn,
  });
  return again.segments[0]!.slice(40, 40 + Number(again.records.at(-1)!.endLsn - again.records[0]!.lsn));
}

const DAMAGED_PAGES: readonly [string, (view: DataView) => void, RegExp][] = [
  ["another magic", (v) => v.setUint16(0, 0xd10d, true), /page magic 0xD10D, want 0xD110 \(PostgreSQL 15\)/],
  ["another address", (v) => v.setBigUint64(8, 0x15_0000_2000n, true), /page address 15\/2000, want its own/],
  ["an unknown flag", (v) => v.setUint16(2, 0x11, true), /page flags 0x0011/],
  ["timeline 0", (v) => v.setUint32(4, 0, true), /timeline 0, want 1 or above/],
  [
    "no flag of the open record",
    (v) => v.setUint16(2, 0, true),
    / 0 bytes of the open record still to come, want 848$/,
  ],
  ["another rest of the open record", (v) => v.setUint32(16, 5, true), /5 bytes of the open record/],
  ["an empty rest of the open record", (v) => v.setUint32(16, 0, true), /0 bytes of an open record/],
  [
    "an open record both continued and given up",
    (v) => v.setUint16(2, 9, true),
    /both continued and given up/,
  ],
];
for (const [what, damage, problem] of DAMAGED_PAGES) {
  test(`a page with ${what} ends the valid WAL`, () => {
    const wal = build(many(100, 1000));
    const bytes = wal.segments[0]!;
    damage(new DataView(bytes.buffer, PAGE_BYTES));
    const result = scan(bytes);
    assert.match(result.problem ?? "", problem);
    assert.ok(result.end === "page-header" || result.end === "torn");
    assert.equal(result.recordCount, 8);
    assert.equal(result.endLsn, wal.records[7]!.endLsn);
  });
}

test("a page that continues a record where none is open ends the valid WAL", () => {
  const bytes = build([...fillFirstPage(0), { totalBytes: 100 }]).segments[0]!;
  writePageHeader(bytes, PAGE_BYTES, { pageLsn: START + 8192n, timeline: 1, remainingBytes: 50 });
  assert.equal(scan(bytes).recordCount, 1);
  assert.equal(scan(bytes).end, "torn");
});

const DAMAGED_FIRST_PAGES: readonly [string, (view: DataView) => void, Options, RegExp][] = [
  ["another system identifier", () => {}, { systemIdentifier: 7n }, /system identifier 7\d+, want 7$/],
  [
    "another segment size",
    (v) => v.setUint32(32, 2 * MIB, true),
    {},
    /segment size 2097152 bytes, want 1048576/,
  ],
  ["another page size", (v) => v.setUint32(36, 4096, true), {}, /page size 4096 bytes, want 8192/],
  ["a short header", (v) => v.setUint16(2, 0, true), {}, /a short page header, want a long one/],
  ["another address", (v) => v.setBigUint64(8, START - 0x10_0000n, true), {}, /page address 15\/FFF00000/],
];
for (const [what, damage, options, problem] of DAMAGED_FIRST_PAGES) {
  test(`a first page with ${what} makes the segment worthless`, () => {
    const bytes = build(many(10, 1000)).segments[0]!;
    damage(new DataView(bytes.buffer));
    const result = scan(bytes, options);
    assert.equal(result.end, "page-header");
    assert.match(result.problem ?? "", problem);
    assert.equal(result.endLsn, START);
    assert.equal(result.recordCount, 0);
    assert.equal(result.firstPage, undefined);
  });
}

test("a full segment whose first page cannot be right is not complete", () => {
  const bytes = build(many(1300, 1000)).segments[0]!;
  assert.equal(isCompleteSegment(scan(bytes, { systemIdentifier: SYSTEM_IDENTIFIER }), MIB), true);
  assert.equal(isCompleteSegment(scan(bytes, { systemIdentifier: 7n }), MIB), false);
});

test("the right system identifier is taken", () => {
  const bytes = build(many(10, 1000)).segments[0]!;
  assert.equal(scan(bytes, { systemIdentifier: SYSTEM_IDENTIFIER }).recordCount, 10);
});

test("timelines may rise from page to page, not fall, and the caller may refuse them", () => {
  const rising = build(many(100, 1000)).segments[0]!;
  new DataView(rising.buffer).setUint32(3 * PAGE_BYTES + 4, 2, true);
  assert.match(scan(rising).problem ?? "", /at 16\/8000: timeline 1, want 2 or above/);
  for (let page = 4; page < 20; page++) new DataView(rising.buffer).setUint32(page * PAGE_BYTES + 4, 2, true);
  assert.equal(scan(rising).recordCount, 100);
  const result = scan(rising, {
    allowedTimeline: (timeline, pageLsn) => timeline === 1 || pageLsn > START + 0x8000n,
  });
  assert.match(result.problem ?? "", /at 16\/6000: timeline 2, want one of the lineage/);
});

for (
  const [what, plans, end] of [
    ["in the middle of a page", many(20, 1000), "zero"],
    ["with a page", fillFirstPage(0), "page-header"],
  ] as const
) {
  test(`what a recycled file held before is no valid WAL, when the new WAL ends ${what}`, () => {
    const old = buildWal({ startLsn: START - BigInt(MIB), segmentBytes: MIB, records: many(900, 1000) })
      .segments[0]!;
    const { segments, records } = build(plans);
    const bytes = segments[0]!;
    // The server zeroes the rest of the page it writes, no more.
    const written = Math.ceil(Number(records.at(-1)!.endLsn - START) / PAGE_BYTES) * PAGE_BYTES;
    bytes.set(old.subarray(written), written);
    assert.equal(scan(bytes).end, end);
    assert.equal(scan(bytes).endLsn, records.at(-1)!.endLsn);
    assert.equal(isCompleteSegment(scan(bytes), MIB), false);
  });
}

test("a stale record in the right place is told by its link", () => {
  const older = build(many(20, 1000));
  const newer = build([...many(10, 500), ...many(9, 1000)]);
  const bytes = newer.segments[0]!.slice();
  const at = Number(newer.records[9]!.endLsn - START);
  const stale = older.records.find((record) => record.lsn >= START + BigInt(at))!;
  const offset = Number(stale.lsn - START);
  bytes.set(older.segments[0]!.subarray(offset, offset + 1000), at);
  const result = scan(bytes);
  assert.equal(result.end, "torn");
  assert.equal(result.recordCount, 10);
  assert.match(result.problem ?? "", /link to a record before/);
});

test("a damaged record is told by its CRC", () => {
  const { segments, records } = build(many(20, 1000));
  segments[0]![Number(records[5]!.lsn - START) + 300]! ^= 1;
  const result = scan(segments[0]!);
  assert.equal(result.end, "torn");
  assert.equal(result.recordCount, 5);
  assert.match(result.problem ?? "", /^at 16\/\w+: CRC 0x[0-9A-F]{8}, want 0x[0-9A-F]{8}$/);
});

test("damage before the last page does not make a full segment incomplete, an unfinished last page does", () => {
  const { segments, records } = build(many(1300, 1000));
  const full = segments[0]!;
  assert.equal(isCompleteSegment(scan(full), MIB), true);
  assert.equal(isCompleteSegment(scan(full), MIB - 1), false);
  const damaged = full.slice();
  damaged[5000]! ^= 1;
  assert.equal(scan(damaged).lastPageHasOwnAddress, true);
  assert.equal(isCompleteSegment(scan(damaged), MIB), true);
  const inLastPage = records.filter((r) =>
    r.lsn > START + BigInt(MIB - PAGE_BYTES) && r.endLsn < START + BigInt(MIB)
  );
  assert.ok(inLastPage.length > 2);
  for (const cut of [inLastPage[0]!.lsn, inLastPage[1]!.endLsn + 100n]) {
    const unfinished = full.slice();
    unfinished.fill(0, Number(cut - START));
    assert.equal(scan(unfinished).lastPageHasOwnAddress, true);
    assert.equal(isCompleteSegment(scan(unfinished), MIB), false);
  }
});

test("bytes beyond the segment are ignored, and `done` tells when the end is found", () => {
  const wal = build(many(1300, 1000));
  const scanner = new SegmentScanner({ startLsn: lsn(START), segmentSize: SIZE });
  scanner.push(wal.segments[0]!.subarray(0, MIB - 1));
  assert.equal(scanner.done, false);
  scanner.push(new Uint8Array([...wal.segments[0]!.subarray(MIB - 1), 1, 2, 3]));
  assert.equal(scanner.done, true);
  const before = scanner.result();
  scanner.push(wal.segments[1]!);
  assert.deepEqual(scanner.result(), before);

  const short = new SegmentScanner({ startLsn: lsn(START), segmentSize: SIZE });
  short.push(build(many(3, 100)).segments[0]!.subarray(0, 9000));
  assert.equal(short.done, true);
});

test("SegmentScanner refuses a start within a segment", () => {
  assert.throws(() => new SegmentScanner({ startLsn: lsn(START + 8192n), segmentSize: SIZE }), RangeError);
});

test("isAllZero() looks at every byte", () => {
  assert.equal(isAllZero(new Uint8Array(0)), true);
  for (let i = 0; i < 70; i++) {
    const bytes = new Uint8Array(70);
    assert.equal(isAllZero(bytes), true);
    bytes[i] = 128;
    assert.equal(isAllZero(bytes), false);
  }
});

// The same bytes, however they arrive.

const MIXED: readonly RecordPlan[] = [
  ...many(3, 24),
  { totalBytes: 777 },
  ...fillFirstPage(1000),
  { totalBytes: 9001 },
  ...many(4, 55),
  SWITCH,
];

test("cut after each byte, the result is the same", () => {
  const wal = build(MIXED);
  const bytes = wal.segments[0]!.subarray(0, 3 * PAGE_BYTES);
  const whole = scan(bytes);
  assert.equal(whole.recordCount, MIXED.length);
  for (let cut = 0; cut <= bytes.length; cut++) {
    const scanner = new SegmentScanner({ startLsn: lsn(START), segmentSize: SIZE });
    scanner.push(bytes.subarray(0, cut));
    scanner.push(bytes.subarray(cut));
    assert.deepEqual(scanner.result(), whole, `cut after byte ${cut}`);
  }
});

test("byte by byte, the result is the same", () => {
  const bytes = build(MIXED).segments[0]!;
  const scanner = new SegmentScanner({ startLsn: lsn(START), segmentSize: SIZE });
  for (let i = 0; i < bytes.length; i++) scanner.push(bytes.subarray(i, i + 1));
  assert.deepEqual(scanner.result(), scan(bytes));
});

test("truncated or zeroed from each byte on, records are lost and none is invented", () => {
  const wal = build(MIXED);
  const bytes = wal.segments[0]!.subarray(0, 3 * PAGE_BYTES);
  for (let cut = 0; cut <= bytes.length; cut++) {
    const at = START + BigInt(cut);
    // A cut within the padding after a record leaves it whole; zeros may stand for zeros that were cut off.
    const wholeCount = wal.records.filter((r, i) => r.lsn + BigInt(spanOf(MIXED[i]!, r)) <= at).length;
    const truncated = scan(bytes.subarray(0, cut));
    assert.equal(truncated.recordCount, wholeCount, `truncated at ${cut}`);
    if (cut % 7 !== 0) continue;
    const zeroed = bytes.slice();
    zeroed.fill(0, cut);
    const { recordCount, endLsn } = scan(zeroed);
    assert.ok(recordCount >= wholeCount);
    const last = wal.records[recordCount - 1];
    assert.equal(endLsn, last?.endLsn ?? START);
    const isZeroTail = last === undefined || isAllZero(bytes.subarray(cut, Number(last.endLsn - START)));
    assert.ok(recordCount === wholeCount || isZeroTail, `zeroed at ${cut}`);
  }
});

/** Bytes from a record's first to its last, page headers in between included, padding not. */
function spanOf(plan: RecordPlan, record: { readonly lsn: bigint; readonly endLsn: bigint }): number {
  return Number(record.endLsn - record.lsn) - (8 - plan.totalBytes % 8) % 8;
}

test("each flipped byte that a CRC covers ends the valid WAL at its record", () => {
  const wal = build(MIXED);
  const bytes = wal.segments[0]!.slice(0, 3 * PAGE_BYTES);
  const { covered } = readRecords(wal.segments[0]!, START);
  const whole = scan(bytes).endLsn;
  for (let i = 0; i < bytes.length; i++) {
    const at = START + BigInt(i);
    const bit = 1 << (i & 7);
    bytes[i]! ^= bit;
    const { endLsn } = scan(bytes);
    bytes[i]! ^= bit;
    if (covered.has(i)) {
      const hit = wal.records.find((r) => r.lsn <= at && at < r.endLsn)!;
      const before = wal.records[wal.records.indexOf(hit) - 1]?.endLsn ?? START;
      assert.equal(endLsn, before, `byte ${i}`);
    } else {
      // A page's magic and timeline may show only in the page after it.
      const seen = i % PAGE_BYTES < 8 ? at + BigInt(PAGE_BYTES) : at;
      assert.ok(endLsn === whole || endLsn <= seen, `byte ${i}`);
    }
  }
});

test("any records, cut anywhere: the scanner finds what was written, over segments", () => {
  const anyRecord = fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: 24, max: 300 }) },
    { weight: 3, arbitrary: fc.integer({ min: 7000, max: 9000 }) },
    { weight: 1, arbitrary: fc.integer({ min: 100_000, max: 2_500_000 }) },
  ).map((totalBytes): RecordPlan => ({ totalBytes }));
  const anyPlan = fc.oneof({ weight: 20, arbitrary: anyRecord }, {
    weight: 1,
    arbitrary: fc.constant(SWITCH),
  });
  const anyCuts = fc.array(fc.integer({ min: 1, max: 20_000 }), { minLength: 1, maxLength: 20 });
  fc.assert(
    fc.property(fc.array(anyPlan, { minLength: 1, maxLength: 60 }), anyCuts, (records, cuts) => {
      const wal = build(records);
      let lastLsn = wal.records[0]!.prevLsn;
      for (const [index, bytes] of wal.segments.entries()) {
        const startLsn = START + BigInt(index * MIB);
        const endLsn = startLsn + BigInt(MIB);
        const scanner = new SegmentScanner({ startLsn: lsn(startLsn), segmentSize: SIZE });
        for (let at = 0, k = 0; at < MIB; k++) {
          const count = cuts[k % cuts.length]!;
          scanner.push(bytes.subarray(at, at + count));
          at += count;
        }
        const result = scanner.result();
        const own = wal.records.filter((r) => r.lsn >= startLsn && r.lsn < endLsn);
        const ended = own.filter((r) => r.endLsn <= endLsn);
        assert.equal(result.recordCount, ended.length);
        assert.equal(result.endLsn, ended.at(-1)?.endLsn ?? startLsn);
        assert.equal(result.lastRecordLsn, ended.at(-1)?.lsn);
        assert.equal(result.firstRecordLsn, own[0]?.lsn);
        assert.equal(result.openRecordLsn, own.length > ended.length ? own.at(-1)?.lsn : undefined);
        if (own[0] !== undefined && result.firstRecordPrevLsn !== undefined) {
          assert.equal(result.firstRecordPrevLsn, lastLsn);
        }
        lastLsn = own.at(-1)?.lsn ?? lastLsn;
        if (index < wal.segments.length - 1) assert.equal(isCompleteSegment(result, MIB), true);
      }
    }),
    { numRuns: 30 },
  );
});

test("random bytes behind a good start are never taken for records", () => {
  const { segments, records } = build(many(30, 200));
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 24, maxLength: 2000 }), fc.nat({ max: 29 }), (noise, index) => {
      const bytes = segments[0]!.slice(0, 3 * PAGE_BYTES);
      bytes.set(noise, Number(records[index]!.lsn - START));
      const { endLsn } = scan(bytes);
      assert.equal(endLsn, records[index - 1]?.endLsn ?? START);
    }),
  );
});

test("a page of random bytes at the start is no WAL", () => {
  fc.assert(fc.property(fc.uint8Array({ minLength: 40, maxLength: 9000 }), (noise) => {
    const result = scan(noise);
    assert.equal(result.recordCount, 0);
    assert.equal(result.endLsn, START);
  }));
});

/** The last page's first byte. */
const LAST_PAGE = lsn(START + BigInt(MIB - PAGE_BYTES));

test("with provenFromLsn whole WAL is seen as without", () => {
  const plans: readonly (readonly RecordPlan[])[] = [
    many(300, 5000),
    [...many(100, 5000), SWITCH],
    many(50, 5000),
    [{ totalBytes: 2 * MIB }, ...many(10, 60)],
    MIXED,
  ];
  for (const records of plans) {
    for (const bytes of buildWal({ startLsn: START, segmentBytes: MIB, records }).segments.slice(0, 1)) {
      assert.deepEqual(scan(bytes, { provenFromLsn: LAST_PAGE }), scan(bytes));
    }
  }
});

test("with provenFromLsn the first record, a switch and all that reaches the last page are proven, others are not", () => {
  const flipped = (bytes: Uint8Array, at: bigint) => {
    const damaged = bytes.slice();
    damaged[Number(at - START)]! ^= 1;
    return scan(damaged, { provenFromLsn: LAST_PAGE });
  };
  const full = buildWal({ startLsn: START, segmentBytes: MIB, records: many(300, 5000) });
  const bytes = full.segments[0]!;
  const inside = full.records.filter((record) => record.endLsn < START + BigInt(MIB));
  for (const [index, record] of inside.entries()) {
    const { end } = flipped(bytes, record.endLsn - 1n);
    const wanted = index === 0 || record.endLsn >= LAST_PAGE ? "torn" : "segment-end";
    // One that ends just before the page may be proven as well: that costs nothing.
    if (record.endLsn < LAST_PAGE && record.endLsn > LAST_PAGE - 200n) continue;
    assert.equal(end, wanted, `record ${index}`);
  }
  const switched = buildWal({ startLsn: START, segmentBytes: MIB, records: [...many(100, 5000), SWITCH] });
  const last = switched.records.at(-1)!;
  assert.equal(flipped(switched.segments[0]!, last.lsn + 20n).end, "torn", "the switch's own CRC");
  assert.equal(flipped(switched.segments[0]!, switched.records[50]!.endLsn - 1n).end, "switch");
});

test("next() goes on in the segment after, where WAL does", () => {
  const filler = MIB - (MIB / PAGE_BYTES) * 24 - 16 - 40;
  const { segments, records } = build([{ totalBytes: filler }, { totalBytes: 3000 }, { totalBytes: 100 }]);
  const first = new SegmentScanner({ startLsn: lsn(START), segmentSize: SIZE });
  assert.throws(() => first.next(), /Cannot scan on behind the segment at 16\/0: its WAL ends in it/);
  first.push(segments[0]!);
  const second = first.next();
  second.push(segments[1]!);
  const result = second.result();
  assert.equal(result.joinedRecordLsn, records[1]!.lsn);
  assert.equal(result.firstRecordLsn, records[2]!.lsn);
  assert.equal(result.firstRecordPrevLsn, records[1]!.lsn);
  assert.deepEqual([result.recordCount, result.endLsn], [1, records[2]!.endLsn]);
  assert.throws(() => second.next(), RangeError);
});

test("fromLsn lies in the segment, where a record may begin", () => {
  for (const fromLsn of [START - 8n, START + BigInt(MIB), START + 4n]) {
    assert.throws(
      () => new SegmentScanner({ startLsn: lsn(START), segmentSize: SIZE, fromLsn: lsn(fromLsn) }),
      /Cannot scan WAL from/,
    );
  }
});
