import { crc32c } from "../wal/crc32c.ts";
import { type Lsn, lsn } from "../wal/lsn.ts";
import { decodePageHeader, LONG_PAGE_HEADER_BYTES, PAGE_BYTES, type PageHeader } from "../wal/page.ts";
import type { SegmentScan, SegmentScanEnd } from "../wal/scanner.ts";
import { type SegmentSize, segmentSize } from "../wal/segment.ts";
import { type Timestamp, timestamp } from "../wal/timestamp.ts";
import { ByteReader, ByteWriter } from "./index_bytes.ts";

/** The version of the format that this program writes, and the only one that it reads: an index is made anew at will. */
const FORMAT = 1;
/** "WVIDX" and what breaks when a transfer changes line ends. */
const MAGIC = Uint8Array.of(0x57, 0x56, 0x49, 0x44, 0x58, 0x0d, 0x0a, 0x00);

/** Bytes of the head: all that is asked of most segments stands there. */
export const INDEX_HEAD_BYTES = 384;
/** The last bytes of the head are its CRC-32C. */
const HEAD_CRC_OFFSET = INDEX_HEAD_BYTES - 4;

/** Neither an LSN that begins or ends anything, nor a time that a clock tells. */
const ABSENT = 0xffff_ffff_ffff_ffffn;
const ABSENT_TIME = -(1n << 63n);

const SCAN_ENDS: readonly SegmentScanEnd[] = [
  "segment-end",
  "switch",
  "zero",
  "torn",
  "page-header",
  "truncated",
];

/**
 * Whether the record that goes on in the next segment is in the index.
 *
 * - `none`: there is no such record.
 * - `settled`: what there is to say of it is in.
 * - `unresolved`: the next segment was not there; the index is to be made again when it is.
 */
export type OpenRecordState = "none" | "settled" | "unresolved";
const OPEN_RECORD_STATES: readonly OpenRecordState[] = ["none", "settled", "unresolved"];

/** A transaction's end in the WAL. */
export interface TransactionMark {
  /** Where the record of it begins. */
  readonly lsn: Lsn;
  readonly xid: number;
  readonly time: Timestamp;
}

/** What the transactions that ended in a segment have in common; a record counts where it begins. */
export interface TransactionSummary {
  readonly commitCount: number;
  readonly abortCount: number;
  readonly firstCommit: TransactionMark | undefined;
  readonly lastCommit: TransactionMark | undefined;
  /** Of commits; the first one's and the last one's, if the clock did not step back and none overtook another. */
  readonly minCommitTime: Timestamp | undefined;
  readonly maxCommitTime: Timestamp | undefined;
  /** Of commits and aborts: `recovery_target_time` is held against both. */
  readonly minEndTime: Timestamp | undefined;
  readonly maxEndTime: Timestamp | undefined;
  /**
   * The most microseconds by which the time of an end lies before that of one that stands before it. Some are usual,
   * as sessions take the time before they write; more than a second is a clock that was set back.
   */
  readonly stepBackUs: bigint;
  /** Of those that ended, subtransactions included, as unsigned numbers: they wrap. */
  readonly minXid: number | undefined;
  readonly maxXid: number | undefined;
}

/** The head of an index: what is asked of every segment. */
export interface SegmentIndexHead {
  /** Of the segment: 24 digits. */
  readonly name: string;
  readonly systemIdentifier: bigint;
  /** CRC-32 (`zlib.crc32`) over the segment's own bytes, uncompressed. */
  readonly contentCrc: number;
  /** What the segment's bytes prove about themselves; `problem` is left out. */
  readonly scan: SegmentScan;
  readonly openRecord: OpenRecordState;
  readonly transactions: TransactionSummary;
  readonly restorePointCount: number;
  readonly checkpointCount: number;
  readonly backupEndCount: number;
}

/** A name for a place in the WAL. */
export interface RestorePointMark {
  readonly lsn: Lsn;
  readonly time: Timestamp;
  readonly name: string;
}

