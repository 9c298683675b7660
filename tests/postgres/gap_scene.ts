/** A server that removed WAL which an archive needs next. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { type GapRecord, parseLedger } from "../../lib/archive/gaps.ts";
import { formatLsn, type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { segmentFloor } from "../../lib/wal/segment.ts";
import { type Cluster, type Settings, startCluster } from "./cluster.ts";
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

export const segmentBytes = MIB;
const GREEDY = { min_wal_size: "2MB", max_wal_size: "2MB", wal_keep_size: "0" };

/** A server, and an archive that has its WAL up to where a receiver was stopped. */
export interface Scene {
  readonly cluster: Cluster;
  readonly archive: ArchiveFiles;
  /** The segment that the archive needs next begins here. */
  readonly missingLsn: Lsn;
}

/** Receives something, and stops. */
export async function sceneOf(
  directory: WorkDirectory,
  cluster: Cluster,
  options: readonly string[] = [],
): Promise<Scene> {
  const archive = new ArchiveFiles(directory.archive(), segmentBytes);
  await cluster.configure({ wal_keep_size: "4GB" });
  await using receiver = startReceiver({
    connection: cluster.conninfo(),
    archive: archive.directory,
    options,
  });
  await receiver.next("streaming");
  await cluster.sql(TABLE);
  await cluster.sql("SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'here')");
  const end = parseLsn(await caughtUp(cluster, receiver));
  assert.equal(await receiver.stop(), 0);
  return { cluster, archive, missingLsn: segmentFloor(end, archive.segmentSize) };
}

/** The server writes and removes WAL until it lacks what the archive needs. */
export async function removeWal({ cluster, archive, missingLsn }: Scene): Promise<void> {
  await cluster.configure({ wal_keep_size: "0" });
  await until("the removal of the next segment", async () => {
    for (let i = 0; i < 4; i++) {
      await cluster.sql(
        "SET synchronous_commit = local; SELECT pg_switch_wal(); INSERT INTO work VALUES (gen_random_uuid(), 'missing')",
      );
    }
    await cluster.sql("CHECKPOINT");
    return !cluster.walFiles().includes(segmentOf(missingLsn, archive));
  });
  // What is left shall stay until it is received.
  await cluster.configure({ wal_keep_size: "4GB" });
}

/** What the ledger tells to be missing. */
export function recordsOf(archive: ArchiveFiles): readonly GapRecord[] {
  const path = join(archive.directory, "gaps.jsonl");
  return fs.existsSync(path) ? parseLedger(fs.readFileSync(path)).records : [];
}

/** A receiver into the scene's archive. */
export function receiveInto({ cluster, archive }: Scene, options: Partial<ReceiveOptions> = {}): Receiver {
  return startReceiver({ connection: cluster.conninfo(), archive: archive.directory, ...options });
}

/** Everything behind the gap is here, up to where the server is now. */
export async function received({ cluster, archive }: Scene): Promise<void> {
  const end = parseLsn(await cluster.value("SELECT pg_current_wal_flush_lsn()"));
  await until(`WAL up to ${formatLsn(end)}`, () => archive.endLsn() >= end);
}

/** A server that keeps as little WAL as it may. */
export function startGreedy(settings: Settings = {}): Promise<Cluster> {
  return startCluster({ segmentBytes, settings: { ...GREEDY, ...settings } });
}
