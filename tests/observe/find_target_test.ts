import assert from "node:assert/strict";
import { test } from "node:test";
import { buildIndex, type ReadSegment } from "../../lib/archive/index.ts";
import type { PlacedTransactionEnd } from "../../lib/archive/segment_indexer.ts";
import type { SegmentIndex } from "../../lib/archive/segment_index.ts";
import {
  type FindAnswer,
  type FindTarget,
  findTarget,
  type RoadReader,
} from "../../lib/observe/find_target.ts";
import { planRoad, type RoadSegment } from "../../lib/observe/wal_road.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { type SegmentNumber, segmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { timestamp } from "../../lib/wal/timestamp.ts";
import { checkpoint, NOON, restorePoint, transactionEnd } from "../wal/record_plans.ts";
import { buildWal, MIB, type RecordPlan, SYSTEM_IDENTIFIER } from "../wal/wal_builder.ts";

const SIZE = segmentSize(MIB);
const IDENTITY = { systemIdentifier: SYSTEM_IDENTIFIER, segmentSize: SIZE };
const ONE = timelineId(1);
const SWITCH: RecordPlan = { totalBytes: 24, resourceManager: 0, info: 0x40 };

/** Commits as "xid@seconds after noon"; "!" before: an abort; "#name@": a restore point; "^epoch": a checkpoint. */
function plansOf(words: string): readonly RecordPlan[] {
  const plans = words.split(" ").filter((word) => word !== "").map((word): RecordPlan => {
    if (word.startsWith("^")) {
      return checkpoint({ redoLsn: 0n, nextXid: (BigInt(word.slice(1)) << 32n) + 1000n });
    }
    const [what = "", seconds = "0"] = word.split("@");
    const us = NOON + BigInt(Math.round(Number(seconds) * 1e6));
    if (what.startsWith("#")) return restorePoint(what.slice(1), us);
    const [xid = "", ...subxids] = what.replace("!", "").split("+");
    return transactionEnd({
      xid: Number(xid),
      us,
      kind: what.startsWith("!") ? "abort" : "commit",
      subxids: subxids.map(Number),
    });
  });
  return [...plans, SWITCH];
}

/** A road of these segments, each ending in a switch; `undefined` is a hole. */
async function roadOf(
  segments: readonly (string | undefined)[],
): Promise<RoadReader & { at(index: number, record: number): Lsn }> {
  const first = 3;
  const indexes = new Map<
    SegmentNumber,
    { readonly index: SegmentIndex; readonly ends: readonly PlacedTransactionEnd[] }
  >();
  const places = new Map<number, readonly Lsn[]>();
  for (const [i, words] of segments.entries()) {
    if (words === undefined) continue;
    const number = segmentNumber(BigInt(first + i));
    const built = buildWal({ startLsn: number * BigInt(MIB), segmentBytes: MIB, records: plansOf(words) });
    places.set(i, built.records.map((record) => lsn(record.lsn)));
    const ends: PlacedTransactionEnd[] = [];
    const read: ReadSegment = async (take) => void await take(built.segments[0]!, 0);
    const name = `0000000100000000000000${(first + i).toString(16).toUpperCase().padStart(2, "0")}`;
    const index = await buildIndex({ name, identity: IDENTITY }, read, {
      onEnd: (end) => void ends.push(end),
    });
    indexes.set(number, { index, ends });
  }
  const published = [...indexes.keys()].map((number) => ({ timeline: ONE, number }));
  const known = ({ number }: RoadSegment) => indexes.get(number)!;
  return {
    runs: planRoad({ published, unfinished: [] }, emptyHistory(ONE), SIZE),
    head: (segment) => Promise.resolve(known(segment).index),
    knownHead: (segment) => Promise.resolve(known(segment).index),
    index: (segment) => Promise.resolve(known(segment).index),
    ends: (segment) => Promise.resolve(known(segment).ends),
    recordsAt: (run, at) => {
      const all = run.segments.flatMap(({ number }) => places.get(Number(number) - first)!);
      const place = (one: Lsn | undefined) =>
        one === undefined ? undefined : { lsn: one, endLsn: one + 32n as Lsn };
      return Promise.resolve({
        before: place(all.findLast((one) => one < at)),
        from: place(all.find((one) => one >= at)),
      });
    },
    at: (index, record) => places.get(index)![record]!,
  };
}

