import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import { NotYetError } from "../../lib/receiver/failure.ts";
import { type LegOptions, type LegPosition, streamLeg } from "../../lib/receiver/leg.ts";
import { StopTimeout } from "../../lib/receiver/stopping.ts";
import { ArchiveConflictError } from "../../lib/wal/errors.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { formatLsn, type Lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import {
  at,
  FakeArchive,
  FakeClock,
  FakeServer,
  type Journal,
  MIB,
  serverError,
  settled,
  SIZE,
  watched,
} from "./fakes.ts";

const TIMING = {
  statusIntervalMs: 10_000,
  receiveTimeoutMs: 60_000,
  stallTimeoutMs: 15_000,
  stopTimeoutMs: 10_000,
};

interface Given {
  readonly endLsn?: Lsn;
  readonly timing?: Partial<typeof TIMING>;
  readonly prepare?: (
    parts: { readonly server: FakeServer; readonly archive: FakeArchive; readonly abort: AbortController },
  ) => void;
}

/** A leg from segment 2 on, streaming. */
async function runLeg(given: Given = {}) {
  const journal: Journal = [];
  const server = new FakeServer(journal);
  const archive = new FakeArchive(journal);
  const clock = new FakeClock();
  const abort = new AbortController();
  const positions: LegPosition[] = [];
  const stalls: Error[] = [];
  given.prepare?.({ server, archive, abort });
  const source = server.open();
  const options: LegOptions = {
    source,
    archive,
    clock,
    timing: { ...TIMING, ...given.timing },
    lineage: emptyHistory(timelineId(1)),
    segmentSize: SIZE,
    startLsn: at(2),
    slot: undefined,
    endLsn: given.endLsn,
    onStreaming: () => journal.push("streaming"),
    onPosition: (position) => positions.push(position),
    onDiskFull: () => journal.push("disk full"),
    onDiskShort: ({ freeBytes, wantBytes }) => journal.push(`disk low: ${freeBytes} of ${wantBytes}`),
    onDiskRoom: () => journal.push("disk has room"),
    onDiskStalled: (error) => stalls.push(error),
  };
  const outcome = watched(streamLeg(options, abort.signal));
  await settled();
  return { journal, server, archive, clock, abort, source, positions, stalls, outcome, sink: archive.sink };
}

/** The flush positions told to the server, in order. */
function flushes(source: { readonly statuses: readonly { readonly flushLsn: Lsn }[] }): string[] {
  return source.statuses.map(({ flushLsn }) => formatLsn(flushLsn));
}

test("streamLeg() first reports the start of the segment, before any WAL came", async () => {
  const { source, journal } = await runLeg();
  assert.deepEqual(source.statuses, [{ writeLsn: at(2), flushLsn: at(2), replyRequested: false }]);
  assert.deepEqual(journal, ["start 1 0/200000", "streaming", "status 0/200000 0/200000"]);
});

test("streamLeg() reports at once what was flushed, and only that (P2)", async () => {
  const { source, sink, archive } = await runLeg({ prepare: ({ archive }) => archive.stalled = true });
  source.send(100);
  await settled();
  assert.deepEqual(flushes(source), ["0/200000"]);
  sink.write();
  await settled();
  assert.equal(source.statuses.length, 1, "a write alone is no news");
  sink.flush();
  assert.deepEqual(source.statuses.at(-1), {
    writeLsn: at(2) + 100n,
    flushLsn: at(2) + 100n,
    replyRequested: false,
  });
  assert.equal(archive.sinks.length, 1);
});

test("streamLeg() answers a request for a reply at once, with write and flush apart", async () => {
  const { source, sink } = await runLeg({ prepare: ({ archive }) => archive.stalled = true });
  source.send(4096);
  sink.write();
  source.keepalive({ replyRequested: true });
  assert.deepEqual(source.statuses.at(-1), {
    writeLsn: at(2) + 4096n,
    flushLsn: at(2),
    replyRequested: false,
  });
  source.keepalive();
  assert.equal(source.statuses.length, 2, "one answer to one request");
});

