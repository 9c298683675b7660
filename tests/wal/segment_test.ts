import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { lsn, ZERO_LSN } from "../../lib/wal/lsn.ts";
import {
  formatSegmentSize,
  parseSegmentName,
  parseSegmentSize,
  segmentEnd,
  segmentFloor,
  segmentName,
  segmentNumber,
  segmentNumberAt,
  segmentOffset,
  segmentSize,
  segmentStart,
} from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const MIB = 1024 * 1024;
const SIZES = Array.from({ length: 11 }, (_, power) => segmentSize(MIB << power));
const LAST_LSN = lsn(0xffff_ffff_ffff_ffffn);
const ONE = timelineId(1);

for (const size of SIZES) {
  const text = size === 1024 * MIB ? "1GB" : `${size / MIB}MB`;

  test(`a segment size of ${text} is written and read`, () => {
    assert.equal(formatSegmentSize(size), text);
    assert.equal(parseSegmentSize(text), size);
    assert.equal(parseSegmentSize(String(size)), size);
  });

  test(`segments of ${text} at the edges: 0, segment, 4 GiB log, 2^64-1`, () => {
    const perLog = BigInt(0x1_0000_0000 / size);
    const hex = (n: bigint) => n.toString(16).toUpperCase().padStart(8, "0");
    const cases: readonly [bigint, bigint, number, string][] = [
      [0n, 0n, 0, "000000010000000000000000"],
      [8192n, 0n, 8192, "000000010000000000000000"],
      [BigInt(size) - 1n, 0n, size - 1, "000000010000000000000000"],
      [BigInt(size), 1n, 0, "000000010000000000000001".slice(0, 16) + hex(1n)],
      [0xffff_ffffn, perLog - 1n, size - 1, `0000000100000000${hex(perLog - 1n)}`],
      [0x1_0000_0000n, perLog, 0, "000000010000000100000000"],
      [LAST_LSN, (perLog << 32n) - 1n, size - 1, `00000001FFFFFFFF${hex(perLog - 1n)}`],
    ];
    for (const [value, number, offset, name] of cases) {
      const at = lsn(value);
      assert.equal(segmentNumberAt(at, size), number);
      assert.equal(segmentOffset(at, size), offset);
      assert.equal(segmentFloor(at, size), value - BigInt(offset));
      assert.equal(segmentStart(segmentNumber(number), size), value - BigInt(offset));
      assert.equal(segmentName(ONE, segmentNumber(number), size), name);
      assert.deepEqual(parseSegmentName(name, size), { timeline: 1, number });
    }
  });

  test(`segmentEnd() of ${text}: the next segment's start, none for the last segment`, () => {
    const last = segmentNumberAt(LAST_LSN, size);
    assert.equal(segmentEnd(segmentNumber(0n), size), BigInt(size));
    assert.equal(segmentEnd(segmentNumber(last - 1n), size), segmentStart(last, size));
    assert.throws(() => segmentEnd(last, size), RangeError);
    if (size > MIB) {
      assert.throws(() => segmentStart(segmentNumber(last + 1n), size), RangeError);
      assert.throws(() => segmentName(ONE, segmentNumber(last + 1n), size), RangeError);
    }
  });

  test(`parseSegmentName() refuses a last part that 4 GiB of ${text} segments never reach`, () => {
    const perLog = 0x1_0000_0000 / size;
    const tooHigh = perLog.toString(16).toUpperCase().padStart(8, "0");
    assert.equal(parseSegmentName(`0000000100000000${tooHigh}`, size), undefined);
    assert.equal(parseSegmentName("0000000100000000FFFFFFFF", size), undefined);
  });
}

for (const bytes of [0, 1, 8192, MIB - 1, MIB + 1, 3 * MIB, MIB / 2, 2048 * MIB, -MIB, NaN, 1.5 * MIB]) {
  test(`segmentSize() refuses ${bytes}`, () => assert.throws(() => segmentSize(bytes), RangeError));
}

test("parseSegmentSize() refuses other texts", () => {
  for (const text of ["", "MB", "16 MB", "16mb", "-16MB", "0x10MB", "16TB", "1.5GB", "16MB "]) {
    assert.throws(() => parseSegmentSize(text), SyntaxError, text);
  }
  for (const text of ["0", "3MB", "2GB", "16kB", "9999999999GB"]) {
    assert.throws(() => parseSegmentSize(text), RangeError, text);
  }
  assert.equal(parseSegmentSize("1024kB"), MIB);
});

test("segmentNumber() refuses what no cluster has", () => {
  assert.throws(() => segmentNumber(-1n), RangeError);
  assert.throws(() => segmentNumber(1n << 44n), RangeError);
});

test("segmentName() writes the timeline in upper-case hex", () => {
  assert.equal(
    segmentName(timelineId(0x0a), segmentNumber(0xffn), segmentSize(16 * MIB)),
    "0000000A00000000000000FF",
  );
});

const OTHERS = [
  "",
  "00000001000000000000000",
  "0000000100000000000000001",
  "00000001000000000000000a",
  "00000001000000000000000G",
  "000000000000000000000001",
  "000000010000000000000001.partial",
  "000000010000000000000001.gz",
  " 00000001000000000000001",
  "000000010000000000000001\n",
];
for (const name of OTHERS) {
  test(`parseSegmentName() takes ${JSON.stringify(name)} for no segment`, () => {
    assert.equal(parseSegmentName(name, segmentSize(16 * MIB)), undefined);
  });
}

test("parseSegmentName() reads what segmentName() writes", () => {
  const anySize = fc.constantFrom(...SIZES);
  const anyLsn = fc.bigInt({ min: 0n, max: LAST_LSN });
  const anyTimeline = fc.integer({ min: 1, max: 0xffff_ffff });
  fc.assert(fc.property(anySize, anyLsn, anyTimeline, (size, value, timeline) => {
    const number = segmentNumberAt(lsn(value), size);
    const start = segmentStart(number, size);
    assert.deepEqual(parseSegmentName(segmentName(timelineId(timeline), number, size), size), {
      timeline,
      number,
    });
    assert.equal(start + BigInt(segmentOffset(lsn(value), size)), value);
    assert.equal(segmentFloor(lsn(value), size), start);
  }));
});

test("segmentFloor() of 0/0 is 0/0", () => assert.equal(segmentFloor(ZERO_LSN, segmentSize(MIB)), 0n));
