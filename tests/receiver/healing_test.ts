import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { setImmediate } from "node:timers";
import { healGaps, type HealingSource, withoutSegment } from "../../lib/receiver/healing.ts";
import { HostSource, type SegmentIntake } from "../../lib/receiver/host_source.ts";
import { requestSegment } from "../../lib/receiver/segment_request.ts";
import type { StreamEnd, WalSource, WalStream, WalStreamHandler } from "../../lib/receiver/wal_source.ts";
import { ArchiveConflictError } from "../../lib/wal/errors.ts";
import type { SegmentRun } from "../../lib/wal/lineage.ts";
import { type SegmentNumber, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import {
  at,
  FakeClock,
  FakeServer,
  type FakeSource,
  MIB,
  serverError,
  settled,
  SIZE,
  SYSTEM_IDENTIFIER,
} from "./fakes.ts";

const number = (value: number) => BigInt(value) as SegmentNumber;

function run(first: number, end: number, timeline = 1): SegmentRun {
  return { timeline: timelineId(timeline), firstNumber: number(first), endNumber: number(end) };
}

const never = new AbortController().signal;

/** An archive that takes all segments; what it took, by name, and how much of each. */
class FakeIntake implements SegmentIntake {
  readonly taken: string[] = [];
  /** Against one segment, or each. */
  error: unknown;
  writeError: unknown;
  /** Why nothing can be tied to what stands behind. */
  awaited: string | undefined;
  isForEver = false;
  readonly histories = new Map<number, Uint8Array>();
  /** Writes settle only when it is told. */
  held: (() => void)[] | undefined;

  async takeFilled(
    name: string,
    { systemIdentifier }: { readonly systemIdentifier: bigint },
    fill: (file: { write(bytes: Uint8Array, position: number): Promise<void> }) => Promise<void>,
  ): Promise<void> {
    assert.equal(systemIdentifier, SYSTEM_IDENTIFIER);
    let next = 0;
    await fill({
      write: async (bytes, position) => {
        assert.equal(position, next);
        next += bytes.length;
        if (this.held !== undefined) await new Promise<void>((resolve) => this.held?.push(resolve));
        if (this.writeError !== undefined) throw this.writeError;
      },
    });
    assert.equal(next, MIB, "the whole segment, and no more");
    if (this.error !== undefined) throw this.error;
    this.taken.push(name);
  }

  whatIsAwaited(): ReturnType<SegmentIntake["whatIsAwaited"]> {
    const { awaited } = this;
    return Promise.resolve(awaited === undefined ? undefined : { text: awaited, isForEver: this.isForEver });
  }

  historyOf(timeline: number): Promise<Uint8Array | undefined> {
    return Promise.resolve(this.histories.get(timeline));
  }

  judge(error: unknown): "refused" | "passing" | "failed" {
    if (error instanceof ArchiveConflictError) return "refused";
    return error instanceof PassingError ? "passing" : "failed";
  }
}

class PassingError extends Error {}

interface Scene {
  readonly server: FakeServer;
  readonly clock: FakeClock;
  readonly intake: FakeIntake;
  readonly host: HostSource;
}

function scene(): Scene {
  const server = new FakeServer();
  server.flushLsn = at(40.5);
  // All that it has, and more than was asked for.
  server.onStart = (source) => sendAll(source);
  const clock = new FakeClock();
  const intake = new FakeIntake();
  const host = new HostSource({
    name: "db:5432",
    systemIdentifier: SYSTEM_IDENTIFIER,
    segmentSize: SIZE,
    intake,
    clock,
    timeoutMs: 60_000,
    connect: () =>
      server.connectError === undefined
        ? Promise.resolve(server.open())
        : Promise.reject(server.connectError),
  });
  return { server, clock, intake, host };
}

function sendAll(source: FakeSource): void {
  queueMicrotask(() => source.send(...Array.from({ length: 10 }, () => MIB / 8)));
}

async function bring(host: HostSource, gap: SegmentRun) {
  const numbers: number[] = [];
  await host.beginRound();
  try {
    const said = await host.bring(gap, (one) => void numbers.push(Number(one)), never);
    return { numbers, said };
  } finally {
    await host.endRound();
  }
}

test("withoutSegment() takes one segment out", () => {
  for (
    const [runs, taken, rest] of [
      [[run(3, 6)], 3, [run(4, 6)]],
      [[run(3, 6)], 4, [run(3, 4), run(5, 6)]],
      [[run(3, 6)], 5, [run(3, 5)]],
      [[run(3, 4)], 3, []],
      [[run(3, 4), run(7, 9)], 8, [run(3, 4), run(7, 8)]],
      [[run(3, 4)], 9, [run(3, 4)]],
    ] as const
  ) {
    assert.deepEqual(withoutSegment(runs, number(taken)), rest);
  }
});

test("a server streams what is missing segment by segment, with no slot, and nothing is claimed", async () => {
  const { server, intake, host } = scene();
  server.onStart = (source) => {
    setImmediate(() => {
      source.keepalive({ replyRequested: true });
      source.send(...Array.from({ length: 10 }, () => MIB / 8));
    });
  };
  assert.deepEqual(await bring(host, run(5, 8)), { numbers: [7, 6, 5], said: undefined });
  assert.deepEqual(intake.taken, [7, 6, 5].map((one) => `00000001000000000000000${one}`));
  assert.deepEqual(server.journal.filter((line) => !line.startsWith("status")), [
    ...["0/700000", "0/600000", "0/500000"].flatMap((lsn) => [`start 1 ${lsn}`, "copy done"]),
    "closed",
  ]);
  assert.equal(server.sources.length, 1, "one connection a round");
  for (const { writeLsn, flushLsn } of server.source.statuses) {
    assert.deepEqual([writeLsn, flushLsn], [0n, 0n]);
  }
  assert.ok(server.source.statuses.length > 0, "a server that asks gets an answer");
});

test("an older timeline is asked for by its own number", async () => {
  const { server, host } = scene();
  server.timeline = 3;
  assert.deepEqual((await bring(host, run(5, 6, 2))).numbers, [5]);
  assert.ok(server.journal.includes("start 2 0/500000"));
});

test("what a server has removed is told, and the rest of the gap is brought", async () => {
  for (const tells of ["at once", "in the stream"] as const) {
    const { server, host } = scene();
    server.tellsRemoved = tells;
    server.removedBelow = at(17);
    const { numbers, said } = await bring(host, run(5, 25));
    assert.deepEqual(numbers, [24, 23, 22, 21, 20, 19, 18, 17]);
    assert.equal(said, "requested WAL segment has already been removed");
    assert.ok(server.journal.filter((line) => line.startsWith("start")).length < 16);
    server.removedBelow = at(30);
    assert.deepEqual((await bring(host, run(5, 25))).numbers, []);
  }
});

test("a timeline that ends inside a segment is told: the segment is another timeline's", async () => {
  const { server, intake, host } = scene();
  server.timeline = 2;
  server.onStart = (source) =>
    queueMicrotask(() => {
      source.send(MIB / 8);
      source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(5.125) });
    });
  const { numbers, said } = await bring(host, run(5, 9));
  assert.deepEqual(numbers, []);
  assert.match(said ?? "", /its timeline 1 ends at 0\/520000, where timeline 2 goes on/);
  assert.deepEqual(intake.taken, []);
});