test("streamLeg() idle reports at the status interval, not more often", async () => {
  const { source, clock } = await runLeg();
  for (let second = 0; second < 60; second++) {
    source.keepalive();
    await clock.advance(1000);
  }
  assert.equal(source.statuses.length, 1 + 6);
});

test("streamLeg() while reading is paused still sends a status each second (P9)", async () => {
  const { source, sink, clock } = await runLeg({
    timing: { stallTimeoutMs: 60_000 },
    prepare: ({ archive }) => archive.stalled = true,
  });
  sink.congested = true;
  source.send(4096);
  assert.equal(source.paused, true);
  const before = source.statuses.length;
  source.keepalive({ replyRequested: true });
  await clock.advance(10_000);
  const during = source.statuses.length - before;
  assert.ok(during >= 9 && during <= 11, String(during));
  assert.deepEqual(new Set(flushes(source)), new Set(["0/200000"]), "nothing is claimed meanwhile");
  sink.recover();
  assert.equal(source.paused, false);
  await settled();
  assert.equal(flushes(source).at(-1), formatLsn(sink.receivedLsn));
});

test("streamLeg() does not take a pause of its own for the server's silence", async () => {
  const { source, sink, clock, outcome } = await runLeg({
    timing: { stallTimeoutMs: 1e9, receiveTimeoutMs: 10_000 },
    prepare: ({ archive }) => archive.stalled = true,
  });
  sink.congested = true;
  source.send(4096);
  await clock.advance(120_000);
  assert.equal(outcome.done, false);
  sink.recover();
  await clock.advance(4000);
  assert.equal(outcome.done, false, "the deadline begins anew when reading goes on");
  await clock.advance(7000);
  assert.ok(outcome.error instanceof ConnectionError);
});

test("streamLeg() pauses also when the first WAL came together with the answer to START_REPLICATION", async () => {
  const { source } = await runLeg({
    prepare: ({ server, archive }) => {
      archive.stalled = true;
      server.onStart = (source) => {
        archive.sink.congested = true;
        source.send(MIB);
      };
    },
  });
  assert.equal(source.paused, true);
});

test("streamLeg() asks a silent server at half of the deadline and gives it up at the end", async () => {
  const { source, clock, outcome } = await runLeg({ timing: { statusIntervalMs: 1e6 } });
  await clock.advance(29_000);
  assert.equal(source.statuses.length, 1);
  await clock.advance(2000);
  assert.deepEqual(source.statuses.at(-1), { writeLsn: at(2), flushLsn: at(2), replyRequested: true });
  await clock.advance(28_000);
  assert.equal(source.statuses.length, 2, "asked once");
  assert.equal(outcome.done, false);
  await clock.advance(2000);
  assert.ok(outcome.error instanceof ConnectionError);
  assert.equal(outcome.error.kind, "timeout");
  assert.match(outcome.error.message, /^Cannot receive from db:5432: silent for 60 s$/);
  assert.match(outcome.error.hint ?? "", /look whether the server hangs/);
  assert.equal(source.closed, true);
});

test("streamLeg() asks again after a server that had answered falls silent again", async () => {
  const { source, clock, outcome } = await runLeg({ timing: { statusIntervalMs: 1e6 } });
  for (let round = 0; round < 5; round++) {
    await clock.advance(31_000);
    assert.equal(source.statuses.at(-1)?.replyRequested, true);
    source.keepalive();
  }
  assert.equal(source.statuses.length, 6);
  assert.equal(outcome.done, false);
});

test("streamLeg() gives up a server that never answers START_REPLICATION", async () => {
  const { clock, outcome, source, sink } = await runLeg({
    prepare: ({ server }) => server.silent.add("start"),
  });
  await clock.advance(59_000);
  assert.equal(outcome.done, false);
  await clock.advance(1000);
  assert.ok(outcome.error instanceof ConnectionError);
  assert.equal(source.closed, true);
  assert.equal(sink.released, true);
  assert.equal(clock.timers, 0);
});

