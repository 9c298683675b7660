import assert from "node:assert/strict";
import { test } from "node:test";
import { keepConflict } from "../../lib/archive/conflict.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { type Machine, MODES, NAMES, NAMING, onSimDisk } from "./on_sim_disk.ts";

const [NAME = ""] = NAMES;
const FROM = `inprogress/${NAME}`;
const FILE_BYTES = 4096;

/** A file of which `received` bytes came, the rest of it empty. */
async function put(disk: Disk, received: readonly number[], path = FROM): Promise<void> {
  const file = await disk.create(path, 0o600);
  await file.truncate(FILE_BYTES);
  await file.write(Uint8Array.from(received), 0);
  await file.sync();
  await file.close();
}

async function prepare(disk: Disk): Promise<void> {
  for (const name of ["inprogress", "conflicts"]) await disk.makeDirectory(name, 0o700);
  await disk.syncDirectory(".");
}

async function keep(disk: Disk, received: readonly number[], isPart = true): Promise<string> {
  await put(disk, received);
  const receivedBytes = isPart ? received.length : undefined;
  return await keepConflict(disk, { from: FROM, name: NAME, receivedBytes }, {
    modes: MODES,
    naming: NAMING,
  });
}

function contents({ sim }: Machine): Uint8Array[] {
  return sim.names("conflicts").map((name) => sim.file(`conflicts/${name}`)!.content.slice(0, 5));
}

test("keepConflict() keeps once what another kept file has too, and survives a power cut after each", () =>
  onSimDisk(async (machine) => {
    let { disk } = machine;
    await prepare(disk);
    const first = await keep(disk, [1, 2, 3]);
    for (const received of [[1, 2, 3], [1, 2], [1]]) {
      disk = machine.restart("power cut");
      assert.equal(await keep(disk, received), first);
      assert.deepEqual(machine.sim.names("inprogress"), []);
    }
    // Its rest is content, and other bytes are others.
    const whole = await keep(disk, [1, 2], false);
    const longer = await keep(disk, [1, 2, 3, 4]);
    const other = await keep(disk, [1, 2, 7]);
    assert.equal(new Set([first, whole, longer, other]).size, 4);
    machine.restart("power cut");
    assert.equal(contents(machine).length, 4);
  }));

test("keepConflict() keeps nothing of another name for the same, and looks at files only", () =>
  onSimDisk(async (machine) => {
    const { disk } = machine;
    await prepare(disk);
    await put(disk, [1, 2, 3], `conflicts/${NAME}0-01234567`);
    await put(disk, [1, 2, 3], `conflicts/${NAME}.saved-1`);
    await disk.makeDirectory(`conflicts/${NAME}-00000000`, 0o700);
    const kept = await keep(disk, [1, 2, 3]);
    assert.match(kept, new RegExp(`^conflicts/${NAME}-[0-9a-f]{8}$`));
    assert.equal(machine.sim.names("conflicts").length, 4);
  }));

test("P4: keepConflict() takes no other bytes for its own because they have the name of their hash", () =>
  onSimDisk(async (machine) => {
    const { disk } = machine;
    await prepare(disk);
    const kept = await keep(disk, [1, 2, 3]);
    await disk.unlink(kept);
    await put(disk, [9, 9, 9], kept);
    const again = await keep(disk, [1, 2, 3]);
    assert.ok(again.startsWith(kept) && again.length === kept.length + 8, again);
    assert.deepEqual(machine.sim.file(kept)?.content.subarray(0, 3), Uint8Array.from([9, 9, 9]));
    assert.deepEqual(machine.sim.file(again)?.content.subarray(0, 3), Uint8Array.from([1, 2, 3]));
  }));
