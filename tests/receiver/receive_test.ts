import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import { PermanentError } from "../../lib/receiver/failure.ts";
import { receiveWal } from "../../lib/receiver/receive.ts";
import { ArchiveConflictError, WalGapError, WrongClusterError } from "../../lib/wal/errors.ts";
import { formatLsn, type Lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import {
  at,
  FakeArchive,
  FakeClock,
  fakeLog,
  FakeServer,
  type FakeSource,
  MIB,
  serverError,
  settled,
} from "./fakes.ts";
import { OPTIONS, startReceiving } from "./running_receiver.ts";

const REMOVED = serverError("58P01", "requested WAL segment has already been removed");
const HISTORY_2 = "1\t0/380000\tno recovery target specified\n";
const HISTORY_3 = HISTORY_2 + "\n2\t0/580000\tno recovery target specified\n";

/** A server that was promoted at 3.5, in the middle of segment 3. */
function promote(server: FakeServer, flushLsn: Lsn = at(4.5)): void {
  server.timeline = 2;
  server.flushLsn = flushLsn;
  server.histories.set(2, HISTORY_2);
}

/** The fields of the one entry of this event. */
function fieldsOf(entries: Awaited<ReturnType<typeof startReceiving>>["entries"], event: string) {
  const found = entries.filter((entry) => entry.event === event);
  assert.equal(found.length, 1, `${event}: ${found.length} times`);
  return found[0]!.fields;
}

test("receiveWal() with an empty archive and no slot starts at the server's position, and warns", async () => {
  const run = await startReceiving();
  assert.deepEqual(run.journal.slice(0, 1), ["start 1 0/300000"]);
  assert.equal(run.server.source.statuses[0]?.flushLsn, at(3), "first reported: the start of that segment");
  assert.deepEqual(run.lines("warn"), ["no replication slot", "starting at the server's current position"]);
  await run.stop();
  assert.equal(run.outcome.value, "stopped");
});

test("receiveWal() with an empty archive starts at the slot's position", async () => {
  const run = await startReceiving({
    options: { slot: "wv" },
    prepare: ({ server }) =>
      server.slots.set("wv", { kind: "physical", restartLsn: at(1.25), restartTimeline: undefined }),
  });
  assert.equal(run.journal[0], "start 1 0/100000 slot wv");
  // The archive may have been lost, or its disk is not mounted: what was received before is not here.
  assert.deepEqual(run.lines("warn"), ["starting at the slot's position"]);
  const { startLsn, hint } = fieldsOf(run.entries, "starting at the slot's position");
  assert.equal(startLsn, "0/100000");
  assert.match(String(hint), /look whether its disk is mounted/);
  await run.stop();
});

test("receiveWal() with a slot that reserves nothing starts at the server's position, and says why", async () => {
  const run = await startReceiving({
    options: { slot: "wv" },
    prepare: ({ server }) =>
      server.slots.set("wv", { kind: "physical", restartLsn: undefined, restartTimeline: undefined }),
  });
  assert.match(
    String(fieldsOf(run.entries, "starting at the server's current position")["reason"]),
    /slot reserves/,
  );
  await run.stop();
});

test("receiveWal() lets the archive's own end win over the slot", async () => {
  const run = await startReceiving({
    options: { slot: "wv" },
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 2);
      server.slots.set("wv", { kind: "physical", restartLsn: at(3), restartTimeline: undefined });
    },
  });
  assert.equal(run.journal[0], "start 1 0/200000 slot wv");
  await run.stop();
});

for (
  const [serverVersion, isEmpty, isRead] of [
    [149_999, true, true],
    [149_999, false, false],
    [130_010, false, false],
    [150_000, true, true],
    [150_000, false, true],
    [180_000, false, true],
  ] as const
) {
  const archived = isEmpty ? "an empty archive" : "an archive";
  test(`receiveWal() from ${serverVersion} into ${archived} ${isRead ? "reads" : "does not read"} the slot`, async () => {
    const run = await startReceiving({
      options: { slot: "wv" },
      prepare: ({ server, archive }) => {
        server.serverVersion = serverVersion;
        if (!isEmpty) archive.addSegments(1, 0, 3);
        server.slots.set("wv", { kind: "physical", restartLsn: at(3), restartTimeline: undefined });
      },
    });
    assert.equal(run.server.source.asked.includes("read slot"), isRead);
    assert.equal(run.journal.at(0), "start 1 0/300000 slot wv");
    await run.stop();
  });
}

test("receiveWal() from 14 reads the slot when the archive holds only another lineage", async () => {
  const run = await startReceiving({
    options: { slot: "wv" },
    prepare: ({ server, archive }) => {
      server.serverVersion = 140_010;
      server.timeline = 3;
      server.flushLsn = at(9.5);
      server.histories.set(3, "1\t0/80000\tpromoted\n");
      archive.histories.set(2, "1\t0/80000\tpromoted\n");
      archive.addSegments(2, 3, 5);
      server.slots.set("wv", { kind: "physical", restartLsn: at(5.5), restartTimeline: undefined });
    },
  });
  assert.ok(run.journal.includes("start 3 0/500000 slot wv"), run.journal.join("; "));
  await run.stop();
});