test("streamLeg() told to stop before the server answered START_REPLICATION ends at once", async () => {
  const { abort, outcome, source, clock } = await runLeg({
    prepare: ({ server }) => server.silent.add("start"),
  });
  abort.abort();
  await settled();
  assert.deepEqual(outcome.value, { kind: "stopped" });
  assert.equal(source.closed, true);
  assert.equal(clock.timers, 0);
});

test("streamLeg() on a stalled disk reports the true flush, then closes, and ends when the disk comes back", async () => {
  const { source, sink, clock, outcome, journal, stalls } = await runLeg({
    prepare: ({ archive }) => archive.stalled = true,
  });
  source.send(4096);
  sink.flush(at(2));
  source.send(4096);
  await clock.advance(14_000);
  assert.equal(source.closed, false);
  await clock.advance(2000);
  assert.equal(source.closed, true);
  assert.deepEqual(journal.slice(-2), ["status 0/200000 0/200000", "closed"]);
  assert.equal(stalls.length, 1, "told when it is noticed, not when it is over");
  assert.match(
    stalls[0]!.message,
    /^Cannot bring 8192 received bytes to the disk: nothing reached it for 15 s; disconnecting until it does$/,
  );
  await clock.advance(600_000);
  assert.equal(outcome.done, false, "coming back before the disk does would only lose time");
  sink.recover();
  await settled();
  assert.ok(outcome.error instanceof NotYetError);
  assert.equal(sink.flushLsn, sink.receivedLsn, "what was received is durable");
  assert.equal(clock.timers, 0);
});

test("streamLeg() whose connection breaks while the disk stalls says so before the disk comes back", async () => {
  const { source, clock, stalls, sink, outcome } = await runLeg({
    prepare: ({ archive }) => archive.stalled = true,
  });
  source.send(4096);
  source.fail(new ConnectionError("closed", "gone"));
  await clock.advance(14_000);
  assert.equal(stalls.length, 0);
  await clock.advance(2000);
  assert.equal(stalls.length, 1);
  sink.recover();
  await settled();
  assert.equal((outcome.error as Error).message, "gone");
});

test("streamLeg() keeps a slow disk that brings something to safety now and then", async () => {
  const { source, sink, clock, outcome } = await runLeg({ prepare: ({ archive }) => archive.stalled = true });
  for (let round = 0; round < 10; round++) {
    source.send(4096, 4096);
    await clock.advance(14_000);
    sink.flush((sink.flushLsn + 4096n) as Lsn);
  }
  assert.equal(outcome.done, false);
});

test("streamLeg() told to stop makes everything durable, reports it, then says CopyDone", async () => {
  const { source, sink, abort, outcome, journal, clock, positions } = await runLeg({
    prepare: ({ archive }) => archive.stalled = true,
  });
  source.send(4096);
  abort.abort();
  await settled();
  assert.equal(source.stopSaid, false, "not before it is safe");
  sink.recover();
  await settled();
  assert.deepEqual(journal.slice(-2), ["status 0/201000 0/201000", "copy done"]);
  assert.ok(journal.indexOf("durable 0/201000") < journal.indexOf("status 0/201000 0/201000"));
  assert.deepEqual(outcome.value, { kind: "stopped" });
  assert.equal(sink.released, true);
  assert.equal(positions.at(-1)?.flushLsn, at(2) + 4096n, "the last position told is the last flush");
  assert.equal(clock.timers, 0);
});

test("streamLeg() told to stop under load reads no more, reports all it has, and keeps what comes late", async () => {
  const { source, sink, abort, outcome, clock, journal } = await runLeg({
    prepare: ({ archive }) => archive.stalled = true,
  });
  source.send(4096);
  abort.abort();
  // The server always has more: if it were read, at no moment would everything received be durable.
  for (let round = 0; round < 20; round++) source.send(4096);
  assert.equal(sink.receivedLsn, at(2) + 4096n);
  sink.recover();
  await settled();
  assert.deepEqual(journal.filter((line) => !line.startsWith("durable")).slice(-2), [
    "status 0/201000 0/201000",
    "copy done",
  ]);
  assert.deepEqual(outcome.value, { kind: "stopped" });
  assert.equal(sink.flushLsn, at(2) + 21n * 4096n, "what was under way is durable too");
  assert.equal(clock.nowMs(), 0, "no deadline had to pass");
});