/** Where recovery can begin: at `redoLsn`, with the data files as they were at the checkpoint. */
export interface CheckpointMark {
  readonly lsn: Lsn;
  readonly redoLsn: Lsn;
  readonly isShutdown: boolean;
  readonly time: Timestamp;
  /** 64 bits. */
  readonly nextXid: bigint;
}

/** From here on the base backup that began at `startLsn` is consistent. */
export interface BackupEndMark {
  readonly lsn: Lsn;
  readonly startLsn: Lsn;
}

/** All that the archive keeps about a segment beside it. */
export interface SegmentIndex extends SegmentIndexHead {
  /** Of the transactions that ended here, in order of their numbers; each once. */
  readonly xids: Uint32Array;
  /** Of their subtransactions, in the same way. */
  readonly subxids: Uint32Array;
  /** In the order of the WAL, as all that follow. */
  readonly restorePoints: readonly RestorePointMark[];
  readonly checkpoints: readonly CheckpointMark[];
  readonly backupEnds: readonly BackupEndMark[];
}

/**
 * An index as its file holds it: a head of fixed length, then the lists.
 *
 * | byte | bytes | of the head                                                             |
 * | ---: | ----: | ----------------------------------------------------------------------- |
 * |    0 |     8 | magic                                                                   |
 * |    8 |     4 | version of the format                                                   |
 * |   12 |     4 | bytes of the lists                                                      |
 * |   16 |     4 | CRC-32C of the lists                                                    |
 * |   20 |     4 | CRC-32 of the segment                                                   |
 * |   24 |    24 | name of the segment                                                     |
 * |   48 |     8 | system identifier                                                       |
 * |   56 |     8 | the segment's first byte                                                |
 * |   64 |     4 | bytes per segment                                                       |
 * |   68 |     1 | how the scan ended                                                      |
 * |   69 |     1 | state of the open record                                                |
 * |   70 |     1 | the rest is zero: 0 no, 1 yes, 2 not known                              |
 * |   71 |     1 | the last page has its own address                                       |
 * |   72 |    48 | `endLsn`, `firstRecordLsn`, `firstRecordPrevLsn`, `lastRecordLsn`, `openRecordLsn`, `contentEndLsn` |
 * |  120 |     4 | number of records                                                       |
 * |  124 |     4 | bytes of the first page's header that follow; 0: it cannot be right     |
 * |  128 |    40 | the first page's header                                                 |
 * |  168 |     8 | number of commits, of aborts                                            |
 * |  176 |    48 | first commit, last commit: LSN, time, xid and 4 of padding each         |
 * |  224 |    32 | least and greatest time of commits, of all ends                         |
 * |  256 |     8 | greatest step back                                                      |
 * |  264 |     8 | least, greatest xid                                                     |
 * |  272 |    12 | number of restore points, of checkpoints, of backups' ends              |
 * |  284 |    96 | zero                                                                    |
 * |  380 |     4 | CRC-32C of the head up to here                                          |
 *
 * All little-endian. The lists: the xids and the subxids, each as their number and then the distance of each from the
 * one before, in 7-bit groups, the lowest first; the restore points as LSN, time, length of the name, name; the
 * checkpoints as LSN, redo LSN, time, next xid, 1 if of a shutdown; the backups' ends as LSN, start.
 */
export function encodeSegmentIndex(index: SegmentIndex): Uint8Array {
  const lists = encodeLists(index);
  const bytes = new Uint8Array(INDEX_HEAD_BYTES + lists.length);
  bytes.set(lists, INDEX_HEAD_BYTES);
  const head = new ByteWriter(bytes.subarray(0, HEAD_CRC_OFFSET));
  head.bytes(MAGIC);
  head.u32(FORMAT);
  head.u32(lists.length);
  head.u32(crc32c(lists));
  head.u32(index.contentCrc);
  head.bytes(new TextEncoder().encode(index.name));
  head.u64(index.systemIdentifier);
  encodeScan(head, index);
  encodeTransactions(head, index.transactions);
  head.u32(index.restorePointCount);
  head.u32(index.checkpointCount);
  head.u32(index.backupEndCount);
  new DataView(bytes.buffer).setUint32(HEAD_CRC_OFFSET, crc32c(bytes.subarray(0, HEAD_CRC_OFFSET)), true);
  return bytes;
}

