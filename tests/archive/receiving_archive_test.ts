import assert from "node:assert/strict";
import { test } from "node:test";
import { Archive } from "../../lib/archive/archive.ts";
import { ReceivingArchive } from "../../lib/archive/receiving_archive.ts";
import { emptyHistory } from "../../lib/wal/history.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { MIB } from "../wal/wal_builder.ts";
import { makeArchive } from "./brought_files.ts";
import { NAMES, NAMING, onSimDisk, recordEvents, START, walOf } from "./on_sim_disk.ts";

const [FIRST = ""] = NAMES;
const LISTENER = { onProgress: () => {}, onFailure: () => {}, onDiskFull: () => {} };

test("the archive's last segment is read through once for each connect", () =>
  onSimDisk(async ({ disk, clock, operations }) => {
    await makeArchive(disk);
    const file = await disk.create(FIRST, 0o600);
    await file.write(walOf({ bytes: MIB }), 0);
    await file.close();
    const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
    const receiving = new ReceivingArchive(archive, { clock, events: recordEvents() });
    const leg = { startLsn: lsn(START + BigInt(MIB)), lineage: emptyHistory(timelineId(1)) };
    const opened = () => operations.filter((line) => line === `open ${FIRST}`).length;
    for (let connect = 1; connect <= 2; connect++) {
      assert.equal((await receiving.planOverlap(leg))?.endLsn, leg.startLsn);
      const sink = await receiving.openLeg(
        leg,
        { appended: () => {}, advanced: () => {}, failed: () => {} } as never,
      );
      await sink.abandon();
      assert.equal(opened(), connect);
    }
    // Without a comparison it is read for the leg.
    const sink = await receiving.openLeg(leg, LISTENER);
    await sink.abandon();
    assert.equal(opened(), 3);
  }));