test("streamLeg() told to stop does not wait for ever for a server that never confirms", async () => {
  const { source, abort, outcome, clock, sink } = await runLeg({
    prepare: ({ server }) => server.confirmsStop = false,
  });
  source.send(4096);
  abort.abort();
  await clock.advance(9000);
  assert.equal(outcome.done, false);
  await clock.advance(1000);
  assert.deepEqual(outcome.value, { kind: "stopped" }, "all is safe and reported: that is what counts");
  assert.equal(source.closed, true);
  assert.equal(sink.flushLsn, sink.receivedLsn);
  assert.equal(clock.timers, 0);
});

test("streamLeg() told to stop on a stalled disk gives up in time, and says what is not safe", async () => {
  const { source, abort, outcome, clock, journal } = await runLeg({
    prepare: ({ archive }) => archive.stalled = true,
  });
  source.send(4096);
  abort.abort();
  await clock.advance(20_000);
  assert.ok(outcome.error instanceof NotYetError);
  assert.match(outcome.error.message, /^Cannot bring 4096 received bytes to the disk: .*never acknowledged/);
  assert.ok(
    !journal.some((line) => line.startsWith("status") && !line.endsWith(" 0/200000")),
    "nothing claimed",
  );
  assert.ok(journal.includes("abandoned"));
  assert.equal(clock.timers, 0);
});

test("streamLeg() told to stop while it waits for a stalled disk ends in time", async () => {
  const { source, abort, outcome, clock } = await runLeg({
    prepare: ({ archive }) => archive.stalled = true,
  });
  source.send(4096);
  await clock.advance(100_000);
  assert.equal(source.closed, true);
  abort.abort();
  await clock.advance(10_000);
  assert.ok(outcome.error instanceof NotYetError);
});

test("streamLeg() told to stop while paused still ends", async () => {
  const { source, abort, outcome, sink } = await runLeg({ prepare: ({ archive }) => archive.stalled = true });
  sink.congested = true;
  source.send(4096);
  abort.abort();
  sink.recover();
  await settled();
  assert.deepEqual(outcome.value, { kind: "stopped" });
});

for (
  const [name, messages, endLsn] of [
    ["at a message's end", [4096, 4096], at(2) + 8192n],
    ["mid-message", [4096, 8192], at(2) + 8192n],
    ["one byte into the stream", [1], at(2) + 1n],
    ["at a segment's end", [MIB], at(3)],
  ] as const
) {
  test(`streamLeg() with --endpos ${name} ends when that is durable and reported`, async () => {
    const { source, outcome, journal, sink } = await runLeg({ endLsn: endLsn as Lsn });
    source.send(...messages.slice(0, -1));
    await settled();
    if (messages.length > 1) assert.equal(source.stopSaid, false);
    source.send(messages.at(-1)!);
    await settled();
    assert.deepEqual(outcome.value, { kind: "end-reached" });
    assert.ok(sink.flushLsn >= endLsn);
    assert.equal(journal.at(-1), "copy done");
    assert.match(journal.at(-2)!, new RegExp(`^status .* ${formatLsn(sink.flushLsn)}$`));
  });
}

test("streamLeg() with --endpos in the WAL that comes together with the answer ends at once", async () => {
  const { outcome, clock, source } = await runLeg({
    endLsn: (at(2) + 4096n) as Lsn,
    prepare: ({ server }) => server.onStart = (source) => source.send(4096),
  });
  assert.deepEqual(outcome.value, { kind: "end-reached" });
  assert.equal(source.stopSaid, true);
  assert.equal(clock.timers, 0);
});

