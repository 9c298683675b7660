import assert from "node:assert/strict";
import { test } from "node:test";
import {
  firstState,
  type JoinableSegment,
  joinSegment,
  type JoinState,
} from "../../../lib/archive/verify/joining.ts";
import { advance, lsn } from "../../../lib/wal/lsn.ts";
import { SegmentScanner } from "../../../lib/wal/scanner.ts";
import { segmentSize } from "../../../lib/wal/segment.ts";
import { buildWal, MIB, type RecordPlan, SYSTEM_IDENTIFIER } from "../../wal/wal_builder.ts";

const size = segmentSize(MIB);
const START = lsn(3n * BigInt(MIB));
const KEPT = 64 * 1024;

/** As a proof has it: both ends, and the rest to be read. */
function joinable(bytes: Uint8Array, index: number, path = `segment ${index}`): JoinableSegment {
  const scanner = new SegmentScanner({
    startLsn: advance(START, index * MIB),
    segmentSize: size,
    systemIdentifier: SYSTEM_IDENTIFIER,
  });
  scanner.push(bytes);
  return {
    path,
    scan: scanner.result(),
    head: bytes.slice(0, KEPT),
    tail: bytes.slice(MIB - KEPT),
    bytes: async (position, take) => {
      for (let at = position; at < bytes.length; at += 10_000) {
        if (await take(bytes.subarray(at, at + 10_000), at) === "enough") return;
      }
    },
  };
}

async function joinAll(segments: readonly JoinableSegment[]): Promise<readonly (string | undefined)[]> {
  let state: JoinState | undefined;
  const problems: (string | undefined)[] = [];
  for (const segment of segments) {
    if (state === undefined) {
      state = firstState(segment);
      continue;
    }
    const joined = await joinSegment(state, segment, "complete");
    problems.push(
      joined.problem === undefined ? undefined : `${joined.problem.kind}: ${joined.problem.problem}`,
    );
    state = joined.state;
  }
  return problems;
}

function wal(records: readonly RecordPlan[]): Uint8Array[] {
  return buildWal({ startLsn: START, segmentBytes: MIB, records }).segments;
}

const small = (count: number): RecordPlan[] => Array.from({ length: count }, () => ({ totalBytes: 5000 }));
const SWITCH: RecordPlan = { totalBytes: 24, resourceManager: 0, info: 0x40 };

test("joinSegment() proves records that span two segments, however long", async () => {
  for (
    const records of [
      small(700),
      [...small(150), { totalBytes: 400_000 }, ...small(500)],
      [...small(10), { totalBytes: 2_500_000 }, ...small(500)],
      [...small(10), SWITCH, ...small(10), SWITCH, ...small(600)],
      [{ totalBytes: 3_500_000 }, ...small(100)],
    ]
  ) {
    const segments = wal(records).slice(0, 3);
    const problems = await joinAll(segments.map((bytes, index) => joinable(bytes, index)));
    assert.deepEqual(problems, [undefined, undefined]);
  }
});

test("joinSegment() finds each flipped bit of a record that spans two segments, on either side", async () => {
  const [one, two] = wal(small(700));
  const first = joinable(one!, 0);
  const open = Number(first.scan.openRecordLsn! - START);
  const left = joinable(two!, 1).scan.contrecordBytes;
  assert.ok(left > 100);
  const [before, after] = [one!.slice(), two!.slice()];
  const problemWith = async () => (await joinAll([joinable(before, 0), joinable(after, 1)]))[0];
  assert.equal(await problemWith(), undefined);
  for (let offset = open; offset < MIB; offset += 37) {
    if (offset % 8192 < 24) continue;
    before[offset]! ^= 4;
    const { scan } = joinable(before, 0);
    // What the segment itself shows need not show here.
    const problem = scan.end === "segment-end" ? await problemWith() : "found";
    before[offset]! ^= 4;
    assert.ok(problem !== undefined, `byte ${offset}`);
  }
  for (let offset = 40; offset < 40 + left; offset += 37) {
    after[offset]! ^= 4;
    const problem = await problemWith();
    after[offset]! ^= 4;
    assert.match(
      problem ?? "",
      /^damage: the CRC of a record that begins in "segment 0" does not hold/,
      `byte ${offset}`,
    );
  }
});

test("joinSegment() tells segments of other WAL, each right by itself", async () => {
  const ours = wal(small(700));
  // Other lengths, so other places.
  const others = wal(small(700).map(({ totalBytes }) => ({ totalBytes: totalBytes + 8 })));
  assert.match(
    (await joinAll([joinable(ours[0]!, 0), joinable(others[1]!, 1)]))[0] ?? "",
    /^damage: /,
  );
  const switched = wal([...small(10), SWITCH, ...small(300)]);
  const elsewhere = wal([...small(11), SWITCH, ...small(300)]);
  assert.match(
    (await joinAll([joinable(switched[0]!, 0), joinable(elsewhere[1]!, 1)]))[0] ?? "",
    /^join: link to a record before at .*, want .*, the last one of the segment before$/,
  );
  assert.match(
    (await joinAll([joinable(switched[0]!, 0), joinable(ours[1]!, 1)]))[0] ?? "",
    /^join: [0-9]+ bytes of a record from the segment before, want none/,
  );
});

test("joinSegment() tells another version's pages", async () => {
  const [one, two] = wal([...small(10), SWITCH, ...small(10), SWITCH]);
  const newer = two!.slice();
  for (let page = 0; page < MIB; page += 8192) {
    if (newer[page] !== 0) newer[page] = 0x18;
  }
  assert.match(
    (await joinAll([joinable(one!, 0), joinable(newer, 1)]))[0] ?? "",
    /^join: page magic 0xD118, want 0xD110/,
  );
});

test("joinSegment() asks no more of an unfinished segment than it has", async () => {
  const [one, two] = wal([...small(10), { totalBytes: 1_500_000 }, ...small(500)]);
  const state = firstState(joinable(one!, 0));
  for (const bytes of [0, 100, 8192, 20_000, 460_000, 600_000]) {
    const cut = two!.slice().fill(0, bytes);
    const { problem } = await joinSegment(state, joinable(cut, 1), "tail");
    assert.equal(problem, undefined, `${bytes} bytes`);
  }
});
