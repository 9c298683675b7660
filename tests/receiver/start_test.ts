import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import {
  beyondForks,
  newestTimeline,
  planStart,
  type StartPlan,
  unfinishedBeyondForks,
} from "../../lib/receiver/start.ts";
import type { ArchiveContents } from "../../lib/receiver/wal_archive.ts";
import type { SlotPosition } from "../../lib/protocol/replication.ts";
import type { TimelineHistory } from "../../lib/wal/history.ts";
import { firstMissingSegment, timelineOfSegment } from "../../lib/wal/lineage.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { type SegmentNumber, type SegmentSize, segmentSize, segmentStart } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";

const MIB = 1024 * 1024;
const SIZES = Array.from({ length: 11 }, (_, power) => segmentSize(MIB << power));

/** Where a table's segment 0 lies: at LSN 0, over the 4 GiB edge, beyond 2^53. */
const BASES = [0n, (1n << 32n) - 2n * BigInt(1024 * MIB), 1n << 60n];

/** Tables count timelines from 1; the second offset makes them 0x0A and up. */
const TIMELINE_OFFSETS = [0, 9];

/** A table's place: which timelines it speaks of, where its segment 0 lies, and how large segments are. */
interface Place {
  readonly size: SegmentSize;
  readonly base: bigint;
  readonly timelineOffset: number;
}

const PLACES: readonly Place[] = SIZES.flatMap((size) =>
  BASES.flatMap((base) => TIMELINE_OFFSETS.map((timelineOffset) => ({ size, base, timelineOffset })))
);

const MEBIBYTE: Place = { size: SIZES[0]!, base: 0n, timelineOffset: 0 };

/** Written `timeline: [first, end)`; segments and LSNs are counted in segments from the place's base. */
interface Contents {
  readonly runs?: readonly (readonly [timeline: number, first: number, end: number])[];
  readonly unfinished?: readonly (readonly [timeline: number, number: number])[];
  readonly histories?: readonly number[];
  /** Recorded gaps. */
  readonly recorded?: readonly (readonly [timeline: number, first: number, end: number])[];
}

/** Ancestors and where each was left; the last number is the lineage's own timeline. */
interface Lineage {
  readonly timeline: number;
  readonly left?: readonly (readonly [timeline: number, at: number])[];
}

function placed(place: Place) {
  const { size, base, timelineOffset } = place;
  const timeline = (value: number) => timelineId(value + timelineOffset);
  const number = (value: number) => (base / BigInt(size) + BigInt(value)) as SegmentNumber;
  /** `4.5` is in the middle of segment 4. */
  const at = (segments: number) => {
    const whole = Math.floor(segments);
    return lsn(segmentStart(number(whole), size) + BigInt((segments - whole) * size));
  };
  const run = ([of, first, end]: readonly [timeline: number, first: number, end: number]) => ({
    timeline: timeline(of),
    firstNumber: number(first),
    endNumber: number(end),
  });
  const contents = (
    { runs = [], unfinished = [], histories = [], recorded = [] }: Contents,
  ): ArchiveContents => ({
    runs: runs.map(run),
    gaps: { recorded: recorded.map(run), accepted: [], healed: [] },
    unfinished: unfinished.map(([of, which]) => ({ timeline: timeline(of), number: number(which) })),
    histories: histories.map((of) => ({ timeline: timeline(of), bytes: new Uint8Array() })),
    incomplete: [],
  });
  const lineage = (of: Lineage): TimelineHistory => ({
    timeline: timeline(of.timeline),
    entries: (of.left ?? []).map(([ancestor, end]) => ({
      timeline: timeline(ancestor),
      endLsn: at(end),
      reason: "",
    })),
  });
  return { timeline, number, at, contents, lineage };
}

/** An archive and the lineage of the server it meets, and the first byte that is missing: its file. */
interface ArchiveCase {
  readonly name: string;
  readonly archive: Contents;
  readonly server: Lineage;
  /** `undefined`: nothing of the server's lineage is here. */
  readonly missing: readonly [timeline: number, segment: number] | undefined;
}

