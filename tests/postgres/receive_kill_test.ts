import { test } from "node:test";
import { killPrimary, killReceiver } from "./receiver_kills.ts";

const timeout = 300_000;

test("receive: 10 kills under load, and nothing that was reported as flushed is missing or changed", {
  timeout,
}, async () => {
  await killReceiver({ rounds: 10, seed: 1 });
});

test("receive as the synchronous standby: 3 kills of the primary, and no acknowledged commit is missing", {
  timeout,
}, async () => {
  await killPrimary({ rounds: 3, seed: 2 });
});
