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
  type RecordTaker,
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
   *
   * Of a scanner made by `next()` a record from the segment before counts too, and before that has ended here, this is
   * its first byte. Of one that begins at `fromLsn`, that stands in for `startLsn`.
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
  /**
   * The record that begins here and goes on in the next segment; all its bytes up to there are present.
   *
   * Of a scanner made by `next()`, also one that begins in an earlier segment and fills this one.
   */
  readonly openRecordLsn?: Lsn | undefined;
  /** The record from the segment before that ended here and is valid; only a scanner made by `next()` can tell. */
  readonly joinedRecordLsn?: Lsn | undefined;
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
  /**
   * The first record to be read, or the start of a page: then from the first record that begins there or later.
   *
   * The first byte pushed is then that of the page which holds it, and `positionLsn` says so. What begins before it is
   * not known, so `result()` does not speak for the whole segment.
   */
  readonly fromLsn?: Lsn;
  /** Gets whole records; without it nothing is kept of any. */
  readonly records?: RecordTaker;
}

/** What the next byte is, if it does not belong to a page header. */
type Phase = "continuation" | "before" | "record-header" | "record-data" | "padding" | "switched" | "ended";

/** No record before this one is known. No record's place, as those are multiples of 8. */
const NONE = -1;

/** Room for a record that is kept, at first; it grows with the bytes that are there, whatever a header claims. */
const KEPT_BYTES = 16 * 1024;
/** More room than this goes as soon as the record that needed it is handed over. */
const MOST_KEPT_BYTES = 1024 * 1024;

/**
 * Finds the end of valid WAL in one segment, from its bytes alone.
 *
 * Takes the bytes in order from the segment's first one, cut anywhere, and keeps none of them but those of records that
 * are asked for: else memory is constant, whatever the length of the records. Follows PostgreSQL's own reader: page
 * headers, links between records, CRCs.
 *
 * A record from the segment before cannot be checked, as its CRC is not here; it counts in `contentEndLsn` only. The
 * scanner that `next()` makes has its first part, and checks it as any other.
 * @see XLogDecodeNextRecord(), XLogReaderValidatePageHeader(), src/backend/access/transam/xlogreader.c
 */
export class SegmentScanner {
  readonly #options: SegmentScannerOptions;
  readonly #segmentBytes: number;
  /** The halves of `startLsn`. Nothing in the segment carries over from the low one: segments are aligned. */
  readonly #startLow: number;
  readonly #startHigh: number;

  // Positions are bytes from the segment's start: numbers, as a segment has at most 1 GiB. Those of records from
  // segments before are negative.
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
  /** A good page before: the first of this segment, or of those before it. */
  #earlierPage: PageHeader | undefined;
  #pageTimeline = 0;
  /** As `fromLsn`, from the segment's start. */
  readonly #from: number;
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
  readonly #records: RecordTaker | undefined;
  #recordIsWanted = false;
  /** The wanted record as it lies in the bytes just pushed; else `#kept` holds it. */
  #recordInPlace: Uint8Array | undefined;
  #kept: Uint8Array | undefined;
  /** As `provenFromLsn`, from the segment's start. */
  readonly #provenFrom: number;

  #recordCount = 0;
  #firstRecord = NONE;
  #firstRecordPrevLsn: Lsn | undefined;
  #lastRecord = NONE;
  #joinedRecord = NONE;
  #recordsEnd = 0;
  #restIsZero = true;

  readonly #lastPageBytes = new Uint8Array(SHORT_PAGE_HEADER_BYTES);