test("streamLeg() with --endpos on a stalled disk is not done before it is durable", async () => {
  const { source, outcome, clock, sink } = await runLeg({
    endLsn: (at(2) + 1n) as Lsn,
    prepare: ({ archive }) => archive.stalled = true,
  });
  source.send(4096);
  await clock.advance(600_000);
  assert.equal(outcome.done, false);
  sink.recover();
  await settled();
  assert.deepEqual(outcome.value, { kind: "end-reached" });
});

for (
  const end of [
    { kind: "shutdown" },
    { kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(2) },
  ] as const
) {
  test(`streamLeg() ended by the server (${end.kind}) settles when all is durable`, async () => {
    const { source, outcome, sink, clock } = await runLeg({
      prepare: ({ archive }) => archive.stalled = true,
    });
    source.send(4096);
    source.end(end);
    await settled();
    assert.equal(outcome.done, false);
    sink.recover();
    await settled();
    assert.deepEqual(outcome.value, end);
    assert.equal(source.closed, false, "the connection serves the next timeline");
    assert.equal(clock.timers, 0);
  });
}

test("streamLeg() confirms the last bytes of a server that shuts down at once (P10)", async () => {
  const { source, journal } = await runLeg();
  source.send(120);
  source.keepalive({ replyRequested: true });
  await settled();
  assert.equal(journal.at(-1), "status 0/200078 0/200078");
});

test("streamLeg() fails with what the archive says, and lets go of the connection", async () => {
  const { source, sink, outcome, clock } = await runLeg();
  const conflict = new ArchiveConflictError("other bytes");
  source.send(4096);
  sink.fail(conflict);
  await settled();
  assert.equal(outcome.error, conflict);
  assert.equal(source.closed, true);
  assert.equal(clock.timers, 0);
});

test("streamLeg() fails with what the server says to START_REPLICATION, and lets go of the files", async () => {
  const error = serverError("58P01");
  const { outcome, sink, clock } = await runLeg({ prepare: ({ server }) => server.startError = error });
  assert.equal(outcome.error, error);
  assert.equal(sink.released, true);
  assert.equal(clock.timers, 0);
});

test("streamLeg() tells where it stands: timeline, segment size and three positions", async () => {
  const { source, positions, clock, sink } = await runLeg({
    prepare: ({ archive }) => archive.stalled = true,
  });
  source.send(4096);
  sink.flush((at(2) + 100n) as Lsn);
  source.send(4096);
  await clock.advance(1000);
  assert.deepEqual(positions.at(-1), {
    timeline: 1,
    segmentSize: SIZE,
    receivedLsn: at(2) + 8192n,
    flushLsn: at(2) + 100n,
    serverLsn: at(2) + 8192n,
  });
});

for (const isBefore of [true, false]) {
  const when = isBefore ? "before it began" : "while it waits";
  test(`streamLeg() told to stop ${when} for a disk that stalls ends in time, and lets go of files opened late`, async () => {
    const { abort, outcome, clock, archive, journal, source, sink } = await runLeg({
      prepare: ({ archive, abort }) => {
        archive.silent.add("open leg");
        if (isBefore) abort.abort();
      },
    });
    if (!isBefore) await clock.advance(60_000);
    assert.equal(outcome.done, false, "without a stop it waits as long as it takes");
    abort.abort();
    await clock.advance(9999);
    assert.equal(outcome.done, false);
    await clock.advance(1);
    assert.ok(outcome.error instanceof StopTimeout);
    assert.equal(clock.timers, 0);
    archive.recover();
    await settled();
    assert.equal(sink.released, true, "what was opened too late is not left open");
    assert.deepEqual(journal, ["abandoned"]);
    assert.deepEqual(source.asked, [], "the server was asked for nothing");
  });
}

test("streamLeg() told to stop while files are opened ends without a stream", async () => {
  const { abort, outcome, clock, archive, sink } = await runLeg({
    prepare: ({ archive }) => archive.silent.add("open leg"),
  });
  abort.abort();
  await clock.advance(5000);
  archive.recover();
  await settled();
  assert.deepEqual(outcome.value, { kind: "stopped" });
  assert.equal(sink.released, true);
  assert.equal(clock.timers, 0);
});

