import assert from "node:assert/strict";
import { test } from "node:test";
import { hasReached, judgeLag, type LagFacts, sinceModified } from "../../lib/observe/lag.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { segmentSize } from "../../lib/wal/segment.ts";

const FACTS: LagFacts = {
  serverFlushLsn: lsn(100_000n),
  receivedLsn: lsn(100_000n),
  receivedAtFirstLsn: lsn(100_000n),
  elapsedMs: 0,
  sinceChangeMs: 3_600_000,
  sinceCommitMs: 7_200_000,
  segmentSize: segmentSize(1 << 20),
};
const FAR: Partial<LagFacts> = {
  serverFlushLsn: lsn(100_000n + (1n << 20n)),
  receivedAtFirstLsn: lsn(90_000n),
  elapsedMs: 2000,
};

for (
  const [what, facts, want] of [
    ["all is here, though long ago: idle is healthy", {}, { state: "current", bytes: 0n, ms: 0 }],
    ["more is here by now", { receivedLsn: lsn(200_000n) }, { state: "current", bytes: 0n, ms: 0 }],
    [
      "it came while it was looked for",
      { receivedAtFirstLsn: lsn(90_000n), elapsedMs: 40 },
      { state: "current", bytes: 0n, ms: 40 },
    ],
    [
      "some came: as old as the newest commit",
      { receivedLsn: lsn(95_000n), receivedAtFirstLsn: lsn(90_000n), elapsedMs: 2000 },
      { state: "receiving", bytes: 5000n, ms: 7_200_000 },
    ],
    [
      "some came, without a commit",
      { receivedLsn: lsn(95_000n), receivedAtFirstLsn: undefined, elapsedMs: 2000, sinceCommitMs: undefined },
      { state: "receiving", bytes: 5000n, ms: 2000 },
    ],
    [
      "far behind, and no commit tells since when",
      { ...FAR, receivedLsn: lsn(99_999n), sinceCommitMs: undefined },
      { state: "receiving", bytes: (1n << 20n) + 1n, ms: undefined },
    ],
    [
      "a segment behind",
      { ...FAR, sinceCommitMs: undefined },
      { state: "receiving", bytes: 1n << 20n, ms: 2000 },
    ],
    [
      "a clock that is ahead makes nothing younger",
      { receivedLsn: lsn(95_000n), receivedAtFirstLsn: lsn(90_000n), elapsedMs: 2000, sinceCommitMs: 5 },
      { state: "receiving", bytes: 5000n, ms: 2000 },
    ],
    [
      "none came",
      { receivedLsn: lsn(95_000n), receivedAtFirstLsn: lsn(95_000n), elapsedMs: 2000, sinceCommitMs: 5 },
      { state: "stalled", bytes: 5000n, ms: 3_600_000 },
    ],
    [
      "none came, and the newest commit is older than its file",
      { receivedLsn: lsn(95_000n), receivedAtFirstLsn: lsn(95_000n), elapsedMs: 2000 },
      { state: "stalled", bytes: 5000n, ms: 7_200_000 },
    ],
    [
      "none came, and the file's time is of the future",
      { receivedLsn: lsn(95_000n), receivedAtFirstLsn: lsn(95_000n), elapsedMs: 2000, sinceChangeMs: -9000 },
      { state: "stalled", bytes: 5000n, ms: undefined },
    ],
    [
      "nothing is here, in an archive as old as that",
      {
        receivedLsn: undefined,
        receivedAtFirstLsn: undefined,
        elapsedMs: 2000,
        sinceChangeMs: 90_000,
        sinceCommitMs: undefined,
      },
      { state: "stalled", bytes: 100_000n, ms: 90_000 },
    ],
    [
      "nothing is here, and nothing tells since when",
      {
        receivedLsn: undefined,
        receivedAtFirstLsn: undefined,
        elapsedMs: 2000,
        sinceChangeMs: undefined,
        sinceCommitMs: undefined,
      },
      { state: "stalled", bytes: 100_000n, ms: undefined },
    ],
  ] as const
) {
  test(`judgeLag(): ${what}`, () => assert.deepEqual(judgeLag({ ...FACTS, ...facts }), want));
}

test("sinceModified() forgives clocks that differ a little, and shows a time in the future", () => {
  assert.equal(sinceModified(1000, 9000), 8000);
  assert.equal(sinceModified(9000, 4000), 0);
  assert.equal(sinceModified(9001, 4000), -5001);
});

test("hasReached() forgives what can't be seen of a page that a record fills with zeros, and no more", () => {
  const page = 8192n;
  assert.equal(hasReached(lsn(3n * page), lsn(3n * page)), true);
  assert.equal(hasReached(lsn(3n * page - 8n), lsn(3n * page)), true);
  assert.equal(hasReached(lsn(2n * page + 24n), lsn(3n * page)), false, "nothing of that page");
  assert.equal(hasReached(lsn(2n * page), lsn(3n * page)), false);
  assert.equal(hasReached(lsn(3n * page), lsn(3n * page + 8n)), false);
});
