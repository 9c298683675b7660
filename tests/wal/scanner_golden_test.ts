import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { formatLsn, lsn } from "../../lib/wal/lsn.ts";
import { PAGE_BYTES } from "../../lib/wal/page.ts";
import { isCompleteSegment, SegmentScanner } from "../../lib/wal/scanner.ts";
import { parseSegmentName, segmentSize, segmentStart } from "../../lib/wal/segment.ts";
import { readRecords } from "./wal_builder.ts";

/** One line of `expected.json`; LSNs as PostgreSQL writes them. */
interface Expected {
  readonly file: string;
  readonly major: number;
  readonly name: string;
  readonly end: string;
  readonly complete: boolean;
  readonly endLsn: string;
  readonly contentEndLsn: string;
  readonly recordCount: number;
  readonly contrecordBytes: number;
  readonly firstRecordLsn?: string;
  readonly firstRecordPrevLsn?: string;
  readonly lastRecordLsn?: string;
  readonly openRecordLsn?: string;
}

const FIXTURES = new URL("../fixtures/wal/", import.meta.url);
const EXPECTED: Expected[] = JSON.parse(readFileSync(new URL("expected.json", FIXTURES), "utf8"));

function load(expected: Expected) {
  const bytes = gunzipSync(readFileSync(new URL(expected.file, FIXTURES)));
  const size = segmentSize(bytes.length);
  const startLsn = segmentStart(parseSegmentName(expected.name, size)!.number, size);
  return { bytes, size, startLsn };
}

function text(at: bigint | undefined): string | undefined {
  return at === undefined ? undefined : formatLsn(lsn(at));
}

for (const expected of EXPECTED) {
  test(`SegmentScanner reads ${expected.file} as PostgreSQL ${expected.major} does`, () => {
    const { bytes, size, startLsn } = load(expected);
    for (const chunkBytes of [size, 131_072, 8191]) {
      const scanner = new SegmentScanner({ startLsn, segmentSize: size });
      for (let i = 0; i < size; i += chunkBytes) scanner.push(bytes.subarray(i, i + chunkBytes));
      const result = scanner.result();
      assert.equal(result.firstPage?.majorVersion, expected.major);
      assert.equal(result.end, expected.end);
      assert.equal(isCompleteSegment(result, bytes.length), expected.complete);
      assert.equal(text(result.endLsn), expected.endLsn);
      assert.equal(text(result.contentEndLsn), expected.contentEndLsn);
      assert.equal(result.recordCount, expected.recordCount);
      assert.equal(result.contrecordBytes, expected.contrecordBytes);
      assert.equal(text(result.firstRecordLsn), expected.firstRecordLsn);
      assert.equal(text(result.firstRecordPrevLsn), expected.firstRecordPrevLsn);
      assert.equal(text(result.lastRecordLsn), expected.lastRecordLsn);
      assert.equal(text(result.openRecordLsn), expected.openRecordLsn);
    }
  });
}

const TAIL = EXPECTED.find((expected) => expected.file.startsWith("15-tail-"))!;

test("real WAL: each flipped byte is seen, if it is not padding or a page's flags", () => {
  const { bytes, size, startLsn } = load(TAIL);
  const content = bytes.slice(0, 2 * PAGE_BYTES);
  const { records, covered } = readRecords(bytes, startLsn);
  assert.equal(records.length, TAIL.recordCount);
  const endOf = (input: Uint8Array) => {
    const scanner = new SegmentScanner({ startLsn, segmentSize: size });
    scanner.push(input);
    return scanner.result().endLsn;
  };
  const whole = endOf(content);
  const ends = [startLsn, ...records.map((record) => startLsn + BigInt(record.end))];
  for (let i = 0; i < content.length; i++) {
    content[i]! ^= 0x10;
    const endLsn = endOf(content);
    content[i]! ^= 0x10;
    const at = startLsn + BigInt(i);
    assert.ok(ends.includes(endLsn), `byte ${i}`);
    if (covered.has(i)) assert.ok(endLsn <= at, `byte ${i}`);
    // A page's magic and timeline may show only in the page after it.
    const seen = i % PAGE_BYTES < 8 ? at + BigInt(PAGE_BYTES) : at;
    if (!covered.has(i)) assert.ok(endLsn === whole || endLsn <= seen, `byte ${i}`);
  }
});

test("real WAL: truncated after each byte, its records are a prefix", () => {
  const { bytes, size, startLsn } = load(TAIL);
  const { records } = readRecords(bytes, startLsn);
  const ends = new Set([startLsn, ...records.map((record) => startLsn + BigInt(record.end))]);
  for (let cut = 0; cut < 2 * PAGE_BYTES; cut++) {
    const scanner = new SegmentScanner({ startLsn, segmentSize: size });
    scanner.push(bytes.subarray(0, cut));
    const { endLsn } = scanner.result();
    assert.ok(ends.has(endLsn), `cut after byte ${cut}`);
    assert.ok(endLsn < startLsn + BigInt(cut + 8), `cut after byte ${cut}`);
  }
});
