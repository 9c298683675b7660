import assert from "node:assert/strict";
import { test } from "node:test";
import { DamagedFileError } from "../../lib/archive/damaged_file.ts";
import { IndexKeeper } from "../../lib/archive/index_keeper.ts";
import { errorOf } from "../../lib/archive/index_threads.ts";
import type { IndexWorker } from "../../lib/archive/index_worker.ts";
import { type Machine, onSimDisk } from "./on_sim_disk.ts";

/** A worker that takes 100 ms for each segment, and remembers what was asked of it. */
class FakeWorker {
  readonly log: string[] = [];
  missing: readonly string[] = [];
  end: "ended" | "stuck" = "ended";
  readonly answers = new Map<string, "unresolved" | "gone" | Error>();
  constructor(private readonly machine: Machine) {}

  open(): IndexWorker {
    this.log.push("open");
    return {
      index: async (name) => {
        await this.machine.sleep(100);
        this.log.push(name);
        const answer = this.answers.get(name);
        if (answer instanceof Error) throw answer;
        return answer ?? "settled";
      },
      missing: (limit) => {
        this.log.push("look");
        return Promise.resolve(this.missing.slice(0, limit));
      },
      close: () => {
        this.log.push("close");
        return Promise.resolve(this.end);
      },
    };
  }
}

function withKeeper(
  use: (keeper: IndexKeeper, worker: FakeWorker, machine: Machine, told: string[]) => Promise<void>,
  prepare: (worker: FakeWorker) => void = () => {},
): Promise<void> {
  return onSimDisk(async (machine) => {
    const worker = new FakeWorker(machine);
    prepare(worker);
    const told: string[] = [];
    const keeper = new IndexKeeper({
      openWorker: () => worker.open(),
      resting: false,
      clock: machine.clock,
      events: {
        segmentIndexed: () => {},
        segmentLeftAlone: ({ segment, problem }) => void told.push(`${segment} left alone: ${problem}`),
        indexingHeldUp: ({ error }) => void told.push((error as Error).message),
      },
    });
    try {
      await use(keeper, worker, machine, told);
    } finally {
      await keeper.stop();
    }
  });
}

test("the keeper indexes what it finds, then what is published, and lets the worker go", () =>
  withKeeper(async (keeper, worker, { sleep }) => {
    await sleep(1000);
    assert.deepEqual(worker.log, ["open", "look", "a", "b"]);
    keeper.published("c");
    await sleep(1000);
    assert.deepEqual(worker.log.slice(4), ["c"]);
    await sleep(60_000);
    assert.deepEqual(worker.log.slice(5), ["close"]);
    keeper.published("d");
    await sleep(1000);
    assert.deepEqual(worker.log.slice(6), ["open", "d"]);
  }, (worker) => void (worker.missing = ["a", "b"])));

test("the keeper waits while segments come in a burst", () =>
  withKeeper(async (keeper, worker, { sleep }) => {
    await sleep(100);
    for (let i = 0; i < 20; i++) {
      keeper.published(`s${i}`);
      await sleep(100);
    }
    // The first one could not be known to be one.
    assert.deepEqual(worker.log, ["open", "look", "s0"]);
    await sleep(5000);
    assert.equal(worker.log.length, 22);
  }));

test("more than it can remember is found by looking", () =>
  withKeeper(async (keeper, worker, { sleep }) => {
    await sleep(100);
    for (let i = 0; i < 300; i++) keeper.published(`s${i}`);
    worker.missing = ["s299"];
    await sleep(60_000);
    assert.deepEqual(worker.log.slice(-4, -1), ["s255", "look", "s299"]);
  }));

test("an index that waits for the next segment is made again when that is there", () =>
  withKeeper(async (keeper, worker, { sleep }) => {
    await sleep(100);
    worker.answers.set("a", "unresolved");
    keeper.published("a");
    await sleep(1000);
    worker.answers.clear();
    keeper.published("b");
    await sleep(1000);
    assert.deepEqual(worker.log, ["open", "look", "a", "a", "b"]);
  }));

test("a damaged segment is left alone; after another failure it tries again, and tells it once", () =>
  withKeeper(async (keeper, worker, { sleep }, told) => {
    await sleep(100);
    worker.answers.set("a", new DamagedFileError("a is damaged"));
    keeper.published("a");
    await sleep(1000);
    assert.deepEqual(told.splice(0), ["a left alone: a is damaged"]);
    worker.answers.set("b", new Error("no room"));
    keeper.published("b");
    await sleep(70_000);
    assert.deepEqual(told, ["no room"]);
    worker.answers.clear();
    await sleep(70_000);
    assert.deepEqual(worker.log, [
      "open",
      "look",
      "a",
      "b",
      "close",
      "open",
      "b",
      "close",
      "open",
      "b",
    ]);
  }));

test("a keeper that is stopped at any moment ends", async () => {
  for (let ms = 0; ms < 500; ms += 10) {
    await withKeeper(async (keeper, _worker, { sleep }) => {
      keeper.published("a");
      await sleep(ms);
    }, (worker) => void (worker.missing = ["x", "y"]));
  }
});

test("a keeper whose thread could not be ended says so, at the end and before", async () => {
  for (const idleMs of [0, 60_000]) {
    await withKeeper(async (keeper, worker, { sleep }) => {
      worker.end = "stuck";
      keeper.published("a");
      await sleep(50 + idleMs);
      worker.end = idleMs === 0 ? "stuck" : "ended";
      assert.equal(await keeper.stop(), "stuck");
    });
  }
  await withKeeper(async (keeper, _worker, { sleep }) => {
    await sleep(50);
    assert.equal(await keeper.stop(), "ended");
  });
});

test("what can't be indexed holds nothing up, whichever way the error came, and is told once", async () => {
  for (const ErrorClass of [DamagedFileError, RangeError, SyntaxError]) {
    const { name, message } = new ErrorClass("3 bytes");
    await withKeeper(async (keeper, worker, { sleep }, told) => {
      worker.answers.set("a", errorOf({ name, message, code: undefined }));
      await sleep(1000);
      assert.deepEqual(worker.log, ["open", "look", "a", "b"]);
      keeper.published("a");
      keeper.published("c");
      await sleep(5000);
      assert.deepEqual(worker.log.slice(4), ["a", "c"]);
      assert.deepEqual(told, ["a left alone: 3 bytes"]);
    }, (worker) => void (worker.missing = ["a", "b"]));
  }
});
