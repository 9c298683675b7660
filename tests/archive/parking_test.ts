import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { Worker } from "node:worker_threads";
import { openParking, type ParkingKind } from "../../lib/archive/parking.ts";

const inBun = process.versions["bun"] !== undefined;

/** What this runtime can do. */
const KINDS: readonly ParkingKind[] = inBun && process.platform === "linux"
  ? ["futex", "atomics"]
  : ["atomics"];

function elapsedMs(act: () => void): number {
  const start = performance.now();
  act();
  return performance.now() - start;
}

test("the kernel's futex is used where the runtime can call it", () => {
  assert.equal(openParking(process, new Int32Array(new SharedArrayBuffer(8))).kind, KINDS[0]);
  const elsewhere = { ...process, platform: "plan9", arch: "x64", getBuiltinModule: () => assert.fail() };
  assert.equal(openParking(elsewhere, new Int32Array(new SharedArrayBuffer(8))).kind, "atomics");
  const words = new Int32Array(new SharedArrayBuffer(8));
  assert.throws(() => openParking(elsewhere, words, "futex"), /the other thread: it uses futexes/);
});

for (const kind of KINDS) {
  test(`${kind}: a wait ends at once when the word holds something else, and when its time is up`, () => {
    const words = new Int32Array(new SharedArrayBuffer(8));
    const { parking } = openParking(process, words, kind);
    words[1] = 5;
    assert.ok(elapsedMs(() => parking.wait(1, 4, 60_000)) < 30_000);
    const waitedMs = elapsedMs(() => parking.wait(1, 5, 30));
    assert.ok(waitedMs >= 20 && waitedMs < 30_000, `${waitedMs} ms`);
    // Nobody is there.
    parking.wake(1);
  });

  test(`${kind}: a wake ends another thread's wait`, async () => {
    const shared = new SharedArrayBuffer(8);
    const words = new Int32Array(shared);
    const { parking } = openParking(process, words, kind);
    const source = `import process from "node:process";
import { workerData } from "node:worker_threads";
const words = new Int32Array(workerData);
const { parking } = (${openParking})(process, words, "${kind}");
while (Atomics.load(words, 0) === 0) parking.wait(0, 0);
Atomics.store(words, 1, 1);
parking.wake(1);`;
    const worker = new Worker(new URL("data:text/javascript," + encodeURIComponent(source)), {
      workerData: shared,
    });
    const ended = new Promise((resolve, reject) => worker.on("exit", resolve).on("error", reject));
    // It stands still by now, or will not have to.
    await new Promise((resolve) => setTimeout(resolve, 300));
    assert.equal(Atomics.load(words, 1), 0);
    Atomics.store(words, 0, 1);
    parking.wake(0);
    while (Atomics.load(words, 1) === 0) parking.wait(1, 0, 10_000);
    await ended;
  });
}