for (const isEmpty of [true, false]) {
  test(`receiveWal() stops when the slot is missing (${isEmpty ? "empty archive" : "archive"}), and names the option`, async () => {
    const run = await startReceiving({
      options: { slot: "wv" },
      prepare: ({ archive }) => {
        if (!isEmpty) archive.addSegments(1, 0, 3);
      },
    });
    assert.ok(run.outcome.error instanceof PermanentError);
    assert.match(run.outcome.error.message, /"wv".*none of that name.*--create-slot/);
    assert.equal(run.server.source.closed, true);
  });
}

test("receiveWal() stops when the slot is logical", async () => {
  const run = await startReceiving({
    options: { slot: "wv", createSlot: true },
    prepare: ({ server }) =>
      server.slots.set("wv", { kind: "logical", restartLsn: undefined, restartTimeline: undefined }),
  });
  assert.ok(run.outcome.error instanceof PermanentError);
  assert.match(run.outcome.error.message, /"wv".*logical.*physical/);
});

test("receiveWal() makes the slot and goes on streaming from where it reserves", async () => {
  const run = await startReceiving({ options: { slot: "wv", createSlot: true } });
  assert.deepEqual(fieldsOf(run.entries, "slot created"), { slot: "wv" });
  assert.equal(run.journal[0], "start 1 0/300000 slot wv");
  assert.deepEqual(run.lines("warn"), []);
  await run.stop();
});

test("receiveWal() takes a slot that exists already, and does not ask to make it", async () => {
  const run = await startReceiving({
    options: { slot: "wv", createSlot: true },
    prepare: ({ server }) =>
      server.slots.set("wv", { kind: "physical", restartLsn: at(2), restartTimeline: undefined }),
  });
  assert.equal(run.journal[0], "start 1 0/200000 slot wv");
  assert.ok(!run.lines().includes("info slot created"));
  assert.ok(!run.server.source.asked.includes("create slot"));
  await run.stop();
});

test("receiveWal() takes a slot that was made by somebody else meanwhile (42710)", async () => {
  const run = await startReceiving({
    options: { slot: "wv", createSlot: true },
    prepare: ({ server }) => server.createError = serverError("42710", "it exists"),
  });
  assert.ok(run.outcome.error instanceof PermanentError, "made, and dropped again: that is not ours to mend");
  assert.deepEqual(run.server.source.asked.filter((command) => command.endsWith(" slot")), [
    "read slot",
    "create slot",
    "read slot",
  ]);
});

for (
  const [serverVersion, isEmpty, asked] of [
    [150_000, true, ["read slot", "create slot", "read slot"]],
    [150_000, false, ["read slot", "create slot", "read slot"]],
    [149_999, true, ["read slot", "create slot", "read slot"]],
    [149_999, false, ["create slot"]],
  ] as const
) {
  const archived = isEmpty ? "an empty archive" : "an archive";
  test(`receiveWal() with --create-slot from ${serverVersion} into ${archived} asks: ${asked.join(", ")}`, async () => {
    const run = await startReceiving({
      options: { slot: "wv", createSlot: true },
      prepare: ({ server, archive }) => {
        server.serverVersion = serverVersion;
        if (!isEmpty) archive.addSegments(1, 0, 3);
      },
    });
    const slotCommands = (source: FakeSource) => source.asked.filter((command) => command.endsWith(" slot"));
    assert.deepEqual(slotCommands(run.server.source), asked);
    assert.deepEqual(fieldsOf(run.entries, "slot created"), { slot: "wv" });
    run.server.source.sendUpTo(at(3.5));
    await settled();
    promote(run.server);
    run.server.source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3.5) });
    await settled();
    assert.ok(run.journal.includes("start 2 0/300000 slot wv"));
    const creations = () => run.server.source.asked.filter((command) => command === "create slot").length;
    assert.equal(creations(), 1, "once for a connection");
    run.server.source.fail(new ConnectionError("closed", "gone"));
    await run.clock.advance(1000);
    assert.equal(run.server.sources.length, 2);
    assert.equal(creations(), serverVersion < 150_000 ? 1 : 0, "before 15 nobody tells that it is there");
    await run.stop();
  });
}

test("receiveWal() leaves no slot behind on servers that will not do", async () => {
  const run = await startReceiving({
    options: { slot: "wv", createSlot: true },
    others: [
      { address: "behind:5432", timeline: 2, flushLsn: at(4.5), histories: new Map([[2, HISTORY_2]]) },
      { address: "good:5432", timeline: 2, flushLsn: at(5.5), histories: new Map([[2, HISTORY_2]]) },
    ],
    prepare: ({ archive }) => {
      archive.addSegments(2, 3, 5);
      archive.histories.set(2, HISTORY_2);
    },
  });
  assert.ok(run.journal.includes("start 2 0/500000 slot wv"));
  assert.equal(fieldsOf(run.entries, "streaming")["server"], "good:5432");
  assert.deepEqual([run.server, ...run.others].map(({ slots }) => slots.size), [0, 0, 1]);
  await run.stop();
});

test("receiveWal() stops when it may not make the slot", async () => {
  const error = serverError("42501", "must be superuser or replication role");
  const run = await startReceiving({
    options: { slot: "wv", createSlot: true },
    prepare: ({ server }) => server.createError = error,
  });
  assert.equal(run.outcome.error, error);
});

