import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import { NotYetError } from "../../lib/receiver/failure.ts";
import { removalOf } from "../../lib/receiver/first_available.ts";
import { FlushGate } from "../../lib/receiver/flush_gate.ts";
import type { SegmentAnswer } from "../../lib/receiver/gap_survey.ts";
import { GAP_PATIENCE_MS, type HostReply, judgeRound } from "../../lib/receiver/lack.ts";
import { WalGapError, WrongClusterError } from "../../lib/wal/errors.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { ZERO_LSN } from "../../lib/wal/lsn.ts";
import type { SegmentNumber } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { at, type FakeArchive, FakeClock, FakeServer, serverError, settled, SIZE, watched } from "./fakes.ts";
import { type Given, startReceiving } from "./running_receiver.ts";

const number = (value: number) => BigInt(value) as SegmentNumber;
const HISTORY_2 = "1\t0/680000\tno recovery target specified\n";

/** A server on timeline 2, and the old primary of timeline 1, which has its WAL still. */
const AFTER_FAILOVER = {
  others: [{
    address: "db2:5432",
    timeline: 1,
    flushLsn: at(6.25),
    onStart: (source) => source.sendUpTo(at(6.25)),
  }],
  prepare: ({ server, archive }: { readonly server: FakeServer; readonly archive: FakeArchive }) => {
    server.timeline = 2;
    server.histories.set(2, HISTORY_2);
    archive.histories.set(2, HISTORY_2);
  },
} satisfies Given;

/** The archive has 0 and 1, the server what follows from `removedBelow` on. */
function lacking(removedBelow: number, flushLsn = 9.5) {
  return ({ server, archive }: { readonly server: FakeServer; readonly archive: FakeArchive }) => {
    archive.addSegments(1, 0, 2);
    server.removedBelow = at(removedBelow);
    server.flushLsn = at(flushLsn);
    // A server that has the WAL sends it.
    server.onStart = (source) => source.sendUpTo(server.flushLsn);
  };
}

async function startLacking(removedBelow: number, given: Given = {}) {
  return await startReceiving({
    ...given,
    prepare: (parts) => {
      lacking(removedBelow)(parts);
      given.prepare?.(parts);
    },
  });
}

/** Time on a server that is well. */
async function pass(run: Awaited<ReturnType<typeof startReceiving>>, ms: number): Promise<void> {
  for (let passed = 0; passed < ms; passed += 5000) {
    await run.clock.advance(5000);
    run.server.source.keepalive();
  }
}

for (const tellsRemoved of ["at once", "in the stream"] as const) {
  for (const removedBelow of [2, 3, 4, 6, 8, 9]) {
    test(`receiveWal() goes on at ${removedBelow}, the server's oldest segment (told ${tellsRemoved})`, async () => {
      const run = await startLacking(removedBelow, {
        prepare: ({ server }) => void (server.tellsRemoved = tellsRemoved),
      });
      await settled();
      assert.equal(run.outcome.done, false, String(run.outcome.error));
      assert.equal(run.clock.nowMs(), 0);
      const gaps = run.journal.filter((line) => line.startsWith("record"));
      assert.deepEqual(gaps, removedBelow === 2 ? [] : [`record gap 1 2-${removedBelow}`]);
      assert.equal(
        run.journal.findLast((line) => line.startsWith("start")),
        `start 1 0/${removedBelow}00000`,
      );
      assert.equal(run.archive.sink.flushLsn, at(9.5));
      await run.stop();
      assert.equal(run.outcome.value, "stopped");
    });
  }
}

test("receiveWal() records a gap before it stores anything behind it, and says loudly what is missing", async () => {
  const run = await startLacking(6);
  await settled();
  const recorded = run.journal.indexOf("record gap 1 2-6");
  assert.ok(recorded > 0 && recorded < run.journal.findIndex((line) => line.startsWith("durable")));
  const [line] = run.entries.filter(({ event }) => event === "gap recorded");
  assert.equal(line?.level, "error");
  assert.deepEqual({ ...line?.fields, hint: undefined }, {
    timeline: 1,
    startLsn: "0/200000",
    endLsn: "0/600000",
    segments: 4n,
    bytes: 4n * 1048576n,
    server: "db:5432",
    hint: undefined,
  });
  assert.match(String(line?.fields["hint"]), /walvault gap list/);
  assert.equal(run.archive.missing[0]?.answer, "requested WAL segment has already been removed");
  await run.stop();
});

test("receiveWal() whose record of a gap fails stores nothing behind it, and records it the next time", async () => {
  const run = await startLacking(6, {
    prepare: ({ archive }) => {
      const { recordGap } = archive;
      archive.recordGap = (missing) => {
        archive.recordGap = recordGap;
        archive.journal.push("record fails");
        return Promise.reject(Object.assign(new Error("EIO: write"), { code: "EIO", missing }));
      };
    },
  });
  await run.clock.advance(5000);
  const [failed, recorded, stored] = ["record fails", "record gap 1 2-6", "durable 0/980000"].map((line) =>
    run.journal.indexOf(line)
  );
  assert.ok(failed! >= 0 && failed! < recorded! && recorded! < stored!, run.journal.join("\n"));
  await run.stop();
});

test("receiveWal() records a gap over a fork as each timeline has it", async () => {
  const run = await startLacking(9, {
    prepare: ({ server }) => {
      server.timeline = 2;
      server.histories.set(2, HISTORY_2);
    },
  });
  await settled();
  assert.deepEqual(run.journal.filter((line) => line.startsWith("record")), [
    "record gap 1 2-6",
    "record gap 2 6-9",
  ]);
  assert.equal(run.journal.findLast((line) => line.startsWith("start")), "start 2 0/900000");
  await run.stop();
});

test("receiveWal() that was killed behind the record writes it once more before anything behind it", async () => {
  const start = (given: Given) =>
    startLacking(6, {
      ...given,
      prepare: (parts) => {
        parts.archive.recorded.push({
          timeline: timelineId(1),
          firstNumber: number(2),
          endNumber: number(6),
        });
        given.prepare?.(parts);
      },
    });
  const killed = await start({});
  await settled();
  assert.deepEqual(killed.journal.slice(0, 2), ["confirm gap 1 2-6", "start 1 0/600000"]);
  // Not at each connect.
  killed.server.source.fail(new ConnectionError("closed", "gone"));
  await killed.clock.advance(1000);
  assert.equal(killed.journal.filter((line) => line.startsWith("confirm")).length, 1);
  await killed.stop();
  // What stands behind it proves nothing: push may have brought that.
  const went = await start({ prepare: ({ archive }) => archive.addSegments(1, 6, 7) });
  await settled();
  assert.deepEqual(went.journal.slice(0, 2), ["confirm gap 1 2-6", "start 1 0/700000"]);
  await went.stop();
});

