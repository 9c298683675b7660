import assert from "node:assert/strict";
import { test } from "node:test";
import { StopTimeout, withinStop } from "../../lib/receiver/stopping.ts";
import { FakeClock, settled, watched } from "./fakes.ts";

function waiting({ aborted = false } = {}) {
  const clock = new FakeClock();
  const abort = new AbortController();
  if (aborted) abort.abort();
  const work = Promise.withResolvers<string>();
  const outcome = watched(withinStop(work.promise, { clock, timeoutMs: 10_000 }, abort.signal));
  return { clock, abort, work, outcome };
}

test("withinStop() waits as long as it takes while nobody says stop", async () => {
  const { clock, work, outcome } = waiting();
  await clock.advance(1e9);
  assert.equal(outcome.done, false);
  assert.equal(clock.timers, 0);
  work.resolve("done");
  await settled();
  assert.equal(outcome.value, "done");
});

for (const aborted of [false, true]) {
  const when = aborted ? "before it began" : "meanwhile";
  test(`withinStop() told to stop ${when} gives up after the timeout, not before`, async () => {
    const { clock, abort, outcome, work } = waiting({ aborted });
    if (!aborted) await clock.advance(60_000);
    abort.abort();
    await clock.advance(9999);
    assert.equal(outcome.done, false);
    await clock.advance(1);
    assert.ok(outcome.error instanceof StopTimeout);
    assert.equal(clock.timers, 0);
    // What comes too late concerns nobody: the runtimes would end the process for it.
    work.reject(new Error("late"));
    await settled();
  });

  test(`withinStop() told to stop ${when} still gives what comes in time`, async () => {
    const { clock, abort, outcome, work } = waiting({ aborted });
    abort.abort();
    await clock.advance(9999);
    work.resolve("just in time");
    await clock.advance(60_000);
    assert.equal(outcome.value, "just in time");
    assert.equal(clock.timers, 0);
  });

  test(`withinStop() told to stop ${when} still gives the error that comes in time`, async () => {
    const { clock, abort, outcome, work } = waiting({ aborted });
    abort.abort();
    const error = new Error("EIO");
    work.reject(error);
    await settled();
    assert.equal(outcome.error, error);
    assert.equal(clock.timers, 0);
  });
}

test("withinStop() gives what was there already, also when told to stop", async () => {
  const signal = AbortSignal.abort();
  assert.equal(await withinStop(Promise.resolve(1), { clock: new FakeClock(), timeoutMs: 1 }, signal), 1);
});

test("withinStop() leaves no listener and no timer behind", async () => {
  const { clock, abort, outcome, work } = waiting();
  work.resolve("done");
  await settled();
  abort.abort();
  await clock.advance(60_000);
  assert.equal(outcome.value, "done");
  assert.equal(clock.timers, 0);
});