test("streamLeg() tells that the disk is full, and once that it has room again", async () => {
  const { source, sink, journal } = await runLeg({ prepare: ({ archive }) => archive.stalled = true });
  source.send(4096);
  sink.listener.onDiskFull();
  assert.equal(journal.at(-1), "disk full");
  sink.listener.onProgress();
  assert.ok(!journal.includes("disk has room"), "nothing was written yet");
  sink.write();
  sink.write();
  assert.equal(journal.filter((line) => line === "disk has room").length, 1);
});

const LOW = { freeBytes: 5, wantBytes: 10 };

test("streamLeg() with too little room on the disk stops reading, answers, and goes on by itself (P9)", async () => {
  const { source, sink, clock, journal, outcome } = await runLeg();
  source.send(4096);
  await settled();
  sink.shortOfRoom = LOW;
  sink.listener.onProgress();
  assert.equal(source.paused, true);
  assert.equal(journal.at(-1), "disk low: 5 of 10");
  const before = source.statuses.length;
  for (let second = 0; second < 14; second++) {
    await clock.advance(1000);
    sink.listener.onProgress();
  }
  assert.ok(source.statuses.length >= before + 13, "keepalives are not answered");
  assert.equal(source.statuses.at(-1)?.flushLsn, at(2) + 4096n);
  assert.equal(journal.filter((line) => line.startsWith("disk low")).length, 1);
  assert.equal(outcome.done, false);
  sink.shortOfRoom = undefined;
  sink.listener.onProgress();
  assert.equal(source.paused, false);
  assert.equal(journal.at(-1), "disk has room");
  await clock.advance(30_000);
  assert.equal(outcome.done, false);
});

test("streamLeg() with too little room for long leaves the server, all received safe and told", async () => {
  const { source, sink, clock, journal, outcome } = await runLeg();
  sink.shortOfRoom = LOW;
  source.send(4096);
  await settled();
  await clock.advance(15_500);
  assert.equal(source.closed, true);
  assert.equal(source.statuses.at(-1)?.flushLsn, at(2) + 4096n);
  assert.ok(outcome.error instanceof NotYetError);
  assert.match(
    outcome.error.message,
    /5 bytes free in the archive for 15 s, want 10; disconnecting until there are/,
  );
  assert.ok(!journal.includes("disk has room"));
  assert.equal(sink.released, true);
  assert.equal(clock.timers, 0);
});

test("streamLeg() told to stop with too little room ends at once", async () => {
  const { source, sink, abort, outcome } = await runLeg();
  source.send(4096);
  await settled();
  sink.shortOfRoom = LOW;
  sink.listener.onProgress();
  await settled();
  abort.abort();
  await settled();
  assert.equal(source.stopSaid, true);
  assert.equal(source.paused, false, "the server's end is never read");
  source.send(100);
  assert.equal(source.paused, false);
  source.end({ kind: "stopped" });
  await settled();
  assert.deepEqual(outcome.value, { kind: "stopped" });
});

test("streamLeg() told to stop when the archive already refused stops with that refusal", async () => {
  const { source, sink, abort, outcome } = await runLeg({ prepare: ({ archive }) => archive.stalled = true });
  source.send(4096);
  abort.abort();
  sink.fail(new ArchiveConflictError("other bytes"));
  await settled();
  assert.ok(outcome.error instanceof ArchiveConflictError);
});

for (
  const end of [
    { kind: "shutdown" },
    { kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3) },
  ] as const
) {
  test(`streamLeg() tells an archive that fails after the server's end (${end.kind}), and no good end`, async () => {
    const { source, sink, outcome } = await runLeg({ prepare: ({ archive }) => archive.stalled = true });
    source.send(100);
    source.end(end);
    await settled();
    assert.equal(outcome.done, false);
    const conflict = new ArchiveConflictError("other bytes");
    sink.fail(conflict);
    await settled();
    assert.equal(outcome.error, conflict);
  });
}