  /** @throws {RangeError} when `startLsn` is no segment's first byte, or `fromLsn` lies outside the segment. */
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
    const { startLsn, provenFromLsn = startLsn, fromLsn = startLsn } = options;
    this.#provenFrom = Number(provenFromLsn - startLsn);
    this.#records = options.records;
    if (fromLsn < startLsn || fromLsn - startLsn >= this.#segmentBytes || fromLsn % 8n !== 0n) {
      const want = `a multiple of 8 in the segment at ${formatLsn(startLsn)}`;
      throw new RangeError(`Cannot scan WAL from ${formatLsn(fromLsn)}: want ${want}`);
    }
    this.#from = Number(fromLsn - startLsn);
    this.#recordsEnd = this.#from;
    this.#position = this.#pushed = this.#from - this.#from % PAGE_BYTES;
  }

  /** Where the next byte to be pushed is to come from. */
  get positionLsn(): Lsn {
    return advance(this.#options.startLsn, this.#pushed);
  }

  /** PostgreSQL's major version, as the pages up to here say; `undefined` before the first one, or when it is unknown. */
  get majorVersion(): number | undefined {
    return this.#earlierPage?.majorVersion;
  }

  /** The timeline of the last good page; `undefined` before the first one. */
  get timeline(): TimelineId | undefined {
    return this.#pageTimeline === 0 ? undefined : timelineId(this.#pageTimeline);
  }

  /**
   * The scanner of the segment after this one, which goes on with the record that is open here, and holds its first
   * link, page and cluster against what was seen here.
   *
   * Its `provenFromLsn` is that of this one. This one must not be pushed to any more.
   * @throws {RangeError} when WAL does not go on there: the end of valid WAL is in this segment, or not all of it was
   * pushed.
   */
  next(): SegmentScanner {
    const { startLsn, provenFromLsn, systemIdentifier = this.#firstPage?.systemIdentifier } = this.#options;
    if (this.#pushed < this.#segmentBytes || this.#phase === "ended") {
      throw new RangeError(`Cannot scan on behind the segment at ${formatLsn(startLsn)}: its WAL ends in it`);
    }
    const { fromLsn: _, ...options } = this.#options;
    const nextLsn = advance(startLsn, this.#segmentBytes);
    const next = new SegmentScanner({
      ...options,
      startLsn: nextLsn,
      ...(provenFromLsn === undefined ? {} : { provenFromLsn }),
      ...(systemIdentifier === undefined ? {} : { systemIdentifier }),
    });
    next.#follow(this);
    return next;
  }

  #follow(before: SegmentScanner): void {
    this.#earlierPage = before.#earlierPage;
    this.#pageTimeline = before.#pageTimeline;
    const shifted = (position: number) => position === NONE ? NONE : position - this.#segmentBytes;
    this.#lastRecord = shifted(before.#lastRecord);
    if (before.#phase === "switched") return;
    this.#phase = before.#phase;
    this.#continuationLeft = before.#continuationLeft;
    if (before.#recordTaken > 0 || before.#continuationLeft > 0) {
      this.#recordsEnd = shifted(before.#recordsEnd);
    }
    this.#record = shifted(before.#record);
    this.#recordBytes.set(before.#recordBytes);
    this.#recordTotal = before.#recordTotal;
    this.#recordTaken = before.#recordTaken;
    this.#recordCrc = before.#recordCrc;
    this.#recordIsProven = before.#recordIsProven;
    this.#recordIsWanted = before.#recordIsWanted;
    this.#kept = before.#kept;
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
    const isFirstOpen = hasOpenRecord && this.#firstRecord === NONE && this.#record >= 0;
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
      lastRecordLsn: this.#lastRecord < 0 ? undefined : lsnAt(this.#lastRecord),
      contrecordBytes: this.#firstPage?.isContinuation ? this.#firstPage.remainingBytes : 0,
      continuesFrom: this.#firstPage?.isContinuation ?? false,
      openRecordLsn: hasOpenRecord ? lsnAt(this.#record) : undefined,
      joinedRecordLsn: this.#joinedRecord === NONE ? undefined : lsnAt(this.#joinedRecord),
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
      case "before":
        return this.#takeBefore(i, pageEnd);
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
    if (page === 0) this.#firstPage = header;
    if (this.#earlierPage === undefined) {
      this.#earlierPage = header;
      this.#begin(header, page);
      if (this.#phase === "ended") return;
    } else if (isOpen && header.overwritesContrecord) {
      this.#dropOpenRecord();
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

  /** No page was there before this one. */
  #begin(header: PageHeader, page: number): void {
    const left = header.isContinuation ? header.remainingBytes : 0;
    if (this.#from <= this.#position) {
      this.#continuationLeft = left;
      if (left > 0) this.#phase = "continuation";
    } else if (this.#position + left > this.#from) {
      const want = this.#from - this.#position;
      this.#stop(
        "torn",
        page,
        `${left} bytes of an open record, want no more than ${want} before the first record`,
      );
    } else {
      this.#phase = "before";
    }
  }

  /** The server lost the rest of the open record in a crash, and says so. */
  #dropOpenRecord(): void {
    const isKnown = this.#recordTaken > 0;
    this.#forgetOpenRecord();
    if (isKnown) this.#records?.overwritten?.(advance(this.#options.startLsn, this.#record));
  }

  /** Why the page cannot be one of this segment at this place; whether it fits the open record is not asked here. */
  #pageProblem(header: PageHeader, page: number): string | undefined {
    const { startLsn, segmentSize, systemIdentifier, allowedTimeline } = this.#options;
    const pageLsn = advance(startLsn, page);
    const magic = this.#earlierPage?.magic ?? header.magic;
    if (header.magic !== magic) {
      const major = this.#earlierPage?.majorVersion;
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

  /** Bytes of records that are not asked for. */
  #takeBefore(i: number, pageEnd: number): number {
    const until = Math.min(pageEnd, i + this.#from - this.#position);
    this.#position += until - i;
    if (this.#position === this.#from) this.#phase = "record-header";
    return until;
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
    this.#recordIsWanted = this.#records !== undefined && this.#records.wants(
      this.#recordView.getUint8(17),
      this.#recordView.getUint8(16),
      totalBytes,
    );
    this.#recordIsProven = this.#recordIsWanted || this.#wantsProof(totalBytes);
    this.#recordInPlace = undefined;
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
    // The segment's first record follows one that begins in an earlier segment; a cluster's first follows none. Of
    // a record that begins elsewhere, nothing is known but that it follows one.
    const isSegmentsFirst = header.prevLsn !== 0n && this.#from === 0 && this.#record >= 0;
    return recordHeaderProblem(header, {
      recordLsn: isSegmentsFirst ? startLsn : advance(startLsn, this.#record),
      expectedPrevLsn: undefined,
    });
  }

  #takeRecordData(bytes: Uint8Array, i: number, pageEnd: number): number {
    const until = Math.min(pageEnd, i + this.#recordTotal - this.#recordTaken);
    if (this.#recordIsProven) {
      this.#recordCrc = crc32cOfRange(bytes, { start: i, end: until }, this.#recordCrc);
    }
    if (this.#recordIsWanted) this.#keep(bytes, i, until);
    this.#recordTaken += until - i;
    this.#position += until - i;
    if (this.#recordTaken === this.#recordTotal) this.#leaveRecord();
    return until;
  }

  /** Keeps the next bytes of the wanted record, without a copy when all of it lies here in one piece. */
  #keep(bytes: Uint8Array, start: number, end: number): void {
    const taken = this.#recordTaken;
    const until = taken + end - start;
    if (taken === RECORD_HEADER_BYTES) {
      const isInPlace = until === this.#recordTotal && start >= taken &&
        this.#position - this.#record === taken;
      if (isInPlace) {
        this.#recordInPlace = bytes.subarray(start - taken, end);
        return;
      }
    }
    let kept = this.#kept;
    if (kept === undefined || kept.length < until) {
      kept = new Uint8Array(Math.max(KEPT_BYTES, until, Math.min(2 * until, this.#recordTotal)));
      if (this.#kept !== undefined) kept.set(this.#kept);
      this.#kept = kept;
    }
    if (taken === RECORD_HEADER_BYTES) kept.set(this.#recordBytes);
    kept.set(bytes.subarray(start, end), taken);
  }

  #handOver(total: number): void {
    const { startLsn } = this.#options;
    const kept = this.#kept;
    const bytes = this.#recordInPlace ??
      (total === RECORD_HEADER_BYTES ? this.#recordBytes : kept!.subarray(0, total));
    this.#recordInPlace = undefined;
    if (kept !== undefined && kept.length > MOST_KEPT_BYTES) this.#kept = undefined;
    this.#records!.take({
      lsn: advance(startLsn, this.#record),
      endLsn: advance(startLsn, this.#recordsEnd),
      header: decodeRecordHeader(this.#recordBytes)!,
      bytes,
    });
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
    if (this.#record < 0) {
      this.#joinedRecord = this.#record;
    } else {
      if (this.#firstRecord === NONE) {
        this.#firstRecord = this.#record;
        this.#firstRecordPrevLsn = this.#recordPrevLsn();
      }
      this.#recordCount++;
    }
    const isWanted = this.#recordIsWanted;
    const total = this.#recordTotal;
    this.#lastRecord = this.#record;
    this.#forgetOpenRecord();
    this.#recordsEnd = alignUp(this.#position);
    if (
      isSwitchRecord({ info: this.#recordView.getUint8(16), resourceManager: this.#recordView.getUint8(17) })
    ) {
      this.#end = "switch";
      this.#phase = "switched";
    } else if (this.#recordsEnd > this.#position) this.#phase = "padding";
    if (isWanted) this.#handOver(total);
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

/** Whether its records lead to the segment's end, or to an XLOG_SWITCH that leaves the rest empty. */
export function isWholeScan({ end, restIsZero }: SegmentScan): boolean {
  return end === "segment-end" || (end === "switch" && restIsZero === true);
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
