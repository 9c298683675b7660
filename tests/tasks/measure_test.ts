import assert from "node:assert/strict";
import * as fs from "node:fs";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { programPid, stop, watch, type Watched } from "../bench/measure.ts";

const skip = fs.existsSync("/proc/self/task") ? false : "needs /proc";
const timeout = 30_000;

async function startedPid({ child }: Watched, name: string): Promise<number> {
  for (;;) {
    const pid = programPid(child);
    if (pid !== undefined && fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim() === name) return pid;
    await sleep(10);
  }
}

test("a benchmark that fails leaves none of its programs behind", { skip, timeout }, async () => {
  let pid: number | undefined;
  const fails = async () => {
    await using program = watch(["sleep", "1000"]);
    pid = await startedPid(program, "sleep");
    throw new Error("Cannot compare");
  };
  await assert.rejects(fails(), /Cannot compare/);
  assert.equal(fs.existsSync(`/proc/${pid}`), false);
});

test(
  "stop() waits until a program has ended, and bears that it ended before",
  { skip, timeout },
  async () => {
    await using program = watch(["sleep", "1000"]);
    await startedPid(program, "sleep");
    assert.equal((await stop(program)).exitCode, 130);
    assert.equal((await stop(program)).exitCode, 130);
  },
);

test("stop() tells a program again that missed it", { skip, timeout }, async () => {
  await using program = watch(["bash", "-c", "trap 'trap \"exit 7\" INT' INT; while :; do sleep 0.1; done"]);
  await startedPid(program, "bash");
  await sleep(200);
  assert.equal((await stop(program)).exitCode, 7);
});