test("receiveWal() writes an acceptance once more before it counts, at each process's first connection with it", async () => {
  const gap = { timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) };
  const confirmed = (run: { readonly journal: readonly string[] }) =>
    run.journal.filter((line) => line === "confirm gap 1 2-6").length;
  const accepted = await startWaitedFor({ prepare: ({ archive }) => void archive.accepted.push(gap) });
  await settled();
  assert.equal(accepted.journal[0], "confirm gap 1 2-6");
  assert.equal(confirmed(accepted), 1);
  await accepted.stop();
  // Accepted while nothing was connected: that the record was proven is no proof of the acceptance.
  const later = await startWaitedFor({ prepare: ({ archive }) => void archive.recorded.push(gap) });
  await settled();
  assert.equal(confirmed(later), 1);
  later.server.source.fail(new ConnectionError("closed", "gone"));
  await settled();
  later.archive.accepted.push(gap);
  await later.clock.advance(1000);
  assert.equal(confirmed(later), 2);
  assert.equal(later.server.source.statuses.at(-1)?.flushLsn, later.archive.sink.flushLsn);
  await later.stop();
});

test("receiveWal() up to an end position writes an acceptance once more before it says that all is safe", async () => {
  const run = await startLacking(6, {
    options: { endLsn: at(8), gaps: "stop" },
    prepare: ({ archive }) => {
      archive.addSegments(1, 6, 9);
      archive.accepted.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
      archive.confirmGap = () => Promise.reject(Object.assign(new Error("EIO: sync"), { code: "EIO" }));
    },
  });
  await run.clock.advance(1000);
  assert.equal(run.outcome.done, false);
  await run.stop();
});

test("receiveWal() with an empty archive records no gap: there is nothing before it", async () => {
  const run = await startReceiving({
    options: { slot: "wv" },
    prepare: ({ server }) => {
      server.removedBelow = at(3);
      server.flushLsn = at(9.5);
      server.slots.set("wv", { kind: "physical", restartLsn: at(1.25), restartTimeline: undefined });
    },
  });
  assert.ok(run.outcome.error instanceof WalGapError);
  assert.deepEqual(run.archive.missing, []);
});

test("receiveWal() records nothing when the server does not even have its newest segment", async () => {
  const run = await startLacking(20);
  assert.ok(run.outcome.error instanceof WalGapError);
  assert.deepEqual(run.archive.missing, []);
});

test("receiveWal() takes the segment that is only to come for one that is there", async () => {
  const run = await startLacking(9, { prepare: ({ server }) => void (server.flushLsn = at(9)) });
  await settled();
  assert.ok(run.journal.includes("record gap 1 2-9"));
  await run.stop();
});

for (const options of [{ gaps: "stop" }, { loop: false, gaps: "stop" }] as const) {
  test(`receiveWal() with ${JSON.stringify(options)} records nothing, and goes on behind what is recorded`, async () => {
    const run = await startLacking(6, { options });
    assert.ok(run.outcome.error instanceof WalGapError);
    assert.deepEqual(run.archive.missing, []);
    const again = await startLacking(6, {
      options,
      prepare: ({ archive }) =>
        void archive.recorded.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) }),
    });
    await settled();
    assert.equal(again.archive.sink.flushLsn, at(9.5));
    await again.stop();
  });
}

const HOSTS = "db:5432 lacks\ndb2:5432";

/** What a host says, and whether the segment may be given up on that alone: once all that is said has stayed the same. */
const REPLIES: readonly (readonly [name: string, reply: HostReply<SegmentAnswer>, mayPassAtOnce: boolean])[] =
  [
    ["lacks it", answers({ kind: "lacks", firstNumber: number(7), words: "removed" }), true],
    ["has it", answers({ kind: "has" }), false],
    ["is away", fails(new ConnectionError("refused", "nobody there")), false],
    ["does not answer", fails(new ConnectionError("timeout", "silent")), false],
    ["starts up", fails(serverError("57P03")), false],
    ["refuses the password", fails(serverError("28P01")), false],
    ["does not know the timeline", fails(serverError("XX000")), false],
    ["has lost the slot", fails(serverError("55000")), false],
    ["is of another cluster", fails(new WrongClusterError("no")), false],
    ["is behind", fails(new NotYetError("not yet")), false],
    ["is broken", fails(new Error("what is this")), false],
  ];

function answers(answer: SegmentAnswer): HostReply<SegmentAnswer> {
  return { address: "db2:5432", answer };
}

function fails(error: unknown): HostReply<SegmentAnswer> {
  return { address: "db2:5432", error };
}

/** A round whose healing has brought nothing. */
const atMs = (nowMs: number, brought = 0, isHealing = false) => ({ nowMs, brought, isHealing });

const LACKS: HostReply<SegmentAnswer> = {
  address: "db:5432",
  answer: { kind: "lacks", firstNumber: number(6), words: "removed" },
};

for (const [name, reply, mayPassAtOnce] of REPLIES) {
  test(`judgeRound() beside a host that lacks the segment and one that ${name}`, () => {
    const first = judgeRound([LACKS, reply], undefined, atMs(1000));
    assert.equal(first.mayPass, mayPassAtOnce);
    assert.equal(first.firstNumber, number(6));
    assert.ok(first.lack?.picture.startsWith(HOSTS));
    const early = judgeRound([LACKS, reply], first.lack, atMs(1000 + GAP_PATIENCE_MS - 1));
    assert.equal(early.mayPass, mayPassAtOnce);
    assert.equal(judgeRound([LACKS, reply], early.lack, atMs(1000 + GAP_PATIENCE_MS)).mayPass, true);
    // For another segment nothing counts that was before.
    assert.equal(judgeRound([LACKS, reply], undefined, atMs(1000 + GAP_PATIENCE_MS)).mayPass, mayPassAtOnce);
    // Nobody lacks it: nothing is given up, however long that lasts.
    const none = judgeRound([reply], first.lack, atMs(1000 + 10 * GAP_PATIENCE_MS));
    if (!mayPassAtOnce) assert.deepEqual(none, { mayPass: false, lack: undefined, firstNumber: undefined });
    for (const [otherName, other] of REPLIES) {
      const isSame = otherName === name ||
        [otherName, name].every((each) => ["is away", "does not answer"].includes(each));
      const changed = judgeRound([LACKS, other], first.lack, atMs(1000 + GAP_PATIENCE_MS));
      assert.equal(changed.mayPass, isSame || otherName === "lacks it", `then ${otherName}`);
    }
  });
}

test("judgeRound() never passes a host that has the segment while something is brought in, and counts that for nobody else", () => {
  const judge = (reply: HostReply<SegmentAnswer>, broughtCounts: readonly number[]) => {
    let judged = judgeRound([LACKS, reply], undefined, atMs(0));
    for (const [index, count] of broughtCounts.entries()) {
      judged = judgeRound([LACKS, reply], judged.lack, atMs((index + 1) * GAP_PATIENCE_MS, count));
    }
    return judged.mayPass;
  };
  assert.equal(judge(answers({ kind: "has" }), [1, 2, 3, 5]), false);
  assert.equal(judge(answers({ kind: "has" }), [1, 2, 3, 3]), true);
  assert.equal(judge(fails(new ConnectionError("refused", "nobody there")), [1]), true);
});