test("receiveWal() follows a promotion on the same connection, its history durable before its first byte", async () => {
  const run = await startReceiving({
    prepare: ({ archive }) => archive.addSegments(1, 0, 2),
  });
  const { server, archive, journal } = run;
  server.source.sendUpTo(at(3.5));
  await settled();
  promote(server);
  server.source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3.5) });
  await settled();
  server.source.sendUpTo(at(4.25));
  await settled();
  assert.equal(server.sources.length, 1, "one connection");
  assert.deepEqual(journal.filter((line) => !line.startsWith("status")), [
    "start 1 0/200000",
    "durable 0/380000",
    "history 2 durable",
    "start 2 0/300000",
    "durable 0/440000",
  ]);
  assert.ok(archive.unfinished.has("1/3"), "the old timeline's end stays apart");
  await run.stop();
  assert.equal(run.outcome.value, "stopped");
});

test("receiveWal() leaves a timeline that ends exactly where it starts", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 3);
      server.flushLsn = at(3);
      server.onStart = (source) => {
        // The server skips the copy: it answers at once that the timeline ends here.
        server.timeline = 2;
        server.flushLsn = at(3.5);
        server.histories.set(2, "1\t0/300000\tswitched at a segment's end\n");
        server.onStart = () => {};
        source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3) });
      };
    },
  });
  assert.deepEqual(run.journal.filter((line) => line.startsWith("start")), [
    "start 1 0/300000",
    "start 2 0/300000",
  ]);
  run.server.source.sendUpTo(at(3.5));
  await settled();
  assert.equal(run.server.source.statuses.at(-1)?.flushLsn, at(3.5));
  await run.stop();
});

test("receiveWal() whose server ends the same timeline again and again makes no hot loop", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 3);
      server.onStart = (source) =>
        source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3) });
    },
  });
  await run.clock.advance(600_000);
  assert.equal(run.outcome.done, false);
  assert.ok(run.connectedAtMs.length < 40, `${run.connectedAtMs.length} connections in ten minutes`);
  assert.match(
    String(run.entries.find((entry) => entry.event === "disconnected")?.fields["error"]),
    /^Cannot leave timeline 1 at 0\/300000: /,
  );
  await run.stop();
});

test("receiveWal() whose server takes the stream and breaks it at once backs off", async () => {
  const run = await startReceiving({
    prepare: ({ server }) => server.onStart = (source) => source.fail(new ConnectionError("closed", "gone")),
  });
  await run.clock.advance(600_000);
  assert.ok(run.connectedAtMs.length < 40, `${run.connectedAtMs.length} connections in ten minutes`);
  await run.stop();
});

test("receiveWal() follows two promotions that happened while it was away", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 2);
      archive.unfinished.add("1/2");
      server.timeline = 3;
      server.flushLsn = at(6.5);
      server.histories.set(2, HISTORY_2).set(3, HISTORY_3);
    },
  });
  const { server, journal } = run;
  assert.deepEqual(journal, [
    "history 2 durable",
    "history 3 durable",
    "start 1 0/200000",
    "status 0/200000 0/200000",
  ]);
  server.source.sendUpTo(at(3.5));
  server.source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3.5) });
  await settled();
  server.source.sendUpTo(at(5.5));
  server.source.end({ kind: "timeline", nextTimeline: timelineId(3), switchLsn: at(5.5) });
  await settled();
  server.source.sendUpTo(at(6.5));
  await settled();
  assert.deepEqual(journal.filter((line) => line.startsWith("start")), [
    "start 1 0/200000",
    "start 2 0/300000",
    "start 3 0/500000",
  ]);
  assert.equal(server.source.statuses.at(-1)?.flushLsn, at(6.5));
  assert.equal(server.sources.length, 1);
  await run.stop();
});

test("receiveWal() with an archive ahead of the fork starts at the fork's segment on the new timeline", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 8);
      promote(server);
    },
  });
  assert.ok(run.journal.includes("start 2 0/300000"));
  await run.stop();
});

test("receiveWal() warns when the archive has more than the promoted server, also of the fork's own segment", async () => {
  for (
    const [end, warned] of [
      [at(3.75), "0/3C0000"],
      [at(3.5), undefined],
      [undefined, undefined],
      [Object.assign(new Error("EIO"), { code: "EIO" }), undefined],
    ] as const
  ) {
    const run = await startReceiving({
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 3);
        archive.unfinished.add("1/3");
        if (end !== undefined) archive.unfinishedEnds.set("1/3", end);
        promote(server);
      },
    });
    assert.ok(run.journal.includes("start 2 0/300000"));
    const told = run.entries.find(({ event }) => event === "archive is ahead of the fork");
    assert.equal(told?.fields["archiveEndLsn"], warned);
    await run.stop();
  }
});

test("receiveWal() does not miss an ancestor's history that the server lacks (58P01)", async () => {
  const run = await startReceiving({
    prepare: ({ server }) => {
      server.timeline = 3;
      server.flushLsn = at(6.5);
      server.histories.set(3, HISTORY_3);
    },
  });
  assert.deepEqual([...run.archive.histories.keys()], [3]);
  assert.ok(run.journal.includes("start 3 0/600000"));
  await run.stop();
});

test("receiveWal() stops when nobody has the history of the server's own timeline", async () => {
  const run = await startReceiving({
    prepare: ({ server }) => {
      server.timeline = 3;
    },
  });
  assert.ok(run.outcome.error instanceof PermanentError);
  assert.match(
    run.outcome.error.message,
    /timeline 3: neither db:5432 nor the archive has 00000003\.history; copy/,
  );
});

