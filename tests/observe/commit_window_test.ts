import assert from "node:assert/strict";
import { test } from "node:test";
import type { TransactionMark } from "../../lib/archive/segment_index.ts";
import { firstCommit, lastCommit, type SegmentCommits } from "../../lib/observe/commit_window.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { type SegmentNumber, segmentNumber } from "../../lib/wal/segment.ts";
import { timestamp } from "../../lib/wal/timestamp.ts";

const mark = (place: number): TransactionMark => ({
  lsn: lsn(BigInt(place)),
  xid: place,
  time: timestamp(BigInt(place)),
});
const NONE: SegmentCommits = { count: 0, first: undefined, last: undefined };

/** Segments 10 and up; a number stands for one whose first commit is there, and its last at 5 more. */
async function look(segments: readonly (number | "none" | "unknown")[], maximumLooks = 3): Promise<string> {
  const asked: number[] = [];
  const commitsOf = (number: SegmentNumber) => {
    asked.push(Number(number));
    const content = segments[Number(number) - 10]!;
    if (content === "unknown") return Promise.resolve(undefined);
    return Promise.resolve(
      content === "none" ? NONE : { count: 2, first: mark(content), last: mark(content + 5) },
    );
  };
  const range = {
    firstNumber: segmentNumber(10n),
    endNumber: segmentNumber(10n + BigInt(segments.length)),
    maximumLooks,
  };
  const text = (found: TransactionMark | "none" | "unknown") =>
    typeof found === "string" ? found : String(found.xid);
  const first = text(await firstCommit(range, commitsOf));
  const last = text(await lastCommit(range, commitsOf));
  return `${first} to ${last}, asked ${asked.join(" ")}`;
}

for (
  const [segments, want] of [
    [[], "none to none, asked "],
    [["none"], "none to none, asked 10 10"],
    [[100], "100 to 105, asked 10 10"],
    [[100, 200, 300], "100 to 305, asked 10 12"],
    [["none", 200, "none"], "200 to 205, asked 10 11 12 11"],
    [["unknown", 200, "unknown"], "unknown to unknown, asked 10 12"],
    [["none", "none", "none", 100, "none", "none", "none"], "unknown to unknown, asked 10 11 12 16 15 14"],
    [["none", "none", "none"], "none to none, asked 10 11 12 12 11 10"],
  ] as const
) {
  test(`firstCommit() and lastCommit() of ${JSON.stringify(segments)}`, async () => {
    assert.equal(await look(segments), want);
  });
}
