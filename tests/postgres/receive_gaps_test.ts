import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { type GapRecord, parseLedger } from "../../lib/archive/gaps.ts";
import { formatLsn, type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { segmentFloor } from "../../lib/wal/segment.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { MAJORS } from "./servers.ts";
import {
  ArchiveFiles,
  caughtUp,
  MIB,
  type ReceiveOptions,
  type Receiver,
  segmentOf,
  startReceiver,
  until,
  WorkDirectory,
} from "./receiver.ts";
import { TABLE } from "./workload.ts";

const timeout = 240_000;
const segmentBytes = MIB;
const GREEDY = { min_wal_size: "2MB", max_wal_size: "2MB", wal_keep_size: "0" };

/** A server, and an archive that has its WAL up to where a receiver was stopped. */
interface Scene {
  readonly cluster: Cluster;
  readonly archive: ArchiveFiles;
  /** The segment that the archive needs next begins here. */
  readonly missingLsn: Lsn;
}

async function sceneOf(directory: WorkDirectory, cluster: Cluster): Promise<Scene> {
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await cluster.configure({ wal_keep_size: "4GB" });
  await using receiver = startReceiver({ connection: cluster.conninfo(), archive: archive.directory });
  await receiver.next("streaming");
  await cluster.sql(TABLE);
  await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'here')");
  const end = parseLsn(await caughtUp(cluster, receiver));
  assert.equal(await receiver.stop(), 0);
  return { cluster, archive, missingLsn: segmentFloor(end, archive.segmentSize) };
}

/** The server writes and removes WAL until it lacks what the archive needs; `spare` is called before each removal. */
async function removeWal(
  { cluster, archive, missingLsn }: Scene,
  spare: () => void = () => {},
): Promise<void> {
  await cluster.configure({ wal_keep_size: "0" });
  await until("the removal of the next segment", async () => {
    for (let i = 0; i < 4; i++) {
      await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'missing')");
    }
    spare();
    await cluster.sql("CHECKPOINT");
    return !cluster.walFiles().includes(segmentOf(missingLsn, archive));
  });
  // What is left shall stay until it is received.
  await cluster.configure({ wal_keep_size: "4GB" });
}

function recordsOf(archive: ArchiveFiles): readonly GapRecord[] {
  const path = join(archive.directory, "gaps.jsonl");
  return fs.existsSync(path) ? parseLedger(fs.readFileSync(path)).records : [];
}

function receiveInto({ cluster, archive }: Scene, options: Partial<ReceiveOptions> = {}): Receiver {
  return startReceiver({ connection: cluster.conninfo(), archive: archive.directory, ...options });
}

/** Everything behind the gap is here, up to where the server is now. */
async function received({ cluster, archive }: Scene): Promise<void> {
  const end = parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()"));
  await until(`WAL up to ${formatLsn(end)}`, () => archive.endLsn() >= end);
}

for (const major of MAJORS) {
  test(`receive goes on behind WAL that PostgreSQL ${major} removed, and has written that down before`, {
    timeout,
  }, async () => {
    using directory = new WorkDirectory();
    await using cluster = await startCluster({ major, segmentBytes, settings: GREEDY });
    const scene = await sceneOf(directory, cluster);
    const { archive, missingLsn } = scene;
    await removeWal(scene);
    await using receiver = receiveInto(scene);
    const line = await receiver.next("gap recorded");
    assert.equal(line.level, "error");
    await receiver.next("streaming");
    await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'behind')");
    await received(scene);
    const [record, ...others] = recordsOf(archive);
    assert.deepEqual(others, []);
    assert.equal(formatLsn(record!.startLsn), formatLsn(missingLsn));
    assert.match(record!.answer, /has already been removed/);
    // It begins again with the server's oldest segment, and nothing of that is lost.
    const oldest = archive.complete().find((file) => archive.startLsn(file) >= missingLsn);
    assert.equal(
      oldest === undefined ? undefined : formatLsn(archive.startLsn(oldest)),
      formatLsn(record!.endLsn),
    );
    const server = cluster.walFiles().filter((name) => /^[0-9A-F]{24}$/.test(name)).sort();
    assert.ok(!server.includes(segmentOf(record!.startLsn, archive)));
    // The slot would move: nobody waits for what comes behind the gap.
    await caughtUp(cluster, receiver);
    assert.equal(await receiver.stop(), 0);
    // It goes on where it was, and does not write the same down again.
    await using again = receiveInto(scene);
    await again.next("archive has open gaps");
    await again.next("streaming");
    await received(scene);
    assert.equal(recordsOf(archive).length, 1);
    assert.equal(await again.stop(), 0);
  });
}