test("a timeline that ends at the segment's end is whole there", async () => {
  const { server, host } = scene();
  server.onStart = (source) =>
    queueMicrotask(() => {
      source.send(MIB);
      source.end({ kind: "timeline", nextTimeline: timelineId(2), switchLsn: at(6) });
    });
  assert.deepEqual(await bring(host, run(5, 6)), { numbers: [5], said: undefined });
});

test("P5: another cluster's server is asked for nothing", async () => {
  const { server, host } = scene();
  server.systemIdentifier++;
  await assert.rejects(bring(host, run(5, 6)), /has system identifier 7300000000000000002/);
  assert.ok(!server.journal.some((line) => line.startsWith("start")));
  assert.ok(server.source.closed);
});

test("what the archive refuses is not asked for again, before an hour has gone", async () => {
  const { server, clock, intake, host } = scene();
  intake.error = new ArchiveConflictError("Cannot archive it: other bytes");
  const starts = () => server.journal.filter((line) => line.startsWith("start")).length;
  for (const wait of [0, 60_000]) {
    await clock.advance(wait);
    const { numbers, said } = await bring(host, run(5, 7));
    assert.deepEqual([numbers, said], [[], "Cannot archive it: other bytes"]);
    assert.equal(starts(), 1);
  }
  intake.error = undefined;
  await clock.advance(3_600_000);
  assert.deepEqual((await bring(host, run(5, 7))).numbers, [6, 5]);
});

