import type { Lsn } from "../wal/lsn.ts";
import { RecordReader } from "../wal/record_reader.ts";
import { endsTransaction, TRANSACTION_RESOURCE_MANAGER } from "../wal/rmgr/transaction.ts";
import { segmentOffset, type SegmentSize } from "../wal/segment.ts";
import type { SegmentBytes } from "./segment_bytes.ts";
import type { TransactionMark } from "./segment_index.ts";
import { decodeIndexed } from "./segment_indexer.ts";

/** Which commits a piece of WAL tells, by its own records: when it was written. */
export interface SeenCommits {
  /** The last one that ends before the place that was asked about. */
  readonly before: TransactionMark | undefined;
  /** The last one from that place on. */
  readonly after: TransactionMark | undefined;
}

/** Reads the commits of one segment from `fromLsn` on, a page's start, as far as its records are valid. */
export async function seeCommits(
  bytes: SegmentBytes,
  { fromLsn, placeLsn, segmentSize }: {
    readonly fromLsn: Lsn;
    readonly placeLsn: Lsn;
    readonly segmentSize: SegmentSize;
  },
): Promise<SeenCommits> {
  let before: TransactionMark | undefined;
  let after: TransactionMark | undefined;
  const reader: RecordReader = new RecordReader({
    startLsn: fromLsn,
    segmentSize,
    records: {
      wants: (resourceManager, info) =>
        resourceManager === TRANSACTION_RESOURCE_MANAGER && endsTransaction(info),
      take: (record) => {
        const version = reader.majorVersion;
        const end = version === undefined ? undefined : decodeIndexed(record, version);
        if (end?.kind !== "commit") return;
        const mark = { lsn: record.lsn, xid: end.xid, time: end.time };
        if (record.endLsn <= placeLsn) before = mark;
        else after = mark;
      },
    },
  });
  await bytes(segmentOffset(fromLsn, segmentSize), (piece) => {
    reader.push(piece);
    return reader.done ? "enough" : "more";
  });
  return { before, after };
}
