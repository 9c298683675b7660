import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import {
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { openDiskThread } from "../../lib/archive/disk_thread.ts";
import { openPooledDisk } from "../../lib/archive/pooled_disk.ts";
import { code, MEMORY_BYTES, onDisk, type Open, pattern } from "./on_disk.ts";
import { inTemporaryDirectory } from "./temporary_directory.ts";

/** The disks that write past the page cache, from memory of their own. */
const ALIGNED: readonly (readonly [name: string, open: Open])[] = [
  ["the disk thread", openDiskThread],
  ["the pooled disk", openPooledDisk],
];

const DISKS = [...ALIGNED, ["the direct disk", (root: string) => openDirectDisk(root)] as const];

/** How many descriptors of this process write past the page cache, to files below `root`. */
function directDescriptors(root: string): number {
  return readdirSync("/proc/self/fd").filter((descriptor) => {
    try {
      if (!readlinkSync(`/proc/self/fd/${descriptor}`).startsWith(realpathSync(root))) return false;
      const flags = /flags:\s+([0-7]+)/.exec(readFileSync(`/proc/self/fdinfo/${descriptor}`, "utf8"))?.[1];
      return (parseInt(flags ?? "0", 8) & 0o40000) !== 0;
    } catch {
      // Another test closed it meanwhile, or it is the directory's own.
      return false;
    }
  }).length;
}

for (const [name, open] of ALIGNED) {
  test(`${name}: long writes are the same past the page cache and through it, wherever they begin`, () =>
    onDisk(open, async (disk, root) => {
      const memory = disk.allocate(MEMORY_BYTES);
      memory.set(pattern(MEMORY_BYTES));
      for (const from of [0, 1, 4095, 4096, 5000]) {
        for (const length of [4096, 131_072, 131_073, 140_000, 400_000]) {
          for (const shift of [0, 8192, 512]) {
            const file = await disk.create("a", 0o600);
            await file.truncate(MEMORY_BYTES);
            // Zeros in the page cache, not yet on the disk, must not come back over what is written past it.
            await file.write(new Uint8Array(200_000), 0);
            await file.write(memory.subarray(from, from + length), from + shift);
            await file.sync();
            const want = new Uint8Array(MEMORY_BYTES);
            want.set(memory.subarray(from, from + length), from + shift);
            assert.ok(readFileSync(join(root, "a")).equals(want), `${length} bytes at ${from + shift}`);
            const back = new Uint8Array(length);
            assert.equal(await file.read(back, from + shift), length);
            assert.ok(Buffer.from(back).equals(want.subarray(from + shift, from + shift + length)));
            await file.close();
            await disk.unlink("a");
          }
        }
      }
      assert.equal(directDescriptors(root), 0);
    }));

  test(`${name}: a file that is written in long pieces is opened past the page cache, where the system can`, () =>
    onDisk(open, async (disk, root) => {
      const probe = join(root, "probe");
      writeFileSync(probe, "");
      const flag = (constants as { readonly O_DIRECT?: number }).O_DIRECT ?? 0;
      let able = flag !== 0;
      try {
        closeSync(openSync(probe, constants.O_WRONLY | flag));
      } catch {
        able = false;
      }
      const file = await disk.create("a", 0o600);
      assert.equal(directDescriptors(root), able ? 1 : 0);
      await file.close();
      assert.equal(directDescriptors(root), 0);
    }));

  test(`${name} allocates what it was given, and no more`, () =>
    onDisk(open, (disk) => {
      const a = disk.allocate(1000);
      const b = disk.allocate(MEMORY_BYTES - 4096);
      assert.equal(a.length, 1000);
      assert.equal(b.length, MEMORY_BYTES - 4096);
      assert.ok(a.every((byte) => byte === 0));
      assert.throws(() => disk.allocate(1), RangeError);
      return Promise.resolve();
    }));
}

for (const [name, open] of DISKS) {
  test(`${name} creates, writes, reads, cuts, syncs and closes`, () =>
    onDisk(open, async (disk, root) => {
      const file = await disk.create("a", 0o640);
      await file.write(pattern(1000), 0);
      await file.write(pattern(10, 2), 5000);
      await file.sync();
      assert.equal(await file.bytes(), 5010);
      assert.deepEqual(readFileSync(join(root, "a")).subarray(0, 1000), Buffer.from(pattern(1000)));
      const buffer = new Uint8Array(100);
      assert.equal(await file.read(buffer, 4950), 60);
      assert.deepEqual(buffer.subarray(50, 60), pattern(10, 2));
      assert.equal(await file.read(buffer, 9999), 0);
      await file.truncate(8192);
      assert.equal(await file.bytes(), 8192);
      await file.close();
      assert.equal(statSync(join(root, "a")).mode & 0o777, 0o640);
    }));

  test(`${name} gives modes whatever the umask`, () =>
    inTemporaryDirectory(async (root) => {
      const before = process.umask(0o077);
      const disk = open(root, MEMORY_BYTES);
      try {
        await (await disk.create("file", 0o640)).close();
        await disk.makeDirectory("directory", 0o750);
      } finally {
        process.umask(before);
        await disk.close();
      }
      assert.equal(statSync(join(root, "file")).mode & 0o777, 0o640);
      assert.equal(statSync(join(root, "directory")).mode & 0o777, 0o750);
    }));

  test(`${name} appends behind whatever is there, wherever a write says`, () =>
    onDisk(open, async (disk, root) => {
      const path = join(root, "ledger");
      const [first, second] = [await disk.append("ledger", 0o600), await disk.append("ledger", 0o600)];
      await first.write(Buffer.from("one\n"), 0);
      await second.write(Buffer.from("two\n"), 0);
      await first.write(Buffer.from("three\n"), 0);
      await first.sync();
      assert.equal(await second.bytes(), 14);
      const last = new Uint8Array(2);
      assert.equal(await second.read(last, 12), 2);
      assert.equal(Buffer.from(last).toString(), "e\n");
      for (const file of [first, second]) await file.close();
      assert.equal(readFileSync(path, "utf8"), "one\ntwo\nthree\n");
      assert.equal(statSync(path).mode & 0o777, 0o600);
      // No link is followed out of the archive.
      symlinkSync(path, join(root, "link"));
      await assert.rejects(disk.append("link", 0o600), code("ELOOP"));
    }));

  test(`${name} links, renames, removes and lists`, () =>
    onDisk(open, async (disk, root) => {
      await disk.makeDirectory("below", 0o700);
      await (await disk.create("below/a", 0o600)).close();
      await disk.link("below/a", "b");
      await disk.rename("b", "c");
      await disk.syncDirectory(".");
      await disk.syncDirectory("below");
      assert.deepEqual([...await disk.list(".") ?? []].sort(), ["below", "c"]);
      assert.equal(statSync(join(root, "c")).ino, statSync(join(root, "below/a")).ino);
      await disk.unlink("below/a");
      assert.deepEqual(await disk.list("below"), []);
      assert.equal(await disk.list("absent"), undefined);
      const { freeBytes, totalBytes } = await disk.space();
      assert.ok(freeBytes > 0 && totalBytes > freeBytes);
    }));

  test(`${name} tells what stands under a name, and follows no link`, () =>
    onDisk(open, async (disk, root) => {
      writeFileSync(join(root, "file"), "four");
      symlinkSync("file", join(root, "link"));
      mkdirSync(join(root, "directory"));
      const file = await disk.entry("file");
      assert.equal(file?.kind, "file");
      assert.equal(file?.bytes, 4);
      assert.equal(file?.ownerId, lstatSync(join(root, "file")).uid);
      assert.equal((await disk.entry("link"))?.kind, "symlink");
      assert.equal((await disk.entry("directory"))?.kind, "directory");
      assert.equal((await disk.entry("."))?.kind, "directory");
      assert.equal(await disk.entry("absent"), undefined);
      await assert.rejects(disk.open("link"), code("ELOOP"));
      await assert.rejects(disk.create("link", 0o600), code("EEXIST"));
      symlinkSync("directory", join(root, "directory_link"));
      await assert.rejects(
        disk.syncDirectory("directory_link"),
        (error) => code("ELOOP")(error) || code("ENOTDIR")(error),
      );
    }));

  test(`${name}'s errors carry the system's code`, () =>
    onDisk(open, async (disk) => {
      await (await disk.create("a", 0o600)).close();
      await (await disk.create("b", 0o600)).close();
      await assert.rejects(disk.create("a", 0o600), code("EEXIST"));
      await assert.rejects(disk.create("absent/a", 0o600), code("ENOENT"));
      await assert.rejects(disk.link("a", "b"), code("EEXIST"));
      await assert.rejects(disk.link("absent", "c"), code("ENOENT"));
      await assert.rejects(disk.rename("absent", "c"), code("ENOENT"));
      await assert.rejects(disk.unlink("absent"), code("ENOENT"));
      await assert.rejects(disk.list("a"), code("ENOTDIR"));
      await assert.rejects(disk.syncDirectory("absent"), code("ENOENT"));
      assert.equal(await disk.open("absent"), undefined);
      const reader = await disk.open("a");
      await assert.rejects(reader!.write(pattern(1), 0), code("EBADF"));
      await reader!.close();
      await assert.rejects(
        disk.unlink("x".repeat(20_000)),
        (error) => error instanceof RangeError || code("ENAMETOOLONG")(error),
      );
      // All of that was survived.
      assert.equal((await disk.list("."))?.length, 2);
    }));

  test(`${name} keeps the order of many calls`, () =>
    onDisk(open, async (disk) => {
      const file = await disk.create("a", 0o600);
      const memory = disk.allocate(4);
      memory.set([1, 2, 3, 4]);
      const done: number[] = [];
      const calls: Promise<unknown>[] = [];
      for (let i = 0; i < 1000; i++) {
        // Each call's outcome depends on the one before it.
        const call = i % 2 === 0 ? disk.link("a", `b${i}`) : disk.rename(`b${i - 1}`, `c${i}`);
        calls.push(call.then(() => done.push(i)));
      }
      await Promise.all(calls);
      assert.deepEqual(done, Array.from({ length: 1000 }, (_, i) => i));
      assert.equal((await disk.list("."))?.length, 501);
      await file.close();
    }));

  test(`${name} keeps the order of calls made while others wait`, () =>
    onDisk(open, async (disk) => {
      const memory = disk.allocate(256);
      for (let i = 0; i < 256; i++) memory[i] = i;
      const file = await disk.create("a", 0o600);
      const written: Promise<void>[] = [];
      let next = 0;
      // Whenever one call settles another is made: some of them wait, some find a place that was just left.
      const write = (): void => {
        if (next >= 3000) return;
        const value = next++;
        const call = file.write(memory.subarray(value & 255, (value & 255) + 1), value >> 8);
        written.push(call);
        void call.then(write);
      };
      for (let i = 0; i < 100; i++) write();
      for (let count = 0; count < written.length; count++) await written[count];
      const content = new Uint8Array(20);
      assert.equal(await file.read(content, 0), 12);
      // The last write of each byte won; the last byte is not written full circle.
      assert.deepEqual([...content.subarray(0, 12)], [...Array<number>(11).fill(255), (3000 - 1) & 255]);
      await file.close();
    }));

  test(`${name} moves any number of bytes, by many callers at once`, () =>
    onDisk(open, async (disk) => {
      const sizes = [0, 1, 1000, 256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 1_000_000];
      await Promise.all(sizes.map(async (bytes, index) => {
        const file = await disk.create(`f${index}`, 0o600);
        await file.write(pattern(bytes, index), 3);
        const back = new Uint8Array(bytes + 10);
        assert.equal(await file.read(back, 3), bytes);
        assert.deepEqual(back.subarray(0, bytes), pattern(bytes, index));
        await file.close();
      }));
    }));

  test(`${name} takes bytes of its own memory and others in the order of the calls`, () =>
    onDisk(open, async (disk) => {
      const own = disk.allocate(4);
      own.set([9, 9, 9, 9]);
      const file = await disk.create("a", 0o600);
      const [, , size] = await Promise.all([
        file.write(Uint8Array.of(1, 1, 1, 1), 0),
        file.write(own, 0),
        file.bytes(),
        file.write(Uint8Array.of(2), 3),
        file.sync(),
      ]);
      assert.equal(size, 4);
      const content = new Uint8Array(4);
      await file.read(content, 0);
      assert.deepEqual([...content], [9, 9, 9, 2]);
      await file.close();
    }));
}

test("the pooled disk is closed while something hangs: that goes on, and nothing else is begun", () =>
  onDisk(openPooledDisk, async (disk, root) => {
    const names = Array.from({ length: 50 }, (_, i) => `d${i}`);
    const calls = Promise.allSettled(names.map((name) => disk.makeDirectory(name, 0o700)));
    assert.equal(await disk.close(), "stuck");
    const outcomes = await calls;
    assert.equal(outcomes[0]?.status, "fulfilled");
    for (const outcome of outcomes.slice(1)) {
      assert.match(
        outcome.status === "rejected" ? outcome.reason.message : "",
        /Cannot use the disk: it is closed/,
      );
    }
    assert.deepEqual(readdirSync(root), ["d0"]);
    await assert.rejects(disk.list("."), /Cannot use the disk: it is closed/);
    assert.equal(await disk.close(), "ended");
  }));
