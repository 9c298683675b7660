import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openDiskThread } from "../../lib/archive/disk_thread.ts";
import { code, MEMORY_BYTES, onDisk, pattern } from "./on_disk.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

test("the disk thread ends once what was asked is done, and refuses what comes later", () =>
  inTemporaryDirectory(async (root) => {
    const disk = openDiskThread(root, MEMORY_BYTES);
    const calls = Array.from({ length: 200 }, (_, i) => disk.makeDirectory(`d${i}`, 0o700));
    await Promise.all([...calls, disk.close()]);
    assert.equal(readdirSync(root).length, 200);
    await assert.rejects(disk.list("."), /Cannot use the disk: its thread has ended/);
    await disk.close();
  }));

test("with patience the answers are the same, and a message never waits for the thread that must read it", () =>
  onDisk(openDiskThread, async (disk, root) => {
    disk.setPatience?.(60_000);
    const file = await disk.create("a", 0o600);
    const missing = disk.rename("absent", "b");
    const [written, size, , refused] = await Promise.allSettled([
      file.write(pattern(100), 0).then(() => file.sync()),
      file.bytes(),
      file.sync(),
      missing,
    ]);
    assert.equal(written.status, "fulfilled");
    assert.deepEqual(size, { status: "fulfilled", value: 100 });
    assert.equal(refused.status, "rejected");
    assert.ok(readFileSync(join(root, "a")).equals(pattern(100)));
    await file.close();
    // A write that fails is answered by a message, after the thread has stood still for it.
    await assert.rejects(file.write(disk.allocate(4096), 0), code("EBADF"));
  }));

test("no wake-up is lost between a caller that stands still, gives up standing still, or never did, and the disk", () =>
  onDisk(openDiskThread, async (disk, root) => {
    const file = await disk.create("a", 0o600);
    const bytes = disk.allocate(64);
    const rounds = 3000;
    for (let round = 0; round < rounds; round++) {
      disk.setPatience?.([0, 3, 0.01][round % 3]!);
      bytes.fill(round & 255);
      await Promise.all([file.write(bytes, round * bytes.length), file.sync()]);
      // The thread is now awake, now asleep, when the next one comes.
      if (round % 7 === 0) await new Promise((resolve) => setTimeout(resolve, round % 3));
    }
    const written = readFileSync(join(root, "a"));
    assert.equal(written.length, rounds * bytes.length);
    for (let round = 0; round < rounds; round++) assert.equal(written[round * bytes.length], round & 255);
    await file.close();
  }));