test("judgeRound() passes no segment that somebody brings, though every host lacks it, while that goes on", () => {
  const first = judgeRound([LACKS], undefined, atMs(0, 1, true));
  assert.equal(first.mayPass, false);
  const later = judgeRound([LACKS], first.lack, atMs(GAP_PATIENCE_MS, 2, true));
  assert.equal(later.mayPass, false);
  assert.equal(judgeRound([LACKS], later.lack, atMs(2 * GAP_PATIENCE_MS, 2, true)).mayPass, true);
  assert.equal(judgeRound([LACKS], later.lack, atMs(2 * GAP_PATIENCE_MS, 2)).mayPass, true);
});

test("judgeRound() goes on at the first segment that any host has", () => {
  const lacks = (firstNumber: SegmentNumber | undefined) =>
    answers({ kind: "lacks", firstNumber, words: "removed" });
  assert.equal(judgeRound([lacks(number(8)), lacks(number(5))], undefined, atMs(0)).firstNumber, number(5));
  assert.equal(judgeRound([lacks(undefined), lacks(number(5))], undefined, atMs(0)).firstNumber, number(5));
  assert.equal(judgeRound([lacks(undefined)], undefined, atMs(0)).firstNumber, undefined);
});

test("receiveWal() takes what is missing from the host that has it, and records nothing", async () => {
  const run = await startLacking(6, { others: [{ address: "db2:5432", flushLsn: at(9.5) }] });
  await settled();
  assert.deepEqual(run.archive.missing, []);
  assert.deepEqual(run.askedAtMs, []);
  assert.equal(run.others[0]!.source.closed, false);
  await run.stop();
});

test("receiveWal() records a gap when every host lacks the WAL, up to what one of them has, and goes on there", async () => {
  const run = await startLacking(8, {
    others: [{
      address: "db2:5432",
      removedBelow: at(6),
      flushLsn: at(9.5),
      onStart: (source) => source.sendUpTo(at(9.5)),
    }],
  });
  await settled();
  assert.equal(run.clock.nowMs(), 0);
  assert.deepEqual(
    run.archive.missing.map(({ run: { firstNumber, endNumber } }) => [firstNumber, endNumber]),
    [
      [number(2), number(6)],
    ],
  );
  assert.equal(run.others[0]!.source.closed, false);
  assert.equal(run.archive.sink.flushLsn, at(9.5));
  await run.stop();
});

/** A second host, and what of it keeps the gap from being passed at once. */
const WAITED_FOR: readonly (readonly [name: string, host: Partial<FakeServer>])[] = [
  ["that is away", { connectError: new ConnectionError("refused", "nobody at db2") }],
  ["that refuses the password", { connectError: serverError("28P01", "password authentication failed") }],
  ["that starts up", { connectError: serverError("57P03", "the database system is starting up") }],
  ["of another cluster", { systemIdentifier: 7n }],
  ["that is behind", { flushLsn: at(1.5) }],
];

for (const [name, host] of WAITED_FOR) {
  test(`receiveWal() waits a minute for a host ${name}, then goes on behind what the others lack`, async () => {
    const run = await startLacking(6, { others: [{ address: "db2:5432", ...host }] });
    await run.clock.advance(59_000);
    assert.equal(run.outcome.done, false, String(run.outcome.error));
    assert.deepEqual(run.archive.missing, []);
    await run.clock.advance(60_000);
    assert.ok(run.journal.includes("record gap 1 2-6"));
    assert.equal(run.archive.sink.flushLsn, at(9.5));
    assert.equal(run.lines("warn").filter((line) => line === "missing wal may be elsewhere").length, 1);
    assert.equal(run.lines("error").filter((line) => line === "disconnected").length, 1);
    await run.stop();
  });
}

test("receiveWal() counts the minute anew when a host answers differently", async () => {
  const away = new ConnectionError("refused", "nobody at db2");
  const run = await startLacking(6, { others: [{ address: "db2:5432", connectError: away }] });
  await run.clock.advance(50_000);
  run.others[0]!.connectError = serverError("57P03", "the database system is starting up");
  await run.clock.advance(59_000);
  assert.deepEqual(run.archive.missing, []);
  await run.clock.advance(91_000);
  assert.ok(run.journal.includes("record gap 1 2-6"));
  await run.stop();
});

test("receiveWal() counts the minute anew when the server that lacks the WAL was away", async () => {
  const away = new ConnectionError("refused", "nobody there");
  const run = await startLacking(6, { others: [{ address: "db2:5432", connectError: away }] });
  await run.clock.advance(50_000);
  run.server.connectError = away;
  await run.clock.advance(60_000);
  run.server.connectError = undefined;
  await run.clock.advance(45_000);
  assert.deepEqual(run.archive.missing, []);
  await run.clock.advance(120_000);
  assert.ok(run.journal.includes("record gap 1 2-6"));
  await run.stop();
});

test("receiveWal() takes the WAL from a host that comes back while it is waited for", async () => {
  const run = await startLacking(6, {
    others: [{
      address: "db2:5432",
      flushLsn: at(9.5),
      connectError: new ConnectionError("refused", "nobody at db2"),
      onStart: (source) => source.sendUpTo(at(9.5)),
    }],
  });
  await run.clock.advance(40_000);
  run.others[0]!.connectError = undefined;
  await run.clock.advance(31_000);
  assert.deepEqual(run.archive.missing, []);
  assert.equal(run.archive.sink.flushLsn, at(9.5));
  await run.stop();
});

test("receiveWal() records no gap that only its own timeout speaks for", async () => {
  const run = await startLacking(6);
  run.server.silent.add("start");
  run.server.source.fail(new ConnectionError("closed", "gone"));
  const recorded = run.archive.missing.length;
  run.archive.recorded.length = 0;
  for (const name of [...run.archive.complete]) {
    if (name !== "1/0" && name !== "1/1") run.archive.complete.delete(name);
  }
  run.archive.unfinished.clear();
  for (let ms = 0; ms < 600_000; ms += 10_000) await run.clock.advance(10_000);
  assert.equal(run.archive.missing.length, recorded);
  await run.stop();
});

for (const brings of [true, false]) {
  test(`receiveWal() asks a host on an older timeline before it gives anything up, and has the WAL brought (${brings})`, async () => {
    const healed: string[] = [];
    const run = await startLacking(9, {
      ...AFTER_FAILOVER,
      heal: (gaps) => {
        healed.push(
          ...gaps.map(({ timeline, firstNumber, endNumber }) => `${timeline} ${firstNumber}-${endNumber}`),
        );
        if (brings) run.archive.addSegments(1, 2, 6);
        return Promise.resolve();
      },
    });
    await run.clock.advance(10_000);
    assert.equal(run.outcome.done, false, String(run.outcome.error));
    assert.deepEqual(healed.slice(0, 2), ["1 2-6", "2 6-9"]);
    if (brings) {
      // Of timeline 2 the old host has nothing: it says so, and it is waited for.
      await run.clock.advance(120_000);
      assert.deepEqual(
        run.archive.missing.map(({ run: gap }) => `${gap.timeline} ${gap.firstNumber}-${gap.endNumber}`),
        ["2 6-9"],
      );
    } else {
      assert.deepEqual(run.archive.missing, []);
    }
    await run.stop();
  });
}

