import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { openDiskThread } from "../../lib/archive/disk_thread.ts";
import { openPooledDisk } from "../../lib/archive/pooled_disk.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

const DISKS: readonly { readonly name: string; readonly open: (root: string) => Disk }[] = [
  { name: "the disk thread", open: (root) => openDiskThread(root, 1 << 16) },
  { name: "the pooled disk", open: (root) => openPooledDisk(root, 1 << 16) },
  { name: "the disk on the calling thread", open: openDirectDisk },
];

/**
 * Calls `use` with a process that has ended and that nobody waits for.
 *
 * Its /proc/PID/net can be opened, and reading it fails with EINVAL: a directory that breaks when it is listed, without
 * a broken disk.
 */
async function besideZombie(use: (processId: string) => Promise<void>): Promise<void> {
  const parent = spawn("sh", ["-c", "sleep 0.1 & echo $!; exec sleep 60"], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  try {
    const [told] = await once(parent.stdout, "data");
    const processId = String(told).trim();
    const isZombie = () => / Z /.test(readFileSync(`/proc/${processId}/stat`, "utf8"));
    while (!isZombie()) await new Promise((resolve) => setTimeout(resolve, 10));
    await use(processId);
  } finally {
    parent.kill("SIGKILL");
  }
}

for (const { name, open } of DISKS) {
  test(`${name}: a listing that can't be read is an error, never a short one`, {
    skip: process.platform === "linux" ? false : "it takes Linux's /proc",
  }, () =>
    besideZombie(async (processId) => {
      const disk = open(`/proc/${processId}`);
      try {
        const refused = (error: unknown) => (error as { code?: unknown }).code === "EINVAL";
        await assert.rejects(disk.list("net"), refused);
        await assert.rejects(disk.entries("net"), refused);
        // All of that was survived.
        assert.ok((await disk.list("."))?.includes("net"));
      } finally {
        await disk.close();
      }
    }));

  test(`${name}: a listing has what was there when it was asked for, and not what comes after`, () =>
    inTemporaryDirectory(async (root) => {
      for (let index = 0; index < 2000; index++) writeFileSync(join(root, `a${index}`), "");
      const disk = open(root);
      try {
        const [, before, , refused, entries, , after] = await Promise.allSettled([
          disk.rename("a0", "b0"),
          disk.list("."),
          disk.unlink("a1"),
          disk.unlink("a1"),
          disk.entries("."),
          disk.makeDirectory("c", 0o700),
          disk.list("."),
        ]);
        assert.equal(refused.status, "rejected");
        const names = (result: typeof before) => new Set(result.status === "fulfilled" ? result.value : []);
        assert.deepEqual(["a0", "b0", "a1", "c"].map((each) => names(before).has(each)), [
          false,
          true,
          true,
          false,
        ]);
        assert.equal(entries.status === "fulfilled" && entries.value?.length, 1999);
        assert.equal(names(after).size, 2000);
        assert.ok(names(after).has("c"));
        assert.equal(await disk.list("absent"), undefined);
        assert.equal(await disk.entries("absent"), undefined);
      } finally {
        await disk.close();
      }
    }));
}