test("receiveWal() takes its own copy of the history that the server lost", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      promote(server);
      server.histories.clear();
      archive.histories.set(2, HISTORY_2);
      archive.addSegments(1, 0, 3);
    },
  });
  assert.ok(run.journal.includes("start 2 0/300000"));
  await run.stop();
});

test("receiveWal() refuses a server whose past of a timeline is not the archive's", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      // Two standbys were promoted to timeline 2; the server descends from the other one.
      archive.histories.set(2, "1\t0/280000\tpromoted here\n");
      archive.addSegments(1, 0, 2);
      archive.addSegments(2, 2, 5);
      server.timeline = 3;
      server.flushLsn = at(6.5);
      server.histories.set(3, HISTORY_3);
    },
  });
  assert.ok(run.outcome.error instanceof ArchiveConflictError, String(run.outcome.error));
  assert.match(run.outcome.error.message, /1 until 0\/380000.*00000002\.history says 1 until 0\/280000/);
  assert.ok(!run.journal.some((line) => line.startsWith("start")));
});

test("receiveWal() skips a server on an older timeline than the archive, for the next host", async () => {
  const run = await startReceiving({
    others: [{ address: "db2:5432", timeline: 2, flushLsn: at(4.5), histories: new Map([[2, HISTORY_2]]) }],
    prepare: ({ archive }) => {
      archive.addSegments(2, 3, 4);
      archive.histories.set(2, HISTORY_2);
    },
  });
  assert.ok(run.journal.includes("start 2 0/400000"));
  assert.equal(fieldsOf(run.entries, "streaming")["server"], "db2:5432");
  assert.ok(!run.server.source.asked.includes("history 1"), "it is asked for nothing more");
  assert.equal(run.server.source.closed, true);
  assert.deepEqual(run.lines("error"), []);
  await run.stop();
});

test("receiveWal() with only a server on an older timeline stops at first, with what to do", async () => {
  const run = await startReceiving({ prepare: ({ archive }) => archive.addSegments(2, 3, 4) });
  assert.ok(run.outcome.error instanceof ConnectionError);
  assert.equal(run.outcome.error.kind, "unsuitable");
  assert.equal(
    run.outcome.error.message,
    "Cannot receive from db:5432: it is on timeline 1, the archive on 2",
  );
  assert.match(run.outcome.error.hint ?? "", /timeline 2 or later.*pg_rewind/);
});

test("receiveWal() that has streamed waits for a newer server, and tells of the old one once", async () => {
  const run = await startReceiving({ prepare: ({ server }) => promote(server) });
  run.server.source.sendUpTo(at(4.25));
  await settled();
  run.server.timeline = 1;
  run.server.source.fail(new ConnectionError("closed", "gone"));
  await run.clock.advance(300_000);
  assert.equal(run.outcome.done, false);
  assert.equal(run.lines("error").length, 2, "gone, then on an old timeline: each once");
  await run.stop();
});

test("receiveWal() calls another cluster on an older timeline what it is, and stops", async () => {
  const run = await startReceiving({
    prepare: ({ server, archive }) => {
      archive.addSegments(2, 3, 4);
      server.systemIdentifier = 42n;
    },
  });
  assert.ok(run.outcome.error instanceof WrongClusterError, String(run.outcome.error));
});

test("receiveWal() that has streamed still stops at another cluster", async () => {
  const run = await startReceiving();
  run.server.systemIdentifier = 42n;
  run.server.source.fail(new ConnectionError("closed", "gone"));
  await run.clock.advance(1000);
  assert.ok(run.outcome.error instanceof WrongClusterError);
});

test("receiveWal() waits for a server that is behind the archive, and says so once", async () => {
  const run = await startReceiving({ prepare: ({ archive }) => archive.addSegments(1, 0, 5) });
  await run.clock.advance(60_000);
  assert.equal(run.outcome.done, false);
  assert.equal(run.lines("error").length, 1);
  assert.match(
    String(run.entries.find((entry) => entry.level === "error")?.fields["error"]),
    /its WAL ends at 0\/380000, the archive's at 0\/500000 on timeline 1; .*new archive/,
  );
  run.server.flushLsn = at(5.25);
  await run.clock.advance(31_000);
  assert.ok(run.journal.includes("start 1 0/500000"));
  await run.stop();
});

test("receiveWal() without gaps whose WAL the server removed stops with what is missing and what to do", async () => {
  const run = await startReceiving({
    options: { gaps: "stop" },
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 2);
      server.startError = serverError(
        "58P01",
        "requested WAL segment 000000010000000000000002 has already been removed",
      );
    },
  });
  assert.ok(run.outcome.error instanceof WalGapError);
  const { message } = run.outcome.error;
  for (const part of ["0/200000", "timeline 1", "db:5432", "000000010000000000000002", "base backup"]) {
    assert.ok(message.includes(part), message);
  }
});

test("receiveWal() that streams stops too when the server says that WAL was removed", async () => {
  const run = await startReceiving();
  run.server.source.fail(REMOVED);
  await settled();
  assert.ok(run.outcome.error instanceof WalGapError);
  assert.equal(run.clock.nowMs(), 0);
  assert.equal(run.server.sources.length, 2, "the second time it was only asked where it stands");
  assert.equal(run.journal.filter((line) => line.startsWith("start")).length, 1);
  assert.ok(run.server.sources.every((source) => source.closed));
});