function encodeScan(head: ByteWriter, { scan, openRecord }: SegmentIndexHead): void {
  const lsnOr = (value: Lsn | undefined) => head.u64(value ?? ABSENT);
  head.u64(scan.startLsn);
  head.u32(scan.segmentSize);
  head.u8(SCAN_ENDS.indexOf(scan.end));
  head.u8(OPEN_RECORD_STATES.indexOf(openRecord));
  head.u8(scan.restIsZero === undefined ? 2 : Number(scan.restIsZero));
  head.u8(Number(scan.lastPageHasOwnAddress));
  head.u64(scan.endLsn);
  lsnOr(scan.firstRecordLsn);
  lsnOr(scan.firstRecordPrevLsn);
  lsnOr(scan.lastRecordLsn);
  lsnOr(scan.openRecordLsn);
  head.u64(scan.contentEndLsn);
  head.u32(scan.recordCount);
  const page = scan.firstPage;
  head.u32(page === undefined ? 0 : LONG_PAGE_HEADER_BYTES);
  head.u16(page?.magic ?? 0);
  head.u16(page?.flags ?? 0);
  head.u32(page?.timeline ?? 0);
  head.u64(page?.pageLsn ?? 0n);
  head.u32(page?.remainingBytes ?? 0);
  head.u32(0);
  head.u64(page?.systemIdentifier ?? 0n);
  head.u32(page?.segmentBytes ?? 0);
  head.u32(page?.pageBytes ?? 0);
}

function encodeTransactions(head: ByteWriter, transactions: TransactionSummary): void {
  const timeOr = (value: Timestamp | undefined) => head.i64(value ?? ABSENT_TIME);
  head.u32(transactions.commitCount);
  head.u32(transactions.abortCount);
  for (const mark of [transactions.firstCommit, transactions.lastCommit]) {
    head.u64(mark?.lsn ?? ABSENT);
    timeOr(mark?.time);
    head.u32(mark?.xid ?? 0);
    head.u32(0);
  }
  timeOr(transactions.minCommitTime);
  timeOr(transactions.maxCommitTime);
  timeOr(transactions.minEndTime);
  timeOr(transactions.maxEndTime);
  head.u64(transactions.stepBackUs);
  // A segment without transactions: the least is above the greatest.
  head.u32(transactions.minXid ?? 1);
  head.u32(transactions.maxXid ?? 0);
}

function encodeLists(index: SegmentIndex): Uint8Array {
  const names = index.restorePoints.map(({ name }) => new TextEncoder().encode(name));
  const xidBytes = 5 * (index.xids.length + index.subxids.length + 2);
  const pointBytes = names.reduce((sum, name) => sum + name.length + 21, 0);
  const room = xidBytes + pointBytes + 33 * index.checkpoints.length + 16 * index.backupEnds.length;
  const writer = new ByteWriter(new Uint8Array(room));
  writer.distances(index.xids);
  writer.distances(index.subxids);
  for (const [i, point] of index.restorePoints.entries()) {
    const name = names[i]!;
    writer.u64(point.lsn);
    writer.i64(point.time);
    writer.varint(name.length);
    writer.bytes(name);
  }
  for (const checkpoint of index.checkpoints) {
    writer.u64(checkpoint.lsn);
    writer.u64(checkpoint.redoLsn);
    writer.i64(checkpoint.time);
    writer.u64(checkpoint.nextXid);
    writer.u8(Number(checkpoint.isShutdown));
  }
  for (const end of index.backupEnds) {
    writer.u64(end.lsn);
    writer.u64(end.startLsn);
  }
  return writer.taken();
}