test("what passes is told, and asked for again in the next round", async () => {
  const { server, intake, host } = scene();
  for (let round = 1; round <= 2; round++) {
    intake.error = new PassingError("a receiver that started removed what was written");
    const { numbers, said } = await bring(host, run(5, 7));
    assert.deepEqual([numbers, said], [[], "a receiver that started removed what was written"]);
    assert.equal(server.journal.filter((line) => line.startsWith("start")).length, round);
  }
  intake.error = new Error("The disk thread ended");
  await assert.rejects(bring(host, run(5, 7)), /disk thread/);
  intake.error = undefined;
  assert.deepEqual((await bring(host, run(5, 7))).numbers, [6, 5]);
});

test("a server is asked for nothing before something stands behind the gap", async () => {
  const { server, intake, host } = scene();
  intake.awaited = "nothing stands there";
  assert.deepEqual(await bring(host, run(5, 7)), { numbers: [], said: "nothing stands there" });
  assert.equal(server.sources.length, 0);
});

test("a server is asked from the other end for a gap behind which all was given up", async () => {
  const { intake, host } = scene();
  intake.awaited = "what follows it was given up";
  intake.isForEver = true;
  const numbers: number[] = [];
  const ask = (tiedTo: "behind" | "before") =>
    host.bring(run(5, 7), (one) => void numbers.push(Number(one)), never, tiedTo);
  await host.beginRound();
  assert.equal(await ask("behind"), "what follows it was given up");
  assert.deepEqual(numbers, []);
  assert.equal(await ask("before"), undefined);
  assert.deepEqual(numbers, [5, 6]);
  await host.endRound();
});

test("P5: a server with another history of its timeline or the gap's is asked for nothing", async () => {
  const text = (value: string) => new TextEncoder().encode(value);
  for (const other of [2, 3]) {
    const { server, intake, host } = scene();
    server.timeline = 3;
    for (const timeline of [2, 3]) {
      server.histories.set(timeline, `1\t0/${timeline}00000\tno recovery target specified\n`);
      intake.histories.set(timeline, text(server.histories.get(timeline)!));
    }
    intake.histories.set(other, text("1\t0/480000\tno recovery target specified\n"));
    await assert.rejects(
      bring(host, run(5, 6, 2)),
      new RegExp(`has another history of timeline ${other} than the archive`),
    );
    assert.ok(!server.journal.some((line) => line.startsWith("start")));
    intake.histories.set(other, text(server.histories.get(other)!));
    assert.deepEqual((await bring(host, run(5, 6, 2))).numbers, [5]);
  }
});

test("a server that has not come to a gap's end is asked from the other end when nobody else has more", async () => {
  const { server, host } = scene();
  const numbers: number[] = [];
  const ask = (tiedTo: "behind" | "before") =>
    host.bring(run(5, 8), (one) => void numbers.push(Number(one)), never, tiedTo);
  await host.beginRound();
  assert.equal(await ask("before"), undefined, "it was not asked for the last one");
  server.removedBelow = at(9);
  assert.match(await ask("behind") ?? "", /already been removed/);
  await ask("before");
  assert.deepEqual(numbers, [], "what removed the last one has none before it");
  server.removedBelow = at(0);
  server.startError = serverError(
    "XX000",
    "requested starting point 0/700000 is ahead of the WAL flush position",
  );
  assert.match(await ask("behind") ?? "", /ahead of/);
  server.startError = undefined;
  await ask("before");
  assert.deepEqual(numbers, [5, 6, 7]);
  await host.endRound();
});

