import assert from "node:assert/strict";
import { test } from "node:test";
import { simulateFullDisk } from "./simulation.ts";

/** Short lives of a server; between them a restart, failovers and their histories, with and without hard links. */
const SEEDS = [86, 173, 1213, 334];

for (const seed of SEEDS) {
  test(`a disk that is full at any operation loses nothing, and all is archived when it has room: seed ${seed}`, async () => {
    const { operations } = await simulateFullDisk(seed, { fullAt: Infinity, fullMs: 0 });
    assert.ok(operations > 50, `${operations} operations`);
    for (let fullAt = 1; fullAt <= operations; fullAt++) {
      for (const fullMs of [0, 20_000]) {
        try {
          await simulateFullDisk(seed, { fullAt, fullMs });
        } catch (cause) {
          throw new Error(`Not so when it is full at operation ${fullAt} for ${fullMs} ms`, { cause });
        }
      }
    }
  });
}
