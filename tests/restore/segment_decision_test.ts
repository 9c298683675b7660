import assert from "node:assert/strict";
import { test } from "node:test";
import {
  decideSegment,
  type OwnFile,
  type SegmentDecision,
  type SegmentFacts,
  type UnfinishedCopy,
} from "../../lib/restore/segment_decision.ts";
import type { TimelineHistory } from "../../lib/wal/history.ts";
import { advance, lsn } from "../../lib/wal/lsn.ts";
import { segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const SIZE = segmentSize(1 << 20);
const NUMBER = segmentNumber(7n);
const START = lsn(7n << 20n);
const TIMELINE = timelineId(2);
const at = (bytes: number) => advance(START, bytes);

/** Where the tail's last record ends, and where that is cut off after it. */
const TAIL_BYTES = 50_000;

function copy(fields: Partial<UnfinishedCopy> = {}): UnfinishedCopy {
  return {
    path: "inprogress/000000020000000000000007",
    endLsn: at(TAIL_BYTES),
    contentEndLsn: at(TAIL_BYTES),
    provenLsn: at(40),
    state: "tail",
    endsInRecord: false,
    ...fields,
  };
}

const COPIES: Readonly<Record<string, Pick<SegmentFacts, "copies" | "difference">>> = {
  none: { copies: [], difference: undefined },
  "nothing valid": { copies: [copy({ endLsn: START, contentEndLsn: START })], difference: undefined },
  tail: { copies: [copy()], difference: undefined },
  "torn tail": { copies: [copy({ endsInRecord: true })], difference: undefined },
  complete: { copies: [copy({ state: "complete" })], difference: undefined },
  damaged: { copies: [copy({ state: "damaged", problem: "x" })], difference: undefined },
  "tail and damaged": { copies: [copy(), copy({ state: "damaged", problem: "x" })], difference: undefined },
  "damaged and complete": {
    copies: [copy({ state: "damaged", problem: "x" }), copy({ state: "complete" })],
    difference: undefined,
  },
  different: { copies: [copy(), copy({ endLsn: at(40_000) })], difference: "they differ" },
  "different, one complete": { copies: [copy({ state: "complete" }), copy()], difference: "they differ" },
};

/** Where the timeline itself began. */
const BEGINNINGS = {
  unknown: undefined,
  before: -3_000_000,
  "at the start": 0,
  inside: 8192,
  "at the tail's end": TAIL_BYTES,
  "behind the tail": TAIL_BYTES + 8,
  "at the end": (1 << 20) - 8,
  after: 1 << 20,
};

/** Where another timeline left it. */
const FORKS = {
  none: undefined,
  before: -100,
  "at the start": 0,
  "inside the tail": 20_000,
  "at the tail's end": TAIL_BYTES,
  "behind the tail": TAIL_BYTES + 8,
  "a page behind the tail": TAIL_BYTES + 8192,
  "more than a page behind the tail": TAIL_BYTES + 8200,
  "at the end": 1 << 20,
  behind: (1 << 20) + 8,
};

/** Where a base backup began, by its label. */
const LABELS = { none: undefined, "inside the tail": 20_000, "at the tail's end": TAIL_BYTES };

const OWN: Readonly<Record<string, OwnFile | undefined>> = {
  none: undefined,
  shorter: { endLsn: at(40_000), contentEndLsn: at(60_000), whole: false },
  equal: { endLsn: at(TAIL_BYTES), contentEndLsn: at(TAIL_BYTES), whole: false },
  "with more of a record": { endLsn: at(TAIL_BYTES), contentEndLsn: at(57_344), whole: false },
  longer: { endLsn: at(TAIL_BYTES + 8), contentEndLsn: at(TAIL_BYTES + 8), whole: false },
  whole: { endLsn: at(SIZE), contentEndLsn: at(SIZE), whole: true },
};

function histories(beginning: number | undefined, fork: number | undefined): readonly TimelineHistory[] {
  const own = beginning === undefined ? undefined : lsn(START + BigInt(beginning));
  const ancestors = own === undefined ? [] : [{ timeline: timelineId(1), endLsn: own, reason: "" }];
  const list: TimelineHistory[] = own === undefined ? [] : [{ timeline: TIMELINE, entries: ancestors }];
  if (fork !== undefined) {
    const left = { timeline: TIMELINE, endLsn: lsn(START + BigInt(fork)), reason: "" };
    list.push({ timeline: timelineId(3), entries: [...ancestors, left] });
    // One that left it early says nothing.
    list.push({ timeline: timelineId(4), entries: [{ ...left, endLsn: lsn(16n) }] });
  }
  return list;
}

/** The rules in the words of the design, one after the other. */
function expected(
  facts: SegmentFacts,
  { copies, fork, own, beginning, label }: {
    readonly copies: string;
    readonly fork: string;
    readonly own: string;
    readonly beginning: string;
    readonly label: string;
  },
): SegmentDecision["kind"] {
  if (facts.published) return "published";
  if (copies.startsWith("different")) return "damage";
  if (copies.includes("complete")) return "complete";
  if (copies.includes("damaged")) return "damage";
  const tail = copies === "tail" || copies === "torn tail";
  if (!tail && beginning === "after") return "absent";
  const moreWasWritten = facts.later !== undefined || facts.gap === "recorded" ||
    // Up to there it is the old timeline's, whatever may be missing of a record.
    ["behind the tail", "at the end", "after"].includes(beginning) ||
    (!tail && ["inside", "at the tail's end"].includes(beginning)) ||
    ["more than a page behind the tail", "at the end", "behind"].includes(fork) ||
    (["behind the tail", "a page behind the tail"].includes(fork) && copies !== "torn tail") ||
    (!tail && !["none", "before", "at the start"].includes(fork)) ||
    label === "at the tail's end" || (!tail && label !== "none") ||
    (!tail && facts.earlier === undefined);
  if (moreWasWritten) return own === "whole" ? "absent" : "hole";
  return tail && ["none", "shorter"].includes(own) ? "tail" : "absent";
}

test("decideSegment() says no only where the archive proves it: all combinations", () => {
  let count = 0;
  const seen = new Set<string>();
  for (const [copies, given] of Object.entries(COPIES)) {
    for (const [beginning, beginningBytes] of Object.entries(BEGINNINGS)) {
      for (const [fork, forkBytes] of Object.entries(FORKS)) {
        for (const [label, labelBytes] of Object.entries(LABELS)) {
          for (const own of Object.keys(OWN)) {
            for (let bits = 0; bits < 16; bits++) {
              const facts: SegmentFacts = {
                timeline: TIMELINE,
                number: NUMBER,
                segmentSize: SIZE,
                ...given,
                published: (bits & 1) !== 0,
                earlier: (bits & 2) === 0 ? undefined : segmentNumber(5n),
                later: (bits & 4) === 0 ? undefined : segmentNumber(9n),
                labelLsn: labelBytes === undefined ? undefined : at(labelBytes),
                histories: histories(beginningBytes, forkBytes),
                own: OWN[own],
                gap: (bits & 8) === 0 ? "none" : "recorded",
              };
              const words = { copies, beginning, fork, own, label };
              const decision = decideSegment(facts);
              assert.equal(decision.kind, expected(facts, words), JSON.stringify({ ...words, bits }));
              seen.add(decision.kind === "absent" ? decision.reason : decision.kind);
              count++;
            }
          }
        }
      }
    }
  }
  assert.equal(count, 10 * 8 * 10 * 3 * 6 * 16);
  assert.deepEqual([...seen].sort(), [
    "before the fork",
    "complete",
    "damage",
    "hole",
    "past the end",
    "published",
    "tail",
    "the server's own copy goes as far",
    "the server's own copy is whole",
  ]);
});

const NOTHING: SegmentFacts = {
  timeline: TIMELINE,
  number: NUMBER,
  segmentSize: SIZE,
  published: false,
  copies: [],
  difference: undefined,
  earlier: segmentNumber(6n),
  later: undefined,
  labelLsn: undefined,
  histories: [],
  own: undefined,
  gap: "none",
};

test("decideSegment() takes a gap for the end where that is asked for, and nothing else", () => {
  const later = segmentNumber(9n);
  const decide = (facts: Partial<SegmentFacts>) => decideSegment({ ...NOTHING, gap: "end", later, ...facts });
  assert.deepEqual(decide({}), { kind: "absent", reason: "a gap begins here" });
  assert.equal(decide({ copies: [copy()] }).kind, "tail");
  assert.equal(decide({ copies: [copy({ state: "complete" })] }).kind, "complete");
  assert.equal(decide({ copies: [copy({ state: "damaged", problem: "x" })] }).kind, "damage");
  assert.equal(decide({ copies: [copy(), copy()], difference: "they differ" }).kind, "damage");
  assert.equal(decide({ published: true }).kind, "published");
  assert.equal(decide({ copies: [copy()], own: OWN["longer"] }).kind, "absent");
});

test("decideSegment() says what shows that there was more", () => {
  const problemOf = (facts: Partial<SegmentFacts>) => {
    const decision = decideSegment({ ...NOTHING, ...facts });
    assert.equal(decision.kind, "hole");
    return decision.kind === "hole" ? decision.problem : "";
  };
  assert.equal(
    problemOf({ later: segmentNumber(9n) }),
    "000000020000000000000007 is not there, but 000000020000000000000009 of the same timeline is there",
  );
  assert.equal(
    problemOf({ later: segmentNumber(9n), copies: [copy()] }),
    '000000020000000000000007 is there only up to 0/70C350 ("inprogress/000000020000000000000007"), ' +
      "but 000000020000000000000009 of the same timeline is there",
  );
  assert.equal(
    problemOf({ histories: histories(-8, (1 << 20) + 16) }),
    '000000020000000000000007 is not there, but timeline 3 left timeline 2 only at 0/800010 ("00000003.history")',
  );
  assert.equal(
    problemOf({ earlier: undefined, histories: histories(-8, undefined) }),
    '000000020000000000000007 is not there, nor any WAL of timeline 2 before it, though "00000002.history" is',
  );
  assert.equal(
    problemOf({ labelLsn: at(40) }),
    "000000020000000000000007 is not there, but a backup began at 0/700028",
  );
  assert.equal(
    problemOf({ gap: "recorded" }),
    "000000020000000000000007 is not there, but more was written, as gaps.jsonl tells",
  );
  assert.equal(
    problemOf({ earlier: undefined }),
    "000000020000000000000007 is not there, nor any WAL of timeline 2 before it",
  );
});
