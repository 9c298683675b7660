import type { Lsn } from "../wal/lsn.ts";
import { RecordReader } from "../wal/record_reader.ts";
import { isTransactionEnd } from "../wal/rmgr/transaction.ts";
import { segmentOffset, type SegmentSize } from "../wal/segment.ts";
import type { SegmentBytes } from "./segment_bytes.ts";
import type { TransactionMark } from "./segment_index.ts";
import { commitOf } from "./segment_indexer.ts";

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
      wants: isTransactionEnd,
      take: (record) => {
        const version = reader.majorVersion;
        const mark = version === undefined ? undefined : commitOf(record, version);
        if (mark === undefined) return;
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
