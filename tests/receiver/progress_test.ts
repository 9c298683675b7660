import assert from "node:assert/strict";
import { test } from "node:test";
import { judgeSilence, type Progress, statusDue } from "../../lib/receiver/progress.ts";
import { lsn } from "../../lib/wal/lsn.ts";

const TIMING = { statusIntervalMs: 10_000 };
const QUIET: Progress = {
  writeLsn: lsn(0x300n),
  flushLsn: lsn(0x200n),
  reportedFlushLsn: lsn(0x200n),
  reportedAtMs: 1000,
  paused: false,
  replyOwed: false,
};

/** Every combination of what calls for a status, and whether one is due. */
for (const flushMoved of [false, true]) {
  for (const replyOwed of [false, true]) {
    for (const paused of [false, true]) {
      for (const waitedMs of [0, 999, 1000, 9999, 10_000, 50_000]) {
        const isDue = flushMoved || replyOwed || waitedMs >= (paused ? 1000 : 10_000);
        const title =
          `${flushMoved ? "flush moved" : "flush as reported"}, ${replyOwed ? "asked" : "not asked"}, ` +
          `${paused ? "paused" : "reading"}, ${waitedMs} ms after the last`;
        test(`statusDue() is ${isDue ? "a status" : "nothing"}: ${title}`, () => {
          const progress = { ...QUIET, replyOwed, paused, flushLsn: lsn(flushMoved ? 0x280n : 0x200n) };
          const status = statusDue(progress, TIMING, 1000 + waitedMs);
          const { writeLsn, flushLsn } = progress;
          assert.deepEqual(status, isDue ? { writeLsn, flushLsn, replyRequested: false } : undefined);
        });
      }
    }
  }
}

test("statusDue() never reports what was written as flushed", () => {
  const status = statusDue({ ...QUIET, replyOwed: true, writeLsn: lsn(1n << 60n) }, TIMING, 0);
  assert.deepEqual(status, { writeLsn: 1n << 60n, flushLsn: 0x200n, replyRequested: false });
});

test("statusDue() while paused keeps an interval below a second", () => {
  const timing = { statusIntervalMs: 100 };
  assert.equal(statusDue({ ...QUIET, paused: true }, timing, 1099), undefined);
  assert.notEqual(statusDue({ ...QUIET, paused: true }, timing, 1100), undefined);
});

test("statusDue() tells a flush position that went back: a new leg begins at its segment's start", () => {
  assert.notEqual(statusDue({ ...QUIET, flushLsn: lsn(0x100n) }, TIMING, 1000), undefined);
});

test("judgeSilence() asks once at half of the deadline, and gives up at its end", () => {
  const timeoutMs = 60_000;
  const table = [
    [0, false, "none"],
    [29_999, false, "none"],
    [30_000, false, "ask"],
    [30_000, true, "none"],
    [59_999, false, "ask"],
    [59_999, true, "none"],
    [60_000, true, "give-up"],
    [60_000, false, "give-up"],
    [1e9, true, "give-up"],
  ] as const;
  for (const [silentMs, asked, want] of table) {
    assert.equal(judgeSilence({ silentMs, timeoutMs, asked }), want, `${silentMs} ${asked}`);
  }
});
