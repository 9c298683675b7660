import assert from "node:assert/strict";
import { test } from "node:test";
import { compareOverlap } from "../../lib/receiver/overlap.ts";
import { Preparation } from "../../lib/receiver/preparation.ts";
import { Reporter } from "../../lib/receiver/reporter.ts";
import { ArchiveConflictError } from "../../lib/wal/errors.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import {
  at,
  FakeArchive,
  FakeClock,
  fakeLog,
  FakeServer,
  type FakeSource,
  type Journal,
  MIB,
  serverError,
  watched,
} from "./fakes.ts";

const OVERLAP = { timeline: timelineId(1), startLsn: at(2.5), endLsn: at(3) };
const HALF = MIB / 2;
const REMOVED = serverError("58P01", "requested WAL segment has already been removed");

function parts(onStart?: (source: FakeSource) => void) {
  const journal: Journal = [];
  const server = new FakeServer(journal);
  if (onStart !== undefined) server.onStart = onStart;
  const archive = new FakeArchive(journal);
  archive.overlap = OVERLAP;
  const clock = new FakeClock();
  const source = server.open();
  const compare = () =>
    watched(compareOverlap(
      source,
      archive,
      { startLsn: at(3), lineage: emptyHistory(timelineId(1)) },
      { clock, timeoutMs: 60_000, statusIntervalMs: 10_000 },
    ));
  return { journal, server, archive, clock, source, compare };
}

const sends = (...bytes: number[]) => (source: FakeSource) =>
  void queueMicrotask(() => source.send(...bytes));

test("compareOverlap() reads the archive's last bytes from the server, without its slot and without a status", async () => {
  const { journal, archive, clock, compare } = parts(sends(HALF));
  const outcome = compare();
  await clock.advance(0);
  assert.equal(outcome.value, HALF);
  assert.deepEqual(journal, ["start 1 0/280000", "copy done", "overlap compared"]);
  assert.equal(archive.sentOverlaps[0]?.server, "db:5432");
  assert.equal(clock.timers, 0);
});

test("compareOverlap() leaves alone what the server sends behind it, and takes it in pieces", async () => {
  const { archive, clock, compare } = parts((source) =>
    queueMicrotask(() => {
      for (let sent = 0; sent < 3 * HALF; sent += 10_000) source.send(10_000);
    })
  );
  const outcome = compare();
  await clock.advance(0);
  assert.equal(outcome.value, HALF);
  assert.equal(archive.sentOverlaps[0]?.bytes.length, HALF);
});

test("compareOverlap() answers a server that asks, and claims nothing", async () => {
  const { journal, server, clock, compare } = parts(() => {});
  const outcome = compare();
  await clock.advance(0);
  server.source.keepalive({ replyRequested: true });
  assert.equal(server.source.statuses.length, 1);
  await clock.advance(50_000);
  assert.equal(server.source.statuses.length, 6, "and by itself, as often as on any stream");
  server.source.keepalive();
  await clock.advance(50_000);
  server.source.send(HALF);
  await clock.advance(0);
  assert.equal(outcome.value, HALF);
  assert.ok(journal.includes("status 0/0 0/0"), journal.join("\n"));
  assert.equal(clock.timers, 0);
});

test("compareOverlap() takes a timeline that ends where the overlap does", async () => {
  const { journal, clock, compare } = parts((source) =>
    queueMicrotask(() => {
      source.send(HALF);
      source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(3) });
    })
  );
  const outcome = compare();
  await clock.advance(0);
  assert.equal(outcome.value, HALF);
  assert.ok(journal.includes("overlap compared"));
});

test("compareOverlap() compares nothing where the archive wants nothing", async () => {
  const { journal, archive, clock, compare } = parts();
  archive.overlap = undefined;
  const outcome = compare();
  await clock.advance(0);
  assert.equal(outcome.value, 0);
  assert.deepEqual(journal, []);
});

for (
  const [how, prepare] of [
    ["refuses at once", (server: FakeServer) => void (server.startError = REMOVED)],
    [
      "tells after it began",
      (server: FakeServer) => void (server.onStart = (source) => source.fail(REMOVED)),
    ],
    [
      "shuts down",
      (server: FakeServer) => void (server.onStart = (source) => source.end({ kind: "shutdown" })),
    ],
  ] as const
) {
  test(`compareOverlap() lets the back link judge a server that ${how}`, async () => {
    const { server, archive, clock, compare } = parts();
    prepare(server);
    const outcome = compare();
    await clock.advance(0);
    assert.equal(outcome.value, 0);
    assert.deepEqual(archive.sentOverlaps, []);
  });
}

test("compareOverlap() gives up a server that sends nothing, and one that refuses for another reason", async () => {
  const silent = parts();
  const outcome = silent.compare();
  await silent.clock.advance(60_000);
  assert.match(String(outcome.error), /Cannot read WAL at 0\/280000 from db:5432: silent for 60 s/);
  const refusing = parts();
  refusing.server.startError = serverError("53300");
  const refused = refusing.compare();
  await refusing.clock.advance(0);
  assert.equal((refused.error as { sqlState?: string }).sqlState, "53300");
});

function preparation(archive: FakeArchive, clock: FakeClock) {
  const { log, lines } = fakeLog();
  const prepare = new Preparation({
    archive,
    log,
    reporter: new Reporter(log),
    slot: "wv",
    createSlot: true,
    applicationName: "walvault",
    overlap: { clock, timeoutMs: 60_000, statusIntervalMs: 10_000 },
  });
  return { lines, prepare };
}

test("prepare() leaves nothing behind on a server that went another way, nor anything of it here", async () => {
  const { journal, server, archive, clock, source } = parts(sends(HALF));
  archive.addSegments(1, 0, 3);
  archive.overlapError = new ArchiveConflictError("Cannot go on behind it");
  server.timeline = 2;
  server.histories.set(2, "1\t0/380000\tno recovery target specified\n");
  const { prepare } = preparation(archive, clock);
  const outcome = watched(prepare.prepare(source));
  await clock.advance(0);
  assert.equal(outcome.error, archive.overlapError);
  assert.deepEqual(journal, ["start 1 0/280000", "copy done", "overlap compared"]);
  assert.equal(server.slots.size, 0);
  assert.equal(archive.histories.size, 0);
});

test("prepare() goes on with a server that has the archive's last WAL", async () => {
  const { server, archive, clock, source } = parts(sends(HALF));
  archive.addSegments(1, 0, 3);
  const { lines, prepare } = preparation(archive, clock);
  const outcome = watched(prepare.prepare(source));
  await clock.advance(0);
  assert.equal(outcome.value?.plan.startLsn, at(3));
  assert.equal(server.slots.size, 1);
  assert.ok(lines("debug").includes("server has the archive's last wal"));
});