test("receiveWal() waits a bounded time for a healing that brings nothing, and for its end when it stops", async () => {
  let rounds = 0;
  const run = await startLacking(9, {
    ...AFTER_FAILOVER,
    heal: (_gaps, signal) => {
      rounds++;
      return new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    },
  });
  await run.clock.advance(55_000);
  assert.deepEqual(run.archive.missing, []);
  await run.clock.advance(150_000);
  assert.ok(run.journal.includes("record gap 1 2-6"));
  assert.equal(run.archive.sink.flushLsn, at(9.5));
  assert.equal(rounds, 1);
  await run.stop();
  assert.equal(run.outcome.value, "stopped");
});

test("receiveWal() goes behind no segment that a host has while its healing brings in others", async () => {
  let brought = 5;
  const run = await startLacking(9, {
    ...AFTER_FAILOVER,
    heal: (_gaps, signal) =>
      new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  });
  // From the newest down, one in 50 s.
  for (; brought > 2; brought--) {
    await run.clock.advance(50_000);
    run.archive.addSegments(1, brought, brought + 1);
  }
  await run.clock.advance(50_000);
  assert.deepEqual(run.archive.missing, []);
  await run.clock.advance(200_000);
  assert.deepEqual(run.journal.filter((line) => line.startsWith("record")), [
    "record gap 1 2-3",
    "record gap 2 6-9",
  ]);
  await run.stop();
});

test("receiveWal() has brought in what no host has before it records anything: others may have it", async () => {
  const healed: string[] = [];
  let archive: FakeArchive | undefined;
  const run = await startLacking(8, {
    // What push brought further on is what the first hole ends at.
    prepare: (parts) => {
      archive = parts.archive;
      archive.addSegments(1, 5, 6);
    },
    heal: (gaps) => {
      healed.push(gaps.map(({ firstNumber, endNumber }) => `${firstNumber}-${endNumber}`).join());
      archive?.addSegments(1, 2, 8);
      return Promise.resolve();
    },
  });
  await run.clock.advance(1000);
  assert.deepEqual(healed, ["2-5,6-8"]);
  assert.deepEqual(run.archive.missing, []);
  assert.equal(run.journal.findLast((line) => line.startsWith("start")), "start 1 0/800000");
  await run.stop();
});

test("receiveWal() goes behind no segment that takes longer than a minute to come, from a host or from elsewhere", async () => {
  for (const given of [AFTER_FAILOVER, {}]) {
    let taken = 0;
    const run = await startLacking(9, {
      ...given,
      heal: (_gaps, signal) =>
        new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
      takenBytes: () => taken,
    });
    for (let ms = 0; ms < 600_000; ms += 10_000) {
      taken += 1000;
      await run.clock.advance(10_000);
    }
    assert.deepEqual(run.archive.missing, []);
    // It stands still now.
    for (let ms = 0; ms < 300_000; ms += 10_000) await run.clock.advance(10_000);
    assert.ok(run.archive.missing.length > 0);
    await run.stop();
  }
});

test("receiveWal() counts the minute anew after a pause in which nobody was asked", async () => {
  const run = await startLacking(6, {
    others: [{ address: "db2:5432", connectError: new ConnectionError("refused", "nobody at db2") }],
  });
  await run.clock.advance(20_000);
  run.archive.room = { freeBytes: 0, wantBytes: 1 };
  await run.clock.advance(300_000);
  const asked = run.askedAtMs.length;
  run.archive.room = undefined;
  await run.clock.advance(40_000);
  assert.ok(run.askedAtMs.length > asked);
  assert.deepEqual(run.archive.missing, []);
  await run.clock.advance(90_000);
  assert.ok(run.journal.includes("record gap 1 2-6"));
  await run.stop();
});

test("receiveWal() waits between rounds of which nothing comes: what is said to be here counts as missing", async () => {
  const run = await startLacking(9, {
    others: AFTER_FAILOVER.others,
    heal: () => Promise.resolve(),
    prepare: ({ server, archive }) => {
      AFTER_FAILOVER.prepare({ server, archive });
      // It would spin for ever.
      const { open } = server;
      server.open = () => {
        assert.ok(server.sources.length < 1000);
        return open.call(server);
      };
      archive.hasSegment = () => Promise.resolve(true);
    },
  });
  await run.clock.advance(60_000);
  assert.ok(run.askedAtMs.length > 3 && run.askedAtMs.length < 12, String(run.askedAtMs));
  assert.equal(run.outcome.done, false, String(run.outcome.error));
  await run.stop();
});

test("receiveWal() records nothing of what the archive itself has inside the gap", async () => {
  const run = await startLacking(9, { prepare: ({ archive }) => archive.addSegments(1, 4, 6) });
  await settled();
  assert.deepEqual(run.journal.filter((line) => line.startsWith("record")), [
    "record gap 1 2-4",
    "record gap 1 6-9",
  ]);
  await run.stop();
});

test("removalOf() waits as long as something comes, and no longer", async () => {
  for (const comes of [true, false]) {
    const clock = new FakeClock();
    const server = new FakeServer();
    server.flushLsn = at(9.5);
    server.confirmsStop = false;
    server.onStart = (source) => source.send(1000);
    const source = server.open();
    const search = { lineage: emptyHistory(timelineId(1)), segmentSize: SIZE, clock, timeoutMs: 5000 };
    const outcome = watched(removalOf(source, number(2), search));
    for (let ms = 0; ms < 20_000; ms += 2000) {
      await clock.advance(2000);
      if (comes) source.send(1000);
    }
    assert.equal(outcome.done, !comes);
    if (!comes) assert.match(String(outcome.error), /silent for 5 s/);
    source.end({ kind: "stopped" });
    await settled();
    if (comes) assert.deepEqual([outcome.done, outcome.error, outcome.value], [true, undefined, undefined]);
    assert.equal(clock.timers, 0);
  }
  // Keepalives say nothing of the WAL.
  const clock = new FakeClock();
  const server = new FakeServer();
  const search = { lineage: emptyHistory(timelineId(1)), segmentSize: SIZE, clock, timeoutMs: 5000 };
  const source = server.open();
  const outcome = watched(removalOf(source, number(2), search));
  for (let ms = 0; ms < 6000; ms += 1000) {
    await clock.advance(1000);
    source.keepalive();
  }
  assert.match(String(outcome.error), /silent for 5 s/);
});

test("receiveWal() whose server is promoted while it lacks the WAL records the gap as the new timeline has it", async () => {
  const run = await startLacking(9, {
    prepare: ({ server }) => {
      const { open } = server;
      let opened = 0;
      server.open = () => {
        // The stream that is refused came before.
        if (++opened === 2) {
          server.timeline = 2;
          server.histories.set(2, HISTORY_2);
        }
        return open.call(server);
      };
    },
  });
  await run.clock.advance(5000);
  assert.equal(run.outcome.done, false, String(run.outcome.error));
  assert.deepEqual(run.journal.filter((line) => line.startsWith("record")), [
    "record gap 1 2-6",
    "record gap 2 6-9",
  ]);
  await run.stop();
});