/**
 * Decodes the head of an index, of which at least `INDEX_HEAD_BYTES` are there.
 *
 * @throws {SyntaxError} when these are not what `encodeSegmentIndex()` makes: torn, damaged, or of another version.
 */
export function decodeSegmentIndexHead(bytes: Uint8Array): SegmentIndexHead {
  const head = readHead(bytes);
  try {
    return decodeHead(head);
  } catch (cause) {
    // The checksum holds: another program wrote it.
    throw new SyntaxError("Cannot read an index: its head holds what no index holds", { cause });
  }
}

/**
 * Decodes an index.
 *
 * @throws {SyntaxError} when these are not what `encodeSegmentIndex()` makes: torn, damaged, or of another version.
 */
export function decodeSegmentIndex(bytes: Uint8Array): SegmentIndex {
  const head = decodeSegmentIndexHead(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const lists = bytes.subarray(INDEX_HEAD_BYTES);
  const wantBytes = view.getUint32(12, true);
  if (lists.length !== wantBytes) {
    throw new SyntaxError(`Cannot read an index: ${lists.length} bytes after the head, want ${wantBytes}`);
  }
  if (crc32c(lists) !== view.getUint32(16, true)) {
    throw new SyntaxError("Cannot read an index: the checksum of its lists is not theirs");
  }
  try {
    return { ...head, ...decodeLists(new ByteReader(lists), head) };
  } catch (cause) {
    throw new SyntaxError("Cannot read an index: its lists hold what no index holds", { cause });
  }
}

function readHead(bytes: Uint8Array): ByteReader {
  if (bytes.length < INDEX_HEAD_BYTES) {
    throw new SyntaxError(`Cannot read an index: ${bytes.length} bytes, want at least ${INDEX_HEAD_BYTES}`);
  }
  if (MAGIC.some((byte, i) => bytes[i] !== byte)) {
    throw new SyntaxError("Cannot read an index: it does not begin as one");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const format = view.getUint32(8, true);
  if (format !== FORMAT) {
    throw new SyntaxError(`Cannot read an index: format ${format}, want ${FORMAT}`);
  }
  if (crc32c(bytes.subarray(0, HEAD_CRC_OFFSET)) !== view.getUint32(HEAD_CRC_OFFSET, true)) {
    throw new SyntaxError("Cannot read an index: the checksum of its head is not its own");
  }
  const reader = new ByteReader(bytes.subarray(0, HEAD_CRC_OFFSET));
  reader.bytes(20);
  return reader;
}

function decodeHead(head: ByteReader): SegmentIndexHead {
  const contentCrc = head.u32();
  const name = new TextDecoder().decode(head.bytes(24));
  const systemIdentifier = head.u64();
  return {
    name,
    systemIdentifier,
    contentCrc,
    ...decodeScan(head),
    transactions: decodeTransactions(head),
    restorePointCount: head.u32(),
    checkpointCount: head.u32(),
    backupEndCount: head.u32(),
  };
}

function decodeScan(head: ByteReader): Pick<SegmentIndexHead, "scan" | "openRecord"> {
  const lsnOr = () => {
    const value = head.u64();
    return value === ABSENT ? undefined : lsn(value);
  };
  const startLsn = lsn(head.u64());
  const size: SegmentSize = segmentSize(head.u32());
  const end = oneOf(SCAN_ENDS, head.u8());
  const openRecord = oneOf(OPEN_RECORD_STATES, head.u8());
  const rest = head.u8();
  const lastPageHasOwnAddress = head.u8() === 1;
  const endLsn = lsn(head.u64());
  const firstRecordLsn = lsnOr();
  const firstRecordPrevLsn = lsnOr();
  const lastRecordLsn = lsnOr();
  const openRecordLsn = lsnOr();
  const contentEndLsn = lsn(head.u64());
  const recordCount = head.u32();
  const pageBytes = head.u32();
  const page = head.bytes(LONG_PAGE_HEADER_BYTES);
  const firstPage = pageBytes === 0 ? undefined : longPageHeader(page);
  const continuesFrom = firstPage?.isContinuation ?? false;
  const scan: SegmentScan = {
    startLsn,
    segmentSize: size,
    firstPage,
    endLsn,
    recordCount,
    firstRecordLsn,
    firstRecordPrevLsn,
    lastRecordLsn,
    contrecordBytes: continuesFrom ? firstPage?.remainingBytes ?? 0 : 0,
    continuesFrom,
    openRecordLsn,
    contentEndLsn,
    end,
    switched: end === "switch",
    restIsZero: rest === 2 ? undefined : rest === 1,
    lastPageHasOwnAddress,
  };
  return { scan, openRecord };
}

function longPageHeader(bytes: Uint8Array): PageHeader {
  const header = decodePageHeader(bytes);
  if (header?.pageBytes !== PAGE_BYTES) throw new RangeError("Cannot take it for the header of a first page");
  return header;
}

function decodeTransactions(head: ByteReader): TransactionSummary {
  const timeOr = () => {
    const value = head.i64();
    return value === ABSENT_TIME ? undefined : timestamp(value);
  };
  const markOr = (): TransactionMark | undefined => {
    const markLsn = head.u64();
    const time = timeOr();
    const xid = head.u32();
    head.u32();
    return markLsn === ABSENT || time === undefined ? undefined : { lsn: lsn(markLsn), xid, time };
  };
  const commitCount = head.u32();
  const abortCount = head.u32();
  const firstCommit = markOr();
  const lastCommit = markOr();
  const minCommitTime = timeOr();
  const maxCommitTime = timeOr();
  const minEndTime = timeOr();
  const maxEndTime = timeOr();
  const stepBackUs = head.u64();
  const minXid = head.u32();
  const maxXid = head.u32();
  const hasXids = minXid <= maxXid;
  return {
    commitCount,
    abortCount,
    firstCommit,
    lastCommit,
    minCommitTime,
    maxCommitTime,
    minEndTime,
    maxEndTime,
    stepBackUs,
    minXid: hasXids ? minXid : undefined,
    maxXid: hasXids ? maxXid : undefined,
  };
}

function decodeLists(lists: ByteReader, head: SegmentIndexHead): Omit<SegmentIndex, keyof SegmentIndexHead> {
  const xids = lists.distances();
  const subxids = lists.distances();
  const restorePoints: RestorePointMark[] = [];
  for (let i = 0; i < head.restorePointCount; i++) {
    const at = lsn(lists.u64());
    const time = timestamp(lists.i64());
    restorePoints.push({ lsn: at, time, name: new TextDecoder().decode(lists.bytes(lists.varint())) });
  }
  const checkpoints: CheckpointMark[] = [];
  for (let i = 0; i < head.checkpointCount; i++) {
    checkpoints.push({
      lsn: lsn(lists.u64()),
      redoLsn: lsn(lists.u64()),
      time: timestamp(lists.i64()),
      nextXid: lists.u64(),
      isShutdown: lists.u8() === 1,
    });
  }
  const backupEnds: BackupEndMark[] = [];
  for (let i = 0; i < head.backupEndCount; i++) {
    backupEnds.push({ lsn: lsn(lists.u64()), startLsn: lsn(lists.u64()) });
  }
  if (lists.left > 0) throw new RangeError(`Cannot take ${lists.left} bytes after the last list`);
  return { xids, subxids, restorePoints, checkpoints, backupEnds };
}

function oneOf<T>(values: readonly T[], index: number): T {
  const value = values[index];
  if (value === undefined) throw new RangeError(`Cannot take ${index} for one of ${values.join(", ")}`);
  return value;
}
