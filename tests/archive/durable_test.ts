import assert from "node:assert/strict";
import { test } from "node:test";
import type { Disk } from "../../lib/archive/disk.ts";
import {
  addName,
  copyAnew,
  errorCode,
  firstDifference,
  isOutOfSpace,
  publishBytes,
  readWhole,
  removeName,
} from "../../lib/archive/durable.ts";
import { onSimDisk } from "./on_sim_disk.ts";

const BYTES = Uint8Array.from({ length: 1000 }, (_, index) => index & 255);

async function put(disk: Disk, path: string, bytes: Uint8Array): Promise<void> {
  const file = await disk.create(path, 0o600);
  await file.write(bytes, 0);
  await file.close();
}

test("errorCode() and isOutOfSpace() read the system's codes, and only those", () => {
  assert.equal(errorCode(Object.assign(new Error(""), { code: "EIO" })), "EIO");
  assert.equal(errorCode(Object.assign(new Error(""), { code: 5 })), undefined);
  assert.equal(errorCode({ code: "EIO" }), undefined);
  for (const [code, want] of [["ENOSPC", true], ["EDQUOT", true], ["EIO", false]] as const) {
    assert.equal(isOutOfSpace(Object.assign(new Error(""), { code })), want);
  }
});

for (const hardLinks of [true, false]) {
  test(`addName() never takes a name that is there, with${hardLinks ? "" : "out"} hard links`, () =>
    onSimDisk(async ({ disk }) => {
      await put(disk, "a", BYTES);
      await put(disk, "b", Uint8Array.of(1));
      assert.equal(await addName(disk, { from: "a", to: "b" }, { hardLinks }), false);
      assert.deepEqual(await readWhole(disk, "b", 10), Uint8Array.of(1));
      assert.equal(await addName(disk, { from: "a", to: "c" }, { hardLinks }), true);
      assert.deepEqual(await readWhole(disk, "c", 1000), BYTES);
      assert.equal(await disk.entry("a") !== undefined, hardLinks);
      await assert.rejects(addName(disk, { from: "absent", to: "d" }, { hardLinks }), /ENOENT/);
    }));

  test(`publishBytes() leaves all or nothing, wherever the power is cut, with${hardLinks ? "" : "out"} hard links`, async () => {
    let cuts = 0;
    for (let operation = 1; operation < 12; operation++) {
      for (let seed = 0; seed < 10; seed++) {
        await onSimDisk(async (machine) => {
          let published = false;
          const done = publishBytes(machine.disk, { name: "name", bytes: BYTES, mode: 0o600 }, { hardLinks })
            .then(() => published = true);
          while (!published && machine.sim.operations < operation) await machine.sleep(0.01);
          if (published) await done;
          else cuts++;
          const disk = machine.restart("power cut");
          const found = await readWhole(disk, "name", 1000);
          if (published || found !== undefined) assert.deepEqual(found, BYTES);
          // And the next try succeeds, whatever is left.
          await publishBytes(disk, { name: "name", bytes: BYTES, mode: 0o600 }, { hardLinks });
          const last = machine.restart("power cut");
          assert.deepEqual(await readWhole(last, "name", 1000), BYTES);
        }, seed);
      }
    }
    assert.ok(cuts > 30);
  });
}

test("addName() says what to do where there are no hard links", () =>
  onSimDisk(async ({ disk }) => {
    for (const code of ["ENOTSUP", "EOPNOTSUPP", "EMLINK", "ENOSYS"]) {
      const without = Object.create(disk, {
        link: { value: () => Promise.reject(Object.assign(new Error(code), { code })) },
      }) as Disk;
      await assert.rejects(
        addName(without, { from: "a", to: "b" }, { hardLinks: true }),
        new RegExp(
          `Cannot link "/archive/b": this file system has no hard links \\(${code}\\); use another one, or --no-hard-links`,
        ),
      );
    }
  }));

test("addName() does not take a directory that is closed to everybody for a file system without hard links", () =>
  onSimDisk(async ({ disk }) => {
    const closed = Object.create(disk, {
      link: { value: () => Promise.reject(Object.assign(new Error("EPERM"), { code: "EPERM" })) },
    }) as Disk;
    await assert.rejects(
      addName(closed, { from: "a", to: "b" }, { hardLinks: true }),
      /Cannot link "\/archive\/b": the directory takes no new names \(see: lsattr -d\), or this file system has no hard links \(EPERM\); use another one if that is so, or --no-hard-links/,
    );
  }));

