import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import { nextProbe } from "../../lib/receiver/first_available.ts";
import { FlushGate } from "../../lib/receiver/flush_gate.ts";
import { WalGapError } from "../../lib/wal/errors.ts";
import { ZERO_LSN } from "../../lib/wal/lsn.ts";
import type { SegmentNumber } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { at, type FakeArchive, type FakeServer, settled } from "./fakes.ts";
import { type Given, startReceiving } from "./running_receiver.ts";

const number = (value: number) => BigInt(value) as SegmentNumber;
const HISTORY_2 = "1\t0/680000\tno recovery target specified\n";

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

const starts = (run: { readonly journal: readonly string[] }) =>
  run.journal.filter((line) => line.startsWith("start")).length;

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

test("receiveWal() asks first for what the slot keeps", async () => {
  const slot = (restart: number): Given => ({
    options: { slot: "wv" },
    prepare: ({ server }) =>
      server.slots.set("wv", { kind: "physical", restartLsn: at(restart), restartTimeline: undefined }),
  });
  const kept = await startLacking(6, slot(6.5));
  await settled();
  // The archive's end, the server's, the slot's, the one before it, and the stream.
  assert.equal(starts(kept), 5);
  assert.equal(kept.journal.findLast((line) => line.startsWith("start")), "start 1 0/600000 slot wv");
  await kept.stop();
  const lost = await startLacking(8, slot(3.5));
  await settled();
  assert.ok(lost.journal.includes("record gap 1 2-8"));
  await lost.stop();
  const more = await startLacking(4, slot(8));
  await settled();
  assert.ok(more.journal.includes("record gap 1 2-4"));
  await more.stop();
});