test("a server that falls silent is given up, and its connection closed", async () => {
  const { server, clock, host } = scene();
  server.onStart = (source) => queueMicrotask(() => source.send(MIB / 2));
  const bringing = bring(host, run(5, 6));
  bringing.catch(() => {});
  await settled();
  await clock.advance(59_000);
  server.source.keepalive();
  await clock.advance(1000);
  await assert.rejects(bringing, /none came for 60 s/);
  assert.ok(server.source.closed);
  assert.equal(clock.timers, 0);
});

test("what the socket's memory holds later does not get into the segment", async () => {
  const server = new FakeServer();
  const memory = Buffer.alloc(MIB / 8);
  const written: number[] = [];
  const source = server.open();
  const asking = requestSegment(
    {
      ...source,
      address: "db:5432",
      startReplication: (_start: unknown, handler: WalStreamHandler) => {
        const ended = Promise.withResolvers<StreamEnd>();
        setImmediate(() => {
          for (let piece = 0; piece < 8; piece++) {
            memory.fill(piece + 1);
            handler.onWal(at(5 + piece / 8), memory);
          }
          memory.fill(99);
        });
        const stop = () => ended.resolve({ kind: "stopped" });
        return Promise.resolve(
          { ended: ended.promise, stop, pause() {}, resume() {}, sendStatus() {} } as WalStream,
        );
      },
    } as unknown as WalSource,
    { timeline: timelineId(1), number: number(5), segmentSize: SIZE },
    {
      clock: new FakeClock(),
      timeoutMs: 60_000,
      write: async (bytes) => {
        await settled();
        written.push(bytes[0]!, bytes.at(-1)!);
      },
    },
    never,
  );
  await asking;
  assert.deepEqual(written, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]);
});

test("a server that never says who it is is given up", async () => {
  const { server, clock, host } = scene();
  server.silent.add("identify");
  const bringing = bring(host, run(5, 6));
  bringing.catch(() => {});
  await clock.advance(60_000);
  await assert.rejects(bringing, /we closed it/);
  const stop = new AbortController();
  const stopped = host.bring(run(5, 6), () => {}, stop.signal);
  stopped.catch(() => {});
  await settled();
  stop.abort();
  await assert.rejects(stopped);
  await host.endRound();
  assert.equal(clock.timers, 0);
});

test("a disk that does not keep up stops the reading: little of a segment waits in memory, and no server is given up", async () => {
  const server = new FakeServer();
  server.flushLsn = at(100);
  const writing: (() => void)[] = [];
  let written = 0;
  let sent = 0;
  server.onStart = (source) =>
    setImmediate(() => {
      const send = () => {
        for (; !source.paused && sent < 17 * MIB; sent += MIB / 8) source.send(MIB / 8);
        if (sent < 17 * MIB && !source.closed) setImmediate(send);
      };
      send();
    });
  const request = { timeline: timelineId(1), number: number(2), segmentSize: segmentSize(16 * MIB) };
  const clock = new FakeClock();
  const asking = requestSegment(server.open(), request, {
    clock,
    timeoutMs: 60_000,
    write: async (bytes) => {
      await new Promise<void>((resolve) => writing.push(resolve));
      written += bytes.length;
    },
  }, never);
  let mostWaiting = 0;
  for (let turns = 0; turns < 1000 && written < 16 * MIB; turns++) {
    await settled();
    mostWaiting = Math.max(mostWaiting, sent - written);
    // It is not the server that is silent.
    if (turns % 100 === 5 && server.source.paused) await clock.advance(100_000);
    for (const resolve of writing.splice(0)) resolve();
  }
  await asking;
  assert.equal(clock.timers, 0);
  assert.equal(written, 16 * MIB);
  assert.ok(mostWaiting >= MIB && mostWaiting <= 2 * MIB, `${mostWaiting} bytes waited`);
});

test("a stop ends it at once, whatever the server and the disk do", async () => {
  const { server, intake, host } = scene();
  intake.held = [];
  const stop = new AbortController();
  const bringing = host.bring(run(5, 6), () => {}, stop.signal);
  bringing.catch(() => {});
  await settled();
  stop.abort(new Error("Stopped"));
  await assert.rejects(bringing, /Stopped/);
  await host.endRound();
  assert.ok(server.source.closed);
});