test("receiveWal() asks the server once more before it records: what it has again is received", async () => {
  const run = await startReceiving({
    prepare: (parts) => {
      lacking(6)(parts);
      const { server } = parts;
      const { open } = server;
      let opened = 0;
      server.open = () => {
        // The stream, the round that finds no other host, the one that asks them all; then it has it again.
        if (++opened === 4) server.removedBelow = at(0);
        return open.call(server);
      };
    },
  });
  await settled();
  assert.deepEqual(run.archive.missing, []);
  assert.equal(run.archive.sink.flushLsn, at(9.5));
  await run.stop();
});

for (const wal of ["is there", "is gone"] as const) {
  for (const createSlot of [true, false]) {
    test(`receiveWal() with an invalidated slot, and WAL that ${wal}, ${createSlot ? "makes" : "makes no"} slots`, async () => {
      const run = await startLacking(wal === "is gone" ? 6 : 0, {
        options: { slot: "wv", createSlot },
        prepare: ({ server }) => {
          server.serverVersion = 180_000;
          server.slotInvalidated = true;
          server.slots.set("wv", { kind: "physical", restartLsn: undefined, restartTimeline: undefined });
        },
      });
      await run.clock.advance(1000);
      const missing = run.archive.missing.map(({ run: gap }) => `${gap.firstNumber}-${gap.endNumber}`);
      assert.deepEqual(missing, wal === "is gone" ? ["2-6"] : []);
      if (createSlot) {
        assert.equal(run.outcome.done, false, String(run.outcome.error));
        assert.equal(run.journal.filter((line) => line === "drop slot wv").length, 1);
        assert.equal(
          run.journal.findLast((line) => line.startsWith("start")),
          `start 1 0/${wal === "is gone" ? 6 : 2}00000 slot wv`,
        );
        await run.stop();
      } else {
        assert.match(String(run.outcome.error), /can no longer access replication slot/);
        assert.ok(!run.journal.includes("drop slot wv"));
      }
    });
  }
}

for (const begun of [true, false]) {
  test(`receiveWal() up to an end position says no when something below it is missing (${begun ? "received now" : "here before"})`, async () => {
    const upTo = async (end: number, list: "recorded" | "accepted") => {
      const run = await startLacking(6, {
        options: { endLsn: at(end), gaps: "stop" },
        prepare: ({ archive }) => {
          archive[list].push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
          if (!begun) archive.addSegments(1, 6, 9);
        },
      });
      await run.clock.advance(1000);
      return run.outcome;
    };
    for (const end of [2.5, 6, 8]) {
      const { error } = await upTo(end, "recorded");
      assert.ok(error instanceof WalGapError, String(error));
      assert.match(
        error.message,
        /from 0\/200000 to 0\/600000 on timeline 1 it is missing; see: walvault gap list/,
      );
      assert.equal((await upTo(end, "accepted")).value, "end-reached");
    }
    // What is missing does not touch what was asked for.
    for (const end of [1, 1.5, 2]) assert.equal((await upTo(end, "recorded")).value, "end-reached");
  });
}

test("FlushGate tells nothing before it is open, and all then", () => {
  const gate = new FlushGate();
  let changes = 0;
  gate.subscribe(() => changes++);
  assert.deepEqual([gate.flushToTell(at(3)), gate.isOpen], [ZERO_LSN, false]);
  gate.open();
  assert.deepEqual([gate.flushToTell(at(3)), gate.isOpen, changes], [at(3), true, 1]);
});

test("receiveWal() behind a gap tells the flush position when nobody waited as it began, whoever waits later", async () => {
  const run = await startLacking(6, { prepare: ({ server }) => void (server.lends = true) });
  await settled();
  const { source } = run.server;
  // The setting is asked for between the record and the stream.
  const asked = source.asked.lastIndexOf("show synchronous_standby_names");
  assert.ok(asked > 0 && asked > source.asked.indexOf("start") && asked < source.asked.lastIndexOf("start"));
  assert.equal(source.statuses.at(-1)?.flushLsn, at(9.5));
  run.server.settings.set("synchronous_standby_names", "walvault");
  source.send(100_000);
  await pass(run, 120_000);
  assert.ok(source.statuses.every(({ flushLsn }) => flushLsn >= at(6)));
  assert.equal(source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
  assert.equal(source.closed, false);
  assert.deepEqual(run.lines("warn").filter((line) => line.includes("gaps")), ["archive has open gaps"]);
  assert.equal(run.archive.sink.borrow(), true);
  run.archive.sink.endLoan();
  await run.stop();
});

/** A receiver behind a gap on whose flush position commits may wait. */
async function startWaitedFor(given: Given = {}) {
  return await startLacking(6, {
    ...given,
    prepare: (parts) => {
      parts.server.settings.set("synchronous_standby_names", "walvault");
      given.prepare?.(parts);
    },
  });
}

const HEALED_OR_ACCEPTED = {
  healed: (archive: FakeArchive) => archive.addSegments(1, 2, 6),
  accepted: (archive: FakeArchive) =>
    void archive.accepted.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) }),
};

