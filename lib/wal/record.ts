import { formatLsn, type Lsn, lsn } from "./lsn.ts";

/** Bytes of the header that begins each record. */
export const RECORD_HEADER_BYTES = 24;

/** Bytes of that header which the record's CRC covers: all before the CRC itself. */
export const RECORD_HEADER_CRC_OFFSET = 20;

/** Records begin at multiples of this. */
export const RECORD_ALIGNMENT_BYTES = 8;

/**
 * The longest record there can be.
 *
 * Servers read one into memory, at most 1 GiB - 1; from 16 on they also refuse to write more than 1020 MiB.
 * @see MaxAllocSize, src/include/utils/memutils.h; XLogRecordMaxSize, src/include/access/xlogrecord.h
 */
export const MAX_RECORD_BYTES = 0x3fff_ffff;

/** The resource manager of XLOG_SWITCH, checkpoints and the like. */
export const XLOG_RESOURCE_MANAGER = 0;

/** `info` (its high four bits) of XLOG_SWITCH, the record that leaves the rest of its segment empty. */
export const XLOG_SWITCH_INFO = 0x40;

/** The high four bits of `info` belong to the resource manager. */
const RESOURCE_MANAGER_INFO_MASK = 0xf0;

/** The last resource manager of PostgreSQL's own in versions 10 to 18 (logical messages). */
export const LAST_BUILTIN_RESOURCE_MANAGER = 21;
/** The first that extensions may bring, from PostgreSQL 15 on. */
const FIRST_CUSTOM_RESOURCE_MANAGER = 128;

/** What the first bytes of a record say; to be believed only when the CRC has confirmed it. */
export interface RecordHeader {
  /** Bytes of the whole record, this header included; page headers in between and padding are not counted. */
  readonly totalBytes: number;
  /** The transaction, 0 when there is none. */
  readonly xid: number;
  /** Where the record before begins; 0/0 in a cluster's very first record. */
  readonly prevLsn: Lsn;
  readonly info: number;
  readonly resourceManager: number;
  /** CRC-32C over the bytes after the header, then the header up to here. */
  readonly crc: number;
}

/** A whole record, and where it lies. Its CRC holds. */
export interface WalRecord {
  readonly lsn: Lsn;
  /** The first byte after it, rounded up to 8 bytes; the next record may begin later, behind a page's header. */
  readonly endLsn: Lsn;
  readonly header: RecordHeader;
  /** Its `header.totalBytes` bytes from the header on, page headers in between taken out. */
  readonly bytes: Uint8Array;
}

/** Asks for records, and gets them in the order of the WAL. */
export interface RecordTaker {
  /**
   * Whether the record that begins here is wanted. Asked before its CRC is known, so also of what turns out to be none.
   *
   * Bytes are kept for wanted records only, as far as they are there: at most `totalBytes`.
   */
  wants(resourceManager: number, info: number, totalBytes: number): boolean;
  /** A wanted record. Its `bytes` are valid during the call only. */
  take(record: WalRecord): void;
  /** The record that begins there is void: its rest was lost in a crash, and the server wrote on over it. */
  overwritten?(recordLsn: Lsn): void;
}

/**
 * Decodes a record's header; `undefined` means: feed me more (24 bytes).
 *
 * | byte | bytes | field                       |
 * | ---: | ----: | --------------------------- |
 * |    0 |     4 | length of the whole record  |
 * |    4 |     4 | transaction                 |
 * |    8 |     8 | LSN of the record before    |
 * |   16 |     1 | info                        |
 * |   17 |     1 | resource manager            |
 * |   18 |     2 | padding                     |
 * |   20 |     4 | CRC-32C                     |
 *
 * All little-endian. Never throws: whether it can be true, `recordHeaderProblem()` says. Nothing of the input is
 * kept.
 * @see XLogRecord, src/include/access/xlogrecord.h (PostgreSQL 9.5 to 18)
 */
export function decodeRecordHeader(bytes: Uint8Array): RecordHeader | undefined {
  if (bytes.length < RECORD_HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    totalBytes: view.getUint32(0, true),
    xid: view.getUint32(4, true),
    prevLsn: lsn(view.getBigUint64(8, true)),
    info: view.getUint8(16),
    resourceManager: view.getUint8(17),
    crc: view.getUint32(20, true),
  };
}

/** Whether the record is an XLOG_SWITCH: nothing follows it in its segment. */
export function isSwitchRecord(header: Pick<RecordHeader, "info" | "resourceManager">): boolean {
  return header.resourceManager === XLOG_RESOURCE_MANAGER &&
    (header.info & RESOURCE_MANAGER_INFO_MASK) === XLOG_SWITCH_INFO;
}

/**
 * Why a record with this header cannot begin at `recordLsn`; `undefined` when it can.
 *
 * `expectedPrevLsn` is where the record before begins; `undefined` when that is not known: then anything below
 * `recordLsn` will do.
 * @see ValidXLogRecordHeader(), src/backend/access/transam/xlogreader.c
 */
export function recordHeaderProblem(
  header: RecordHeader,
  at: { readonly recordLsn: Lsn; readonly expectedPrevLsn: Lsn | undefined },
): string | undefined {
  const lengthProblem = recordLengthProblem(header.totalBytes);
  if (lengthProblem !== undefined) return lengthProblem;
  if (!isResourceManager(header.resourceManager)) {
    return `resource manager ${header.resourceManager}, want 0 to ${LAST_BUILTIN_RESOURCE_MANAGER} or a custom one`;
  }
  if (
    at.expectedPrevLsn === undefined ? header.prevLsn >= at.recordLsn : header.prevLsn !== at.expectedPrevLsn
  ) {
    const want = at.expectedPrevLsn === undefined ? "an earlier one" : formatLsn(at.expectedPrevLsn);
    return `link to a record before at ${formatLsn(header.prevLsn)}, want ${want}`;
  }
  return undefined;
}

/** Why no record can have this length in bytes; `undefined` when one can. */
export function recordLengthProblem(totalBytes: number): string | undefined {
  if (totalBytes >= RECORD_HEADER_BYTES && totalBytes <= MAX_RECORD_BYTES) return undefined;
  return `record length ${totalBytes}, want ${RECORD_HEADER_BYTES} to ${MAX_RECORD_BYTES} bytes`;
}

function isResourceManager(id: number): boolean {
  return id <= LAST_BUILTIN_RESOURCE_MANAGER || id >= FIRST_CUSTOM_RESOURCE_MANAGER;
}
