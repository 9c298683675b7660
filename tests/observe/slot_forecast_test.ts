import assert from "node:assert/strict";
import { test } from "node:test";
import {
  awaitedBytes,
  forecastLimitMs,
  keptBytes,
  limitInMs,
  type SlotSample,
} from "../../lib/observe/slot_forecast.ts";
import { type HaltLimits, SlotJudge } from "../../lib/observe/slot_judgement.ts";
import { lsn } from "../../lib/wal/lsn.ts";

const MIB = 1 << 20;
const BASE = 1n << 33n;

interface Given {
  readonly second: number;
  /** That the server has written, and that the slot has confirmed. */
  readonly written: number;
  readonly confirmed?: number | "nothing";
  readonly safe?: number | undefined;
  readonly walStatus?: string;
  /** Durable at the receiver, which the slot need not know. */
  readonly durable?: number;
}

function sample(
  { second, written, confirmed = 0, safe = 1000 * MIB, walStatus = "extended", durable }: Given,
): SlotSample {
  return {
    atMs: second * 1000,
    serverLsn: lsn(BASE + BigInt(written)),
    restartLsn: confirmed === "nothing" ? undefined : lsn(BASE + BigInt(confirmed)),
    walStatus,
    safeWalBytes: safe === undefined ? undefined : BigInt(safe),
    durableLsn: durable === undefined ? undefined : lsn(BASE + BigInt(durable)),
  };
}

test("keptBytes() is what the server keeps, 0 at least, and unknown for a slot that reserves nothing", () => {
  assert.equal(keptBytes(sample({ second: 0, written: 5, confirmed: 2 })), 3n);
  assert.equal(keptBytes(sample({ second: 0, written: 2, confirmed: 5 })), 0n);
  assert.equal(keptBytes(sample({ second: 0, written: 5, confirmed: "nothing" })), undefined);
});

/** A slot that stands still while the server writes so much a second, one sample each half minute. */
function stuck(bytesPerSecond: number, count: number, safe?: number): SlotSample[] {
  return Array.from(
    { length: count },
    (_, i) =>
      sample({ second: i * 30, written: i * 30 * bytesPerSecond, ...(safe === undefined ? {} : { safe }) }),
  );
}

for (
  const [name, samples, want] of [
    ["no sample", [], undefined],
    ["two samples are too few", stuck(MIB, 2), undefined],
    ["three show the growth", stuck(MIB, 3, 3600 * MIB), 3_600_000],
    ["no limit", stuck(MIB, 5).map((one) => ({ ...one, safeWalBytes: undefined })), undefined],
    ["the limit is passed already", [sample({ second: 0, written: 0, safe: -5 })], 0],
    ["nothing grows", stuck(0, 30), undefined],
    // safe_wal_size goes down and up by a segment with every segment.
    [
      "a slot that keeps up",
      stuck(MIB, 30).map((one, i) => ({
        ...one,
        restartLsn: one.serverLsn,
        safeWalBytes: BigInt(1000 * MIB - (i % 3) * 5 * MIB),
      })),
      undefined,
    ],
    // At 10 MiB a second since a minute: what was before does not make it longer.
    ["a growth that began now", [
      ...stuck(0, 20),
      ...[20, 21, 22].map((i) => sample({ second: i * 30, written: (i - 20) * 300 * MIB, safe: 600 * MIB })),
    ], 60_000],
    ["a growth that is over is still in the window", [
      sample({ second: 0, written: 0 }),
      ...[1, 2, 3, 4].map((i) => sample({ second: i * 30, written: 120 * MIB, safe: 100 * MIB })),
    ], 100_000],
    ["a growth of an hour ago counts no more", [
      sample({ second: 0, written: 0 }),
      ...[0, 1, 2, 3].map((i) => sample({ second: 3600 + i * 30, written: 120 * MIB })),
    ], undefined],
    [
      "it shrinks",
      stuck(0, 5).map((one, i) => ({ ...one, restartLsn: lsn(BASE - 100n + BigInt(i)) })),
      undefined,
    ],
  ] as const
) {
  test(`forecastLimitMs(): ${name}`, () => {
    const got = forecastLimitMs(samples);
    if (want === undefined || got === undefined) assert.equal(got, want);
    else assert.ok(Math.abs(got - want) <= 1, `${got}`);
  });
}

test("limitInMs() is never where nothing is used up", () => {
  assert.equal(limitInMs(100n, 0), undefined);
  assert.equal(limitInMs(100n, -1), undefined);
  assert.equal(limitInMs(100n, NaN), undefined);
  assert.equal(limitInMs(100n, 2), 50);
  assert.equal(limitInMs(-100n, 2), 0);
});

function judge(limits: Partial<HaltLimits> = {}): (given: Given | "absent") => string[] {
  const slot = new SlotJudge({ lagBytes: undefined, afterMs: undefined, ...limits });
  return (given) => slot.next(given === "absent" ? given : sample(given)).map(({ kind }) => kind);
}

test("SlotJudge tells each state once, and again when it comes back", () => {
  const next = judge();
  const at = (second: number, walStatus: string) => next({ second, written: 100, walStatus });
  assert.deepEqual(at(0, "reserved"), []);
  assert.deepEqual(at(30, "unreserved"), ["unreserved"]);
  assert.deepEqual(at(60, "unreserved"), []);
  assert.deepEqual(at(90, "lost"), ["lost"]);
  assert.deepEqual(at(120, "lost"), []);
  assert.deepEqual(at(150, "reserved"), []);
  assert.deepEqual(at(180, "unreserved"), ["unreserved"]);
  assert.deepEqual(next("absent"), ["absent"]);
  assert.deepEqual(next("absent"), []);
  assert.deepEqual(at(240, "reserved"), []);
  assert.deepEqual(next("absent"), ["absent"]);
});

