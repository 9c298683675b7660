import process from "node:process";
import { test } from "node:test";
import { playThroughput } from "./throughput.ts";

const seconds = Number(process.env["WALVAULT_SOAK_SECONDS"] ?? "600");

test(`200 MB of WAL a second for ${seconds} s onto a disk that stalls: all stays within its limits`, {
  timeout: (seconds + 120) * 1000,
}, async () => {
  const result = await playThroughput({
    seconds,
    megabytesPerSecond: 200,
    stallEveryMs: 20_000,
    stallMs: 3000,
  });
  process.stdout.write(JSON.stringify(result) + "\n");
});