for (const when of ["at once", "in the stream"] as const) {
  const lackWal = (server: FakeServer) => {
    if (when === "at once") server.startError = REMOVED;
    else server.onStart = (source) => source.fail(REMOVED);
  };

  test(`receiveWal() whose first host lacks the WAL (${when}) takes it from the next, without a wait`, async () => {
    const run = await startReceiving({
      others: [{ address: "db2:5432" }],
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 2);
        lackWal(server);
      },
    });
    assert.equal(run.clock.nowMs(), 0);
    assert.equal(run.lines("error").length, 0);
    assert.deepEqual(run.journal.filter((line) => line.startsWith("start")), [
      "start 1 0/200000",
      "start 1 0/200000",
    ]);
    const next = run.others[0]!.source;
    next.sendUpTo(at(3.25));
    await settled();
    assert.equal(next.statuses.at(-1)?.flushLsn, at(3.25));
    // Now the first one has what is missing: it is the first again.
    run.server.startError = undefined;
    run.server.onStart = () => {};
    next.fail(new ConnectionError("closed", "gone"));
    await run.clock.advance(1000);
    assert.equal(run.journal.at(-2), "start 1 0/300000");
    assert.equal(run.server.source.closed, false);
    await run.stop();
  });

  test(`receiveWal() without gaps stops when every host lacks the WAL (${when}), and names them all`, async () => {
    const run = await startReceiving({
      options: { gaps: "stop" },
      others: [{ address: "db2:5432", startError: REMOVED }],
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 2);
        lackWal(server);
      },
    });
    assert.equal(run.clock.nowMs(), 0);
    const { error } = run.outcome;
    assert.ok(error instanceof ConnectionError && error.cause instanceof AggregateError, String(error));
    assert.ok(error.cause.errors.every((each) => each instanceof WalGapError));
    assert.match(error.message, /db:5432 no longer has that WAL.*db2:5432 no longer has that WAL/);
    assert.equal(run.connectedAtMs.length, 3);
  });

  test(`receiveWal() without gaps whose only other host is away tries both again, without a hot loop (${when})`, async () => {
    const run = await startReceiving({
      options: { gaps: "stop" },
      others: [{ address: "db2:5432", connectError: new ConnectionError("refused", "nobody at db2") }],
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 2);
        lackWal(server);
      },
    });
    await run.clock.advance(600_000);
    assert.equal(run.outcome.done, false);
    assert.ok(run.connectedAtMs.length < 80, `${run.connectedAtMs.length} rounds in ten minutes`);
    assert.match(
      String(run.entries.find((entry) => entry.event === "disconnected")?.fields["error"]),
      /db:5432 no longer has that WAL.*nobody at db2/,
    );
    run.others[0]!.connectError = undefined;
    await run.clock.advance(30_000);
    assert.equal(run.others[0]!.source.closed, false);
    await run.stop();
    assert.equal(run.outcome.value, "stopped");
  });

  test(`receiveWal() without gaps whose server gets the missing WAL back goes on (${when})`, async () => {
    const run = await startReceiving({
      options: { gaps: "stop" },
      others: [{ address: "db2:5432", connectError: new ConnectionError("refused", "nobody at db2") }],
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 2);
        lackWal(server);
      },
    });
    await run.clock.advance(60_000);
    run.server.startError = undefined;
    run.server.onStart = () => {};
    await run.clock.advance(31_000);
    assert.equal(run.server.source.closed, false);
    assert.ok(run.journal.includes("status 0/200000 0/200000") && run.lines().includes("info streaming"));
    await run.stop();
  });

  test(`receiveWal() with --no-loop ends at the first host that lacks the WAL (${when})`, async () => {
    const run = await startReceiving({
      options: { loop: false },
      others: [{ address: "db2:5432" }],
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 2);
        lackWal(server);
      },
    });
    assert.ok(run.outcome.error instanceof WalGapError);
    assert.equal(run.connectedAtMs.length, 1);
  });
}

for (
  const [name, first, others] of [
    ["another cluster", { systemIdentifier: 42n }, []],
    ["too old", { serverVersion: 90_600 }, []],
    ["a server behind", { flushLsn: at(1.5) }, []],
    ["away", { connectError: new ConnectionError("refused", "nobody listens") }, []],
    ["a server without the history of its timeline", { timeline: 3 }, []],
    ["away, and one behind", { connectError: new Error("no") }, [{ address: "b", flushLsn: at(1.5) }]],
  ] as const
) {
  test(`receiveWal() passes over a first host that is ${name}`, async () => {
    const run = await startReceiving({
      others: [...others, { address: "good:5432" }],
      prepare: ({ server, archive }) => {
        archive.addSegments(1, 0, 3);
        Object.assign(server, first);
      },
    });
    assert.equal(fieldsOf(run.entries, "streaming")["server"], "good:5432");
    assert.deepEqual(run.lines("error"), []);
    assert.ok(run.server.sources.every((source) => source.closed), "nothing stays open");
    await run.stop();
  });
}

