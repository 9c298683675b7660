/** Records of WAL as we see them, and as PostgreSQL's own programs do, in one form that can be compared. */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { decodeLz4Block } from "../../lib/archive/lz4_block.ts";
import { zlib } from "../../lib/archive/zlib.ts";
import { formatLsn, type Lsn, lsn, parseLsn } from "../../lib/wal/lsn.ts";
import { isSwitchRecord, type WalRecord } from "../../lib/wal/record.ts";
import {
  type BlockReference,
  decodeRecordBody,
  type ImageDecoders,
  restoreImage,
} from "../../lib/wal/record_body.ts";
import { RecordReader, type RecordsRead } from "../../lib/wal/record_reader.ts";
import { resourceManagerName } from "../../lib/wal/resource_manager.ts";
import { segmentName, segmentNumberAt, type SegmentSize, segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import type { Cluster } from "./cluster.ts";

export const FORK_NAMES = ["main", "fsm", "vm", "init"] as const;

/** The decoders that `lib/wal` has not itself. */
export const IMAGE_DECODERS: ImageDecoders = {
  lz4(bytes, contentBytes) {
    const content = new Uint8Array(contentBytes);
    return content.subarray(0, decodeLz4Block(bytes, content, 0));
  },
  zstd: (bytes, contentBytes) => zlib().zstdDecompressSync(bytes, { maxOutputLength: contentBytes }),
};

/** What a cluster's pg_wal holds from an LSN on, timeline 1, handed over record by record up to the end of valid WAL. */
export function readWal(
  cluster: Cluster,
  options: {
    readonly startLsn: Lsn;
    readonly segmentBytes: number;
    readonly take: (record: WalRecord, majorVersion: number) => void;
    readonly overwritten?: (recordLsn: Lsn) => void;
  },
): RecordsRead {
  const size = segmentSize(options.segmentBytes);
  const reader = new RecordReader({
    startLsn: options.startLsn,
    segmentSize: size,
    records: {
      wants: () => true,
      take: (record) => options.take(record, reader.majorVersion ?? 0),
      overwritten: (recordLsn) => options.overwritten?.(recordLsn),
    },
  });
  while (!reader.done) {
    const bytes = readSegment(cluster, reader.positionLsn, size);
    if (bytes === undefined) break;
    reader.push(bytes);
  }
  return reader.result();
}

/** The segment's bytes from this LSN on. */
function readSegment(cluster: Cluster, from: Lsn, size: SegmentSize): Uint8Array | undefined {
  const path = join(
    cluster.dataDirectory,
    "pg_wal",
    segmentName(timelineId(1), segmentNumberAt(from, size), size),
  );
  return fs.existsSync(path) ? fs.readFileSync(path).subarray(Number(from % BigInt(size))) : undefined;
}

/** A line for a record, as `pg_waldump -b` can tell it: lengths, links, and below it a line for each block. */
export function waldumpView(record: WalRecord, majorVersion: number): string {
  const { header } = record;
  const { blocks } = decodeRecordBody(record.bytes, majorVersion);
  const imageBytes = blocks.reduce((sum, { image }) => sum + (image?.bytes.length ?? 0), 0);
  const lengths = `${header.totalBytes - imageBytes}/${header.totalBytes}`;
  const head = `${resourceManagerName(header.resourceManager)} ${lengths} tx ${header.xid} ` +
    `lsn ${formatLsn(record.lsn)} prev ${formatLsn(header.prevLsn)}`;
  return [head, ...blocks.map((block) => waldumpBlock(block))].join("\n");
}

function waldumpBlock({ id, file, fork, block, image }: BlockReference): string {
  const head = `#${id} ${file.tablespace}/${file.database}/${file.relation} ${FORK_NAMES[fork]} ${block}`;
  if (image === undefined) return head;
  const hole = `${image.apply ? "applied" : "not applied"} hole ${image.holeOffset} ${image.holeBytes}`;
  return `${head} ${hole} saved ${
    image.compression === "none" ? 0 : 8192 - image.holeBytes - image.bytes.length
  }`;
}

/** The same lines by `pg_waldump -b`, from `startLsn` to `endLsn`. */
export function waldumpRecords(
  program: string,
  cluster: Cluster,
  range: { readonly startLsn: Lsn; readonly endLsn: Lsn },
): readonly string[] {
  const output = join(cluster.directory, "waldump");
  const file = fs.openSync(output, "w");
  const run = spawnSync(program, [
    "-b",
    `--path=${join(cluster.dataDirectory, "pg_wal")}`,
    `--start=${formatLsn(range.startLsn)}`,
    `--end=${formatLsn(range.endLsn)}`,
  ], { stdio: ["ignore", file, "pipe"], encoding: "utf8" });
  fs.closeSync(file);
  if (run.status !== 0) throw new Error(`Cannot run pg_waldump: ${run.error?.message ?? run.stderr}`);
  const records: string[] = [];
  for (const line of fs.readFileSync(output, "latin1").split("\n")) {
    const record =
      /^rmgr: (\S+) +len \(rec\/tot\): +(\d+)\/ *(\d+), tx: +(\d+), lsn: (\S+), prev (\S+), desc: /.exec(
        line,
      );
    const block = /^\tblkref #(\d+): rel (\S+) (?:fork (\S+) )?blk (\d+)(?: \((FPW.*?)\);? ?(.*))?$/.exec(
      line,
    );
    if (record !== null) {
      const [, name, recordBytes, totalBytes, xid, at, prev] = record;
      const links = `lsn ${formatLsn(parseLsn(at!))} prev ${formatLsn(parseLsn(prev!))}`;
      records.push(`${name} ${recordBytes}/${totalBytes} tx ${xid} ${links}`);
    } else if (block !== null) {
      const [, id, relation, fork = "main", number, image, hole = ""] = block;
      let text = `#${id} ${relation} ${fork} ${number}`;
      if (image !== undefined) {
        const [, offset, bytes, saved = "0"] =
          /hole: offset: (\d+), length: (\d+)(?:, compression saved: (\d+))?/.exec(hole)!;
        text += ` ${image === "FPW" ? "applied" : "not applied"} hole ${offset} ${bytes} saved ${saved}`;
      }
      records.push(`${records.pop()}\n${text}`);
    } else if (line.startsWith("\tblkref")) throw new Error(`Cannot read pg_waldump: "${line}"`);
  }
  return records;
}

