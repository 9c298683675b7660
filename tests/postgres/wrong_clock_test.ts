import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import process from "node:process";
import { test } from "node:test";
import { denoCommand } from "../../tasks/install_locked.ts";
import { WorkDirectory } from "./receiver.ts";
import { whyNoWrongClock, WrongClock } from "./wrong_clock.ts";

const problem = whyNoWrongClock();
const why = problem === undefined ? "" : ` (skipped: ${problem})`;
const options = { skip: problem !== undefined };

test(`WrongClock.turn() counts for programs that start, and for none else${why}`, options, () => {
  using directory = new WorkDirectory();
  using clock = new WrongClock(directory);
  for (const seconds of [0, 3600, -3600]) {
    clock.turn(seconds);
    const told = Number(spawnSync("date", ["+%s"], { env: clock.environment, encoding: "utf8" }).stdout);
    assert.ok(Math.abs(told - seconds - Date.now() / 1000) < 60, `${seconds}: ${told}`);
  }
});

test(`WrongClock.runBackwards() is seen by a program that runs${why}`, options, async () => {
  using directory = new WorkDirectory();
  using clock = new WrongClock(directory);
  const [command, ...words] = denoCommand();
  const look = "console.log(Date.now()); await Deno.stdin.read(new Uint8Array(1)); console.log(Date.now())";
  const child = spawn(command, [...words, "eval", look], {
    env: { ...process.env, ...clock.environment },
    stdio: ["pipe", "pipe", "inherit"],
  });
  clock.wornBy(child.pid);
  let told = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => told += text);
  await once(child.stdout, "data");
  await clock.runBackwards(1000);
  child.stdin.end("\n");
  await once(child, "close");
  const [before, after] = told.trim().split("\n").map(Number);
  assert.ok(after! < before!, told);
});