const LENDING = { prepare: ({ server }: { readonly server: FakeServer }) => void (server.lends = true) };

test("streamLeg() lends the socket to an idle sink, but not where each message may be the last", async () => {
  const { sink, source } = await runLeg(LENDING);
  assert.equal(sink.borrow(), true);
  assert.equal(source.lent, true);
  sink.endLoan();
  assert.equal(source.lent, false);
  const withEnd = await runLeg({ ...LENDING, endLsn: at(9) });
  assert.equal(withEnd.sink.borrow(), false);
  const without = await runLeg();
  assert.equal(without.sink.borrow(), false);
});

test("streamLeg() reports what became durable over a lent socket when it is given back", async () => {
  const { sink, source } = await runLeg(LENDING);
  sink.borrow();
  sink.receivedLsn = sink.writeLsn = sink.flushLsn = (at(2) + 300n) as Lsn;
  sink.endLoan();
  assert.deepEqual(source.statuses.at(-1), {
    writeLsn: at(2) + 300n,
    flushLsn: at(2) + 300n,
    replyRequested: false,
  });
});

test("streamLeg() answers while the disk stalls behind a lent socket, tells the truth, and hangs up in time", async () => {
  const { sink, source, clock, outcome, stalls } = await runLeg(LENDING);
  sink.borrow();
  sink.stalled = true;
  sink.receivedLsn = (at(2) + 300n) as Lsn;
  const before = source.statuses.length;
  for (let second = 0; second < 10; second++) await clock.advance(1000);
  assert.ok(source.statuses.length - before >= 9, "one for each second, as while paused");
  assert.deepEqual(new Set(flushes(source)), new Set(["0/200000"]));
  for (let second = 0; second < 10; second++) await clock.advance(1000);
  assert.equal(stalls.length > 0, true);
  assert.equal(source.closed, true);
  assert.equal(outcome.done, false, "what was received may still become durable");
  sink.flush();
  await settled();
  assert.ok(outcome.error instanceof NotYetError);
});

test("streamLeg() ends the loan of the socket before it sends anything itself", async () => {
  const { sink, source, clock } = await runLeg(LENDING);
  sink.borrow();
  const before = source.statuses.length;
  const endedAt: boolean[] = [];
  source.onStatus = () => void endedAt.push(sink.loanEndAsked);
  for (let second = 0; second < 15 && endedAt.length === 0; second++) await clock.advance(1000);
  assert.equal(source.statuses.length, before + 1);
  assert.deepEqual(endedAt, [true]);
});

test("streamLeg() told to stop gets a lent socket back first; then all that came is safe and told", async () => {
  const { sink, abort, outcome, journal } = await runLeg(LENDING);
  sink.borrow();
  abort.abort();
  await settled();
  assert.equal(sink.loanEndAsked, true);
  assert.ok(!journal.includes("copy done"), "somebody else still reads the socket");
  sink.receivedLsn = sink.writeLsn = sink.flushLsn = (at(2) + 77n) as Lsn;
  sink.endLoan();
  await settled();
  assert.deepEqual(outcome.value, { kind: "stopped" });
  assert.deepEqual(journal.slice(-2), ["status 0/20004D 0/20004D", "copy done"]);
});

test("streamLeg() judges the silence of a lent socket by what its reader hears", async () => {
  const { sink, source, clock, outcome } = await runLeg(LENDING);
  sink.borrow();
  for (let second = 0; second < 200; second++) {
    sink.loan!.heardCount++;
    await clock.advance(1000);
  }
  assert.ok(source.statuses.every(({ replyRequested }) => !replyRequested));
  for (let second = 0; second < 35; second++) await clock.advance(1000);
  assert.equal(source.statuses.filter(({ replyRequested }) => replyRequested).length, 1);
  for (let second = 0; second < 40; second++) await clock.advance(1000);
  assert.ok(outcome.error instanceof ConnectionError);
  assert.match(outcome.error.message, /silent for 60 s/);
});
