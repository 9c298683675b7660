import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { type BlockImage, decodeRecordBody, restoreImage } from "../../lib/wal/record_body.ts";
import type { WalRecord } from "../../lib/wal/record.ts";
import { resourceManagerName } from "../../lib/wal/resource_manager.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { EVERY_RECORD_SETTINGS, writeEveryRecord } from "./every_record.ts";
import {
  IMAGE_DECODERS,
  inspectRecords,
  inspectView,
  readWal,
  waldumpRecords,
  waldumpView,
} from "./record_view.ts";
import { findProgram, TEST_MAJOR } from "./servers.ts";

const MIB = 1024 * 1024;
const SIZE = segmentSize(MIB);
const MINUTE_MS = 60_000;

function equalRecords(ours: readonly string[], theirs: readonly string[]): void {
  for (let i = 0; i < Math.max(ours.length, theirs.length); i++) {
    if (ours[i] !== theirs[i]) assert.equal(ours[i], theirs[i], `record ${i} of ${theirs.length}`);
  }
}

/** A page of a relation tells by its own header where its hole is. */
function checkPage(image: BlockImage, where: string): void {
  const page = restoreImage(image, IMAGE_DECODERS);
  const view = new DataView(page.buffer);
  assert.equal(view.getUint16(18, true), 8192 | 4, `${where}: size and version`);
  if (image.holeBytes === 0) return;
  assert.equal(view.getUint16(12, true), image.holeOffset, `${where}: lower end`);
  assert.equal(view.getUint16(14, true), image.holeOffset + image.holeBytes, `${where}: upper end`);
}

/** What the server itself counted for one statement, and what we count by its transaction. */
async function compareCounts(cluster: Cluster, startLsn: Lsn, statements: readonly string[]): Promise<void> {
  const sql = cluster.connect();
  const told: { records: number; images: number; bytes: number }[] = [];
  const xids: number[] = [];
  try {
    for (const statement of statements) {
      await sql.unsafe(`EXPLAIN ${statement}`); // the planner looks at pages too, and may mark what is dead there
      await sql.unsafe("CHECKPOINT");
      await sql.unsafe("BEGIN");
      const [{ xid } = { xid: "" }] = await sql.unsafe("SELECT pg_current_xact_id()::text AS xid");
      const [row] = await sql.unsafe(`EXPLAIN (ANALYZE, WAL, FORMAT JSON) ${statement}`);
      await sql.unsafe("COMMIT");
      const plan = (row?.["QUERY PLAN"] as readonly [{ readonly Plan: Record<string, number> }])[0].Plan;
      told.push({
        records: plan["WAL Records"] ?? 0,
        images: plan["WAL FPI"] ?? 0,
        bytes: plan["WAL Bytes"] ?? 0,
      });
      xids.push(Number(xid));
    }
  } finally {
    await sql.end({ timeout: 5 });
  }
  const counted = statements.map(() => ({ records: 0, images: 0, bytes: 0 }));
  readWal(cluster, {
    startLsn,
    segmentBytes: MIB,
    take(record, major) {
      const count = counted[xids.indexOf(record.header.xid)];
      if (count === undefined || resourceManagerName(record.header.resourceManager) === "Transaction") return;
      count.records++;
      count.images += decodeRecordBody(record.bytes, major).blocks.filter(({ image }) => image !== undefined)
        .length;
      count.bytes += record.header.totalBytes;
    },
  });
  assert.deepEqual(counted, told);
  assert.ok(told.every(({ records, images, bytes }) => records > 10 && images > 0 && bytes > 1000));
}

test("every record is seen as PostgreSQL's own programs see it", { timeout: 5 * MINUTE_MS }, async (t) => {
  await using cluster = await startCluster({ segmentBytes: MIB, settings: EVERY_RECORD_SETTINGS });
  const startLsn = parseLsn(await cluster.value("SELECT pg_switch_wal()"));
  await cluster.sql("CHECKPOINT");
  const firstLsn = parseLsn(await cluster.value("SELECT redo_lsn FROM pg_control_checkpoint()"));
  assert.ok(firstLsn > startLsn);
  await writeEveryRecord(cluster);
  const endLsn = parseLsn(await cluster.value("SELECT pg_current_wal_insert_lsn()"));
  await cluster.sql("CHECKPOINT"); // so that a record follows the last one that is compared

  const dump: string[] = [];
  const inspected: string[] = [];
  const kinds = new Set<string>();
  const infos = new Set<number>();
  let images = 0;
  let withOrigin = 0;
  let withTopXid = 0;
  const take = (record: WalRecord, major: number) => {
    assert.equal(major, TEST_MAJOR);
    if (record.lsn >= endLsn) return;
    dump.push(waldumpView(record, major));
    if (major >= 16) inspected.push(inspectView(record, major, SIZE));
    const { blocks, origin, topXid } = decodeRecordBody(record.bytes, major);
    kinds.add(resourceManagerName(record.header.resourceManager));
    infos.add(record.header.resourceManager * 256 + (record.header.info & 0xf0));
    if (origin !== undefined) withOrigin++;
    if (topXid !== undefined) withTopXid++;
    for (const { image } of blocks) {
      if (image === undefined) continue;
      images++;
      kinds.add(`image ${image.compression}${image.holeBytes > 0 ? " with a hole" : ""}`);
      if (!image.apply) kinds.add("image not applied");
      checkPage(image, `image of record ${record.lsn}`);
    }
  };
  const read = readWal(cluster, { startLsn: firstLsn, segmentBytes: MIB, take });
  assert.equal(read.problem, undefined);
  assert.ok(read.endLsn >= endLsn);
  t.diagnostic?.(
    `${dump.length} records of ${infos.size} kinds, ${images} images, ${[...kinds].sort().join(", ")}`,
  );

  for (let id = 0; id <= 21; id++) assert.ok(kinds.has(resourceManagerName(id)), resourceManagerName(id));
  assert.ok(kinds.has("image none with a hole") && kinds.has("image pglz with a hole"));
  assert.ok(kinds.has("image not applied"));
  assert.ok(images > 100 && withOrigin > 0);
  if (TEST_MAJOR >= 14) assert.ok(withTopXid > 0);

  const program = findProgram(cluster.programs, "pg_waldump");
  if (program !== undefined) {
    equalRecords(dump, waldumpRecords(program, cluster, { startLsn: firstLsn, endLsn }));
  }
  if (TEST_MAJOR >= 16) {
    equalRecords(inspected, await inspectRecords(cluster, { startLsn: firstLsn, endLsn }));
  }
  await compareCounts(cluster, endLsn, [
    "INSERT INTO item SELECT g, 'counted', ARRAY[g], point(g, g), int4range(g, g + 2), date '2020-01-01' " +
    "FROM generate_series(30001, 31000) g",
    "UPDATE item SET name = name || 'counted' WHERE id > 30500",
    "DELETE FROM wide WHERE id % 7 = 0",
  ]);
});
