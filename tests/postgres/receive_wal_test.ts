import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { formatLsn, parseLsn } from "../../lib/wal/lsn.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import {
  ArchiveFiles,
  caughtUp,
  checkRecords,
  compareWithServer,
  layOut,
  MIB,
  restore,
  startReceiver,
  WorkDirectory,
} from "./receiver.ts";
import { findProgram, findServerPrograms, TEST_MAJOR } from "./servers.ts";
import { contentOf, Ledger, TABLE } from "./workload.ts";

const timeout = 300_000;
const SLOT = ["--slot=walvault", "--create-slot"];
const KEEP = { wal_keep_size: "4GB", max_wal_size: "8GB" };

const programs = findServerPrograms(TEST_MAJOR);
const waldump = findProgram(programs, "pg_waldump");

interface Work {
  /** One record: longer than a small segment, or long enough that two of them cross into the next one. */
  readonly messageBytes: number;
  /** Each costs a segment. */
  readonly switches: number;
}

/** Rows, switches, records far longer than a small segment, inside and outside of transactions. */
async function work(cluster: Cluster, { messageBytes, switches }: Work): Promise<void> {
  const ledger = new Ledger(cluster, { clients: 2, payloadBytes: 4000, pauseMs: 2 });
  const emit = (transactional: boolean, bytes: number) =>
    cluster.sql(`SELECT pg_logical_emit_message(${transactional}, 'walvault', repeat('w', ${bytes}))`);
  await emit(false, messageBytes);
  await emit(true, messageBytes);
  await cluster.sql(
    "INSERT INTO work SELECT 'b' || n, repeat(md5(n::text), 100) FROM generate_series(1, 2000) n",
  );
  for (let i = 0; i < switches; i++) {
    await cluster.sql("SELECT pg_switch_wal(); SELECT pg_switch_wal()"); // the second one finds nothing to do
    await emit(i % 2 === 0, Math.round(messageBytes / 20) + i);
    await cluster.sql(
      `BEGIN; SELECT pg_logical_emit_message(true, 'walvault', repeat('x', ${
        Math.round(messageBytes / 10)
      })); ROLLBACK`,
    );
  }
  await cluster.sql("CHECKPOINT; UPDATE work SET payload = payload || 'u' WHERE id LIKE 'b1%'");
  await ledger.stop();
  assert.deepEqual(ledger.problems, []);
}

/** pg_waldump of the server's own version reads the whole range, and counts as many records as we do. */
function dump(archive: ArchiveFiles, count: number): void {
  const names = archive.complete().map((file) => file.name);
  // The numbers only: a record of some MiB would be printed in hexadecimal.
  const options = ["--stats", `--path=${archive.directory}`, names[0]!, names.at(-1)!];
  const run = spawnSync(waldump!, options, { encoding: "utf8" });
  assert.equal(run.status, 0, run.stderr);
  assert.equal(/^Total +([0-9]+) /m.exec(run.stdout)?.[1], String(count), run.stdout);
}

const SIZES: readonly (Work & { readonly segmentBytes: number })[] = [
  { segmentBytes: MIB, messageBytes: 5 * MIB, switches: 8 },
  { segmentBytes: 64 * MIB, messageBytes: 36 * MIB, switches: 1 },
];

for (const { segmentBytes, ...load } of SIZES) {
  const size = `${segmentBytes / MIB} MiB`;
  const how = waldump === undefined ? `; pg_waldump skipped: PostgreSQL ${TEST_MAJOR} came without it` : "";
  test(
    `receive archives what PostgreSQL ${TEST_MAJOR} wrote, byte for byte, in segments of ${size}${how}`,
    { timeout },
    async () => {
      using directory = new WorkDirectory();
      await using cluster = await startCluster({ segmentBytes, settings: KEEP });
      await cluster.sql(TABLE);
      const archive = new ArchiveFiles(directory.archive(), segmentBytes);
      await using receiver = startReceiver({
        connection: cluster.conninfo(),
        archive: archive.directory,
        options: SLOT,
      });
      await receiver.next("streaming");
      const backup = await cluster.backup(directory.file("backup"));
      await work(cluster, load);
      const end = await caughtUp(cluster, receiver);

      assert.equal(await receiver.stop(), 0);
      const compared = compareWithServer(archive, cluster);
      assert.ok(compared.completeSegments >= 2, `only ${compared.completeSegments} complete segments`);
      assert.ok(compared.endLsn >= parseLsn(end), `${formatLsn(compared.endLsn)} is before ${end}`);
      const records = checkRecords(archive);
      assert.ok(records > 2000, `only ${records} records`);
      assert.deepEqual(archive.saved(), []);
      assert.deepEqual(archive.growing().length, 1);
      if (waldump !== undefined) dump(archive, checkRecords(archive, { growing: false }));

      const wal = directory.file("wal");
      layOut(archive, wal);
      const content = await contentOf(cluster);
      await using restored = await restore({ backup, wal, major: TEST_MAJOR });
      assert.equal(await contentOf(restored), content);
    },
  );
}
