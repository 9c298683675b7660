import assert from "node:assert/strict";
import { test } from "node:test";
import { hasReached, judgeLag, type LagFacts } from "../../lib/observe/lag.ts";
import { lsn } from "../../lib/wal/lsn.ts";

const FACTS: LagFacts = {
  serverFlushLsn: lsn(100_000n),
  receivedLsn: lsn(100_000n),
  receivedAtFirstLsn: lsn(100_000n),
  elapsedMs: 0,
  sinceChangeMs: 3_600_000,
  sinceCommitMs: 7_200_000,
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
      "a clock that is ahead makes nothing younger",
      { receivedLsn: lsn(95_000n), receivedAtFirstLsn: lsn(90_000n), elapsedMs: 2000, sinceCommitMs: 5 },
      { state: "receiving", bytes: 5000n, ms: 2000 },
    ],
    [
      "none came",
      { receivedLsn: lsn(95_000n), receivedAtFirstLsn: lsn(95_000n), elapsedMs: 2000 },
      { state: "stalled", bytes: 5000n, ms: 3_600_000 },
    ],
    [
      "nothing is here",
      { receivedLsn: undefined, receivedAtFirstLsn: undefined, elapsedMs: 2000, sinceChangeMs: undefined },
      { state: "stalled", bytes: 100_000n, ms: 2000 },
    ],
  ] as const
) {
  test(`judgeLag(): ${what}`, () => assert.deepEqual(judgeLag({ ...FACTS, ...facts }), want));
}

test("hasReached() forgives what can't be seen of a page that a record fills with zeros, and no more", () => {
  const page = 8192n;
  assert.equal(hasReached(lsn(3n * page), lsn(3n * page)), true);
  assert.equal(hasReached(lsn(3n * page - 8n), lsn(3n * page)), true);
  assert.equal(hasReached(lsn(2n * page + 24n), lsn(3n * page)), false, "nothing of that page");
  assert.equal(hasReached(lsn(2n * page), lsn(3n * page)), false);
  assert.equal(hasReached(lsn(3n * page), lsn(3n * page + 8n)), false);
});
