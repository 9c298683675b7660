import assert from "node:assert/strict";
import { test } from "node:test";
import {
  allGaps,
  EMPTY_LEDGER,
  encodeGapAcceptance,
  encodeGapHealing,
  encodeGapRecord,
  encodeGapWithdrawal,
  firstWanted,
  type Gap,
  type GapAcceptance,
  type GapHealing,
  type GapLedger,
  type GapRecord,
  gapsOf,
  healedGaps,
  missingByLedger,
  parseLedger,
} from "../../lib/archive/gaps.ts";
import { appendToLedger, readLedger } from "../../lib/archive/gap_ledger_file.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { openDiskThread } from "../../lib/archive/disk_thread.ts";
import { Archive } from "../../lib/archive/archive.ts";
import { emptyHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { timelineOfSegment } from "../../lib/wal/lineage.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import type { SegmentNumber } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { MIB } from "../wal/wal_builder.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";
import { IDENTITY, type Machine, MODES, NAMING, onSimDisk, SEGMENT_SIZE } from "./on_sim_disk.ts";

const at = (segments: number) => lsn(BigInt(segments * MIB));
const number = (value: number) => BigInt(value) as SegmentNumber;

const rangeOf = (timeline: number, first: number, end: number) => ({
  timeline: timelineId(timeline),
  startLsn: at(first),
  endLsn: at(end),
});

function record(timeline: number, first: number, end: number, more: Partial<GapRecord> = {}): GapRecord {
  return {
    timeline: timelineId(timeline),
    startLsn: at(first),
    endLsn: at(end),
    recordedAt: "2025-11-25T13:00:00.000Z",
    reason: "no server has it",
    server: "db:5432",
    answer: "requested WAL segment 000000010000000000000005 has already been removed",
    ...more,
  };
}

function acceptance(timeline: number, first: number, end: number): GapAcceptance {
  return {
    timeline: timelineId(timeline),
    startLsn: at(first),
    endLsn: at(end),
    acceptedAt: "2025-11-26T08:00:00.000Z",
    acceptedBy: "postgres@backup1",
    reason: 'disk of "db1" is gone',
  };
}

type Line = GapRecord | GapAcceptance | GapHealing;

function healing(timeline: number, first: number, end: number): GapHealing {
  return { ...rangeOf(timeline, first, end), healedAt: "2025-11-25T15:00:00.000Z" };
}

function ledgerOf(...entries: readonly Line[]): GapLedger {
  return parseLedger(bytesOf(...entries));
}

function bytesOf(...entries: readonly Line[]): Uint8Array {
  return joined(
    entries.map((entry) =>
      "acceptedAt" in entry
        ? encodeGapAcceptance(entry)
        : "healedAt" in entry
        ? encodeGapHealing(entry)
        : encodeGapRecord(entry)
    ),
  );
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(parts.flatMap((part) => [...part]));
}

const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const encoded = (line: string) => new TextEncoder().encode(line);

test("a ledger's lines say what was known, and are read back as they were written", () => {
  const line = text(encodeGapRecord(record(1, 5, 9)));
  assert.match(
    line,
    /^\{"walvault":"gap","version":1,"timeline":1,"startLsn":"0\/500000","endLsn":"0\/900000",/,
  );
  assert.match(line, /"checksum":"[0-9a-f]{8}"\}\n$/);
  assert.deepEqual(ledgerOf(record(1, 5, 9), acceptance(1, 5, 7), record(10, 2 ** 30, 2 ** 31)), {
    records: [record(1, 5, 9), record(10, 2 ** 30, 2 ** 31)],
    acceptances: [acceptance(1, 5, 7)],
    healings: [],
    unknownLines: 0,
    unreadableLines: 0,
  });
  assert.deepEqual(parseLedger(new Uint8Array(0)), EMPTY_LEDGER);
});

test("parseLedger() ignores a last line that is cut off, wherever that is, and no other", () => {
  const whole = bytesOf(record(1, 5, 9), acceptance(1, 5, 9), record(2, 3, 4));
  const ends = [...whole.keys()].filter((index) => whole[index] === 0x0a).map((index) => index + 1);
  for (let length = 0; length <= whole.length; length++) {
    const { records, acceptances, unreadableLines } = parseLedger(whole.subarray(0, length));
    assert.equal(
      records.length + acceptances.length,
      ends.filter((end) => end <= length).length,
      `${length}`,
    );
    assert.equal(unreadableLines, length === 0 || ends.includes(length) ? 0 : 1, `${length}`);
  }
});

test("parseLedger() believes no line of which a byte was changed, and keeps the others", () => {
  const [first, second] = [encodeGapRecord(record(1, 5, 9)), encodeGapRecord(record(1, 12, 13))];
  for (let index = 0; index < first.length - 1; index++) {
    for (const flip of [1, 0x20]) {
      const changed = first.slice();
      changed[index]! ^= flip;
      let ledger: GapLedger;
      try {
        ledger = parseLedger(joined([changed, second]));
      } catch (error) {
        // The one digit of the version.
        assert.ok(error instanceof SyntaxError && /version/.test(error.message), String(error));
        continue;
      }
      assert.deepEqual(ledger.records.at(-1), record(1, 12, 13));
      assert.equal(ledger.records.length, 1, `byte ${index}: ${text(changed)}`);
      assert.ok(ledger.unreadableLines > 0 || changed[index] === 0x0a);
    }
  }
});

test("parseLedger() passes over what is no line of it", () => {
  const good = text(encodeGapRecord(record(1, 5, 9)));
  for (
    const bad of [
      "\n",
      "\0\0\0\n",
      "null\n",
      "[]\n",
      "{}\n",
      '"x"\n',
      "{\n",
      good.replace("0/900000", "0/400000"),
    ]
  ) {
    const ledger = parseLedger(encoded(bad + good));
    assert.deepEqual(ledger.records, [record(1, 5, 9)], bad);
    assert.equal(ledger.unreadableLines, bad === "\n" ? 0 : 1, bad);
  }
});

test("parseLedger() refuses a line of another version, and leaves fields and kinds alone that it does not know", () => {
  const line = text(encodeGapRecord(record(1, 5, 9)));
  assert.throws(() => parseLedger(encoded(line + line.replace('"version":1', '"version":2'))), {
    name: "SyntaxError",
    message: "Cannot read gaps.jsonl, line 2: version 2, want 1; a newer walvault wrote it",
  });
  const added = encodeGapRecord({ ...record(1, 5, 9), ticket: "OPS-1" } as GapRecord);
  assert.deepEqual(parseLedger(added), { ...EMPTY_LEDGER, records: [record(1, 5, 9)] });
  const other = encodeGapRecord({ walvault: "note", ...record(1, 5, 9) } as unknown as GapRecord);
  assert.deepEqual(
    parseLedger(other),
    { ...EMPTY_LEDGER, unknownLines: 1 },
    "nothing is passed over silently",
  );
  assert.deepEqual(ledgerOf(healing(1, 5, 9)), { ...EMPTY_LEDGER, healings: [healing(1, 5, 9)] });
});

test("missingByLedger() takes a segment as missing of which a part is", () => {
  const odd = ledgerOf(record(1, 5.5, 6.25), acceptance(1, 8.5, 9));
  const run = (first: number, end: number) => ({
    timeline: timelineId(1),
    firstNumber: number(first),
    endNumber: number(end),
  });
  assert.deepEqual(missingByLedger(odd, SEGMENT_SIZE), {
    recorded: [run(5, 7), run(8, 9)],
    accepted: [run(8, 9)],
    healed: [],
  });
  const healings = [{ ...rangeOf(1, 5, 7), healedAt: "" }];
  assert.deepEqual(missingByLedger({ ...odd, healings }, SEGMENT_SIZE).healed, [run(5, 7)]);
});

/** Of one segment: complete or not, and what the ledger says. */
const STATES = [
  "complete",
  "complete recorded",
  "complete recorded healed",
  "missing",
  "recorded",
  "accepted",
  "recorded accepted",
] as const;
const COUNT = 4;
const HISTORIES: Readonly<Record<string, TimelineHistory>> = {
  "one timeline": { timeline: timelineId(1), entries: [] },
  "a fork inside a segment": {
    timeline: timelineId(2),
    entries: [{ timeline: timelineId(1), endLsn: at(4.5), reason: "" }],
  },
  "a fork at a segment's start": {
    timeline: timelineId(2),
    entries: [{ timeline: timelineId(1), endLsn: at(4), reason: "" }],
  },
};

for (const [name, lineage] of Object.entries(HISTORIES)) {
  test(`gapsOf() tells every hole, and what the ledger says of it, in all combinations: ${name}`, () => {
    for (let code = 0; code < STATES.length ** COUNT; code++) {
      // Segments 2 to 5.
      const states = Array.from(
        { length: COUNT },
        (_, index) => STATES[Math.floor(code / STATES.length ** index) % STATES.length]!,
      );
      const segments = states.map((state, index) => ({
        state,
        number: number(index + 2),
        timeline: timelineOfSegment(lineage, number(index + 2), SEGMENT_SIZE),
      }));
      const one = ({ number, timeline }: typeof segments[number]) => ({
        timeline,
        startLsn: at(Number(number)),
        endLsn: at(Number(number) + 1),
      });
      const runs = segments.filter(({ state }) => state.startsWith("complete")).map((
        { timeline, number },
      ) => ({
        timeline,
        firstNumber: number,
        endNumber: number + 1n as SegmentNumber,
      }));
      const ledger: GapLedger = {
        records: segments.filter(({ state }) => state.includes("recorded"))
          .map((segment) => ({ ...record(1, 1, 2), ...one(segment) })),
        acceptances: segments.filter(({ state }) => state.includes("accepted"))
          .map((segment) => ({ ...acceptance(1, 1, 2), ...one(segment) })),
        healings: segments.filter(({ state }) => state.includes("healed"))
          .map((segment) => ({ healedAt: "", ...one(segment) })),
        unknownLines: 0,
        unreadableLines: 0,
      };
      const begin = states.findIndex((state) => state.startsWith("complete"));
      const end = states.findLastIndex((state) => state !== "missing") + 1;
      const want = segments.flatMap((segment, index) => {
        const { state } = segment;
        const isTold = begin !== -1 && begin <= index && index < end;
        if (state === "complete recorded") return [`${segment.timeline} ${segment.number} unproven`];
        // What was recorded counts also before the archive's first byte: nobody saw it healed.
        const isRecorded = state.includes("recorded") || state.includes("accepted");
        if (state.startsWith("complete") || !isTold && !isRecorded) return [];
        const told = state.includes("accepted") ? "accepted" : state === "missing" ? "unrecorded" : "open";
        return [`${segment.timeline} ${segment.number} ${told}`];
      });
      const view = { contents: { runs, unfinished: [] }, ledger, lineage, segmentSize: SEGMENT_SIZE };
      const spread = (gaps: readonly Gap[]) =>
        gaps.flatMap(({ timeline, startLsn, endLsn, state }) => {
          const list: string[] = [];
          for (let lsn = startLsn as bigint; lsn < endLsn; lsn += BigInt(MIB)) {
            list.push(`${timeline} ${lsn / BigInt(MIB)} ${state}`);
          }
          return list;
        });
      assert.deepEqual(spread(gapsOf(view)), want, states.join(", "));
      assert.equal(healedGaps(view).length, states.filter((state) => state.includes("healed")).length);
    }
  });
}

test("gapsOf() joins what one record covers, and names the newest record and acceptance of each stretch", () => {
  const run = (first: number, end: number) => ({
    timeline: timelineId(1),
    firstNumber: number(first),
    endNumber: number(end),
  });
  const ledger = ledgerOf(
    record(1, 5, 9),
    record(1, 5, 9, { server: "db2:5432" }),
    acceptance(1, 7, 9),
    record(2, 5, 9),
  );
  const gaps = gapsOf({
    contents: { runs: [run(2, 5), run(5, 6), run(9, 11)], unfinished: [] },
    ledger,
    lineage: HISTORIES["one timeline"]!,
    segmentSize: SEGMENT_SIZE,
  });
  assert.deepEqual(
    gaps.map(({ startLsn, endLsn, state, record, acceptance }) => [
      startLsn / BigInt(MIB),
      endLsn / BigInt(MIB),
      state,
      record?.server,
      acceptance?.acceptedBy,
    ]),
    [[5n, 6n, "unproven", "db2:5432", undefined], [6n, 7n, "open", "db2:5432", undefined], [
      7n,
      9n,
      "accepted",
      "db2:5432",
      "postgres@backup1",
    ]],
  );
});

test("gapsOf() and allGaps() begin at what was only begun, however far on the first complete segment is", () => {
  const contents = {
    runs: [{ timeline: timelineId(1), firstNumber: number(5), endNumber: number(6) }],
    unfinished: [{ timeline: timelineId(1), number: number(3) }],
  };
  const view = { contents, ledger: EMPTY_LEDGER, segmentSize: SEGMENT_SIZE };
  const lineage = HISTORIES["one timeline"]!;
  for (const gaps of [gapsOf({ ...view, lineage }), allGaps({ ...view, histories: [] })]) {
    assert.deepEqual(gaps.map(({ startLsn, endLsn, state }) => [startLsn, endLsn, state]), [
      [at(3), at(5), "unrecorded"],
    ]);
  }
});

async function openArchive(disk: Machine["disk"]): Promise<Archive> {
  const archive = await Archive.open(disk, { naming: NAMING, userId: 1000 });
  await archive.claim(IDENTITY);
  return archive;
}

test("Archive.appendToLedger() syncs the line, and the name where that is new", () =>
  onSimDisk(async ({ disk, operations, restart }) => {
    const archive = await openArchive(disk);
    assert.equal(await readLedger(disk), undefined);
    const before = operations.length;
    await archive.appendToLedger(encodeGapRecord(record(1, 5, 9)));
    const steps = operations.slice(before).filter((line) => /^(write|sync|create)/.test(line));
    assert.match(
      steps.join(", "),
      /^create gaps\.jsonl, write gaps\.jsonl 0\+\d+, sync gaps\.jsonl, syncDirectory \.$/,
    );
    const next = await openArchive(restart("power cut"));
    assert.deepEqual((await next.ledger()).records, [record(1, 5, 9)]);
    const { gaps } = await next.contents();
    assert.deepEqual(gaps.recorded, [{
      timeline: timelineId(1),
      firstNumber: number(5),
      endNumber: number(9),
    }]);
    assert.equal((await next.disk.entry("gaps.jsonl"))?.mode, MODES.file);
  }));

test("Archive.appendToLedger() glues no line to one that was cut off", () =>
  onSimDisk(async ({ disk, fail }) => {
    const archive = await openArchive(disk);
    await archive.appendToLedger(encodeGapRecord(record(1, 5, 9)));
    fail("write", "ENOSPC");
    await assert.rejects(archive.appendToLedger(encodeGapRecord(record(1, 12, 13))), { code: "ENOSPC" });
    assert.deepEqual(await archive.ledger(), {
      ...EMPTY_LEDGER,
      records: [record(1, 5, 9)],
      unreadableLines: 1,
    });
    await archive.appendToLedger(encodeGapRecord(record(1, 14, 15)));
    assert.deepEqual(await archive.ledger(), {
      ...EMPTY_LEDGER,
      records: [record(1, 5, 9), record(1, 14, 15)],
      unreadableLines: 1,
    });
  }));

test("Archive.appendToLedger() is safe against a power cut at every operation, for every seed", async () => {
  for (let seed = 1; seed <= 40; seed++) {
    await onSimDisk(async ({ disk, restart, fail }) => {
      const archive = await openArchive(disk);
      await archive.appendToLedger(encodeGapRecord(record(1, 5, 9)));
      fail((["write", "sync", "syncDirectory", "create"] as const)[seed % 4]!, "EIO");
      const line = encodeGapRecord(record(1, 12, 13));
      await assert.rejects(archive.appendToLedger(line), { code: "EIO" });
      let next = await openArchive(restart(seed % 8 < 4 ? "power cut" : "kill"));
      assert.deepEqual((await next.ledger()).records[0], record(1, 5, 9));
      await next.appendToLedger(line);
      next = await openArchive(restart("power cut"));
      assert.deepEqual((await next.ledger()).records.at(-1), record(1, 12, 13), `seed ${seed}`);
    }, seed);
  }
});

for (const [kind, open] of [["of a thread", openDiskThread], ["of the caller", openDirectDisk]] as const) {
  test(`appendToLedger() on a real disk ${kind}: two that write in turn lose nothing of each other`, () =>
    inTemporaryDirectory(async (root) => {
      const [one, other] = [open(root, 1024), open(root, 1024)];
      await appendToLedger(one, encodeGapRecord(record(1, 5, 9)), 0o640);
      await appendToLedger(other, encodeGapAcceptance(acceptance(1, 5, 9)), 0o600);
      await appendToLedger(one, encodeGapRecord(record(1, 12, 13)), 0o640);
      assert.deepEqual(await readLedger(other), {
        records: [record(1, 5, 9), record(1, 12, 13)],
        acceptances: [acceptance(1, 5, 9)],
        healings: [],
        unknownLines: 0,
        unreadableLines: 0,
      });
      assert.equal((await one.entry("gaps.jsonl"))?.mode, 0o640);
      await Promise.all([one.close(), other.close()]);
    }));
}

test("firstWanted() tells the lowest WAL that was recorded, and has neither come nor been given up", () => {
  const run = (firstNumber: number, endNumber: number) => ({
    timeline: timelineId(1),
    firstNumber: number(firstNumber),
    endNumber: number(endNumber),
  });
  const wanted = (runs: readonly ReturnType<typeof run>[], ...lines: readonly Line[]) =>
    firstWanted({
      contents: { runs, unfinished: [] },
      ledger: ledgerOf(...lines),
      lineage: emptyHistory(timelineId(1)),
      segmentSize: SEGMENT_SIZE,
    });
  const two = [record(1, 9, 10), record(1, 5, 7)];
  assert.equal(wanted([]), undefined);
  assert.deepEqual(wanted([run(0, 5), run(7, 9)], ...two), at(5));
  const [later, first] = [healing(1, 9, 10), healing(1, 5, 7)];
  assert.deepEqual(wanted([run(0, 9)], ...two), at(5), "what has come is not proven");
  assert.deepEqual(wanted([run(0, 9)], ...two, first), at(9));
  assert.deepEqual(
    wanted([run(0, 6), run(7, 9)], ...two, healing(1, 5, 6)),
    at(6),
    "a part of it is not enough",
  );
  assert.deepEqual(
    wanted([run(0, 6), run(7, 9)], ...two, healing(1, 5, 6), acceptance(1, 6, 7)),
    at(9),
    "the rest was given up",
  );
  assert.deepEqual(wanted([run(0, 5)], ...two, acceptance(1, 6, 7), acceptance(1, 5, 6)), at(9));
  assert.deepEqual(wanted([run(0, 5)], ...two, acceptance(1, 5, 7)), at(9));
  assert.equal(wanted([run(0, 12)], ...two, first, later), undefined);
  assert.deepEqual(
    wanted([run(8, 9)], ...two, first),
    at(9),
    "what was healed, and removed with all that is old, is not missed",
  );
  assert.equal(wanted([run(8, 9)], ...two), at(5), "nobody saw it healed");
});

test("a record that was taken back tells nothing any more; another one of the same range does", () => {
  const first = record(1, 4, 8);
  const later = record(1, 4, 8, { recordedAt: "2025-11-25T14:00:00.000Z" });
  const other = record(1, 4, 9);
  const lines = [first, other].map(encodeGapRecord);
  const bytesOf = (...all: readonly Uint8Array[]) => new Uint8Array(all.flatMap((line) => [...line]));
  assert.deepEqual(parseLedger(bytesOf(...lines, encodeGapWithdrawal(first))).records, [other]);
  assert.deepEqual(
    parseLedger(bytesOf(...lines, encodeGapWithdrawal(first), encodeGapRecord(later))).records,
    [
      other,
      later,
    ],
  );
  assert.equal(parseLedger(bytesOf(encodeGapWithdrawal(first))).unreadableLines, 0);
});
