import { test } from "node:test";
import { playThroughput } from "./throughput.ts";

test("much WAL onto a disk that stalls: memory, delays, descriptors and files stay within their limits", {
  timeout: 60_000,
}, async () => {
  await playThroughput({ seconds: 5, megabytesPerSecond: 200, stallEveryMs: 2000, stallMs: 700 });
});
