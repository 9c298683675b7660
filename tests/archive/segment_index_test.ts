import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decodeSegmentIndex,
  decodeSegmentIndexHead,
  encodeSegmentIndex,
  INDEX_HEAD_BYTES,
} from "../../lib/archive/segment_index.ts";
import { SegmentIndexer } from "../../lib/archive/segment_indexer.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { decodePageHeader } from "../../lib/wal/page.ts";
import { timestamp } from "../../lib/wal/timestamp.ts";
import { fixture, FIXTURES } from "../wal/fixtures.ts";

function indexOf(name: string) {
  const { bytes, size, startLsn, segment } = fixture(name);
  const { systemIdentifier } = decodePageHeader(bytes)!;
  const indexer = new SegmentIndexer({
    name: segment,
    startLsn,
    segmentSize: size,
    systemIdentifier: systemIdentifier!,
  });
  indexer.push(bytes);
  return indexer.result();
}

for (const { file } of FIXTURES) {
  test(`encodeSegmentIndex() keeps all that ${file} gives`, () => {
    const index = indexOf(file);
    const bytes = encodeSegmentIndex(index);
    assert.deepEqual(decodeSegmentIndex(bytes), index);
    const { xids: _1, subxids: _2, restorePoints: _3, checkpoints: _4, backupEnds: _5, ...head } = index;
    assert.deepEqual(decodeSegmentIndexHead(bytes.subarray(0, INDEX_HEAD_BYTES)), head);
  });
}

const RICH = {
  ...indexOf("15-full-000000010000000000000008.gz"),
  restorePointCount: 2,
  restorePoints: [
    { lsn: lsn(0x800100n), time: timestamp(-5n), name: "vor dem Umbau äöü" },
    { lsn: lsn(0x800200n), time: timestamp(5n), name: "" },
  ],
  checkpointCount: 1,
  checkpoints: [
    {
      lsn: lsn(0x800300n),
      redoLsn: lsn(0n),
      isShutdown: true,
      time: timestamp(1n << 62n),
      nextXid: (7n << 32n) + 3n,
    },
  ],
  backupEndCount: 1,
  backupEnds: [{ lsn: lsn(0x800400n), startLsn: lsn(1n << 63n) }],
  xids: Uint32Array.of(0, 1, 127, 128, 16_383, 16_384, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff),
  subxids: Uint32Array.of(0xffff_fffe),
};

test("encodeSegmentIndex() keeps names, checkpoints, backups' ends and xids of any size", () => {
  assert.deepEqual(decodeSegmentIndex(encodeSegmentIndex(RICH)), RICH);
});

test("decodeSegmentIndex() believes no index with a flipped bit, nor one cut off anywhere", () => {
  const bytes = encodeSegmentIndex(RICH);
  for (let i = 0; i < bytes.length; i++) {
    for (let bit = 0; bit < 8; bit++) {
      bytes[i]! ^= 1 << bit;
      assert.throws(() => decodeSegmentIndex(bytes), SyntaxError, `byte ${i}, bit ${bit}`);
      if (i < INDEX_HEAD_BYTES) assert.throws(() => decodeSegmentIndexHead(bytes), SyntaxError);
      bytes[i]! ^= 1 << bit;
    }
    assert.throws(() => decodeSegmentIndex(bytes.subarray(0, i)), SyntaxError, `cut before byte ${i}`);
  }
  assert.throws(() => decodeSegmentIndex(Uint8Array.of(...bytes, 0)), SyntaxError);
});
