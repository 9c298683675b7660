import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { denoCommand } from "../../tasks/install_locked.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const LIMIT_MS = 20;
const RUNS = 21;
const ROUNDS = 5;

test(
  `the executable of deno task compile:bun tells its version within ${LIMIT_MS} ms`,
  { timeout: 120_000 },
  async () => {
    const directory = mkdtempSync(join(tmpdir(), "wv-start-"));
    try {
      const walvault = join(directory, "walvault");
      const [command, ...first] = denoCommand();
      const build = [...first, "run", "--allow-all", "tasks/compile_bun.ts", "--output", walvault];
      assert.equal(spawnSync(command, build, { cwd: ROOT }).status, 0);

      const mediansMs: number[] = [];
      for (let round = 0; round < ROUNDS; round++) {
        await sleep(500);
        mediansMs.push(
          medianMs(() => spawnSync(walvault, ["--version"], { env: { PATH: "/usr/bin:/bin" } })),
        );
      }
      // The best round: the limit is for the program, not for what else the machine does meanwhile.
      const bestMs = Math.min(...mediansMs);
      const rounds = mediansMs.map((ms) => ms.toFixed(1)).join(", ");
      process.stdout.write(
        `start-up: median ${bestMs.toFixed(1)} ms (medians of ${RUNS} runs each: ${rounds})\n`,
      );
      assert.ok(bestMs <= LIMIT_MS, `${bestMs} ms`);
    } finally {
      rmSync(directory, { recursive: true });
    }
  },
);

function medianMs(action: () => void): number {
  const times = Array.from({ length: RUNS }, () => {
    const startedAt = performance.now();
    action();
    return performance.now() - startedAt;
  });
  return times.sort((a, b) => a - b)[RUNS >> 1]!;
}