test("SlotJudge warns once when the limit is less than an hour away, and again after more than two", () => {
  const next = judge();
  const grow = (second: number, safe: number) => next({ second, written: second * MIB, safe });
  assert.deepEqual(grow(0, 5000 * MIB), []);
  assert.deepEqual(grow(30, 5000 * MIB), []);
  assert.deepEqual(grow(60, 3700 * MIB), []);
  assert.deepEqual(grow(90, 3500 * MIB), ["limit near"]);
  assert.deepEqual(grow(120, 100 * MIB), []);
  assert.deepEqual(grow(150, 5000 * MIB), [], "between one hour and two nothing changes");
  assert.deepEqual(grow(180, 3500 * MIB), []);
  assert.deepEqual(grow(210, 9000 * MIB), []);
  assert.deepEqual(grow(240, 3500 * MIB), ["limit near"]);
});

test("awaitedBytes() is what the server keeps and the receiver has not", () => {
  const at = { second: 0, written: 9, confirmed: 2 };
  assert.equal(awaitedBytes(sample(at)), 7n);
  assert.equal(awaitedBytes(sample({ ...at, durable: 1 })), 7n);
  assert.equal(awaitedBytes(sample({ ...at, durable: 5 })), 4n);
  assert.equal(awaitedBytes(sample({ ...at, durable: 9 })), 0n);
  assert.equal(awaitedBytes(sample({ ...at, durable: 10 })), 7n, "of another line of WAL");
  assert.equal(awaitedBytes(sample({ ...at, confirmed: "nothing", durable: 5 })), undefined);
});

test("SlotJudge halts for nobody who has what the server keeps, and says once that the slot is held back", () => {
  for (const limits of [{ afterMs: 60_000 }, { lagBytes: 10n }, { afterMs: 60_000, lagBytes: 10n }]) {
    const next = judge(limits);
    const told: string[] = [];
    // Behind a gap: the slot stands still, all that comes becomes durable.
    for (let i = 0; i < 10; i++) {
      told.push(...next({ second: i * 30, written: 100 + i * 100, confirmed: 0, durable: 95 + i * 100 }));
    }
    assert.deepEqual(told, ["held back"], Object.keys(limits).join());
    // Idle: nothing is there to become durable.
    for (let i = 10; i < 20; i++) {
      told.push(...next({ second: i * 30, written: 1000, confirmed: 0, durable: 1000 }));
    }
    assert.deepEqual(told, ["held back"]);
    // The gap is healed; then the receiver's disk stands still.
    assert.deepEqual(next({ second: 600, written: 1000, confirmed: 1000, durable: 1000 }), []);
    for (let i = 21; i < 30; i++) {
      told.push(...next({ second: i * 30, written: i * 100, confirmed: 1000, durable: 1000 }));
    }
    assert.deepEqual(told, ["held back", "halt"]);
  }
});

test("SlotJudge without limits never halts", () => {
  const next = judge();
  for (let hour = 0; hour < 50; hour++) {
    assert.ok(!next({ second: hour * 3600, written: hour * 1e9, safe: undefined }).includes("halt"));
  }
});

test("SlotJudge with --halt-lag halts when more is kept, whether the slot moves or not", () => {
  const next = judge({ lagBytes: 100n });
  assert.deepEqual(next({ second: 0, written: 100 }), []);
  assert.deepEqual(next({ second: 30, written: 151, confirmed: 50 }), ["halt"]);
  assert.deepEqual(next({ second: 60, written: 300, confirmed: 50 }), []);
  assert.deepEqual(next({ second: 90, written: 300, confirmed: 250 }), []);
  assert.deepEqual(next({ second: 120, written: 400, confirmed: 250 }), ["halt"]);
});

test("SlotJudge with --halt-after halts a slot that does not move, not one that has nothing to do", () => {
  const next = judge({ afterMs: 60_000 });
  assert.deepEqual(next({ second: 0, written: 100, confirmed: 100 }), []);
  assert.deepEqual(next({ second: 600, written: 100, confirmed: 100 }), []);
  assert.deepEqual(next({ second: 630, written: 150, confirmed: 100 }), []);
  assert.deepEqual(next({ second: 650, written: 200, confirmed: 100 }), []);
  // It moved, if only a little.
  assert.deepEqual(next({ second: 670, written: 900, confirmed: 101 }), []);
  assert.deepEqual(next({ second: 729, written: 900, confirmed: 101 }), []);
  assert.deepEqual(next({ second: 730, written: 900, confirmed: 101 }), ["halt"]);
});

test("SlotJudge with both limits wants both", () => {
  const next = judge({ lagBytes: 100n, afterMs: 60_000 });
  assert.deepEqual(next({ second: 0, written: 500 }), []);
  assert.deepEqual(next({ second: 59, written: 5000 }), []);
  assert.deepEqual(next({ second: 60, written: 5000 }), ["halt"]);
  const few = judge({ lagBytes: 100n, afterMs: 60_000 });
  few({ second: 0, written: 50 });
  assert.deepEqual(few({ second: 600, written: 50 }), []);
});
