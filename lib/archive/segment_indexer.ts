import type { Lsn } from "../wal/lsn.ts";
import { type RecordTaker, type WalRecord, XLOG_RESOURCE_MANAGER } from "../wal/record.ts";
import { decodeRecordBody } from "../wal/record_body.ts";
import {
  decodeTransactionEnd,
  isTransactionEnd,
  TRANSACTION_RESOURCE_MANAGER,
  type TransactionEnd,
} from "../wal/rmgr/transaction.ts";
import { decodeXlogRecord, isXlogRecord, type XlogRecord } from "../wal/rmgr/xlog.ts";
import { type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import type { SegmentSize } from "../wal/segment.ts";
import type { Timestamp } from "../wal/timestamp.ts";
import { crc32 } from "./content_crc.ts";
import type {
  BackupEndMark,
  CheckpointMark,
  OpenRecordState,
  RestorePointMark,
  SegmentIndex,
  TransactionMark,
  TransactionSummary,
} from "./segment_index.ts";

/** Which segment an index is of. */
export interface IndexedSegment {
  /** 24 digits. */
  readonly name: string;
  readonly startLsn: Lsn;
  readonly segmentSize: SegmentSize;
  readonly systemIdentifier: bigint;
}

/** A transaction's end, and where its record begins. */
export interface PlacedTransactionEnd extends TransactionEnd {
  readonly lsn: Lsn;
}

/** Whether a record has something to say to an index. */
export function isIndexed(resourceManager: number, info: number): boolean {
  return isTransactionEnd(resourceManager, info) ||
    resourceManager === XLOG_RESOURCE_MANAGER && isXlogRecord(info);
}

/**
 * Makes the index of one segment out of its bytes, and of those behind it as far as its last record goes on there.
 *
 * Damage in the segment ends what is indexed of it; the scan in the index says where.
 */
export class SegmentIndexer {
  readonly #segment: IndexedSegment;
  #scanner: SegmentScanner;
  #contentCrc = 0;
  #pushed = 0;
  readonly #transactions = new TransactionTally();
  readonly #restorePoints: RestorePointMark[] = [];
  readonly #checkpoints: CheckpointMark[] = [];
  readonly #backupEnds: BackupEndMark[] = [];
  /** Records that were asked about, and what was said of the last one. */
  #askedCount = 0;
  #lastIsWanted = false;
  #overwrittenCount = 0;
  /** Of the segment alone, once all of it is there. */
  #scan: SegmentScan | undefined;
  #open: "waited for" | "not asked" | "over" = "over";

  /** `onEnd` is told each transaction's end, in the order of the WAL. */
  constructor(segment: IndexedSegment, private readonly onEnd?: (end: PlacedTransactionEnd) => void) {
    this.#segment = segment;
    this.#scanner = new SegmentScanner({
      startLsn: segment.startLsn,
      segmentSize: segment.segmentSize,
      systemIdentifier: segment.systemIdentifier,
      records: this.#taker(),
    });
  }

  /** Takes the segment's next bytes, cut anywhere. */
  push(bytes: Uint8Array): void {
    this.#contentCrc = crc32()(bytes, this.#contentCrc);
    this.#pushed += bytes.length;
    this.#scanner.push(bytes);
    if (this.#pushed === this.#segment.segmentSize) this.#finish();
  }

  /** The last record goes on in the next segment, and has something to say. */
  get wantsNext(): boolean {
    return this.#scan !== undefined && this.#open !== "over";
  }

  /** Begins the segment behind the one before; only while `wantsNext`. */
  enterNext(): void {
    this.#scanner = this.#scanner.next();
  }

  /** Takes bytes of the segment that was entered, as long as `wantsNext`. */
  pushNext(bytes: Uint8Array): void {
    if (this.#open !== "over") this.#scanner.push(bytes);
    const { end } = this.#scanner.result();
    // What does not go on there never will.
    if (end !== "segment-end" && end !== "truncated") this.#open = "over";
  }

  /**
   * The index, once all of the segment was pushed.
   *
   * @throws {RangeError} before that.
   */
  result(): SegmentIndex {
    const scan = this.#scan;
    if (scan === undefined) {
      throw new RangeError(
        `Cannot index ${this.#segment.name}: ${this.#pushed} bytes, want ${this.#segment.segmentSize}`,
      );
    }
    const openRecord: OpenRecordState = scan.openRecordLsn === undefined
      ? "none"
      : this.#open === "over"
      ? "settled"
      : "unresolved";
    const { name, systemIdentifier } = this.#segment;
    return {
      name,
      systemIdentifier,
      contentCrc: this.#contentCrc,
      scan,
      openRecord,
      transactions: this.#transactions.summary(),
      restorePointCount: this.#restorePoints.length,
      checkpointCount: this.#checkpoints.length,
      backupEndCount: this.#backupEnds.length,
      xids: this.#transactions.xids(),
      subxids: this.#transactions.subxids(),
      restorePoints: this.#restorePoints,
      checkpoints: this.#checkpoints,
      backupEnds: this.#backupEnds,
    };
  }

  #finish(): void {
    const { problem: _problem, joinedRecordLsn: _joined, ...scan } = this.#scanner.result();
    this.#scan = scan;
    if (scan.openRecordLsn === undefined) return;
    // One whose header is cut was not asked about. Nor was one that was given up before its header was whole: then it
    // is taken for not asked about, and the next record that is, for it; `take` sees the difference.
    const isAsked = this.#askedCount > scan.recordCount + this.#overwrittenCount;
    if (!isAsked) this.#open = "not asked";
    else if (this.#lastIsWanted) this.#open = "waited for";
  }

  #taker(): RecordTaker {
    return {
      wants: (resourceManager, info) => {
        if (this.#scan !== undefined && this.#open !== "not asked") return false;
        this.#askedCount++;
        this.#lastIsWanted = isIndexed(resourceManager, info);
        if (this.#scan !== undefined) this.#open = this.#lastIsWanted ? "waited for" : "over";
        return this.#lastIsWanted;
      },
      take: (record) => {
        if (this.#scan === undefined || record.lsn === this.#scan.openRecordLsn) this.#take(record);
        this.#open = "over";
      },
      overwritten: () => {
        this.#overwrittenCount++;
        this.#open = "over";
      },
    };
  }

  #take(taken: WalRecord): void {
    const { lsn } = taken;
    const majorVersion = this.#scanner.majorVersion;
    // Of a version that nobody knows, nothing can be said.
    if (majorVersion === undefined) return;
    const record = decodeIndexed(taken, majorVersion);
    switch (record?.kind) {
      case "commit":
      case "abort":
        this.#transactions.add(record, lsn);
        this.onEnd?.({ ...record, lsn });
        break;
      case "restore point":
        this.#restorePoints.push({ lsn, time: record.time, name: record.name });
        break;
      case "checkpoint": {
        const { redoLsn, isShutdown, time, nextXid } = record;
        this.#checkpoints.push({ lsn, redoLsn, isShutdown, time, nextXid });
        break;
      }
      case "backup end":
        this.#backupEnds.push({ lsn, startLsn: record.startLsn });
    }
  }
}

/**
 * What a record says that `isIndexed`; `undefined` when that is nothing.
 *
 * Nor does one whose CRC is right while its body can't be decoded: a server wrote it so, and one record must not keep
 * all others from being told.
 */
export function decodeIndexed(
  { header, bytes }: WalRecord,
  majorVersion: number,
): TransactionEnd | XlogRecord | undefined {
  const { info, xid, resourceManager } = header;
  try {
    const { mainData } = decodeRecordBody(bytes, majorVersion);
    return resourceManager === TRANSACTION_RESOURCE_MANAGER
      ? decodeTransactionEnd({ info, xid, mainData }, majorVersion)
      : decodeXlogRecord({ info, mainData }, majorVersion);
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/** The commit that a record tells of; `undefined` where it tells of something else. */
export function commitOf(record: WalRecord, majorVersion: number): TransactionMark | undefined {
  const end = decodeIndexed(record, majorVersion);
  return end?.kind === "commit" ? { lsn: record.lsn, xid: end.xid, time: end.time } : undefined;
}

/** Counts transactions' ends, in the order of the WAL. */
export class TransactionTally {
  readonly #xids: number[] = [];
  readonly #subxids: number[] = [];
  #commitCount = 0;
  #abortCount = 0;
  #firstCommit: TransactionMark | undefined;
  #lastCommit: TransactionMark | undefined;
  #minCommitTime: Timestamp | undefined;
  #maxCommitTime: Timestamp | undefined;
  #minEndTime: Timestamp | undefined;
  #maxEndTime: Timestamp | undefined;
  #stepBackUs = 0n;

  /** A transaction's end whose record begins at `recordLsn`, behind all that were added. */
  add({ kind, xid, time, subxids }: TransactionEnd, recordLsn: Lsn): void {
    this.#xids.push(xid);
    for (const subxid of subxids) this.#subxids.push(subxid);
    if (this.#maxEndTime !== undefined && this.#maxEndTime - time > this.#stepBackUs) {
      this.#stepBackUs = this.#maxEndTime - time;
    }
    this.#minEndTime = earlier(this.#minEndTime, time);
    this.#maxEndTime = later(this.#maxEndTime, time);
    if (kind === "abort") {
      this.#abortCount++;
      return;
    }
    this.#commitCount++;
    const mark = { lsn: recordLsn, xid, time };
    this.#firstCommit ??= mark;
    this.#lastCommit = mark;
    this.#minCommitTime = earlier(this.#minCommitTime, time);
    this.#maxCommitTime = later(this.#maxCommitTime, time);
  }

  summary(): TransactionSummary {
    const xids = this.xids();
    const subxids = this.subxids();
    const lowest = [xids[0], subxids[0]].filter((xid) => xid !== undefined);
    const highest = [xids.at(-1), subxids.at(-1)].filter((xid) => xid !== undefined);
    return {
      commitCount: this.#commitCount,
      abortCount: this.#abortCount,
      firstCommit: this.#firstCommit,
      lastCommit: this.#lastCommit,
      minCommitTime: this.#minCommitTime,
      maxCommitTime: this.#maxCommitTime,
      minEndTime: this.#minEndTime,
      maxEndTime: this.#maxEndTime,
      stepBackUs: this.#stepBackUs,
      minXid: lowest.length === 0 ? undefined : Math.min(...lowest),
      maxXid: highest.length === 0 ? undefined : Math.max(...highest),
    };
  }

  /** Of the transactions, in order of their numbers, each once. */
  xids(): Uint32Array {
    return sortedOnce(this.#xids);
  }

  /** Of their subtransactions, in the same way. */
  subxids(): Uint32Array {
    return sortedOnce(this.#subxids);
  }
}

function earlier(a: Timestamp | undefined, b: Timestamp): Timestamp {
  return a === undefined || b < a ? b : a;
}

function later(a: Timestamp | undefined, b: Timestamp): Timestamp {
  return a === undefined || b > a ? b : a;
}

function sortedOnce(numbers: readonly number[]): Uint32Array {
  const sorted = Uint32Array.from(numbers).sort();
  return sorted.filter((number, i) => i === 0 || number !== sorted[i - 1]);
}