const time = (seconds: number): FindTarget => ({
  kind: "time",
  time: timestamp(NOON + BigInt(Math.round(seconds * 1e6))),
});
const xid = (number: number, epoch?: number): FindTarget => ({ kind: "xid", xid: number, epoch });

/** In short: what recovery stops at, and the commits around; or why it is not there, and the nearest. */
function short(answer: FindAnswer): string {
  const around = `${answer.commitBefore?.xid ?? "-"} ${answer.commitAfter?.xid ?? "-"}`;
  if (!answer.found) return `${answer.where} ${around} nearest ${answer.nearest?.commit.xid ?? "-"}`;
  const { stop } = answer;
  const what = stop.kind === "commit" || stop.kind === "abort" ? `${stop.kind} ${stop.xid}` : stop.kind;
  const notes = answer.notes.map((note) => ` (${note.kind})`).join("");
  return `${what}: ${around}${notes}`;
}

async function ask(
  segments: readonly (string | undefined)[],
  target: FindTarget,
  inclusive = true,
): Promise<string> {
  return short(await findTarget(await roadOf(segments), target, { inclusive }));
}

test("a time: recovery stops before the first end that is later", async () => {
  const wal = ["10@1 11@2", "", "!12@3 13@4", "14@5"];
  const table: readonly (readonly [number, boolean, string])[] = [
    [1, true, "commit 11: 10 11"],
    [1.5, true, "commit 11: 10 11"],
    [2, false, "commit 11: 10 11"],
    [2, true, "abort 12: 11 13"],
    [3, true, "commit 13: 11 13"],
    [4.999, true, "commit 14: 13 14"],
    [5, false, "commit 14: 13 14"],
    // At the end of WAL the server would find no reason to stop.
    [5, true, "after 14 - nearest 14"],
    [6, true, "after 14 - nearest 14"],
    [0.5, true, "before - 10 nearest 10"],
    [1, false, "before - 10 nearest 10"],
  ];
  for (const [seconds, inclusive, want] of table) {
    assert.equal(await ask(wal, time(seconds), inclusive), want, `${seconds} ${inclusive}`);
  }
});

test("a time where the clock stepped back: recovery stops where the server would", async () => {
  const wal = ["10@10 11@20", "12@5 13@30"];
  assert.equal(await ask(wal, time(12)), "commit 11: 10 11 (later commits)");
  assert.equal(await ask(wal, time(20)), "commit 13: 12 13");
  assert.equal(await ask(["10@10 11@20 12@15 13@30"], time(15)), "commit 11: 10 11 (later commits)");
});

test("a time in a hole names the commits on both sides", async () => {
  const wal = ["10@1 11@2", undefined, "12@5 13@6"];
  assert.equal(await ask(wal, time(3)), "hole 11 12 nearest 11");
  assert.equal(await ask(wal, time(1.5)), "commit 11: 10 11");
  assert.equal(await ask(wal, time(5)), "commit 13: 12 13");
  assert.equal(await ask(wal, time(7)), "after 13 - nearest 13");
  // The clock showed it twice: the later place counts, and the other one is told.
  assert.equal(
    await ask(["10@1 11@9", undefined, "12@2 13@7"], time(3)),
    "commit 13: 12 13 (also before a hole)",
  );
});

test("a time where nothing ever ended", async () => {
  assert.equal(await ask(["", ""], time(1)), "absent - - nearest -");
  assert.equal(await ask(["!10@1", "11@3"], time(2)), "commit 11: - 11");
});

test("a transaction is found by its number, or by that of a subtransaction", async () => {
  const wal = ["10@1 20+21+22@2", "!15@3", "16@4 ^0"];
  assert.equal(await ask(wal, xid(20)), "commit 20: 20 16");
  assert.equal(await ask(wal, xid(20), false), "commit 20: 10 20");
  assert.equal(await ask(wal, xid(15)), "abort 15: 20 16");
  assert.equal(await ask(wal, xid(17)), "absent 16 - nearest 16");
  assert.equal(await ask(wal, xid(5)), "absent 16 - nearest 16");
  const sub = await findTarget(await roadOf(wal), xid(22), { inclusive: true });
  assert.ok(sub.found && sub.stop.kind === "commit");
  assert.equal(sub.stop.subxid, 22);
  assert.deepEqual(sub.target, { kind: "xid", xid: 20, inclusive: true });
});