for (const how of ["healed", "accepted"] as const) {
  test(`receiveWal() as a synchronous standby tells no flush position before the gap is ${how}, then within seconds`, async () => {
    const run = await startWaitedFor();
    const { source } = run.server;
    source.send(100_000);
    await pass(run, 300_000);
    assert.ok(source.statuses.length > 10 && source.statuses.every(({ flushLsn }) => flushLsn === ZERO_LSN));
    assert.equal(source.statuses.at(-1)?.writeLsn, run.archive.sink.flushLsn, "write is still told");
    assert.equal(source.closed, false);
    const warning = run.entries.find(({ event }) => event === "archive has open gaps");
    assert.match(String(warning?.fields["hint"]), /commits that wait for this standby go on waiting/);
    HEALED_OR_ACCEPTED[how](run.archive);
    await run.clock.advance(3000);
    assert.equal(source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
    assert.equal(run.lines("info").filter((line) => line === `gap ${how}`).length, 1);
    // Before the acceptance counts it is durable.
    assert.equal(run.journal.includes("confirm gap 1 2-6"), how === "accepted");
    const asked = source.asked.length;
    source.send(100_000);
    await pass(run, 120_000);
    assert.equal(source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
    assert.equal(source.asked.length, asked, "there is nothing left to watch");
    await run.stop();
  });

  test(`receiveWal() sees a gap that is ${how} between its plan and its first look`, async () => {
    const run = await startWaitedFor({
      prepare: ({ server, archive }) => {
        archive.recorded.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
        server.onStart = (source) => {
          HEALED_OR_ACCEPTED[how](archive);
          source.sendUpTo(server.flushLsn);
        };
      },
    });
    await run.clock.advance(3000);
    assert.equal(run.server.source.statuses.at(-1)?.flushLsn, at(9.5));
    await run.stop();
  });
}

test("receiveWal() whose record of an acceptance fails tells no flush position", async () => {
  const run = await startWaitedFor();
  run.archive.confirmGap = () => Promise.reject(Object.assign(new Error("EIO: sync"), { code: "EIO" }));
  HEALED_OR_ACCEPTED.accepted(run.archive);
  await pass(run, 20_000);
  assert.ok(run.server.source.statuses.every(({ flushLsn }) => flushLsn === ZERO_LSN));
  await run.stop();
});

test("receiveWal() as a synchronous standby connects anew when nobody seems to wait, and the new connection decides", async () => {
  const run = await startWaitedFor();
  await pass(run, 65_000);
  const { source } = run.server;
  run.server.settings.set("synchronous_standby_names", "");
  await pass(run, 60_000);
  assert.equal(source.closed, true);
  assert.equal(source.stopSaid, true, "ended in order");
  assert.ok(source.statuses.every(({ flushLsn }) => flushLsn === ZERO_LSN));
  const next = run.server.source;
  assert.notEqual(next, source);
  assert.equal(next.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
  assert.equal(run.outcome.done, false);
  await run.stop();
});

test("receiveWal() that was only hinted that nobody waits tells nothing when somebody does", async () => {
  const run = await startWaitedFor({
    prepare: ({ server }) => {
      const show = server.settings.get.bind(server.settings);
      // Empty for who asks on another connection, set for who streams.
      server.settings.get = (name) =>
        name === "synchronous_standby_names" && server.source.asked.at(-1)?.endsWith("afresh")
          ? ""
          : show(name);
    },
  });
  await pass(run, 200_000);
  assert.ok(run.server.sources.length > 4);
  for (const { statuses } of run.server.sources) {
    assert.ok(statuses.every(({ flushLsn }) => flushLsn <= at(2)));
  }
  await run.stop();
});

test("receiveWal() takes no hint from another cluster at the same address", async () => {
  const run = await startWaitedFor();
  run.server.afreshIdentifier = 7n;
  run.server.settings.set("synchronous_standby_names", "");
  await pass(run, 200_000);
  assert.equal(run.server.source.closed, false);
  assert.ok(run.server.source.statuses.every(({ flushLsn }) => flushLsn === ZERO_LSN));
  await run.stop();
});

test("receiveWal() behind a gap lends its socket only when the gap is healed: who has it tells all that is flushed", async () => {
  const run = await startWaitedFor({ prepare: ({ server }) => void (server.lends = true) });
  await settled();
  assert.equal(run.archive.sink.borrow(), false);
  run.archive.addSegments(1, 2, 6);
  await run.clock.advance(3000);
  assert.equal(run.archive.sink.borrow(), true);
  run.archive.sink.endLoan();
  await run.stop();
});

test("receiveWal() behind a gap ends at once when it is told to, also while the server does not answer", async () => {
  const run = await startWaitedFor({ prepare: ({ server }) => void server.silent.add("afresh") });
  await pass(run, 65_000);
  assert.ok(run.server.source.asked.some((each) => each.endsWith("afresh")));
  const stopping = run.stop();
  await settled();
  assert.equal(run.outcome.value, "stopped");
  await stopping;
});

test("receiveWal() asks for a recorded gap at each connect and each minute, one round at a time, until it is healed", async () => {
  let rounds = 0;
  let finish = () => {};
  const run = await startLacking(6, {
    heal: (gaps, signal) => {
      assert.deepEqual(gaps.map(({ firstNumber, endNumber }) => `${firstNumber}-${endNumber}`), ["2-6"]);
      assert.equal(signal.aborted, false);
      rounds++;
      return new Promise((resolve) => {
        finish = resolve;
      });
    },
  });
  await pass(run, 130_000);
  assert.equal(rounds, 1, "the first round is still under way");
  finish();
  await pass(run, 60_000);
  assert.equal(rounds, 2);
  finish();
  run.server.source.fail(new ConnectionError("closed", "gone"));
  await run.clock.advance(1000);
  assert.equal(rounds, 3);
  run.archive.addSegments(1, 2, 6);
  finish();
  await pass(run, 200_000);
  assert.equal(rounds, 3);
  assert.equal(run.lines("info").filter((line) => line === "gap healed").length, 1);
  await run.stop();
});

test("receiveWal() that is told to stop ends the healing, and waits for that", async () => {
  let aborted = false;
  const run = await startLacking(6, {
    heal: (_gaps, signal) =>
      new Promise((_resolve, reject) =>
        signal.addEventListener("abort", () => {
          aborted = true;
          reject(signal.reason);
        })
      ),
  });
  await settled();
  await run.stop();
  assert.equal(run.outcome.value, "stopped");
  assert.equal(aborted, true);
});

test("receiveWal() goes on when healing fails", async () => {
  const run = await startLacking(6, { heal: () => Promise.reject(new Error("what is this")) });
  await pass(run, 130_000);
  assert.equal(run.outcome.done, false);
  assert.ok(run.lines("warn").includes("missing wal not brought in"));
  await run.stop();
});

test("receiveWal() behind a gap tells no flush position, and has it healed, also when push brought a later segment", async () => {
  let rounds = 0;
  const run = await startWaitedFor({
    heal: (gaps) => {
      assert.deepEqual(gaps.map(({ firstNumber, endNumber }) => `${firstNumber}-${endNumber}`), ["2-6"]);
      rounds++;
      return Promise.resolve();
    },
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 12, 13);
      server.flushLsn = at(13.5);
    },
  });
  await pass(run, 65_000);
  assert.ok(run.journal.includes("record gap 1 2-6"));
  // Before it is recorded, as the stream begins, and a minute later.
  assert.equal(rounds, 3);
  assert.ok(run.lines("warn").includes("archive has open gaps"));
  for (const { statuses } of run.server.sources) {
    assert.ok(statuses.every(({ flushLsn }) => flushLsn <= at(2)));
  }
  run.archive.addSegments(1, 2, 6);
  await run.clock.advance(3000);
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
  assert.equal(run.lines("info").filter((line) => line === "gap healed").length, 1);
  await run.stop();
});

test("receiveWal() up to an end position says no below a gap, also when push brought a later segment", async () => {
  // Up to the gap's end nothing is received at all.
  for (const end of [6, 8]) {
    const run = await startLacking(6, {
      options: { endLsn: at(end), gaps: "stop" },
      prepare: ({ archive }) => {
        archive.addSegments(1, 12, 13);
        archive.recorded.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
      },
    });
    await run.clock.advance(1000);
    assert.ok(run.outcome.error instanceof WalGapError, `up to ${end}: ${run.outcome.value}`);
  }
});

test("receiveWal() behind a gap says neither healed nor accepted when the segments below it are removed", async () => {
  const run = await startWaitedFor();
  await pass(run, 10_000);
  for (const name of ["1/0", "1/1"]) run.archive.complete.delete(name);
  await pass(run, 10_000);
  for (const { statuses } of run.server.sources) {
    assert.ok(statuses.every(({ flushLsn }) => flushLsn <= at(2)));
  }
  assert.deepEqual(run.lines("info").filter((line) => line.startsWith("gap")), []);
  HEALED_OR_ACCEPTED.accepted(run.archive);
  await run.clock.advance(3000);
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
  await run.stop();
});

test("receiveWal() behind a gap looks for its own segments alone, and reads the ledger when that changed", async () => {
  const asked: string[] = [];
  let [listings, readings] = [0, 0];
  const run = await startWaitedFor({
    heal: () => Promise.resolve(),
    prepare: ({ archive }) => {
      const { contents, ledgerGaps, hasSegment } = archive;
      Object.assign(archive, {
        contents: () => (listings++, contents.call(archive)),
        ledgerGaps: () => (readings++, ledgerGaps.call(archive)),
        hasSegment: (segment: Parameters<typeof hasSegment>[0]) => {
          if (archive.missing.length > 0) asked.push(String(segment.number));
          return hasSegment.call(archive, segment);
        },
      });
    },
  });
  await settled();
  const before = listings;
  await pass(run, 30_000);
  assert.equal(listings, before);
  assert.equal(readings, 1);
  // Those in the middle only when they are asked for.
  assert.deepEqual(asked.filter((each) => each !== "2"), ["3", "4", "5"]);
  // What came in the middle closes nothing, and is not asked for again.
  run.archive.addSegments(1, 4, 6);
  await pass(run, 10_000);
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, ZERO_LSN);
  run.archive.addSegments(1, 2, 4);
  await run.clock.advance(3000);
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
  assert.equal(listings, before);
  await run.stop();
});

