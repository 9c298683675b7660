import { crc32cOfRange } from "./crc32c.ts";
import { advance, formatLsn, type Lsn, lsn } from "./lsn.ts";
import {
  ALL_PAGE_FLAGS,
  decodePageHeader,
  LONG_PAGE_HEADER_BYTES,
  PAGE_BYTES,
  type PageHeader,
  SHORT_PAGE_HEADER_BYTES,
} from "./page.ts";
import {
  decodeRecordHeader,
  isSwitchRecord,
  LAST_BUILTIN_RESOURCE_MANAGER,
  RECORD_ALIGNMENT_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_HEADER_CRC_OFFSET,
  recordHeaderProblem,
  recordLengthProblem,
} from "./record.ts";
import { formatSegmentSize, segmentOffset, type SegmentSize } from "./segment.ts";
import { type TimelineId, timelineId } from "./timeline.ts";

/**
 * Why the valid WAL of a segment ends where it does.
 *
 * - `segment-end`: it does not; it fills the segment.
 * - `switch`: an XLOG_SWITCH leaves the rest of the segment empty.
 * - `zero`: nothing was written there yet.
 * - `torn`: what is there is no valid record: cut off, damaged, or left from an earlier use of the file.
 * - `page-header`: a page is there whose header cannot be right, as in a recycled file.
 * - `truncated`: all bytes that were pushed are right, but they are fewer than a segment.
 */
export type SegmentScanEnd = "segment-end" | "switch" | "zero" | "torn" | "page-header" | "truncated";

/** What a segment's bytes prove about themselves. Every LSN lies from `startLsn` to the segment's end. */
export interface SegmentScan {
  /** The segment's first byte. */
  readonly startLsn: Lsn;
  readonly segmentSize: SegmentSize;
  /** The first page's header; `undefined` when it is not there or cannot be right. */
  readonly firstPage?: PageHeader | undefined;
  /**
   * The first byte after the last valid record that begins in this segment and ends in it, rounded up to 8 bytes;
   * `startLsn` when there is none. Page headers and the emptiness after an XLOG_SWITCH are not skipped.
   */
  readonly endLsn: Lsn;
  /** How many valid records begin in this segment and end in it. */
  readonly recordCount: number;
  /** The first record that begins in this segment: a valid one, or the open one. */
  readonly firstRecordLsn?: Lsn | undefined;
  /**
   * Where the record before the first one begins, by its own word: in an earlier segment, 0/0 when it is the
   * cluster's first. `undefined` also when the segment's end cuts the first record's header before that word.
   */
  readonly firstRecordPrevLsn?: Lsn | undefined;
  /** The last valid record that begins in this segment and ends in it. */
  readonly lastRecordLsn?: Lsn | undefined;
  /** Bytes of a record from the segment before that were still to come when this segment began, else 0. */
  readonly contrecordBytes: number;
  /** The segment begins with bytes of a record from the segment before. Those have no CRC of their own. */
  readonly continuesFrom: boolean;
  /** The record that begins here and goes on in the next segment; all its bytes up to there are present. */
  readonly openRecordLsn?: Lsn | undefined;
  /**
   * The end of what looks right, proven by a CRC or not: `endLsn`, or further when there is an open record, or when a
   * record from the segment before goes on here. Of a record that is cut off, only the pages count that a good page
   * follows. It equals the segment's end when the content fills the segment.
   */
  readonly contentEndLsn: Lsn;
  readonly end: SegmentScanEnd;
  /** In words, for `torn`, `page-header` and `truncated`: "at 0/3002000: page magic 0xD110, want 0xD10D". */
  readonly problem?: string | undefined;
  /** The last valid record is an XLOG_SWITCH. */
  readonly switched: boolean;
  /**
   * After an XLOG_SWITCH: whether the rest of the segment is zero, or pages of nothing but their own header (as
   * PostgreSQL 10 wrote them). `undefined` when there is no switch, or too little was pushed to tell.
   */
  readonly restIsZero: boolean | undefined;
  /** The segment's last page was pushed and carries its own address. */
  readonly lastPageHasOwnAddress: boolean;
}

