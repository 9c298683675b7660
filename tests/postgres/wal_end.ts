/** Rounds of kill -9: where we see the end of valid WAL, and where the server itself then goes on. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { decodePageHeader, LONG_PAGE_HEADER_BYTES } from "../../lib/wal/page.ts";
import type { WalRecord } from "../../lib/wal/record.ts";
import { nextRecordLsn } from "../../lib/wal/record_walk.ts";
import { parseSegmentName, segmentSize, segmentStart } from "../../lib/wal/segment.ts";
import { Random } from "../simulation/random.ts";
import { type Cluster, startCluster } from "./cluster.ts";
import { readWal } from "./record_view.ts";
import { Ledger, TABLE } from "./workload.ts";

const MIB = 1024 * 1024;
const SIZE = segmentSize(MIB);

/** How the server's log tells why and where its own reading ended. */
const SERVER_END =
  /(?:invalid record length|record with incorrect prev-link \S+|invalid resource manager ID \d+|incorrect resource manager data checksum in record) at ([0-9A-F]+\/[0-9A-F]+)/;

/** What ended valid WAL, by round: to see that the moments differ. */
export interface WalEnds {
  readonly ends: readonly string[];
  /** Rounds in which the server gave up an open record. */
  readonly overwritten: number;
}

/** Kills a server at random moments of a varied load, and holds the end that we see against its own. */
export async function compareWalEnds(
  { rounds, seed }: { readonly rounds: number; readonly seed: number },
): Promise<WalEnds> {
  const random = new Random(seed);
  await using cluster = await startCluster({
    segmentBytes: MIB,
    settings: { max_wal_size: "16MB", min_wal_size: "4MB", wal_keep_size: "6MB" }, // many recycled segments
  });
  await cluster.sql(TABLE);
  const ends: string[] = [];
  let overwritten = 0;
  for (let round = 0; round < rounds; round++) {
    const where = `seed ${seed}, round ${round}`;
    await killUnderLoad(cluster, random, `${round}-`);
    const startLsn = firstLsn(cluster);
    let last: WalRecord | undefined;
    const read = readWal(cluster, { startLsn, segmentBytes: MIB, take: (record) => last = keep(record) });
    assert.ok(last !== undefined, where);
    assert.equal(last.lsn, read.lastRecordLsn, where);
    ends.push(read.end);
    const nextLsn = nextRecordLsn({ header: last.header, endLsn: last.endLsn }, SIZE);

    const loggedBefore = cluster.log().length;
    await cluster.start();
    const log = cluster.log().slice(loggedBefore);
    const redone = /redo done at ([0-9A-F]+\/[0-9A-F]+)/.exec(log)?.[1];
    if (redone !== undefined) assert.equal(parseLsn(redone), last.lsn, `${where}\n${log}`);
    const told = SERVER_END.exec(log)?.[1];
    if (told !== undefined) assert.ok([read.endLsn, nextLsn].includes(parseLsn(told)), `${where}\n${log}`);

    if (isOverwritten(cluster, { last, nextLsn, where })) overwritten++;
  }
  return { ends, overwritten };
}

/** The record that the server wrote after `last`: it names that one, and lies where we say that WAL goes on. */
function isOverwritten(
  cluster: Cluster,
  { last, nextLsn, where }: { readonly last: WalRecord; readonly nextLsn: Lsn; readonly where: string },
): boolean {
  const records: WalRecord[] = [];
  const overwritten: Lsn[] = [];
  readWal(cluster, {
    startLsn: last.lsn,
    segmentBytes: MIB,
    take: (record) => records.length < 2 && records.push(keep(record)),
    overwritten: (recordLsn) => overwritten.push(recordLsn),
  });
  assert.deepEqual(records[0], last, where);
  assert.equal(records[1]?.header.prevLsn, last.lsn, where);
  assert.equal(overwritten[0] ?? records[1]?.lsn, nextLsn, where);
  return overwritten.length > 0;
}

function keep(record: WalRecord): WalRecord {
  return { ...record, bytes: record.bytes.slice() };
}

/**
 * The start of the last segments without a hole between them.
 *
 * Old segments are not removed and recycled in their order, so a kill may leave holes; recycled ones have the name of a
 * segment to come, and pages of an old one.
 */
function firstLsn(cluster: Cluster): Lsn {
  let first: Lsn | undefined;
  let next: bigint | undefined;
  for (const name of cluster.walFiles()) {
    const startLsn = segmentStart(parseSegmentName(name, SIZE)?.number ?? assert.fail(name), SIZE);
    const bytes = fs.readFileSync(join(cluster.dataDirectory, "pg_wal", name)).subarray(
      0,
      LONG_PAGE_HEADER_BYTES,
    );
    if (decodePageHeader(bytes)?.pageLsn !== startLsn) continue;
    if (first === undefined || startLsn !== next) first = startLsn;
    next = startLsn + BigInt(SIZE);
  }
  return first ?? assert.fail("no segment");
}

async function killUnderLoad(cluster: Cluster, random: Random, prefix: string): Promise<void> {
  const ledgers = [300, 20_000].map((payloadBytes, index) =>
    new Ledger(cluster, { clients: 2, payloadBytes, prefix: `${prefix}${index}-` })
  );
  const others = [
    repeat(
      cluster,
      () => `SELECT pg_logical_emit_message(false, 'm', repeat('x', ${random.integer(1, 900_000)}))`,
    ),
    repeat(cluster, () => random.chance(0.3) ? "SELECT pg_switch_wal()" : "SELECT pg_sleep(0.05)"),
    repeat(cluster, () => random.chance(0.1) ? "CHECKPOINT" : "SELECT pg_sleep(0.02)"),
  ];
  await sleep(random.spread(30, 1500));
  await cluster.kill();
  await Promise.all([...ledgers.map((ledger) => ledger.stop()), ...others]);
}

/** One statement after the other, until the server is gone. */
async function repeat(cluster: Cluster, statement: () => string): Promise<void> {
  const sql = cluster.connect();
  try {
    for (;;) await sql.unsafe(statement());
  } catch {
    // Killed, as it should be.
  } finally {
    await sql.end({ timeout: 1 }).catch(() => {});
  }
}