const ARCHIVES: readonly ArchiveCase[] = [
  { name: "empty", archive: {}, server: { timeline: 1 }, missing: undefined },
  {
    name: "empty but for a history",
    archive: { histories: [2] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: undefined,
  },
  {
    name: "only an unfinished segment",
    archive: { unfinished: [[1, 4]] },
    server: { timeline: 1 },
    missing: [1, 4],
  },
  {
    name: "complete segments",
    archive: { runs: [[1, 2, 5]] },
    server: { timeline: 1 },
    missing: [1, 5],
  },
  {
    name: "complete segments and an unfinished one",
    archive: { runs: [[1, 2, 5]], unfinished: [[1, 5]] },
    server: { timeline: 1 },
    missing: [1, 5],
  },
  {
    name: "complete segments and a prepared one far ahead",
    archive: { runs: [[1, 2, 5]], unfinished: [[1, 9]] },
    server: { timeline: 1 },
    missing: [1, 5],
  },
  {
    name: "an unfinished segment below the complete ones",
    archive: { runs: [[1, 4, 6]], unfinished: [[1, 3]] },
    server: { timeline: 1 },
    missing: [1, 3],
  },
  {
    name: "the start of a segment, and what push brought further on",
    archive: { runs: [[1, 5, 6]], unfinished: [[1, 3]] },
    server: { timeline: 1 },
    missing: [1, 3],
  },
  {
    name: "the starts of two segments, and what push brought further on",
    archive: { runs: [[1, 8, 10]], unfinished: [[1, 3], [1, 6]] },
    server: { timeline: 1 },
    missing: [1, 3],
  },
  {
    name: "the start of an old timeline's segment, and what push brought of the new one",
    archive: { runs: [[2, 8, 10]], unfinished: [[1, 3]] },
    server: { timeline: 2, left: [[1, 6.5]] },
    missing: [1, 3],
  },
  {
    name: "an old timeline's end, and what push brought of the new one",
    archive: { runs: [[2, 5, 6]], unfinished: [[1, 3]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [2, 3],
  },
  {
    name: "an old timeline's start past its fork, and what push brought of the new one",
    archive: { runs: [[2, 5, 6]], unfinished: [[1, 4]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [2, 6],
  },
  {
    name: "the start of a segment, a recorded gap from there on, and what push brought further on",
    archive: { runs: [[1, 8, 9]], unfinished: [[1, 3]], recorded: [[1, 3, 5]] },
    server: { timeline: 1 },
    missing: [1, 5],
  },
  {
    name: "a recorded gap, and nothing behind it yet",
    archive: { runs: [[1, 2, 5]], recorded: [[1, 5, 9]] },
    server: { timeline: 1 },
    missing: [1, 9],
  },
  {
    name: "a recorded gap, and more behind it",
    archive: { runs: [[1, 2, 5], [1, 9, 12]], recorded: [[1, 5, 9]] },
    server: { timeline: 1 },
    missing: [1, 12],
  },
  {
    name: "a recorded gap that is half filled",
    archive: { runs: [[1, 2, 5], [1, 6, 7], [1, 9, 12]], recorded: [[1, 5, 9]] },
    server: { timeline: 1 },
    missing: [1, 12],
  },
  {
    name: "a recorded gap that is smaller than the hole",
    archive: { runs: [[1, 2, 5], [1, 9, 12]], recorded: [[1, 5, 8]] },
    server: { timeline: 1 },
    missing: [1, 8],
  },
  {
    name: "two recorded gaps side by side",
    archive: { runs: [[1, 2, 5], [1, 9, 12]], recorded: [[1, 7, 9], [1, 5, 7]] },
    server: { timeline: 1 },
    missing: [1, 12],
  },
  {
    name: "a recorded gap that begins with what was received of it",
    archive: { runs: [[1, 9, 12]], unfinished: [[1, 5]], recorded: [[1, 5, 9]] },
    server: { timeline: 1 },
    missing: [1, 12],
  },
  {
    name: "a recorded gap below all that is left",
    archive: { runs: [[1, 9, 12]], recorded: [[1, 5, 9]] },
    server: { timeline: 1 },
    missing: [1, 12],
  },
  {
    name: "only a recorded gap",
    archive: { recorded: [[1, 5, 9]] },
    server: { timeline: 1 },
    missing: undefined,
  },
  {
    name: "a recorded gap over a fork",
    archive: { runs: [[1, 2, 5]], recorded: [[1, 5, 6], [2, 6, 9]] },
    server: { timeline: 2, left: [[1, 6.5]] },
    missing: [2, 9],
  },
  {
    name: "a recorded gap past the fork of an old timeline",
    archive: { runs: [[1, 2, 5]], recorded: [[1, 5, 9]] },
    server: { timeline: 2, left: [[1, 6.5]] },
    missing: [2, 6],
  },
  {
    name: "an old timeline's end right below the complete ones",
    archive: { runs: [[2, 4, 6]], unfinished: [[1, 3]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [2, 3],
  },
  {
    name: "runs with a hole",
    archive: { runs: [[1, 1, 3], [1, 5, 7]] },
    server: { timeline: 1 },
    missing: [1, 3],
  },
  {
    name: "runs with two holes, in any order",
    archive: { runs: [[1, 8, 9], [1, 1, 2], [1, 4, 6]] },
    server: { timeline: 1 },
    missing: [1, 2],
  },
  {
    name: "another lineage only",
    archive: { runs: [[2, 1, 5]], unfinished: [[2, 5]] },
    server: { timeline: 3, left: [[1, 3.5]] },
    missing: undefined,
  },
  {
    name: "this timeline, but all of it past the fork",
    archive: { runs: [[1, 6, 9]], unfinished: [[1, 9]] },
    server: { timeline: 2, left: [[1, 5.5]] },
    missing: undefined,
  },
  {
    name: "ahead of the fork, complete",
    archive: { runs: [[1, 1, 7]], unfinished: [[1, 7]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [2, 3],
  },
  {
    name: "ahead of the fork, which is in the first segment of all",
    archive: { runs: [[1, 3, 5]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [2, 3],
  },
  {
    name: "at the fork, mid-segment",
    archive: { runs: [[1, 1, 3]], unfinished: [[1, 3]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [2, 3],
  },
  {
    name: "at the fork, and nothing else",
    archive: { unfinished: [[1, 3]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [2, 3],
  },
  {
    name: "behind the fork",
    archive: { runs: [[1, 1, 2]], unfinished: [[1, 2]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [1, 2],
  },
  {
    name: "past the fork on both sides",
    archive: { runs: [[1, 1, 3], [2, 3, 6]], unfinished: [[1, 3], [2, 6]] },
    server: { timeline: 2, left: [[1, 3.5]] },
    missing: [2, 6],
  },
  {
    name: "fork at a segment boundary, received up to it",
    archive: { runs: [[1, 1, 3]] },
    server: { timeline: 2, left: [[1, 3]] },
    missing: [2, 3],
  },
  {
    name: "fork at a segment boundary, ahead of it",
    archive: { runs: [[1, 1, 5]] },
    server: { timeline: 2, left: [[1, 3]] },
    missing: [2, 3],
  },
  {
    name: "fork at a segment boundary, only what comes after it on the old timeline",
    archive: { unfinished: [[1, 3]] },
    server: { timeline: 2, left: [[1, 3]] },
    missing: undefined,
  },
  {
    name: "fork at a segment boundary, gone past it",
    archive: { runs: [[1, 1, 3], [2, 3, 4]] },
    server: { timeline: 2, left: [[1, 3]] },
    missing: [2, 4],
  },
  {
    name: "two forks in one segment, on the first timeline",
    archive: { runs: [[1, 1, 3]], unfinished: [[1, 3]] },
    server: { timeline: 3, left: [[1, 3.25], [2, 3.75]] },
    missing: [3, 3],
  },
  {
    name: "two forks in one segment, on the second timeline only",
    archive: { unfinished: [[2, 3]] },
    server: { timeline: 3, left: [[1, 3.25], [2, 3.75]] },
    missing: [3, 3],
  },
  {
    name: "two forks in one segment, past both",
    archive: { runs: [[1, 1, 3], [3, 3, 5]], unfinished: [[1, 3], [2, 3], [3, 5]] },
    server: { timeline: 3, left: [[1, 3.25], [2, 3.75]] },
    missing: [3, 5],
  },
  {
    name: "two forks at one byte",
    archive: { unfinished: [[2, 3]] },
    server: { timeline: 3, left: [[1, 3.5], [2, 3.5]] },
    missing: [3, 3],
  },
  {
    name: "fork while away, twice",
    archive: { runs: [[1, 1, 3]], unfinished: [[1, 3]] },
    server: { timeline: 3, left: [[1, 4.5], [2, 6.5]] },
    missing: [1, 3],
  },
  {
    name: "fork while away, twice, ahead of the first",
    archive: { runs: [[1, 1, 8]] },
    server: { timeline: 3, left: [[1, 4.5], [2, 6.5]] },
    missing: [2, 4],
  },
  {
    name: "fork while away, twice, ahead of the second",
    archive: { runs: [[1, 1, 4], [2, 4, 9]] },
    server: { timeline: 3, left: [[1, 4.5], [2, 6.5]] },
    missing: [3, 6],
  },
  {
    name: "a hole at the fork",
    archive: { runs: [[1, 1, 4], [2, 5, 9]] },
    server: { timeline: 2, left: [[1, 4.5]] },
    missing: [2, 4],
  },
];

/** Slots by name: where each stands relative to the archive's end (segment 2 when there is none). */
const SLOTS = {
  "no slot": undefined,
  "a slot that reserves nothing": "reserves nothing",
  "a slot before the archive's end": -0.75,
  "a slot at the archive's end": 0,
  "a slot after the archive's end": 1.25,
} as const;

/** Where the server's WAL ends, relative to the first byte missing (segment 2 when there is none). */
const SERVERS = { "behind": -0.25, "at": 0, "ahead": 4.5 } as const;

function slotAt(
  slot: number | "reserves nothing" | undefined,
  end: number,
  place: Place,
): SlotPosition | undefined {
  if (slot === undefined) return undefined;
  const restartLsn = slot === "reserves nothing" ? undefined : placed(place).at(end + slot);
  return { kind: "physical", restartLsn, restartTimeline: undefined };
}

/** A plan in the table's own numbers. */
function shownPlan(plan: StartPlan, place: Place): unknown {
  if (plan.kind === "old-timeline") {
    return { kind: plan.kind, archiveTimeline: plan.archiveTimeline - place.timelineOffset };
  }
  const segment = Number(plan.startLsn - BigInt(place.base)) / place.size;
  return { ...plan, timeline: plan.timeline - place.timelineOffset, startLsn: segment };
}

/** On which timeline's file a segment of a lineage is: the newest one that began below the segment's end. */
function fileTimeline({ timeline, left = [] }: Lineage, segment: number): number {
  return left.find(([, at]) => segment + 1 <= at)?.[0] ?? timeline;
}

/** What the design says, in the table's own numbers. */
function wantedPlan(
  { server, missing }: ArchiveCase,
  slot: number | "reserves nothing" | undefined,
  serverEnd: number,
): unknown {
  if (missing !== undefined) {
    const [timeline, startLsn] = missing;
    return serverEnd < startLsn
      ? { kind: "server-behind", timeline, startLsn }
      : { kind: "start", timeline, startLsn, origin: "archive" };
  }
  const isSlot = typeof slot === "number";
  const startLsn = Math.floor(isSlot ? 2 + slot : serverEnd);
  return {
    kind: "start",
    timeline: fileTimeline(server, startLsn),
    startLsn,
    origin: isSlot ? "slot" : "server",
  };
}

for (const archive of ARCHIVES) {
  for (const [slotName, slot] of Object.entries(SLOTS)) {
    for (const [serverName, ahead] of Object.entries(SERVERS)) {
      test(`planStart() with archive: ${archive.name}; ${slotName}; server ${serverName}`, () => {
        const end = archive.missing?.[1] ?? 2;
        for (const place of PLACES) {
          const { contents, lineage, at } = placed(place);
          const plan = planStart({
            contents: contents(archive.archive),
            lineage: lineage(archive.server),
            segmentSize: place.size,
            serverFlushLsn: at(end + ahead),
            slot: slotAt(slot, end, place),
          });
          assert.deepEqual(
            shownPlan(plan, place),
            wantedPlan(archive, slot, end + ahead),
            JSON.stringify(place.size),
          );
        }
      });
    }
  }
}

test("planStart() refuses a server on an older timeline, whatever tells the newer one", () => {
  const newer: Contents[] = [{ runs: [[3, 1, 2]] }, { unfinished: [[3, 1]] }, { histories: [3] }];
  for (const archive of newer) {
    for (const place of PLACES) {
      const { contents, lineage, at } = placed(place);
      const plan = planStart({
        contents: contents({ ...archive, runs: [[1, 0, 9], ...archive.runs ?? []] }),
        lineage: lineage({ timeline: 2, left: [[1, 3.5]] }),
        segmentSize: place.size,
        serverFlushLsn: at(100),
        slot: slotAt(0, 2, place),
      });
      assert.deepEqual(shownPlan(plan, place), { kind: "old-timeline", archiveTimeline: 3 });
    }
  }
});

test("planStart() starts where the server ends exactly at the archive's end, and one byte less is behind", () => {
  for (const place of PLACES) {
    const { contents, lineage, at } = placed(place);
    const facts = {
      contents: contents({ runs: [[1, 1, 5]] }),
      lineage: lineage({ timeline: 1 }),
      slot: undefined,
    };
    const planAt = (serverFlushLsn: bigint) =>
      planStart({ ...facts, segmentSize: place.size, serverFlushLsn: lsn(serverFlushLsn) }).kind;
    assert.equal(planAt(at(5)), "start");
    assert.equal(planAt(at(5) - 1n), "server-behind");
  }
});

test("planStart() takes a slot's and a server's position down to the segment's start, at each of its edges", () => {
  for (const place of PLACES) {
    const { contents, lineage, at } = placed(place);
    for (const [position, segment] of [[at(3), 3], [at(3) + 1n, 3], [at(4) - 1n, 3], [at(4), 4]] as const) {
      for (const origin of ["slot", "server"] as const) {
        const plan = planStart({
          contents: contents({}),
          lineage: lineage({ timeline: 1 }),
          segmentSize: place.size,
          serverFlushLsn: origin === "server" ? lsn(position) : at(9),
          slot: origin === "slot"
            ? { kind: "physical", restartLsn: lsn(position), restartTimeline: undefined }
            : undefined,
        });
        assert.deepEqual(shownPlan(plan, place), { kind: "start", timeline: 1, startLsn: segment, origin });
      }
    }
  }
});

test("timelineOfSegment() is that of the segment's last byte", () => {
  for (const place of PLACES) {
    const { lineage, number, at, timeline } = placed(place);
    const { timeline: own } = lineage({ timeline: 2 });
    const leftAt = (endLsn: bigint): TimelineHistory => ({
      timeline: own,
      entries: [{ timeline: timeline(1), endLsn: lsn(endLsn), reason: "" }],
    });
    for (
      const [endLsn, third] of [[at(4), 1], [at(4) - 1n, 2], [at(3) + 1n, 2], [at(3), 2], [
        at(4) + 1n,
        1,
      ]] as const
    ) {
      assert.equal(timelineOfSegment(leftAt(endLsn), number(3), place.size), timeline(third));
    }
    assert.equal(timelineOfSegment(leftAt(at(3)), number(2), place.size), timeline(1));
  }
});

test("newestTimeline() counts runs, unfinished segments and histories", () => {
  const { contents } = placed(MEBIBYTE);
  assert.equal(newestTimeline(contents({})), undefined);
  assert.equal(newestTimeline(contents({ runs: [[1, 0, 1], [12, 1, 2], [3, 2, 3]] })), 12);
  assert.equal(newestTimeline(contents({ runs: [[1, 0, 1]], unfinished: [[10, 1]] })), 10);
  assert.equal(newestTimeline(contents({ runs: [[1, 0, 1]], histories: [255, 9] })), 255);
});

test("beyondForks() tells what the archive has that the promoted server never saw", () => {
  for (const place of PLACES) {
    const { contents, lineage, at, timeline } = placed(place);
    const server = lineage({ timeline: 3, left: [[1, 3.5], [2, 6]] });
    const beyond = (runs: Contents["runs"] = [], ends: Parameters<typeof beyondForks>[1] = []) =>
      beyondForks({ contents: contents({ runs }), lineage: server, segmentSize: place.size }, ends);
    assert.deepEqual(beyond([]), []);
    assert.deepEqual(beyond([[1, 0, 3], [2, 3, 6], [3, 6, 9]]), [], "all of it was taken over");
    const forkLsn = server.entries[0]!.endLsn;
    assert.deepEqual(beyond([[1, 0, 5], [2, 3, 6], [4, 0, 9]]), [
      { timeline: timeline(1), forkLsn, archiveEndLsn: at(5) },
    ]);
    // Mostly the fork lies in the segment that was growing.
    const growing = (end: number) => [{ timeline: timeline(1), endLsn: at(end) }];
    assert.deepEqual(beyond([[1, 0, 3]], growing(3.5)), [], "all of it was taken over");
    assert.deepEqual(beyond([[1, 0, 3]], growing(3.75)), [
      { timeline: timeline(1), forkLsn, archiveEndLsn: at(3.75) },
    ]);
    const { unfinished } = contents({ unfinished: [[1, 2], [1, 3], [2, 3], [2, 5], [2, 6], [3, 7]] });
    assert.deepEqual(
      unfinishedBeyondForks({
        contents: { ...contents({}), unfinished },
        lineage: server,
        segmentSize: place.size,
      }),
      contents({ unfinished: [[1, 3], [2, 6]] }).unfinished,
    );
  }
});

// The oracle knows no ranges: a history is a list of which timeline owns each quarter of a segment.
const QUARTERS = 4;
const SEGMENTS = 6;

/** What the archive holds, file by file. */
interface Files {
  readonly complete: ReadonlySet<string>;
  readonly unfinished: ReadonlySet<string>;
}

const fileName = (timeline: number, segment: number) => `${timeline}/${segment}`;

function oracleFirstMissing(owners: readonly number[], files: Files): number | undefined {
  const own = owners.at(-1)!;
  const ownerAt = (quarter: number) => owners[quarter] ?? own;
  const nameOf = (segment: number) => fileName(ownerAt(segment * QUARTERS + QUARTERS - 1), segment);
  /** A file of timeline T begins with the lineage's bytes when its first quarter was T's or an ancestor's of T. */
  const holdsLineage = (name: string) => {
    const [timeline, segment] = name.split("/").map(Number) as [number, number];
    const begun = Array.from({ length: (segment + 1) * QUARTERS }, (_, quarter) => ownerAt(quarter));
    return begun.includes(timeline) && ownerAt(segment * QUARTERS) <= timeline;
  };
  const segmentsOf = (names: ReadonlySet<string>) =>
    [...names].filter(holdsLineage).map((name) => Number(name.split("/")[1]));
  const held = [...segmentsOf(files.complete), ...segmentsOf(files.unfinished)];
  if (held.length === 0) return undefined;
  let segment = Math.min(...held);
  while (files.complete.has(nameOf(segment))) segment++;
  return segment;
}

test("firstMissingSegment() equals a search quarter by quarter", () => {
  const anyOwners = fc.array(fc.integer({ min: 0, max: 4 }), {
    minLength: SEGMENTS * QUARTERS,
    maxLength: SEGMENTS * QUARTERS,
  }).map((steps) => {
    // Timelines grow along a lineage; most quarters stay on the one before.
    let timeline = 1;
    return steps.map((step) => step < 4 ? timeline : ++timeline);
  });
  const anyFiles = fc.array(
    fc.record({
      timeline: fc.integer({ min: 1, max: 8 }),
      first: fc.integer({ min: 0, max: SEGMENTS + 1 }),
      length: fc.integer({ min: 1, max: SEGMENTS }),
      complete: fc.boolean(),
    }),
    { maxLength: 6 },
  );
  fc.assert(
    fc.property(anyOwners, anyFiles, fc.constantFrom(...PLACES), (owners, pieces, place) => {
      const complete = new Set<string>();
      const unfinished = new Set<string>();
      for (const { timeline, first: drawn, length, complete: isComplete } of pieces) {
        // No server has a timeline's file from before that timeline began.
        const first = Math.max(drawn, Math.floor(owners.indexOf(timeline) / QUARTERS));
        if (!isComplete) unfinished.add(fileName(timeline, first));
        else {for (let segment = first; segment < first + length; segment++) {
            complete.add(fileName(timeline, segment));
          }}
      }
      const left: [number, number][] = [];
      for (const [quarter, owner] of owners.entries()) {
        const before = owners[quarter - 1];
        if (before !== undefined && before !== owner) left.push([before, quarter / QUARTERS]);
      }
      const server: Lineage = { timeline: owners.at(-1)!, left };
      const runs = runsOf(complete);
      const { contents, lineage, number } = placed(place);
      const found = firstMissingSegment({
        contents: contents({
          runs,
          unfinished: [...unfinished].map((name) => name.split("/").map(Number) as [number, number]),
        }),
        lineage: lineage(server),
        segmentSize: place.size,
      });
      const want = oracleFirstMissing(owners, { complete, unfinished });
      assert.equal(found, want === undefined ? undefined : number(want));
    }),
    { numRuns: 3000 },
  );
});

/** Neighbours joined, as an inventory does it. */
function runsOf(names: ReadonlySet<string>): readonly (readonly [number, number, number])[] {
  const runs: [number, number, number][] = [];
  const sorted = [...names].map((name) => name.split("/").map(Number) as [number, number])
    .sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  for (const [timeline, segment] of sorted) {
    const last = runs.at(-1);
    if (last !== undefined && last[0] === timeline && last[2] === segment) last[2]++;
    else runs.push([timeline, segment, segment + 1]);
  }
  return runs;
}