/** Where a `SegmentScanner` begins, and what it holds the pages against. */
export interface SegmentScannerOptions {
  /** The segment's first byte. */
  readonly startLsn: Lsn;
  readonly segmentSize: SegmentSize;
  /** Refuses a first page of any other cluster. */
  readonly systemIdentifier?: bigint;
  /** Refuses pages of timelines for which it says no. Without it any timeline will do that is not less than the last. */
  readonly allowedTimeline?: (timeline: TimelineId, pageLsn: Lsn) => boolean;
  /**
   * The CRC of a record that ends before it is not looked at: its length and its links must do. The first record and an
   * XLOG_SWITCH are proven all the same.
   */
  readonly provenFromLsn?: Lsn;
}

/** What the next byte is, if it does not belong to a page header. */
type Phase = "continuation" | "record-header" | "record-data" | "padding" | "switched" | "ended";

/** No record before this one is known in the segment. */
const NONE = -1;

/**
 * Finds the end of valid WAL in one segment, from its bytes alone.
 *
 * Takes the bytes in order from the segment's first one, cut anywhere, and keeps none of them: memory is constant,
 * whatever the length of the records. Follows PostgreSQL's own reader: page headers, links between records, CRCs.
 *
 * A record from the segment before cannot be checked, as its CRC is not here; it counts in `contentEndLsn` only.
 * @see XLogDecodeNextRecord(), XLogReaderValidatePageHeader(), src/backend/access/transam/xlogreader.c
 */
export class SegmentScanner {
  readonly #options: SegmentScannerOptions;
  readonly #segmentBytes: number;
  /** The halves of `startLsn`. Nothing in the segment carries over from the low one: segments are aligned. */
  readonly #startLow: number;
  readonly #startHigh: number;

  // Positions are bytes from the segment's start: numbers, as a segment has at most 1 GiB.
  /** Bytes pushed. */
  #pushed = 0;
  /** Bytes taken in by the state below; stays behind `#pushed` once the end is found. */
  #position = 0;
  #phase: Phase = "record-header";
  #end: SegmentScanEnd | undefined;
  #problem: string | undefined;

  readonly #pageBytes = new Uint8Array(LONG_PAGE_HEADER_BYTES);
  /** Length of this page's header, as far as it is known. */
  #pageHeaderBytes = LONG_PAGE_HEADER_BYTES;
  #firstPage: PageHeader | undefined;
  #pageTimeline = 0;
  /** Where the last page with a good header begins. */
  #lastGoodPage = 0;

  /** Bytes still to come of the record from the segment before. */
  #continuationLeft = 0;
  #contentEnd = 0;

  readonly #recordBytes = new Uint8Array(RECORD_HEADER_BYTES);
  readonly #recordView = new DataView(this.#recordBytes.buffer);
  /** Where the record at hand begins, how long it says it is, and how much of it was taken in. */
  #record = 0;
  #recordTotal = 0;
  #recordTaken = 0;
  /** CRC of the record's bytes after its header, so far. */
  #recordCrc = 0;
  #recordIsProven = true;
  /** As `provenFromLsn`, from the segment's start. */
  readonly #provenFrom: number;

  #recordCount = 0;
  #firstRecord = NONE;
  #firstRecordPrevLsn: Lsn | undefined;
  #lastRecord = NONE;
  #recordsEnd = 0;
  #restIsZero = true;

  readonly #lastPageBytes = new Uint8Array(SHORT_PAGE_HEADER_BYTES);

  /** @throws {RangeError} when `startLsn` is no segment's first byte. */
  constructor(options: SegmentScannerOptions) {
    if (segmentOffset(options.startLsn, options.segmentSize) !== 0) {
      const size = formatSegmentSize(options.segmentSize);
      throw new RangeError(
        `Cannot scan WAL from ${formatLsn(options.startLsn)}: want the start of a ${size} segment`,
      );
    }
    this.#options = options;
    this.#segmentBytes = options.segmentSize;
    this.#startLow = Number(options.startLsn & 0xffff_ffffn);
    this.#startHigh = Number(options.startLsn >> 32n);
    const { startLsn, provenFromLsn = startLsn } = options;
    this.#provenFrom = Number(provenFromLsn - startLsn);
  }

  /**
   * The end of valid WAL is found: no more bytes can change it.
   *
   * What comes after it only settles `restIsZero` and `lastPageHasOwnAddress`.
   */
  get done(): boolean {
    return this.#end !== undefined || this.#position === this.#segmentBytes;
  }

