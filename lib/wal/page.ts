import { type Lsn, lsn } from "./lsn.ts";

/**
 * Bytes in a page of WAL.
 *
 * @see XLOG_BLCKSZ; other builds (`--with-wal-blocksize`) are not supported
 */
export const PAGE_BYTES = 8192;

/** Bytes of the header that begins each page but a segment's first. */
export const SHORT_PAGE_HEADER_BYTES = 24;

/** Bytes of the header that begins a segment's first page. */
export const LONG_PAGE_HEADER_BYTES = 40;

const FIRST_IS_CONTRECORD = 0x0001;
const LONG_HEADER = 0x0002;
const FIRST_IS_OVERWRITE_CONTRECORD = 0x0008;

/** Every flag a page of PostgreSQL 10 to 18 may carry; 0x0004 (BKP_REMOVABLE) tells nothing that matters here. */
export const ALL_PAGE_FLAGS = 0x000f;

const MAJOR_VERSION_OF_MAGIC: ReadonlyMap<number, number> = new Map([
  [0xd097, 10],
  [0xd098, 11],
  [0xd101, 12],
  [0xd106, 13],
  [0xd10d, 14],
  [0xd110, 15],
  [0xd113, 16],
  [0xd116, 17],
  [0xd118, 18],
]);

/** What the first bytes of a page of WAL say. Nothing in it is covered by a checksum. */
export interface PageHeader {
  /** Names the WAL format: one value for each major version of PostgreSQL. */
  readonly magic: number;
  /** PostgreSQL's major version by the magic; `undefined` for a magic of no version 10 to 18. */
  readonly majorVersion: number | undefined;
  readonly flags: number;
  /** The timeline of the page's first byte; 0 on a page that was never written. */
  readonly timeline: number;
  /** The LSN of the page's first byte; that of other WAL in a recycled file. */
  readonly pageLsn: Lsn;
  /** Bytes of the record from the page before that are still to come; counts only with `isContinuation`. */
  readonly remainingBytes: number;
  readonly headerBytes: typeof SHORT_PAGE_HEADER_BYTES | typeof LONG_PAGE_HEADER_BYTES;
  /** The page begins with bytes of a record from the page before. */
  readonly isContinuation: boolean;
  /** The header is long, as on a segment's first page. */
  readonly isLong: boolean;
  /** The record that the page before left open is void: the server lost its rest in a crash and went on here. */
  readonly overwritesContrecord: boolean;
  /** Which cluster wrote it, unsigned 64 bits; in a long header only. */
  readonly systemIdentifier: bigint | undefined;
  /** Bytes per segment; in a long header only. */
  readonly segmentBytes: number | undefined;
  /** Bytes per page; in a long header only. */
  readonly pageBytes: number | undefined;
}

/**
 * Decodes the header of a page of WAL; `undefined` means: feed me more (24 bytes, or 40 when the header is long).
 *
 * | byte | bytes | field                                   |
 * | ---: | ----: | --------------------------------------- |
 * |    0 |     2 | magic                                   |
 * |    2 |     2 | flags                                   |
 * |    4 |     4 | timeline                                |
 * |    8 |     8 | LSN of the page                         |
 * |   16 |     4 | bytes still to come of the open record  |
 * |   20 |     4 | padding                                 |
 * |   24 |     8 | system identifier (long header only)    |
 * |   32 |     4 | bytes per segment (long header only)    |
 * |   36 |     4 | bytes per page (long header only)       |
 *
 * All little-endian, as every platform of PostgreSQL 10 to 18 that matters writes it. Never throws: an unknown magic
 * and impossible values are for the caller to judge. Nothing of the input is kept.
 * @see XLogPageHeaderData, XLogLongPageHeaderData, src/include/access/xlog_internal.h
 */
export function decodePageHeader(bytes: Uint8Array): PageHeader | undefined {
  if (bytes.length < SHORT_PAGE_HEADER_BYTES) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const magic = view.getUint16(0, true);
  const flags = view.getUint16(2, true);
  const isLong = (flags & LONG_HEADER) !== 0;
  if (isLong && bytes.length < LONG_PAGE_HEADER_BYTES) return undefined;
  return {
    magic,
    majorVersion: MAJOR_VERSION_OF_MAGIC.get(magic),
    flags,
    timeline: view.getUint32(4, true),
    pageLsn: lsn(view.getBigUint64(8, true)),
    remainingBytes: view.getUint32(16, true),
    headerBytes: isLong ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES,
    isContinuation: (flags & FIRST_IS_CONTRECORD) !== 0,
    isLong,
    overwritesContrecord: (flags & FIRST_IS_OVERWRITE_CONTRECORD) !== 0,
    systemIdentifier: isLong ? view.getBigUint64(24, true) : undefined,
    segmentBytes: isLong ? view.getUint32(32, true) : undefined,
    pageBytes: isLong ? view.getUint32(36, true) : undefined,
  };
}
