import assert from "node:assert/strict";
import { test } from "node:test";
import { plainLayout, plainPath, plainText } from "../../lib/archive/plain_layout.ts";
import { ReceivingArchive } from "../../lib/archive/receiving_archive.ts";
import { PlainDirectory } from "../../lib/archive/plain_directory.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { MIB } from "../wal/wal_builder.ts";
import { IDENTITY, NAMES, onSimDisk, recordEvents, START, walOf } from "./on_sim_disk.ts";

const [A, B] = NAMES as [string, string];

for (
  const [path, plain] of [
    [".", "."],
    ["inprogress", "."],
    [`inprogress/${A}`, `${A}.partial`],
    [`inprogress/${A}.saved-2`, `${A}.partial.saved-2`],
    [`inprogress/${A}.gz.tmp`, `${A}.partial.gz.tmp`],
    [A, A],
    ["conflicts/x", "conflicts/x"],
  ] as const
) {
  test(`plainPath("${path}")`, () => assert.equal(plainPath(path), plain));
}

test("plainText() names the files as they are called here", () => {
  const text = `both are kept: as "/d/inprogress/${A}.saved-1", and "/d/${A}"`;
  assert.equal(plainText(text), `both are kept: as "/d/${A}.partial.saved-1", and "/d/${A}"`);
});

test("an archive's names are the plain ones underneath", () =>
  onSimDisk(async ({ disk }) => {
    const layout = plainLayout(disk, { sync: "all", segmentBytes: () => MIB });
    await (await layout.create(`inprogress/${A}`, 0o600)).close();
    await (await layout.create(`inprogress/${A}.saved-1`, 0o600)).close();
    await (await layout.create(B, 0o600)).close();
    assert.deepEqual([...await disk.list(".") ?? []].sort(), [`${A}.partial`, `${A}.partial.saved-1`, B]);
    assert.deepEqual([...await layout.list("inprogress") ?? []].sort(), [A, `${A}.saved-1`]);
    assert.equal((await layout.entry("inprogress"))?.kind, "directory");
    await layout.rename(`inprogress/${A}`, A);
    assert.deepEqual([...await disk.list(".") ?? []].sort(), [A, `${A}.partial.saved-1`, B]);
  }));

/** Receives some bytes into a plain directory; how far it is told to be safe. */
async function receive(
  machine: Parameters<Parameters<typeof onSimDisk>[0]>[0],
  { bytes, sync }: { readonly bytes: number; readonly sync: "all" | "complete-segments" | "none" },
): Promise<void> {
  const { disk, clock } = machine;
  const layout = plainLayout(disk, { sync, segmentBytes: () => MIB });
  const plain = await PlainDirectory.open(layout, {
    disk,
    naming: { hardLinks: false },
    onIncomplete: () => {},
  });
  const archive = new ReceivingArchive(plain, { clock, events: recordEvents(), prepareNext: false });
  await archive.claim(IDENTITY);
  const listener = {
    onProgress() {},
    onDiskFull() {},
    onFailure(error: unknown) {
      throw error;
    },
  };
  const sink = await archive.openLeg({ startLsn: START, lineage: emptyHistory(timelineId(1)) }, listener);
  sink.push(walOf({ bytes }));
  await sink.finish();
}

for (
  const [sync, kept] of [["all", [A, `${B}.partial`]], ["complete-segments", [A]], ["none", []]] as const
) {
  test(`of what is received with the syncs "${sync}", a power cut leaves ${kept.join(" and ") || "nothing"}`, () =>
    onSimDisk(async (machine) => {
      await receive(machine, { bytes: MIB + MIB / 2, sync });
      const after = machine.restart("power cut");
      const names = await after.list(".") ?? [];
      for (const name of kept) assert.ok(names.includes(name), names.join(" "));
      for (const [index, name] of [A, `${B}.partial`].entries()) {
        if (!(kept as readonly string[]).includes(name)) continue;
        const file = await after.open(name);
        const bytes = new Uint8Array(MIB / 2);
        await file?.read(bytes, 0);
        const wal = walOf({ bytes: MIB + MIB / 2 });
        assert.deepEqual(bytes, wal.slice(index * MIB, index * MIB + MIB / 2), name);
      }
    }));
}