  /** Takes the next bytes, cut anywhere. Bytes beyond the segment's end are ignored; none are kept. */
  push(bytes: Uint8Array): void {
    const end = Math.min(bytes.length, this.#segmentBytes - this.#pushed);
    this.#noteLastPage(bytes, end);
    let i = 0;
    while (i < end && this.#phase !== "ended") i = this.#take(bytes, i, end);
    this.#pushed += end;
  }

  /** What is known of the segment by the bytes pushed so far. */
  result(): SegmentScan {
    const { startLsn, segmentSize } = this.#options;
    const lsnAt = (position: number) => advance(startLsn, position);
    const isFull = this.#pushed === this.#segmentBytes;
    const end = this.#end ?? (isFull ? "segment-end" : "truncated");
    const fillsSegment = end === "segment-end";
    const hasOpenRecord = fillsSegment && this.#recordTaken > 0;
    const isFirstOpen = hasOpenRecord && this.#firstRecord === NONE;
    const hasFirst = isFirstOpen || this.#firstRecord !== NONE;
    const contentEnd = fillsSegment
      ? this.#segmentBytes
      : Math.max(this.#recordsEnd, this.#contentEnd, this.#lastGoodPage);
    return {
      startLsn,
      segmentSize,
      firstPage: this.#firstPage,
      endLsn: lsnAt(this.#recordsEnd),
      recordCount: this.#recordCount,
      firstRecordLsn: hasFirst ? lsnAt(isFirstOpen ? this.#record : this.#firstRecord) : undefined,
      firstRecordPrevLsn: isFirstOpen && this.#recordTaken >= 16
        ? this.#recordPrevLsn()
        : this.#firstRecordPrevLsn,
      lastRecordLsn: this.#lastRecord === NONE ? undefined : lsnAt(this.#lastRecord),
      contrecordBytes: this.#firstPage?.isContinuation ? this.#firstPage.remainingBytes : 0,
      continuesFrom: this.#firstPage?.isContinuation ?? false,
      openRecordLsn: hasOpenRecord ? lsnAt(this.#record) : undefined,
      contentEndLsn: lsnAt(contentEnd),
      end,
      problem: end === "truncated"
        ? `at ${formatLsn(lsnAt(this.#pushed))}: ${this.#pushed} bytes, want ${this.#segmentBytes}`
        : this.#problem,
      switched: end === "switch",
      restIsZero: end === "switch" && (isFull || !this.#restIsZero) ? this.#restIsZero : undefined,
      lastPageHasOwnAddress: this.#lastPageHasOwnAddress(),
    };
  }

  /** Takes some of `bytes[i..end)`, at least one byte, and returns where to go on. */
  #take(bytes: Uint8Array, i: number, end: number): number {
    const inPage = this.#position % PAGE_BYTES;
    if (inPage === 0) {
      this.#pageHeaderBytes = this.#position === 0 ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES;
    }
    if (inPage < this.#pageHeaderBytes) {
      const until = Math.min(end, i + this.#pageHeaderBytes - inPage);
      copyRange(bytes, i, until, this.#pageBytes, inPage);
      this.#position += until - i;
      if (inPage + until - i === this.#pageHeaderBytes) this.#enterPage();
      return until;
    }
    const pageEnd = Math.min(end, i + PAGE_BYTES - inPage);
    switch (this.#phase) {
      case "record-header":
        return this.#takeRecordHeader(bytes, i, pageEnd);
      case "record-data":
        return this.#takeRecordData(bytes, i, pageEnd);
      case "continuation":
        return this.#takeContinuation(i, pageEnd);
      case "padding":
        return this.#takePadding(i, pageEnd);
      case "switched":
        if (!isAllZero(bytes.subarray(i, pageEnd))) this.#restIsZero = false;
        this.#position += pageEnd - i;
        return pageEnd;
      case "ended":
        return end;
    }
  }

  /** The page's header is there, at least its short form. */
  #enterPage(): void {
    const page = this.#position - this.#pageHeaderBytes;
    const bytes = this.#pageBytes.subarray(0, this.#pageHeaderBytes);
    const header = decodePageHeader(bytes);
    if (header === undefined) { // a long header on a later page: no server writes it, its reader takes it
      this.#pageHeaderBytes = LONG_PAGE_HEADER_BYTES;
      return;
    }
    const isZero = isAllZero(bytes.subarray(0, SHORT_PAGE_HEADER_BYTES));
    if (this.#phase === "switched") {
      const isBare = header.remainingBytes === 0 && this.#pageProblem(header, page) === undefined;
      if (!isZero && !isBare) this.#restIsZero = false;
      return;
    }
    const isOpen = this.#recordTaken > 0 || this.#continuationLeft > 0;
    if (isZero) return this.#stop(isOpen ? "torn" : "zero", page, "an empty page");
    const problem = this.#pageProblem(header, page);
    if (problem !== undefined) return this.#stop("page-header", page, problem);
    if (page === 0) {
      this.#firstPage = header;
      this.#continuationLeft = header.isContinuation ? header.remainingBytes : 0;
      if (header.isContinuation) this.#phase = "continuation";
    } else if (isOpen && header.overwritesContrecord) {
      this.#forgetOpenRecord();
    } else {
      const openLeft = this.#continuationLeft + this.#recordTotal - this.#recordTaken;
      const left = header.isContinuation ? header.remainingBytes : 0;
      const want = isOpen ? openLeft : 0;
      if (left !== want) {
        return this.#stop("torn", page, `${left} bytes of the open record still to come, want ${want}`);
      }
    }
    this.#pageTimeline = header.timeline;
    this.#lastGoodPage = page;
  }

  /** Why the page cannot be one of this segment at this place; whether it fits the open record is not asked here. */
  #pageProblem(header: PageHeader, page: number): string | undefined {
    const { startLsn, segmentSize, systemIdentifier, allowedTimeline } = this.#options;
    const pageLsn = advance(startLsn, page);
    const magic = this.#firstPage?.magic ?? header.magic;
    if (header.magic !== magic) {
      const major = this.#firstPage?.majorVersion;
      const version = major === undefined ? "" : ` (PostgreSQL ${major})`;
      return `page magic ${formatHex16(header.magic)}, want ${formatHex16(magic)}${version}`;
    }
    if (header.pageLsn !== pageLsn) return `page address ${formatLsn(header.pageLsn)}, want its own`;
    if ((header.flags & ~ALL_PAGE_FLAGS) !== 0) {
      return `page flags ${formatHex16(header.flags)}, want none above ${formatHex16(ALL_PAGE_FLAGS)}`;
    }
    if (page === 0 && !header.isLong) return "a short page header, want a long one";
    if (header.isLong) {
      if (systemIdentifier !== undefined && header.systemIdentifier !== systemIdentifier) {
        return `system identifier ${header.systemIdentifier}, want ${systemIdentifier}`;
      }
      if (header.segmentBytes !== segmentSize) {
        return `segment size ${header.segmentBytes} bytes, want ${segmentSize}`;
      }
      if (header.pageBytes !== PAGE_BYTES) return `page size ${header.pageBytes} bytes, want ${PAGE_BYTES}`;
    }
    if (header.isContinuation && header.remainingBytes === 0) return "0 bytes of an open record, want some";
    if (header.isContinuation && header.overwritesContrecord) {
      return "an open record both continued and given up, want one of them";
    }
    const { timeline } = header;
    if (timeline === 0 || timeline < this.#pageTimeline) {
      return `timeline ${timeline}, want ${Math.max(1, this.#pageTimeline)} or above`;
    }
    if (allowedTimeline?.(timelineId(timeline), pageLsn) === false) {
      return `timeline ${timeline}, want one of the lineage`;
    }
    return undefined;
  }

  #takeRecordHeader(bytes: Uint8Array, i: number, pageEnd: number): number {
    const taken = this.#recordTaken;
    if (taken === 0) this.#record = this.#position;
    const until = Math.min(pageEnd, i + RECORD_HEADER_BYTES - taken);
    copyRange(bytes, i, until, this.#recordBytes, taken);
    this.#recordTaken = taken + until - i;
    this.#position += until - i;
    if (this.#recordTaken === RECORD_HEADER_BYTES) this.#enterRecord();
    else if (this.#position % PAGE_BYTES === 0) this.#checkSplitHeader();
    return until;
  }

  #wantsProof(totalBytes: number): boolean {
    // With the headers of all pages that it can touch.
    const pages = Math.ceil(totalBytes / (PAGE_BYTES - LONG_PAGE_HEADER_BYTES)) + 1;
    if (this.#record + totalBytes + pages * LONG_PAGE_HEADER_BYTES >= this.#provenFrom) return true;
    return this.#firstRecord === NONE || isSwitchRecord({
      info: this.#recordView.getUint8(16),
      resourceManager: this.#recordView.getUint8(17),
    });
  }

  /** The record's header is there. */
  #enterRecord(): void {
    const totalBytes = this.#recordView.getUint32(0, true);
    const problem = this.#isPlainRecord(totalBytes) ? undefined : this.#recordProblem();
    if (problem !== undefined) return this.#stop(totalBytes === 0 ? "zero" : "torn", this.#record, problem);
    this.#recordTotal = totalBytes;
    this.#recordCrc = 0;
    this.#recordIsProven = this.#wantsProof(totalBytes);
    this.#phase = "record-data";
    if (totalBytes === RECORD_HEADER_BYTES) this.#leaveRecord();
  }

  /**
   * Whether the header is right beyond doubt: true only where `#recordProblem()` finds nothing.
   *
   * It spares the usual record the bigints, which cost more than its CRC.
   */
  #isPlainRecord(totalBytes: number): boolean {
    const view = this.#recordView;
    return this.#lastRecord !== NONE && totalBytes >= RECORD_HEADER_BYTES &&
      totalBytes <= this.#segmentBytes &&
      view.getUint8(17) <= LAST_BUILTIN_RESOURCE_MANAGER &&
      view.getUint32(8, true) === this.#startLow + this.#lastRecord &&
      view.getUint32(12, true) === this.#startHigh;
  }

  /**
   * The page ends within the record's header. At least its length is there, as records are aligned.
   *
   * Its bytes not there yet are filled with zeros, which are right as resource manager and info.
   */
  #checkSplitHeader(): void {
    this.#recordBytes.fill(0, this.#recordTaken);
    const totalBytes = this.#recordView.getUint32(0, true);
    const problem = this.#recordTaken >= 16 ? this.#recordProblem() : recordLengthProblem(totalBytes);
    if (problem !== undefined) return this.#stop(totalBytes === 0 ? "zero" : "torn", this.#record, problem);
    this.#recordTotal = totalBytes;
  }

  #recordProblem(): string | undefined {
    const { startLsn } = this.#options;
    const header = decodeRecordHeader(this.#recordBytes)!;
    if (this.#lastRecord !== NONE) {
      const recordLsn = advance(startLsn, this.#record);
      return recordHeaderProblem(header, { recordLsn, expectedPrevLsn: advance(startLsn, this.#lastRecord) });
    }
    // The segment's first record follows one that begins in an earlier segment; a cluster's first follows none.
    return recordHeaderProblem(header, {
      recordLsn: header.prevLsn === 0n ? advance(startLsn, this.#record) : startLsn,
      expectedPrevLsn: undefined,
    });
  }

  #takeRecordData(bytes: Uint8Array, i: number, pageEnd: number): number {
    const until = Math.min(pageEnd, i + this.#recordTotal - this.#recordTaken);
    if (this.#recordIsProven) {
      this.#recordCrc = crc32cOfRange(bytes, { start: i, end: until }, this.#recordCrc);
    }
    this.#recordTaken += until - i;
    this.#position += until - i;
    if (this.#recordTaken === this.#recordTotal) this.#leaveRecord();
    return until;
  }

  /** The record's last byte is there: now its CRC tells whether to believe it. */
  #leaveRecord(): void {
    if (this.#recordIsProven) {
      const crc = crc32cOfRange(
        this.#recordBytes,
        { start: 0, end: RECORD_HEADER_CRC_OFFSET },
        this.#recordCrc,
      );
      const wantCrc = this.#recordView.getUint32(RECORD_HEADER_CRC_OFFSET, true);
      if (crc !== wantCrc) {
        return this.#stop("torn", this.#record, `CRC ${formatHex32(crc)}, want ${formatHex32(wantCrc)}`);
      }
    }
    if (this.#firstRecord === NONE) {
      this.#firstRecord = this.#record;
      this.#firstRecordPrevLsn = this.#recordPrevLsn();
    }
    this.#recordCount++;
    this.#lastRecord = this.#record;
    this.#forgetOpenRecord();
    this.#recordsEnd = alignUp(this.#position);
    if (
      isSwitchRecord({ info: this.#recordView.getUint8(16), resourceManager: this.#recordView.getUint8(17) })
    ) {
      this.#end = "switch";
      this.#phase = "switched";
    } else if (this.#recordsEnd > this.#position) this.#phase = "padding";
  }

  #takeContinuation(i: number, pageEnd: number): number {
    const until = Math.min(pageEnd, i + this.#continuationLeft);
    this.#continuationLeft -= until - i;
    this.#position += until - i;
    if (this.#continuationLeft === 0) {
      this.#contentEnd = alignUp(this.#position);
      this.#phase = this.#contentEnd > this.#position ? "padding" : "record-header";
    }
    return until;
  }

  /** Bytes up to the next record's place; PostgreSQL neither covers them by a CRC nor looks at them. */
  #takePadding(i: number, pageEnd: number): number {
    const until = Math.min(pageEnd, i + alignUp(this.#position) - this.#position);
    this.#position += until - i;
    if (alignUp(this.#position) === this.#position) this.#phase = "record-header";
    return until;
  }

  #forgetOpenRecord(): void {
    this.#recordTaken = 0;
    this.#recordTotal = 0;
    this.#continuationLeft = 0;
    this.#phase = "record-header";
  }

  #stop(end: "zero" | "torn" | "page-header", position: number, problem: string): void {
    this.#end = end;
    this.#phase = "ended";
    if (end !== "zero") {
      this.#problem = `at ${formatLsn(advance(this.#options.startLsn, position))}: ${problem}`;
    }
  }

  /** Keeps the header of the segment's last page, wherever the end of valid WAL was found. */
  #noteLastPage(bytes: Uint8Array, end: number): void {
    const lastPage = this.#segmentBytes - PAGE_BYTES - this.#pushed;
    const start = Math.max(0, lastPage);
    const until = Math.min(end, lastPage + SHORT_PAGE_HEADER_BYTES);
    if (start < until) copyRange(bytes, start, until, this.#lastPageBytes, start - lastPage);
  }

  #lastPageHasOwnAddress(): boolean {
    const lastPage = this.#segmentBytes - PAGE_BYTES;
    if (this.#pushed < lastPage + SHORT_PAGE_HEADER_BYTES) return false;
    const view = new DataView(this.#lastPageBytes.buffer);
    const magic = view.getUint16(0, true);
    return magic !== 0 && magic === (this.#firstPage?.magic ?? magic) &&
      view.getBigUint64(8, true) === advance(this.#options.startLsn, lastPage);
  }

  #recordPrevLsn(): Lsn {
    return lsn(this.#recordView.getBigUint64(8, true));
  }
}

/**
 * Whether a file of `bytesPresent` bytes, scanned whole, is a complete segment (design.md, P1).
 *
 * It is when nothing is left to be written in it: its last page carries its own address, and its records do not stop
 * within that page; or they end in an XLOG_SWITCH and the rest is zero. Damage before the last page does not make it
 * incomplete: the server has no better copy. A first page that cannot be right does: then nothing tells whose it is.
 */
export function isCompleteSegment(scan: SegmentScan, bytesPresent: number): boolean {
  if (bytesPresent !== scan.segmentSize || scan.end === "truncated" || scan.firstPage === undefined) {
    return false;
  }
  if (scan.end === "switch") return scan.restIsZero === true;
  if (scan.end === "segment-end") return true;
  // Records that stop at an empty place were not followed by others. Records that stop in the last page may have been
  // cut off there when the file was taken while it grew.
  const lastPageLsn = advance(scan.startLsn, scan.segmentSize - PAGE_BYTES);
  return scan.lastPageHasOwnAddress && scan.end !== "zero" && scan.contentEndLsn < lastPageLsn;
}

/** Whether every byte is zero; also of no bytes. */
export function isAllZero(bytes: Uint8Array): boolean {
  for (let i = 0; i < bytes.length; i++) {
    if (bytes[i] !== 0) return false;
  }
  return true;
}

function copyRange(from: Uint8Array, start: number, end: number, to: Uint8Array, at: number): void {
  // A loop, as most ranges are a header's 24 bytes: set() and subarray() cost more than that.
  for (let i = start; i < end; i++) to[at + i - start] = from[i]!;
}

function alignUp(position: number): number {
  return (position + RECORD_ALIGNMENT_BYTES - 1) & -RECORD_ALIGNMENT_BYTES; // at most 2^30: 32 bits hold it
}

function formatHex16(value: number): string {
  return `0x${value.toString(16).toUpperCase().padStart(4, "0")}`;
}

function formatHex32(value: number): string {
  return `0x${value.toString(16).toUpperCase().padStart(8, "0")}`;
}
