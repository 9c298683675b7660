import assert from "node:assert/strict";
import { test } from "node:test";
import { contradictions, readHistory, startProblem } from "../../../lib/archive/verify/lineage.ts";
import { parseHistory } from "../../../lib/wal/history.ts";
import { parseLsn } from "../../../lib/wal/lsn.ts";
import { timelineId } from "../../../lib/wal/timeline.ts";

const encode = (text: string) => new TextEncoder().encode(text);

test("readHistory() tells what is wrong with a file", () => {
  const cases: readonly (readonly [text: string, problem: RegExp | undefined])[] = [
    ["1\t0/600000\tno recovery target specified\n", undefined],
    ["1\t0/600000\tno recovery tar", /its last line is cut off/],
    ["", /it names no ancestor/],
    ["# nothing\n", /it names no ancestor/],
    ["1 and so on\n", /^line 1: "1 and so on", want a timeline/],
    ["2\t0/600000\tx\n", /^line 1: timeline 2, want one above 0 and below 2/],
  ];
  for (const [text, problem] of cases) {
    const read = readHistory(timelineId(2), encode(text));
    if (problem === undefined) assert.ok("history" in read, text);
    else {
      assert.ok("finding" in read, text);
      assert.equal(read.finding.kind, "history");
      assert.equal(read.finding.path, "00000002.history");
      assert.match(read.finding.problem, problem);
    }
  }
});

test("contradictions() finds histories that tell different pasts", () => {
  const cases:
    readonly (readonly [histories: readonly (readonly [number, string])[], want: readonly RegExp[]])[] = [
      [[[2, "1\t0/60\tx\n"]], []],
      [[[2, "1\t0/60\tx\n"], [3, "1\t0/60\ty\n2\t0/80\tx\n"]], []],
      [[[2, "1\t0/60\tx\n"], [3, "1\t0/50\tx\n"]], []],
      [[[2, "1\t0/60\tx\n"], [3, "1\t0/58\tx\n2\t0/80\tx\n"]], [
        /^timeline 1 up to 0\/58, want timeline 1 up to 0\/60 as in "00000002.history"$/,
      ]],
      [[[2, "1\t0/60\tx\n"], [3, "2\t0/80\tx\n"]], [/^no more ancestors, want timeline 1 up to 0\/60/]],
      [[[2, "1\t0/60\tx\n"], [4, "1\t0/60\tx\n2\t0/70\tx\n3\t0/80\tx\n"], [3, "1\t0/60\tx\n2\t0/71\tx\n"]], [
        /^timeline 2 up to 0\/70, want timeline 2 up to 0\/71 as in "00000003.history"$/,
      ]],
    ];
  for (const [texts, want] of cases) {
    const histories = new Map(
      texts.map(([timeline, text]) => [timelineId(timeline), parseHistory(timelineId(timeline), text)]),
    );
    const found = contradictions(histories);
    assert.equal(found.length, want.length);
    for (const [index, pattern] of want.entries()) assert.match(found[index]!.problem, pattern);
  }
});

test("startProblem() holds a history against the record that began its timeline", () => {
  const start = { timeline: 3, previousTimeline: 2, path: "file" };
  const at = (fork: string, lsn: string) =>
    startProblem(
      { ...start, lsn: parseLsn(lsn) },
      parseHistory(timelineId(3), `1\t0/60\tx\n2\t${fork}\tx\n`),
    );
  assert.equal(at("0/812340", "0/812340"), undefined);
  // At a page's start the record stands behind the page's header.
  assert.equal(at("0/812000", "0/812018"), undefined);
  assert.equal(at("0/800000", "0/800028"), undefined);
  assert.match(
    at("0/812340", "0/812358")?.problem ?? "",
    /^it begins at 0\/812340, want 0\/812358 as "file" says$/,
  );
  assert.match(at("0/812348", "0/812340")?.problem ?? "", /want 0\/812340/);
  const other = startProblem(
    { ...start, previousTimeline: 1, lsn: parseLsn("0/812340") },
    parseHistory(timelineId(3), "1\t0/60\tx\n2\t0/812340\tx\n"),
  );
  assert.match(other?.problem ?? "", /^it comes from timeline 2, want 1 as "file" says at 0\/812340$/);
});
