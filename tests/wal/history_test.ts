import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  cutHistoryProblem,
  emptyHistory,
  formatHistory,
  isInLineage,
  parseHistory,
  switchPointOf,
  timelineAt,
} from "../../lib/wal/history.ts";
import { lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const FOUR = timelineId(4);
/** As PostgreSQL 15 wrote it, two promotions later. */
const TEXT = "1\t0/CB9E18\tno recovery target specified\n\n2\t16/B374D848\tbefore 2026-01-01 00:00:00+00\n";
const HISTORY = parseHistory(FOUR, TEXT);

test("parseHistory() reads what the server wrote, formatHistory() writes the same", () => {
  assert.deepEqual(HISTORY, {
    timeline: 4,
    entries: [
      { timeline: 1, endLsn: 0xcb9e18n, reason: "no recovery target specified" },
      { timeline: 2, endLsn: 0x16_b374_d848n, reason: "before 2026-01-01 00:00:00+00" },
    ],
  });
  assert.equal(formatHistory(HISTORY), TEXT);
  assert.deepEqual(parseHistory(FOUR, new TextEncoder().encode(TEXT)), HISTORY);
});

test("parseHistory() passes over comments, blank lines and line ends of other systems", () => {
  const text = "# a comment\r\n\r\n  # another\n \t\n  1   0/ff why\tnot \r\n3\t0/100";
  assert.deepEqual(parseHistory(FOUR, text).entries, [
    { timeline: 1, endLsn: 0xffn, reason: "why\tnot" },
    { timeline: 3, endLsn: 0x100n, reason: "" },
  ]);
});

test("parseHistory() of nothing is a history without ancestors", () => {
  for (const text of ["", "\n", "# only this"]) {
    assert.deepEqual(parseHistory(FOUR, text), emptyHistory(FOUR));
  }
  assert.deepEqual(parseHistory(timelineId(1), ""), emptyHistory(timelineId(1)));
  assert.equal(formatHistory(emptyHistory(FOUR)), "");
});

const REFUSED: readonly [string, string][] = [
  ["no timeline", "x\t0/1\tr\n"],
  ["a timeline in hex", "A\t0/1\tr\n"],
  ["no LSN", "1\n"],
  ["half an LSN", "1\t0/\tr\n"],
  ["an LSN of nine digits", "1\t0/123456789\tr\n"],
  ["a signed timeline", "-1\t0/1\tr\n"],
  ["timeline 0", "0\t0/1\tr\n"],
  ["its own timeline", "4\t0/1\tr\n"],
  ["a later timeline", "5\t0/1\tr\n"],
  ["a timeline twice", "2\t0/1\tr\n2\t0/2\tr\n"],
  ["a falling timeline", "3\t0/1\tr\n2\t0/2\tr\n"],
];
for (const [what, text] of REFUSED) {
  test(`parseHistory() refuses ${what} and names the line`, () => {
    const line = 1 + text.trimEnd().split("\n").length;
    assert.throws(() => parseHistory(FOUR, `# first line\n${text}`), (error: unknown) => {
      assert.ok(error instanceof SyntaxError);
      assert.match(error.message, new RegExp(`^Cannot parse history of timeline 4, line ${line}: `));
      return true;
    });
  });
}

test("parseHistory() refuses ancestors of timeline 1", () => {
  assert.throws(() => parseHistory(timelineId(1), "1\t0/1\tr\n"), SyntaxError);
});

test("parseHistory() never invents an ancestor from a cut file", () => {
  for (let cut = 0; cut <= TEXT.length; cut++) {
    try {
      const { entries } = parseHistory(FOUR, TEXT.slice(0, cut));
      assert.ok(entries.length <= HISTORY.entries.length);
      for (const [i, entry] of entries.entries()) assert.equal(entry.timeline, HISTORY.entries[i]!.timeline);
    } catch (error) {
      assert.ok(error instanceof SyntaxError);
    }
  }
});

test("switchPointOf() tells where an ancestor was left", () => {
  assert.equal(switchPointOf(HISTORY, timelineId(1)), 0xcb9e18n);
  assert.equal(switchPointOf(HISTORY, timelineId(2)), 0x16_b374_d848n);
  for (const other of [3, 4, 5]) assert.equal(switchPointOf(HISTORY, timelineId(other)), undefined);
});

test("isInLineage() knows the timeline itself and its ancestors", () => {
  assert.deepEqual([1, 2, 3, 4, 5].map((t) => isInLineage(HISTORY, timelineId(t))), [
    true,
    true,
    false,
    true,
    false,
  ]);
});

test("timelineAt() gives the byte at the switch point to the newer timeline", () => {
  const cases: readonly [string, number][] = [
    ["0/0", 1],
    ["0/CB9E17", 1],
    ["0/CB9E18", 2],
    ["16/B374D847", 2],
    ["16/B374D848", 4],
    ["FFFFFFFF/FFFFFFFF", 4],
  ];
  for (const [at, timeline] of cases) assert.equal(timelineAt(HISTORY, parseLsn(at)), timeline, at);
  assert.equal(timelineAt(emptyHistory(timelineId(1)), lsn(5n)), 1);
});

test("cutHistoryProblem() finds a history without ancestors, and a last line without its end", () => {
  const problemOf = (text: string) =>
    cutHistoryProblem(parseHistory(FOUR, text), new TextEncoder().encode(text));
  assert.equal(problemOf(TEXT), undefined);
  assert.equal(problemOf(TEXT.slice(0, -1)), "its last line is cut off");
  for (const text of ["", "\n", "# x\n"]) assert.equal(problemOf(text), "it names no ancestor");
});

test("parseHistory() reads what formatHistory() writes", () => {
  const anyEntry = fc.record({
    timeline: fc.integer({ min: 1, max: 0xffff_fffe }).map(timelineId),
    endLsn: fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }).map(lsn),
    reason: fc.string({ unit: "binary", maxLength: 12 }).map((s) => s.replace(/\s+/g, " ").trim()),
  }, { noNullPrototype: true });
  const last = timelineId(0xffff_ffff);
  fc.assert(
    fc.property(fc.uniqueArray(anyEntry, { selector: (e) => e.timeline, maxLength: 5 }), (unsorted) => {
      const entries = unsorted.toSorted((a, b) => a.timeline - b.timeline);
      assert.deepEqual(parseHistory(last, formatHistory({ timeline: last, entries })), {
        timeline: last,
        entries,
      });
    }),
  );
});
