import assert from "node:assert/strict";
import { test } from "node:test";
import { openDirectDisk } from "../../../lib/archive/direct_disk.ts";
import {
  EMPTY_LEDGER,
  encodeGapAcceptance,
  encodeGapRecord,
  type GapAcceptance,
  type GapRecord,
} from "../../../lib/archive/gaps.ts";
import type { HeldSegment } from "../../../lib/archive/verify/continuity.ts";
import { explainHole, gapsAtEnds, isCovered } from "../../../lib/archive/verify/known_gap.ts";
import { openDirectProver } from "../../../lib/archive/verify/prover.ts";
import { verifyDirectory } from "../../../lib/archive/verify/verify.ts";
import { lsn } from "../../../lib/wal/lsn.ts";
import { segmentNumber } from "../../../lib/wal/segment.ts";
import { timelineId } from "../../../lib/wal/timeline.ts";
import { FIRST, Scene, scenery } from "../../restore/restore_scene.ts";
import { SEGMENT_SIZE } from "../on_sim_disk.ts";

function range(first: number, end: number, timeline = 1) {
  const at = (segments: number) => lsn(BigInt(segments) * BigInt(SEGMENT_SIZE));
  return { timeline: timelineId(timeline), startLsn: at(first), endLsn: at(end) };
}

function record(first: number, end: number, timeline = 1): GapRecord {
  const said = {
    recordedAt: "2025-11-25T13:00:00.000Z",
    reason: "no server has it",
    server: "db",
    answer: "no",
  };
  return { ...range(first, end, timeline), ...said };
}

function acceptance(first: number, end: number, timeline = 1): GapAcceptance {
  const said = { acceptedAt: "2025-11-26T13:00:00.000Z", acceptedBy: "postgres", reason: "disk gone" };
  return { ...range(first, end, timeline), ...said };
}

/** Segments 4 and 5. */
const HOLE = {
  timeline: timelineId(1),
  firstNumber: segmentNumber(4n),
  endNumber: segmentNumber(6n),
  finding: { kind: "hole", problem: "2 segments are missing" },
} as const;

test("isCovered() takes ranges together, in any order, of the same timeline only", () => {
  for (
    const [by, want] of [
      [[], false],
      [[range(4, 6)], true],
      [[range(1, 9)], true],
      [[range(5, 6), range(4, 5)], true],
      [[range(4, 5)], false],
      [[range(5, 6)], false],
      [[range(3, 5), range(6, 7)], false],
      [[range(4, 6, 2)], false],
    ] as const
  ) {
    assert.equal(isCovered(range(4, 6), by), want);
  }
});

test("explainHole(): what was given up is a note, what is recorded a hole with its reason", () => {
  const explain = (records: readonly GapRecord[], acceptances: readonly GapAcceptance[]) =>
    explainHole(HOLE, { ...EMPTY_LEDGER, records, acceptances }, SEGMENT_SIZE);
  assert.equal(explain([], []), HOLE.finding);
  assert.equal(explain([record(7, 9), record(4, 6, 2)], []), HOLE.finding);
  const recorded = explain([record(5, 9)], [acceptance(4, 5)]);
  assert.equal(recorded.kind, "hole", "not all of it is given up");
  assert.match(recorded.problem, /^2 segments are missing; recorded 2025-11-25.*: no server has it$/);
  const accepted = explain([record(4, 6)], [acceptance(4, 5), acceptance(5, 6)]);
  assert.equal(accepted.kind, "note");
  assert.match(accepted.problem, /; given up 2025-11-26.* by postgres: disk gone$/);
});

test("gapsAtEnds(): only the ledger shows what is missing behind all that is here", () => {
  const held = (number: number, extent: HeldSegment["extent"] = "whole", timeline = 1): HeldSegment => {
    const { timeline: id, endLsn } = range(number, number + 1, timeline);
    return { timeline: id, number: segmentNumber(BigInt(number)), extent, endLsn, path: "" };
  };
  const here = [held(2), held(3, "tail"), held(9, "none"), held(2, "whole", 2)];
  const find = (
    ranges: readonly GapRecord[],
    more: { readonly last?: number; readonly asked?: number } = {},
  ) =>
    gapsAtEnds(here, {
      ledger: { ...EMPTY_LEDGER, records: ranges },
      holes: [HOLE],
      segmentSize: SEGMENT_SIZE,
      range: {
        first: undefined,
        last: more.last === undefined ? undefined : segmentNumber(BigInt(more.last)),
      },
      isAsked: (timeline) => more.asked === undefined || timeline === more.asked,
    }).map(({ timeline, firstNumber, endNumber }) => `${timeline}: ${firstNumber}-${endNumber}`);
  assert.deepEqual(find([record(3, 8)]), ["1: 3-8"], "the segment that is cut off is part of it");
  assert.deepEqual(find([record(1, 7), record(1, 7)]), ["1: 3-7"], "what a later process wrote once more");
  assert.deepEqual(find([record(3, 4, 2)]), ["2: 3-4"]);
  assert.deepEqual(
    find([record(1, 3), record(4, 6), record(4, 6, 3)]),
    [],
    "healed; known; removed with all before",
  );
  assert.deepEqual(find([record(3, 8)], { last: 4 }), ["1: 3-5"]);
  assert.deepEqual(find([record(3, 8), record(3, 4, 2)], { asked: 2 }), ["2: 3-4"]);
});

test("verify tells a recorded gap behind all that is here, and one that was given up as a note", async () => {
  using scene = new Scene();
  scene.fill(scenery({ segments: 4 }).segments, 3);
  const verify = async () => {
    const { findings } = await verifyDirectory(openDirectDisk(scene.archive), {
      range: {},
      openProver: () => openDirectProver(scene.archive),
      onProgress: () => {},
      signal: new AbortController().signal,
    });
    return findings.map(({ kind, path, problem }) => `${kind} ${path} ${problem}`);
  };
  assert.deepEqual(await verify(), []);
  scene.put("gaps.jsonl", encodeGapRecord(record(FIRST + 3, FIRST + 5)));
  const [told, ...others] = await verify();
  assert.match(
    told ?? "",
    /^hole 000000010000000000000006 2 segments are missing, up to \S+07: nothing has come from behind it yet; recorded 2025/,
  );
  assert.deepEqual(others, []);
  scene.put("gaps.jsonl", encodeGapAcceptance(acceptance(FIRST + 3, FIRST + 5)));
  assert.match((await verify())[0] ?? "", /^note .*; given up 2025/);
});