test("receiveWal() comes back as long as one of its hosts may get better", async () => {
  const run = await startReceiving({
    others: [{ address: "behind:5432", flushLsn: at(1.5) }],
    prepare: ({ server, archive }) => {
      archive.addSegments(1, 0, 3);
      server.systemIdentifier = 42n;
    },
  });
  await run.clock.advance(60_000);
  assert.equal(run.outcome.done, false);
  assert.equal(run.lines("error").length, 1);
  run.others[0]!.flushLsn = at(3.5);
  await run.clock.advance(31_000);
  assert.equal(run.others[0]!.source.closed, false);
  await run.stop();
});

test("receiveWal() stops when none of its hosts will ever do", async () => {
  const run = await startReceiving({
    others: [{ address: "old:5432", serverVersion: 90_600 }],
    prepare: ({ server }) => server.systemIdentifier = 42n,
  });
  assert.ok(run.outcome.error instanceof ConnectionError);
  assert.equal(run.connectedAtMs.length, 1);
});

test("receiveWal() stops at conflicting bytes, also when it has streamed and was told to stop", async () => {
  for (const isStopping of [false, true]) {
    const run = await startReceiving();
    run.archive.sink.stalled = true;
    run.server.source.send(4096);
    if (isStopping) run.abort.abort();
    run.archive.sink.fail(new ArchiveConflictError("other bytes"));
    await settled();
    assert.ok(run.outcome.error instanceof ArchiveConflictError);
  }
});

test("receiveWal() refuses a server older than 10", async () => {
  const run = await startReceiving({ prepare: ({ server }) => server.serverVersion = 90_624 });
  assert.ok(run.outcome.error instanceof PermanentError);
  assert.match(run.outcome.error.message, /PostgreSQL 9, want 10 or newer/);
});

test("receiveWal() warns of a server newer than 18 once, and goes on", async () => {
  const run = await startReceiving({ prepare: ({ server }) => server.serverVersion = 190_001 });
  run.server.source.fail(new ConnectionError("closed", "gone"));
  await run.clock.advance(1000);
  assert.equal(run.server.sources.length, 2);
  assert.deepEqual(fieldsOf(run.entries, "server version not tried"), { serverVersion: 190_001 });
  await run.stop();
});

for (
  const [names, commit, warnings] of [
    ["", "remote_apply", []],
    ["other", "remote_apply", []],
    ["walvault", "on", ["only synchronous standby"]],
    ["walvault, other", "on", []],
    ["walvault, other", "remote_apply", ["synchronous_commit is remote_apply"]],
    ["walvault", "remote_apply", ["synchronous_commit is remote_apply", "only synchronous standby"]],
  ] as const
) {
  test(`receiveWal() with synchronous_standby_names "${names}" and ${commit} warns ${warnings.length} times`, async () => {
    const run = await startReceiving({
      options: { slot: "wv", createSlot: true },
      prepare: ({ server }) =>
        void server.settings.set("synchronous_standby_names", names).set("synchronous_commit", commit),
    });
    run.server.source.fail(new ConnectionError("closed", "gone"));
    await run.clock.advance(1000);
    assert.equal(run.server.sources.length, 2);
    assert.deepEqual(run.lines("warn"), warnings);
    await run.stop();
  });
}

for (const sqlState of ["55006", "57P03", "53300"]) {
  test(`receiveWal() always tries again after ${sqlState}, and says so once`, async () => {
    const run = await startReceiving({ prepare: ({ server }) => server.startError = serverError(sqlState) });
    await run.clock.advance(120_000);
    assert.equal(run.outcome.done, false);
    assert.deepEqual(run.lines("error"), ["disconnected"]);
    assert.ok(run.connectedAtMs.length > 5);
    run.server.startError = undefined;
    await run.clock.advance(30_000);
    assert.ok(run.lines().includes("info streaming"));
    await run.stop();
  });
}

test("receiveWal() backs off from try to try, and begins anew after it has streamed for a while", async () => {
  const run = await startReceiving({
    prepare: ({ server }) => server.connectError = new ConnectionError("refused", "nobody listens"),
  });
  await run.clock.advance(100_000);
  const delays = run.connectedAtMs.slice(1).map((ms, index) => ms - run.connectedAtMs[index]!);
  assert.deepEqual(delays.slice(0, 8), [375, 750, 1500, 3000, 6000, 12_000, 22_500, 22_500]);
  run.server.connectError = undefined;
  await run.clock.advance(30_000);
  run.server.source.keepalive();
  await run.clock.advance(30_000);
  const atMs = run.clock.nowMs();
  run.server.source.fail(new ConnectionError("closed", "gone"));
  await run.clock.advance(5000);
  assert.equal(run.connectedAtMs.at(-1)! - atMs, 375);
  await run.stop();
});

test("receiveWal() writes one error line for each change of state", async () => {
  const run = await startReceiving({
    prepare: ({ server }) => server.connectError = new ConnectionError("refused", "nobody listens"),
  });
  await run.clock.advance(100_000);
  assert.deepEqual(run.lines("error"), ["disconnected"]);
  run.server.connectError = serverError("57P03", "the database system is starting up");
  await run.clock.advance(100_000);
  assert.equal(run.lines("error").length, 2);
  run.server.connectError = undefined;
  await run.clock.advance(30_000);
  run.server.source.fail(serverError("57P03", "the database system is starting up"));
  await run.clock.advance(1000);
  assert.equal(run.lines("error").length, 3, "it had streamed between");
  await run.stop();
});