test("nextProbe() finds every first segment in few probes, with and without a hint", () => {
  for (const there of [1, 2, 3, 10, 1000, 2 ** 44]) {
    for (const first of [1, 2, 3, 7, 999, 1000, 123_456_789, 2 ** 44].filter((value) => value <= there)) {
      for (const hint of [undefined, 0, 1, first, there, 2 ** 43]) {
        let [goneNumber, thereNumber] = [number(0), number(there)];
        let hintNumber = hint === undefined ? undefined : number(hint);
        let probes = 0;
        for (;; probes++) {
          const probe = nextProbe({ goneNumber, thereNumber, hintNumber });
          if (probe === undefined) break;
          assert.ok(goneNumber < probe && probe < thereNumber, `${goneNumber} ${probe} ${thereNumber}`);
          const isThere = probe >= first;
          if (isThere) thereNumber = probe;
          else goneNumber = probe;
          if (probe !== hintNumber || !isThere) hintNumber = undefined;
        }
        assert.equal(thereNumber, number(first));
        assert.ok(probes <= 46, `${probes} probes`);
      }
    }
  }
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
  // What stands behind it proves it.
  const went = await start({ prepare: ({ archive }) => archive.addSegments(1, 6, 7) });
  await settled();
  assert.equal(went.journal[0], "start 1 0/700000");
  await went.stop();
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

test("receiveWal() takes what is missing from the host that has it, and records nothing", async () => {
  const run = await startLacking(6, { others: [{ address: "db2:5432", flushLsn: at(9.5) }] });
  await settled();
  assert.deepEqual(run.archive.missing, []);
  assert.equal(run.others[0]!.source.closed, false);
  await run.stop();
});

test("receiveWal() records a gap when every host lacks the WAL", async () => {
  const run = await startLacking(6, {
    others: [{ address: "db2:5432", removedBelow: at(7), flushLsn: at(9.5) }],
  });
  await settled();
  assert.equal(run.clock.nowMs(), 0);
  assert.deepEqual(run.archive.missing.map(({ server }) => server), ["db:5432"]);
  assert.equal(run.archive.sink.flushLsn, at(9.5));
  await run.stop();
});

test("receiveWal() waits a minute for a host that is away, then goes on behind what the others lack", async () => {
  const run = await startLacking(6, {
    others: [{ address: "db2:5432", connectError: new ConnectionError("refused", "nobody at db2") }],
  });
  await run.clock.advance(55_000);
  assert.deepEqual(run.archive.missing, []);
  await run.clock.advance(40_000);
  assert.ok(run.journal.includes("record gap 1 2-6"));
  assert.equal(run.archive.sink.flushLsn, at(9.5));
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

for (const begun of [true, false]) {
  test(`receiveWal() up to an end position says no when something below it is missing (${begun ? "received now" : "here before"})`, async () => {
    const run = await startLacking(6, {
      options: { endLsn: at(8), gaps: "stop" },
      prepare: ({ archive }) => {
        archive.recorded.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
        if (!begun) archive.addSegments(1, 6, 9);
      },
    });
    await run.clock.advance(1000);
    assert.ok(run.outcome.error instanceof WalGapError, String(run.outcome.error));
    assert.match(
      run.outcome.error.message,
      /from 0\/200000 to 0\/600000 on timeline 1 it is missing; see: walvault gap list/,
    );
    const accepted = await startLacking(6, {
      options: { endLsn: at(8), gaps: "stop" },
      prepare: ({ archive }) =>
        void archive.accepted.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) }),
    });
    await accepted.clock.advance(1000);
    assert.equal(accepted.outcome.value, "end-reached");
  });
}

test("FlushGate tells what is permitted once, and all when it is open", () => {
  const gate = new FlushGate();
  let changes = 0;
  gate.subscribe(() => changes++);
  assert.equal(gate.flushToTell(at(3)), ZERO_LSN);
  gate.permit(at(2));
  assert.deepEqual([gate.flushToTell(at(3)), gate.flushToTell(at(3))], [at(2), ZERO_LSN]);
  gate.permit(at(4));
  assert.equal(gate.flushToTell(at(3)), at(3), "never more than is durable");
  assert.equal(gate.isOpen, false);
  gate.open();
  assert.deepEqual([gate.flushToTell(at(3)), gate.isOpen, changes], [at(3), true, 3]);
});

test("receiveWal() behind a gap tells the flush position while nobody waits for it, and what came before it was asked", async () => {
  const run = await startLacking(6);
  await settled();
  const { source } = run.server;
  assert.deepEqual([source.statuses[0]?.flushLsn, source.statuses[0]?.writeLsn], [at(6), at(9.5)]);
  source.keepalive({ replyRequested: true });
  assert.equal(source.statuses.at(-1)?.flushLsn, ZERO_LSN, "only what was there when nobody waited");
  await run.clock.advance(31_000);
  assert.ok(source.statuses.some(({ flushLsn }) => flushLsn === at(9.5)));
  assert.deepEqual(run.lines("warn").filter((line) => line.includes("gaps")), ["archive has open gaps"]);
  await run.stop();
});

test("receiveWal() behind a gap tells no flush position once a commit may wait for it", async () => {
  const run = await startLacking(6);
  await run.clock.advance(31_000);
  const { source } = run.server;
  const before = source.statuses.length;
  run.server.settings.set("synchronous_standby_names", "walvault");
  source.send(100_000);
  await pass(run, 300_000);
  const after = source.statuses.slice(before);
  assert.ok(after.length > 10);
  assert.ok(after.every(({ flushLsn }) => flushLsn === ZERO_LSN));
  assert.equal(after.at(-1)?.writeLsn, run.archive.sink.flushLsn, "write is still told");
  await run.stop();
});

for (const how of ["healed", "accepted"] as const) {
  test(`receiveWal() as a synchronous standby tells no flush position before the gap is ${how}, then at once`, async () => {
    const run = await startLacking(6, {
      prepare: ({ server }) => void server.settings.set("synchronous_standby_names", "*"),
    });
    await pass(run, 65_000);
    const { source } = run.server;
    assert.ok(source.statuses.length > 3 && source.statuses.every(({ flushLsn }) => flushLsn === ZERO_LSN));
    const warning = run.entries.find(({ event }) => event === "archive has open gaps");
    assert.match(String(warning?.fields["hint"]), /commits that wait for this standby go on waiting/);
    if (how === "healed") run.archive.addSegments(1, 2, 6);
    else run.archive.accepted.push({ timeline: timelineId(1), firstNumber: number(2), endNumber: number(6) });
    await run.clock.advance(31_000);
    assert.equal(source.statuses.at(-1)?.flushLsn, at(9.5));
    assert.equal(run.lines("info").filter((line) => line === `gap ${how}`).length, 1);
    source.send(100_000);
    await settled();
    assert.equal(source.statuses.at(-1)?.flushLsn, run.archive.sink.flushLsn);
    // It was the only thing to watch.
    assert.equal(source.asked.filter((each) => each.endsWith("afresh")).length <= 8, true);
    await run.stop();
  });
}

test("receiveWal() behind a gap lends its socket only when the gap is healed: who has it tells all that is flushed", async () => {
  const run = await startLacking(6, { prepare: ({ server }) => void (server.lends = true) });
  await settled();
  assert.equal(run.archive.sink.borrow(), false);
  run.archive.addSegments(1, 2, 6);
  await run.clock.advance(31_000);
  assert.equal(run.archive.sink.borrow(), true);
  run.archive.sink.endLoan();
  await run.stop();
});

test("receiveWal() behind a gap ends at once when it is told to, also while the server does not answer", async () => {
  const run = await startLacking(6, { prepare: ({ server }) => void server.silent.add("afresh") });
  await run.clock.advance(31_000);
  const stopping = run.stop();
  await settled();
  assert.equal(run.outcome.value, "stopped");
  await stopping;
});