/** A line for a record as the extension pg_walinspect of 16 on can tell it, with the bytes of blocks and images. */
export function inspectView(record: WalRecord, majorVersion: number, size: SegmentSize): string {
  const { header } = record;
  const { blocks, mainData } = decodeRecordBody(record.bytes, majorVersion);
  const imageBytes = blocks.reduce((sum, { image }) => sum + (image?.bytes.length ?? 0), 0);
  // There the emptiness behind an XLOG_SWITCH belongs to it.
  const endLsn = isSwitchRecord(header)
    ? lsn((record.endLsn + BigInt(size) - 1n) / BigInt(size) * BigInt(size))
    : record.endLsn;
  const head = `${formatLsn(record.lsn)} to ${formatLsn(endLsn)} prev ${formatLsn(header.prevLsn)} ` +
    `tx ${header.xid} ${resourceManagerName(header.resourceManager)} ` +
    `${header.totalBytes - imageBytes}/${mainData.length}/${imageBytes}`;
  return [head, ...blocks.map((block) => inspectBlock(block))].join("\n");
}

function inspectBlock({ id, file, fork, block, image, data }: BlockReference): string {
  const flags = image === undefined ? "" : [
    ...(image.holeBytes > 0 ? ["HAS_HOLE"] : []),
    ...(image.apply ? ["APPLY"] : []),
    ...(image.compression === "none" ? [] : [`COMPRESS_${image.compression.toUpperCase()}`]),
  ].join();
  const imageDigest = image === undefined ? "" : md5(restoreImage(image, IMAGE_DECODERS));
  return `#${id} ${file.tablespace}/${file.database}/${file.relation} fork ${fork} ${block} ` +
    `data ${data.length} ${data.length === 0 ? "" : md5(data)} ` +
    `image ${image?.bytes.length ?? 0} ${flags} ${imageDigest}`;
}

/** The same lines by the server itself. */
export async function inspectRecords(
  cluster: Cluster,
  range: { readonly startLsn: Lsn; readonly endLsn: Lsn },
): Promise<readonly string[]> {
  const bounds = `'${formatLsn(range.startLsn)}', '${formatLsn(range.endLsn)}'`;
  await cluster.sql("CREATE EXTENSION IF NOT EXISTS pg_walinspect");
  const heads = await cluster.sql<{ lsn: string; text: string }>(
    `SELECT start_lsn::text AS lsn, format('%s to %s prev %s tx %s %s %s/%s/%s', start_lsn, end_lsn, prev_lsn, xid,
        resource_manager, record_length - fpi_length, main_data_length, fpi_length) AS text
      FROM pg_get_wal_records_info(${bounds})`,
  );
  const blocks = await cluster.sql<{ lsn: string; text: string }>(
    `SELECT start_lsn::text AS lsn, format('#%s %s/%s/%s fork %s %s data %s %s image %s %s %s', block_id,
        reltablespace, reldatabase, relfilenode, relforknumber, relblocknumber,
        block_data_length, md5(block_data), block_fpi_length, array_to_string(block_fpi_info, ','),
        md5(block_fpi_data)) AS text
      FROM pg_get_wal_block_info(${bounds}) ORDER BY start_lsn, block_id`,
  );
  const of = new Map<string, string[]>();
  for (const { lsn, text } of blocks) of.set(lsn, [...of.get(lsn) ?? [], text]);
  return heads.map(({ lsn, text }) => [text, ...of.get(lsn) ?? []].join("\n"));
}

function md5(bytes: Uint8Array): string {
  return createHash("md5").update(bytes).digest("hex");
}