test("a number that was given out twice: the last one, or that of the epoch", async () => {
  const wal = ["^3 900@1", "4000000000@2 ^3", "^4 900@3"];
  const road = await roadOf(wal);
  const lsnOf = async (target: FindTarget) => {
    const answer = await findTarget(road, target, { inclusive: true });
    return answer.found ? answer.stop.lsn : undefined;
  };
  assert.equal(await lsnOf(xid(900)), road.at(2, 1));
  assert.equal(await lsnOf(xid(900, 3)), road.at(0, 1));
  assert.equal(await lsnOf(xid(900, 4)), road.at(2, 1));
  assert.equal(await lsnOf(xid(900, 5)), undefined);
  // Before the number wraps: less than half of all numbers away from the next one.
  assert.equal(await lsnOf(xid(4_000_000_000, 2)), road.at(1, 0));
  assert.equal(await ask(wal, xid(900)), "commit 900: 900 - (also at)");
});

test("a number of 64 bits whose epoch nobody tells is not found, and told", async () => {
  const wal = ["900@1", "901@2", undefined, "^4 900@3"];
  const road = await roadOf(wal);
  const answer = await findTarget(road, xid(900, 5), { inclusive: true });
  assert.equal(answer.found, false);
  assert.deepEqual(answer.notes, [{ kind: "epoch unknown", lsns: [road.at(0, 0)] }]);
  const known = await findTarget(road, xid(900, 4), { inclusive: true });
  assert.ok(known.found && known.stop.lsn === road.at(3, 1));
  const absent = await findTarget(road, xid(902, 4), { inclusive: true });
  assert.deepEqual(absent.notes, []);
});

test("of a number that stands twice in one run, the backup must have begun behind the earlier one", async () => {
  const road = await roadOf(["^3 900@1", "^4 900@3 7+900@4", undefined, "900@5"]);
  const fromOf = async (target: FindTarget) => {
    const answer = await findTarget(road, target, { inclusive: true });
    return answer.found ? answer.backupFromLsn : undefined;
  };
  assert.equal(await fromOf(xid(900, 3)), road.runs[0]?.startLsn);
  assert.equal(await fromOf(xid(900, 4)), road.at(0, 1) + 8n);
  // In another run there is a hole between them already.
  assert.equal(await fromOf(xid(900)), road.runs[1]?.startLsn);
});

test("a restore point: the first of its name, and the others told", async () => {
  const wal = ["10@1 #a@2 11@3", "#b@4 12@5 #a@6"];
  assert.equal(await ask(wal, { kind: "name", name: "b" }), "restore point: 11 12");
  assert.equal(await ask(wal, { kind: "name", name: "a" }), "restore point: 10 11 (also at)");
  const absent = await findTarget(await roadOf(wal), { kind: "name", name: "c" }, { inclusive: true });
  assert.ok(!absent.found);
  assert.deepEqual(absent.names, ["a", "b", "a"]);
});

test("an LSN: the record that begins there or next, and the commits around it", async () => {
  const wal = ["10@1 11@2", undefined, "12@5"];
  const road = await roadOf(wal);
  const at = async (value: bigint, inclusive = true) =>
    short(await findTarget(road, { kind: "lsn", lsn: lsn(value) }, { inclusive }));
  assert.equal(await at(road.at(0, 1)), "record: 11 -");
  assert.equal(await at(road.at(0, 1), false), "record: 10 11");
  assert.equal(await at(road.at(0, 0) + 8n), "record: 11 -");
  assert.equal(await at(3n * BigInt(MIB)), "record: 10 11");
  assert.equal(await at(4n * BigInt(MIB) + 100n), "hole 11 12 nearest 11");
  // Behind the switch of its segment, nothing begins before the hole.
  assert.equal(await at(4n * BigInt(MIB) - 8n), "hole 11 12 nearest 11");
  assert.equal(await at(9n * BigInt(MIB)), "after 12 - nearest 12");
  assert.equal(await at(1n), "before - 10 nearest 10");
});
