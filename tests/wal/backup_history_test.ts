import assert from "node:assert/strict";
import { test } from "node:test";
import { parseBackupHistory } from "../../lib/wal/backup_history.ts";

/** As a server of version 15 writes it. */
const TEXT = `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
STOP WAL LOCATION: 0/2000138 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-22 11:20:11 UTC
LABEL: nightly: START WAL LOCATION: 1
START TIMELINE: 1
STOP TIME: 2026-11-22 11:20:13 UTC
STOP TIMELINE: 1
`;

test("parseBackupHistory() reads what a server writes", () => {
  const want = {
    startLsn: 0x2000028n,
    stopLsn: 0x2000138n,
    timeline: 1,
    label: "nightly: START WAL LOCATION: 1",
    startTime: "2026-11-22 11:20:11 UTC",
    stopTime: "2026-11-22 11:20:13 UTC",
  };
  assert.deepEqual(parseBackupHistory(TEXT), want);
  assert.deepEqual(parseBackupHistory(new TextEncoder().encode(TEXT)), want);
});

test("parseBackupHistory() takes the timeline from the file's name where the server tells none (before 11)", () => {
  const text = TEXT.replace(/START TIMELINE.*\n/, "").replace("(file 00000001", "(file 0000000A");
  assert.equal(parseBackupHistory(text).timeline, 10);
});

test("parseBackupHistory() takes an empty label for none", () => {
  assert.equal(parseBackupHistory(TEXT.replace(/LABEL: .*/, "LABEL: ")).label, "");
});

for (
  const [what, text] of [
    ["nothing", ""],
    ["no start", TEXT.replace(/START WAL.*\n/, "")],
    ["no stop", TEXT.replace(/STOP WAL.*\n/, "")],
    ["a location that is none", TEXT.replace("0/2000028", "2000028")],
    ["a file that is none", TEXT.replace("(file 000000010000000000000002)", "(file x)")],
    ["other text", "hello\nworld\n"],
  ] as const
) {
  test(`parseBackupHistory() refuses ${what}`, () => {
    assert.throws(() => parseBackupHistory(text), SyntaxError);
  });
}

test("parseBackupHistory() makes nothing up from a file that is cut off", () => {
  const stop = TEXT.indexOf("\nCHECKPOINT");
  for (let end = 0; end < TEXT.length; end++) {
    const cut = TEXT.slice(0, end);
    if (end < stop) assert.throws(() => parseBackupHistory(cut), SyntaxError, `cut at ${end}`);
    else assert.equal(parseBackupHistory(cut).stopLsn, 0x2000138n);
  }
});