test("receiveWal() whose archive can't make the names of healed segments durable tells no flush position", async () => {
  const run = await startWaitedFor();
  run.archive.syncNames = () => Promise.reject(Object.assign(new Error("EIO: fsync"), { code: "EIO" }));
  run.archive.addSegments(1, 2, 6);
  await pass(run, 20_000);
  assert.ok(run.server.source.statuses.every(({ flushLsn }) => flushLsn === ZERO_LSN));
  assert.ok(!run.lines("info").includes("gap healed"));
  await run.stop();
});

test("receiveWal() behind two gaps of which one is accepted goes on waiting for the other", async () => {
  const run = await startWaitedFor({
    prepare: ({ archive }) => {
      for (const [first, end] of [[2, 4], [4, 6]] as const) {
        archive.recorded.push({
          timeline: timelineId(1),
          firstNumber: number(first),
          endNumber: number(end),
        });
      }
    },
  });
  await settled();
  run.archive.accepted.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(4) });
  await pass(run, 10_000);
  assert.deepEqual(run.lines("info").filter((line) => line.startsWith("gap")), ["gap accepted"]);
  assert.ok(run.server.source.statuses.every(({ flushLsn }) => flushLsn === ZERO_LSN));
  run.archive.addSegments(1, 4, 6);
  await run.clock.advance(3000);
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
  await run.stop();
});

test("receiveWal() begins at what was only begun, whatever push brought further on", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.unfinished.add("1/3");
      archive.addSegments(1, 5, 6);
      server.flushLsn = at(7.5);
    },
  });
  await settled();
  assert.deepEqual(run.journal.filter((entry) => /^start/.test(entry)), ["start 1 0/300000"]);
  await run.stop();
});

/** A receiver that meets a gap which was recorded before and has been filled since, by name; commits may wait. */
async function startFilled(prepare: (parts: Parameters<NonNullable<Given["prepare"]>>[0]) => void) {
  return await startReceiving({
    prepare: (parts) => {
      const { server, archive } = parts;
      archive.addSegments(1, 0, 8);
      archive.recorded.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
      server.flushLsn = at(9.5);
      server.onStart = (source) => source.sendUpTo(server.flushLsn);
      server.settings.set("synchronous_standby_names", "walvault");
      prepare(parts);
    },
  });
}

const toldZero = (run: Awaited<ReturnType<typeof startReceiving>>) =>
  run.server.source.statuses.every(({ flushLsn }) => flushLsn === ZERO_LSN);

test("receiveWal() believes no names that fill a recorded gap, says so once, and opens when the bytes are right", async () => {
  for (const how of ["before it connects", "while it streams"]) {
    const run = await startFilled(({ archive }) => {
      archive.damaged.add("1/4");
      if (how === "while it streams") archive.complete.delete("1/4");
    });
    await pass(run, 5000);
    run.archive.addSegments(1, 4, 5);
    await pass(run, 120_000);
    assert.ok(run.server.source.statuses.length > 10 && toldZero(run), how);
    assert.deepEqual(
      run.archive.healed.filter(({ endNumber }) => endNumber === 6n),
      how === "before it connects" ? [] : [
        { timeline: timelineId(1), firstNumber: number(5), endNumber: number(6) },
      ],
    );
    const told = run.entries.filter(({ event }) => event === "gap not healed");
    assert.equal(told.length, 1);
    assert.equal(told[0]?.level, "error");
    assert.match(String(told[0]?.fields["segments"]), /^1\/4: it is damaged$/);
    assert.match(String(told[0]?.fields["hint"]), /move it away.*walvault gap accept/);
    assert.ok(run.archive.proofs < 20, "not at every look");
    run.archive.damaged.clear();
    await pass(run, 15_000);
    assert.equal(run.server.source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
    assert.ok(run.journal.some((line) => line.startsWith("heal gap 1 ")));
    assert.ok(run.lines("info").includes("gap healed"));
    await run.stop();
  }
});

test("receiveWal() releases an unproven gap when it is accepted", async () => {
  const run = await startFilled(({ archive }) => void archive.damaged.add("1/4"));
  await pass(run, 20_000);
  assert.ok(toldZero(run));
  run.archive.accepted.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
  await run.clock.advance(4000);
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, at(9.5));
  assert.ok(run.lines("info").includes("gap accepted"));
  await run.stop();
});

test("receiveWal() streams and answers while a gap is proven, notices an acceptance meanwhile, and ends the proof with itself", async () => {
  for (const accepts of [true, false]) {
    const run = await startFilled(({ archive }) => {
      archive.proving = new Promise(() => {});
    });
    await pass(run, 60_000);
    assert.ok(toldZero(run));
    assert.equal(run.archive.proofs, 1, "one at a time");
    assert.equal(run.archive.sink.flushLsn, at(9.5));
    assert.equal(run.server.source.statuses.at(-1)?.writeLsn, at(9.5));
    if (accepts) {
      run.archive.accepted.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
      await run.clock.advance(5000);
      assert.equal(run.server.source.statuses.at(-1)?.flushLsn, at(9.5));
    }
    await run.stop();
    assert.equal(run.outcome.value, "stopped");
    assert.deepEqual(run.archive.healed, []);
  }
});

test("receiveWal() that found a gap proven once does not read it again, in a later process either", async () => {
  const run = await startFilled(() => {});
  await pass(run, 10_000);
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, at(9.5));
  assert.deepEqual(run.archive.healed, [{
    timeline: timelineId(1),
    firstNumber: number(2),
    endNumber: number(6),
  }]);
  run.server.source.fail(new ConnectionError("closed", "gone"));
  await run.clock.advance(5000);
  assert.equal(run.archive.proofs, 1);
  assert.ok(run.server.source.statuses.every(({ flushLsn }) => flushLsn > at(2)));
  await run.stop();
});