test("receiveWal() goes on by itself after a lost connection, from the first byte missing", async () => {
  const run = await startReceiving();
  run.server.source.send(MIB, MIB);
  await settled();
  run.server.flushLsn = at(6.5);
  run.server.source.fail(new ConnectionError("closed", "gone"));
  await run.clock.advance(1000);
  assert.deepEqual(run.journal.filter((line) => line.startsWith("start")), [
    "start 1 0/300000",
    "start 1 0/500000",
  ]);
  await run.stop();
});

test("receiveWal() gives a server that shut down in order a moment, and is quiet about it", async () => {
  const run = await startReceiving();
  run.server.source.end({ kind: "shutdown" });
  await run.clock.advance(1900);
  assert.equal(run.connectedAtMs.length, 1);
  await run.clock.advance(200);
  assert.equal(run.connectedAtMs.length, 2);
  assert.deepEqual(run.lines("error"), []);
  assert.ok(run.lines().includes("info server shut down"));
  await run.stop();
});

for (
  const [name, end] of [
    ["a lost connection", (source: FakeSource) => source.fail(new ConnectionError("closed", "gone"))],
    ["a server that shuts down", (source: FakeSource) => source.end({ kind: "shutdown" })],
    ["a refusal that would go away", (source: FakeSource) => source.fail(serverError("57P01"))],
  ] as const
) {
  test(`receiveWal() with --no-loop ends at ${name}`, async () => {
    const run = await startReceiving({ options: { loop: false } });
    end(run.server.source);
    await settled();
    assert.ok(run.outcome.error instanceof Error);
    assert.equal(run.connectedAtMs.length, 1);
  });
}

test("receiveWal() with --no-loop ends when nobody listens", async () => {
  const run = await startReceiving({
    options: { loop: false },
    prepare: ({ server }) => server.connectError = new ConnectionError("refused", "nobody listens"),
  });
  assert.equal((run.outcome.error as Error).message, "nobody listens");
});

test("receiveWal() with --no-loop follows a timeline switch: that is no disconnect", async () => {
  const run = await startReceiving({
    options: { loop: false },
    prepare: ({ archive }) => archive.addSegments(1, 0, 3),
  });
  run.server.source.sendUpTo(at(3.5));
  await settled();
  promote(run.server);
  run.server.source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3.5) });
  await settled();
  assert.ok(run.journal.includes("start 2 0/300000"));
  await run.stop();
  assert.equal(run.outcome.value, "stopped");
});

test("receiveWal() with --endpos at the current end of WAL stops when it is safe", async () => {
  const run = await startReceiving({ options: { endLsn: at(3.5) } });
  run.server.source.sendUpTo(at(3.5));
  await settled();
  assert.equal(run.outcome.value, "end-reached");
  assert.equal(formatLsn(run.positions.at(-1)!.flushLsn), "0/380000");
});

test("receiveWal() with --endpos that the archive already holds ends without streaming", async () => {
  for (const endLsn of [at(2), (at(3) - 1n) as Lsn, at(3)]) {
    const run = await startReceiving({
      options: { endLsn },
      prepare: ({ archive }) => archive.addSegments(1, 0, 3),
    });
    assert.equal(run.outcome.value, "end-reached");
    assert.deepEqual(run.journal, ["closed"]);
  }
});

test("receiveWal() with --endpos at the start of all ends: there is nothing below it to receive", async () => {
  const run = await startReceiving({
    options: { endLsn: at(3) },
    prepare: ({ server }) => server.flushLsn = at(3),
  });
  assert.equal(run.outcome.value, "end-reached");
});

test("receiveWal() with --endpos below the start of an empty archive does not claim to have it", async () => {
  const run = await startReceiving({ options: { endLsn: at(1) } });
  assert.ok(run.outcome.error instanceof PermanentError, String(run.outcome.value));
  assert.match(run.outcome.error.message, /up to 0\/100000: .* begins at 0\/300000; give a later --endpos/);
});

test("receiveWal() told to stop makes all durable, reports, and says CopyDone before it ends", async () => {
  const run = await startReceiving();
  run.archive.sink.stalled = true;
  run.server.source.send(4096);
  run.abort.abort();
  await settled();
  assert.equal(run.outcome.done, false);
  run.archive.sink.recover();
  await settled();
  assert.equal(run.outcome.value, "stopped");
  assert.deepEqual(run.journal.slice(-3), ["status 0/301000 0/301000", "copy done", "closed"]);
  assert.equal(run.clock.timers, 0);
});

test("receiveWal() told to stop on a stalled disk says that not all was safe", async () => {
  const run = await startReceiving();
  run.archive.sink.stalled = true;
  run.server.source.send(4096);
  run.abort.abort();
  await run.clock.advance(30_000);
  assert.equal(run.outcome.value, "stopped");
  assert.match(String(fieldsOf(run.entries, "stopped early")["error"]), /4096 received bytes/);
});

for (
  const command of ["connect", "identify", "show wal_segment_size", "show synchronous_standby_names", "start"]
) {
  test(`receiveWal() told to stop while the server is silent at "${command}" ends at once`, async () => {
    const run = await startReceiving({ prepare: ({ server }) => server.silent.add(command) });
    assert.equal(run.outcome.done, false);
    run.abort.abort(new Error("Stopped by SIGTERM"));
    await settled();
    assert.equal(run.outcome.value, "stopped");
    assert.equal(run.clock.timers, 0);
  });
}