test("a full disk ends the round for the server, and is told", async () => {
  const { intake, host } = scene();
  intake.writeError = Object.assign(new Error("ENOSPC: no space left on device"), { code: "ENOSPC" });
  await assert.rejects(bring(host, run(5, 6)), /ENOSPC/);
  intake.writeError = undefined;
  assert.deepEqual((await bring(host, run(5, 6))).numbers, [5]);
});

/** A source that has these segments. */
function having(name: string, numbers: readonly number[], journal: string[]): HealingSource {
  return {
    name,
    beginRound: () => Promise.resolve(void journal.push(`${name} begins`)),
    endRound: () => Promise.resolve(void journal.push(`${name} ends`)),
    bring({ firstNumber, endNumber }, onBrought) {
      journal.push(`${name} asked for ${firstNumber}-${endNumber}`);
      const own = numbers.filter((one) => one >= firstNumber && one < endNumber);
      for (const one of own) onBrought(number(one));
      return Promise.resolve(own.length === Number(endNumber - firstNumber) ? undefined : `lacks some`);
    },
  };
}

test("healGaps() asks the next source only for what is left, and tells what each said", async () => {
  const journal: string[] = [];
  const brought: number[] = [];
  const sources = [
    having("peer", [5, 7], journal),
    having("db", [6, 8, 20], journal),
    having("c", [], journal),
  ];
  const results = await healGaps([run(5, 9), run(20, 22)], sources, {
    onBrought: (_gap, one) => void brought.push(Number(one)),
    signal: never,
  });
  assert.deepEqual(results, [
    {
      gap: run(5, 9),
      missing: [],
      answers: [
        { source: "peer", segments: 2, answer: "lacks some" },
        { source: "db", segments: 2, answer: undefined },
      ],
    },
    {
      gap: run(20, 22),
      missing: [run(21, 22)],
      answers: [
        { source: "peer", segments: 0, answer: "lacks some" },
        { source: "db", segments: 1, answer: "lacks some" },
        { source: "c", segments: 0, answer: "lacks some" },
      ],
    },
  ]);
  assert.deepEqual(brought, [5, 7, 6, 8, 20]);
  assert.deepEqual(journal, [
    ...["peer begins", "db begins", "c begins"],
    ...["peer asked for 5-9", "db asked for 6-7", "db asked for 8-9"],
    ...["peer asked for 20-22", "db asked for 20-22", "c asked for 21-22"],
    // What came may be what another one's segments are tied to.
    ...["peer asked for 21-22", "db asked for 21-22", "c asked for 21-22"],
    ...["peer ends", "db ends", "c ends"],
  ]);
});

test("healGaps(): who fails is not asked again in the round, and keeps nobody from answering", async () => {
  const journal: string[] = [];
  let tries = 0;
  const failing: HealingSource = {
    ...having("bad", [], journal),
    bring() {
      tries++;
      return Promise.reject(serverError("28P01", "password authentication failed"));
    },
  };
  const results = await healGaps([run(5, 6), run(8, 9)], [failing, having("good", [5, 8], journal)], {
    signal: never,
  });
  assert.deepEqual(results.map(({ missing }) => missing), [[], []]);
  assert.equal(tries, 1);
  for (const { answers } of results) assert.match(answers[0]?.answer ?? "", /password authentication failed/);
});

test("healGaps() ends when it is told to, and every source is let go of", async () => {
  const journal: string[] = [];
  const stop = new AbortController();
  const stopping: HealingSource = {
    ...having("one", [], journal),
    bring: (_run, _onBrought, signal) => {
      stop.abort(new Error("Stopped"));
      return Promise.reject(signal.reason);
    },
  };
  await assert.rejects(
    healGaps([run(5, 6)], [stopping, having("two", [5], journal)], { signal: stop.signal }),
  );
  assert.deepEqual(journal, ["one begins", "two begins", "one ends", "two ends"]);
});