test("publishBytes() changes nothing where the name is taken", () =>
  onSimDisk(async ({ disk }) => {
    await put(disk, "name", Uint8Array.of(1));
    const file = { name: "name", bytes: BYTES, mode: 0o600 };
    assert.equal(await publishBytes(disk, file, { hardLinks: true }), false);
    assert.deepEqual(await readWhole(disk, "name", 10), Uint8Array.of(1));
    assert.deepEqual(await disk.list("."), ["name"]);
  }));

test("removeName() takes it well when the name is gone, and nothing else", () =>
  onSimDisk(async (machine) => {
    await put(machine.disk, "a", BYTES);
    await removeName(machine.disk, "a");
    await removeName(machine.disk, "a");
    await put(machine.disk, "a", BYTES);
    machine.fail("unlink", "EIO");
    await assert.rejects(removeName(machine.disk, "a"), /EIO/);
  }));

test("readWhole() reads up to a limit", () =>
  onSimDisk(async ({ disk }) => {
    await put(disk, "a", BYTES);
    assert.deepEqual(await readWhole(disk, "a", 1000), BYTES);
    assert.equal(await readWhole(disk, "absent", 1000), undefined);
    await assert.rejects(readWhole(disk, "a", 999), /1000 bytes, want at most 999/);
  }));

test("firstDifference() finds the first byte that differs, and where a file ends early", () =>
  onSimDisk(async ({ disk }) => {
    const long = new Uint8Array(600_000);
    await put(disk, "a", long);
    await put(disk, "b", long);
    const files = ["a", "b"] as const;
    assert.equal(await firstDifference(disk, files, { start: 0, end: 600_000 }), undefined);
    assert.equal(await firstDifference(disk, files, { start: 0, end: 0 }), undefined);
    assert.equal(await firstDifference(disk, files, { start: 0, end: 600_001 }), 600_000);
    assert.equal(await firstDifference(disk, ["a", "absent"], { start: 0, end: 5 }), 0);
    assert.equal(await firstDifference(disk, ["absent", "a"], { start: 0, end: 5 }), 0);
    for (const position of [0, 1, 262_143, 262_144, 599_999]) {
      const other = long.slice();
      other[position] = 1;
      await put(disk, `at${position}`, other);
      assert.equal(await firstDifference(disk, ["a", `at${position}`], { start: 0, end: 600_000 }), position);
      assert.equal(
        await firstDifference(disk, [`at${position}`, "b"], { start: 0, end: position }),
        undefined,
      );
    }
    assert.equal(await firstDifference(disk, ["a", "at262143"], { start: 262_144, end: 600_000 }), undefined);
    assert.equal(await firstDifference(disk, ["a", "at262143"], { start: 262_143, end: 600_000 }), 262_143);
    assert.equal(await firstDifference(disk, ["a", "at0"], { start: 5, end: 5 }), undefined);
    assert.equal(await firstDifference(disk, ["a", "absent"], { start: 5, end: 9 }), 5);
    await put(disk, "short", long.subarray(0, 300_000));
    assert.equal(await firstDifference(disk, ["a", "short"], { start: 0, end: 600_000 }), 300_000);
  }));

test("copyAnew() writes and syncs a copy, and leaves none when it fails", () =>
  onSimDisk(async (machine) => {
    const { disk } = machine;
    const bytes = Uint8Array.from({ length: 600_000 }, (_, index) => (index * 7) & 255);
    await put(disk, "a", bytes);
    const size = { fileBytes: 700_000, mode: 0o640 };
    assert.equal(await copyAnew(disk, { from: "absent", to: "b" }, size), false);
    for (const kind of ["write", "sync", "read", "truncate"] as const) {
      machine.fail(kind, "EIO");
      await assert.rejects(copyAnew(disk, { from: "a", to: "b" }, size), /EIO/);
      assert.equal(await disk.entry("b"), undefined);
    }
    assert.equal(await copyAnew(disk, { from: "a", to: "b" }, size), true);
    await disk.syncDirectory(".");
    const after = machine.restart("power cut");
    assert.deepEqual((await readWhole(after, "b", 700_000))?.subarray(0, 600_000), bytes);
    assert.equal((await after.entry("b"))?.bytes, 700_000);
    assert.equal((await after.entry("b"))?.mode, 0o640);
  }));