for (const call of ["claim", "contents", "store history", "open leg"] as const) {
  test(`receiveWal() told to stop while the disk stalls at "${call}" ends in time`, async () => {
    const run = await startReceiving({
      prepare: ({ server, archive }) => {
        promote(server);
        archive.silent.add(call);
      },
    });
    await run.clock.advance(60_000);
    assert.equal(run.outcome.done, false);
    run.abort.abort(new Error("Stopped by SIGTERM"));
    await run.clock.advance(9999);
    assert.equal(run.outcome.done, false);
    await run.clock.advance(1);
    assert.equal(run.outcome.value, "stopped");
    assert.equal(run.clock.timers, 0);
    assert.equal(run.server.source.closed, true);
    run.archive.recover();
    await settled();
    assert.ok(run.archive.sinks.every((sink) => sink.released), "nothing stays open");
  });
}

test("receiveWal() told to stop while it waits for the next try ends at once", async () => {
  const run = await startReceiving({
    prepare: ({ server }) => server.connectError = new ConnectionError("refused", "nobody listens"),
  });
  run.abort.abort();
  await settled();
  assert.equal(run.outcome.value, "stopped");
  assert.equal(run.clock.timers, 0);
});

test("receiveWal() told to stop before it began does nothing", async () => {
  const abort = new AbortController();
  abort.abort();
  const { log } = fakeLog();
  const never = () => Promise.reject(new Error("connected"));
  const dependencies = {
    connect: never,
    askHosts: () => Promise.resolve([]),
    archive: new FakeArchive(),
    clock: new FakeClock(),
    log,
    random: () => 0,
    onPosition: () => {},
    onStreaming: () => {},
  };
  assert.equal(await receiveWal(dependencies, OPTIONS, abort.signal), "stopped");
});

test("receiveWal() on a stalled disk tells it while it lasts, reconnects when the disk is back, and lost nothing", async () => {
  const run = await startReceiving();
  run.archive.sink.stalled = true;
  run.server.source.send(4096);
  await run.clock.advance(16_000);
  assert.equal(run.server.sources[0]!.closed, true);
  assert.deepEqual(run.lines("error"), ["disconnected"]);
  assert.equal(run.server.sources[0]!.statuses.at(-1)?.flushLsn, at(3));
  await run.clock.advance(120_000);
  assert.equal(run.connectedAtMs.length, 1, "not before the disk is back");
  run.archive.sink.recover();
  await run.clock.advance(1000);
  assert.equal(run.connectedAtMs.length, 2);
  assert.deepEqual(run.lines("error"), ["disconnected"], "told once");
  await run.stop();
});

test("receiveWal() says once that the disk is full", async () => {
  const run = await startReceiving();
  for (let second = 0; second < 5; second++) run.archive.sink.listener.onDiskFull();
  assert.deepEqual(run.lines("error"), ["archive disk full"]);
  await run.stop();
});

test("receiveWal() stops at first when it may not write to the archive, and tries again once it has streamed", async () => {
  const denied = Object.assign(new Error("EROFS: read-only file system"), { code: "EROFS" });
  const first = await startReceiving({ prepare: ({ archive }) => archive.error = denied });
  assert.equal(first.outcome.error, denied);
  const later = await startReceiving();
  later.archive.sink.fail(denied);
  await later.clock.advance(1000);
  assert.equal(later.connectedAtMs.length, 2);
  await later.stop();
  assert.equal(later.outcome.value, "stopped");
});

test("receiveWal() does not connect while there is too little room, says so once, and goes on by itself", async () => {
  const { archive, clock, connectedAtMs, lines, outcome, server, stop } = await startReceiving({
    prepare: ({ archive }) => archive.room = { freeBytes: 5, wantBytes: 10 },
  });
  await clock.advance(60_000);
  assert.deepEqual(connectedAtMs, []);
  assert.deepEqual(lines("error"), ["archive disk low"]);
  archive.room = undefined;
  await clock.advance(1000);
  assert.equal(connectedAtMs.length, 1);
  assert.equal(server.sources.length, 1);
  assert.ok(lines("info").includes("archive disk has room again"));
  await stop();
  assert.equal(outcome.value, "stopped");
});

test("receiveWal() that stopped for too little room comes back only when there is enough", async () => {
  const { archive, clock, lines, server, stop } = await startReceiving();
  server.source.send(4096);
  await clock.advance(100);
  archive.room = archive.sink.shortOfRoom = { freeBytes: 5, wantBytes: 10 };
  archive.sink.listener.onProgress();
  await clock.advance(120_000);
  assert.equal(server.sources.length, 1);
  assert.equal(server.source.closed, true);
  assert.deepEqual(lines("error"), ["archive disk low", "disconnected"]);
  archive.room = undefined;
  await clock.advance(1000);
  assert.equal(server.sources.length, 2);
  await stop();
});

test("receiveWal() told to stop while it waits for room ends at once", async () => {
  const { abort, outcome, clock } = await startReceiving({
    prepare: ({ archive }) => archive.room = { freeBytes: 5, wantBytes: 10 },
  });
  await clock.advance(5000);
  abort.abort();
  await settled();
  assert.equal(outcome.value, "stopped");
  assert.equal(clock.timers, 0);
});