test("receiveWal() holds a recorded gap that nobody saw healed, also when what lay below it is removed", async () => {
  for (const healed of [false, true]) {
    const run = await startFilled(({ archive }) => {
      for (const each of [0, 1, 2, 3, 4, 5]) archive.complete.delete(`1/${each}`);
      if (healed) {
        archive.healed.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
      }
    });
    await pass(run, 20_000);
    if (healed) assert.equal(run.server.source.statuses.at(-1)?.flushLsn, at(9.5));
    else assert.ok(toldZero(run));
    await run.stop();
  }
});

test("receiveWal() up to an end position says no when what filled a gap is not proven", async () => {
  for (const damaged of [true, false]) {
    const run = await startReceiving({
      options: { endLsn: at(8), gaps: "stop" },
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 8);
        archive.recorded.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
        if (damaged) archive.damaged.add("1/3");
        server.flushLsn = at(9.5);
      },
    });
    await run.clock.advance(1000);
    if (damaged) {
      assert.match(String(run.outcome.error), /is not proven: 1\/3: it is damaged; see: walvault gap list/);
    } else assert.equal(run.outcome.value, "end-reached");
  }
});

test("receiveWal() writes down that what was only begun is left over, so that it is no begin when all that is old goes", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 8);
      archive.unfinished.add("1/3");
      server.flushLsn = at(9.5);
    },
  });
  await pass(run, 5000);
  assert.deepEqual(run.archive.healed, [{
    timeline: timelineId(1),
    firstNumber: number(3),
    endNumber: number(4),
  }]);
  assert.ok(run.server.source.statuses.every(({ flushLsn }) => flushLsn > at(2)), "nothing waits for that");
  for (const each of [0, 1, 2, 3, 4, 5]) run.archive.complete.delete(`1/${each}`);
  run.server.source.fail(new ConnectionError("closed", "gone"));
  await run.clock.advance(5000);
  assert.equal(run.journal.findLast((line) => line.startsWith("start")), "start 1 0/800000");
  await run.stop();
});

test("receiveWal() writes down that an old timeline's end is left over as soon as its successor is here, not at the next connection", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 3);
      server.flushLsn = at(3.5);
      server.onStart = (source) => source.sendUpTo(server.flushLsn);
    },
  });
  await settled();
  const { server, archive } = run;
  server.timeline = 2;
  server.histories.set(2, "1\t0/380000\tno recovery target specified\n");
  server.flushLsn = at(9.5);
  server.source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3.5) });
  archive.unfinished.add("1/3");
  await pass(run, 5000);
  archive.addSegments(2, 3, 9);
  await pass(run, 120_000);
  assert.deepEqual(archive.healed, [{
    timeline: timelineId(2),
    firstNumber: number(3),
    endNumber: number(4),
  }]);
  // All that is old is removed, from the server too; what was begun stays where it is.
  archive.complete.clear();
  archive.addSegments(2, 7, 9);
  server.removedBelow = at(7);
  server.source.fail(new ConnectionError("closed", "gone"));
  await pass(run, 10_000);
  assert.deepEqual(archive.missing, []);
  assert.equal(run.journal.findLast((line) => line.startsWith("start")), "start 2 0/900000");
  await run.stop();
});

test("receiveWal() behind an open gap writes down what is left over, without waiting for the gap", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 4);
      archive.addSegments(1, 6, 8);
      archive.recorded.push({ timeline: timelineId(1), firstNumber: number(4), endNumber: number(6) });
      archive.unfinished.add("1/2");
      server.flushLsn = at(9.5);
    },
  });
  await pass(run, 10_000);
  assert.deepEqual(run.archive.healed, [{
    timeline: timelineId(1),
    firstNumber: number(2),
    endNumber: number(3),
  }]);
  await run.stop();
});

test("receiveWal() tells no flush position behind a gap that is filled right up to the stream before that vouches for it", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 8);
      archive.recorded.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(8) });
      archive.anchored = false;
      server.flushLsn = at(9.5);
      server.settings.set("synchronous_standby_names", "walvault");
    },
  });
  await pass(run, 20_000);
  assert.equal(run.archive.proofs, 0);
  assert.ok(run.server.source.statuses.length > 0 && toldZero(run));
  run.archive.anchored = true;
  run.server.source.sendUpTo(at(9.5));
  await pass(run, 5000);
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, at(9.5));
  assert.equal(run.archive.healed.length, 1);
  await run.stop();
});

test("receiveWal() whose gap stays one until it is proven says why commits wait", async () => {
  for (const waits of [true, false]) {
    const run = await startFilled(({ server, archive }) => {
      archive.proving = new Promise(() => {});
      if (!waits) server.settings.delete("synchronous_standby_names");
    });
    await pass(run, 5000);
    const told = run.entries.filter(({ event }) => event === "gap is being proven");
    assert.equal(told.length, waits ? 1 : 0);
    if (waits) {
      assert.equal(told[0]?.level, "warn");
      assert.deepEqual(told[0]?.fields["firstLsn"], "0/200000");
      assert.match(String(told[0]?.fields["hint"]), /commits that wait for this standby go on waiting/);
    }
    await run.stop();
  }
});

test("receiveWal() writes down once that a gap is healed, while another one that is not proven is looked at again and again", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 8);
      for (const [first, end] of [[1, 2], [4, 6]] as const) {
        archive.recorded.push({
          timeline: timelineId(1),
          firstNumber: number(first),
          endNumber: number(end),
        });
      }
      archive.damaged.add("1/1");
      for (const each of ["1/1", "1/4", "1/5"]) archive.complete.delete(each);
      server.flushLsn = at(9.5);
      server.onStart = (source) => source.sendUpTo(server.flushLsn);
      server.settings.set("synchronous_standby_names", "walvault");
    },
  });
  const { archive, clock } = run;
  const prove = archive.proveSegments.bind(archive);
  // A long one: longer than the time between two looks.
  archive.proveSegments = async (gap, signal) => {
    if (gap.firstNumber === 4n) await new Promise<void>((resolve) => clock.setTimer(3000, resolve));
    return await prove(gap, signal);
  };
  archive.addSegments(1, 1, 6);
  await pass(run, 120_000);
  assert.equal(archive.healed.length, 1);
  assert.deepEqual(run.lines("info").filter((line) => line === "gap healed"), ["gap healed"]);
  assert.ok(toldZero(run));
  await run.stop();
});

test("receiveWal() that has ended begins no proof of a gap, whatever its disk still had to say", async () => {
  for (const asked of ["segment", "anchor"]) {
    const run = await startReceiving({
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 6);
        archive.recorded.push({ timeline: timelineId(1), firstNumber: number(6), endNumber: number(8) });
        server.flushLsn = at(9.5);
        server.settings.set("synchronous_standby_names", "walvault");
      },
    });
    const { archive } = run;
    const answer = Promise.withResolvers<boolean>();
    if (asked === "segment") archive.hasSegment = () => answer.promise;
    else {
      archive.addSegments(1, 6, 8);
      archive.isAnchored = () => answer.promise;
    }
    await pass(run, 5000);
    await run.stop();
    assert.equal(run.outcome.value, "stopped");
    answer.resolve(true);
    await settled();
    assert.equal(archive.proofs, 0, asked);
  }
});
