import assert from "node:assert/strict";
import { test } from "node:test";
import { endThread } from "../../lib/archive/end_thread.ts";

function threadThat(terminate: () => Promise<unknown>) {
  const thread = { isLetGo: false, terminate, unref: () => void (thread.isLetGo = true) };
  return thread;
}

test("endThread() waits for a thread that ends", async () => {
  const thread = threadThat(() => new Promise((resolve) => setTimeout(resolve, 20)));
  assert.equal(await endThread(thread), "ended");
  assert.equal(thread.isLetGo, false);
});

test("endThread() leaves a thread that does not come out of its system call to the end of the process", async () => {
  const thread = threadThat(() => new Promise(() => {}));
  assert.equal(await endThread(thread), "stuck");
  assert.equal(thread.isLetGo, true);
});
