import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import type { Compression } from "../../lib/archive/compression.ts";
import { openCompressionThreads } from "../../lib/archive/compression_threads.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

/** No thread can be started with it: functions don't travel. */
const REFUSED = { format: "zstd", level: 1, refuse: () => {} } as Compression;

function threadCount(): number {
  return readdirSync("/proc/self/task").length;
}

test("openCompressionThreads() leaves no thread behind when one of the two can't be opened", {
  skip: process.platform === "linux" ? false : "it counts threads in Linux's /proc",
}, () =>
  inTemporaryDirectory(async (root) => {
    const before = threadCount();
    const tries = 20;
    for (let count = 0; count < tries; count++) await assert.rejects(openCompressionThreads(root, REFUSED));
    const deadline = Date.now() + 5000;
    // The runtimes have some of their own that come and go.
    while (threadCount() >= before + tries / 2 && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assert.ok(
      threadCount() < before + tries / 2,
      `${threadCount() - before} threads are left of ${tries} tries`,
    );
  }));

test("openCompressionThreads() gives a disk and a worker, and ends both", () =>
  inTemporaryDirectory(async (root) => {
    const threads = await openCompressionThreads(root, { format: "lz4", level: 1 } as Compression);
    await threads.worker.begin();
    assert.deepEqual(await threads.disk.list("."), []);
    assert.equal(await threads.close(), "ended");
    await assert.rejects(threads.disk.list("."));
  }));
