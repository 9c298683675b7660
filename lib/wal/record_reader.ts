import { advance, type Lsn } from "./lsn.ts";
import type { RecordTaker } from "./record.ts";
import { type SegmentScan, type SegmentScanEnd, SegmentScanner } from "./scanner.ts";
import { segmentFloor, segmentOffset, type SegmentSize } from "./segment.ts";
import type { TimelineId } from "./timeline.ts";

/** Where a `RecordReader` begins, what it hands over, and what it holds the pages against. */
export interface RecordReaderOptions {
  /** Where a record begins; or the start of a segment or page: then the first record that begins there or later. */
  readonly startLsn: Lsn;
  readonly segmentSize: SegmentSize;
  readonly records: RecordTaker;
  /** Refuses long page headers of any other cluster; without it they must be of the same one among themselves. */
  readonly systemIdentifier?: bigint;
  /** Refuses pages of timelines for which it says no. Without it any timeline will do that is not less than the last. */
  readonly allowedTimeline?: (timeline: TimelineId, pageLsn: Lsn) => boolean;
}

/**
 * Why reading stopped.
 *
 * - `more`: it did not; all bytes up to `positionLsn` are right.
 * - `zero`, `torn`, `page-header`: as of a segment's scan, see `SegmentScanEnd`.
 */
export type ReadEnd = "more" | "zero" | "torn" | "page-header";

/** How far valid records go from where reading began. */
export interface RecordsRead {
  /**
   * The end of valid WAL so far: the first byte after the last valid record, rounded up to 8 bytes; after an
   * XLOG_SWITCH the next segment's first byte. Before any record, where reading began.
   */
  readonly endLsn: Lsn;
  /** Valid records, wanted or not. */
  readonly recordCount: number;
  readonly lastRecordLsn: Lsn | undefined;
  readonly end: ReadEnd;
  /** In words, for `torn` and `page-header`: "at 0/3002000: page magic 0xD110, want 0xD10D". */
  readonly problem: string | undefined;
}

/**
 * Reads the records of one timeline's WAL, over pages and segments, until valid WAL ends.
 *
 * Takes the bytes in order from `positionLsn` on, cut anywhere, segment after segment without a gap. A record is handed
 * over only when its CRC holds and its link names the record before it, also where that lies in another segment.
 * Memory: the bytes of one wanted record.
 */
export class RecordReader {
  readonly #segmentSize: SegmentSize;
  #scanner: SegmentScanner;
  /** Of this segment. */
  #leftBytes: number;
  #hasEnded = false;
  /** Of the segments before this one. */
  #recordCountBefore = 0;
  #lastRecordBefore: Lsn | undefined;

  /** @throws {RangeError} when no record can begin at `startLsn`: it is no multiple of 8. */
  constructor(options: RecordReaderOptions) {
    const { startLsn, segmentSize, ...rest } = options;
    this.#segmentSize = segmentSize;
    this.#scanner = new SegmentScanner({
      ...rest,
      segmentSize,
      startLsn: segmentFloor(startLsn, segmentSize),
      fromLsn: startLsn,
    });
    this.#leftBytes = segmentSize - segmentOffset(this.#scanner.positionLsn, segmentSize);
  }

  /** Where the next byte to be pushed is to come from; at first the start of the page that holds `startLsn`. */
  get positionLsn(): Lsn {
    return this.#scanner.positionLsn;
  }

  /** Valid WAL has ended: no more bytes can change it. */
  get done(): boolean {
    return this.#hasEnded;
  }

  /** PostgreSQL's major version, as the pages up to here say; known to `records` too, once a record is handed over. */
  get majorVersion(): number | undefined {
    return this.#scanner.majorVersion;
  }

  /** The timeline of the last good page. */
  get timeline(): TimelineId | undefined {
    return this.#scanner.timeline;
  }

  /**
   * Takes the bytes at `positionLsn`, cut anywhere, and hands over the wanted records that end in them.
   *
   * Nothing is taken once valid WAL has ended. What `records` throws comes out here, and nothing may be pushed after it.
   */
  push(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length && !this.#hasEnded;) {
      if (this.#leftBytes === 0) this.#enterNextSegment();
      const until = Math.min(bytes.length, i + this.#leftBytes);
      this.#scanner.push(bytes.subarray(i, until));
      this.#leftBytes -= until - i;
      this.#hasEnded = this.#scanner.done && readEnd(this.#scanner.result().end) !== "more";
      i = until;
    }
  }

  /** What is known by the bytes pushed so far. */
  result(): RecordsRead {
    const scan = this.#scanner.result();
    const end = readEnd(scan.end);
    return {
      endLsn: scan.switched ? advance(scan.startLsn, scan.segmentSize) : scan.endLsn,
      recordCount: this.#recordCountBefore + recordsIn(scan),
      lastRecordLsn: scan.lastRecordLsn ?? scan.joinedRecordLsn ?? this.#lastRecordBefore,
      end,
      problem: end === "more" ? undefined : scan.problem,
    };
  }

  #enterNextSegment(): void {
    const { recordCount, lastRecordLsn } = this.result();
    this.#recordCountBefore = recordCount;
    this.#lastRecordBefore = lastRecordLsn;
    this.#scanner = this.#scanner.next();
    this.#leftBytes = this.#segmentSize;
  }
}

function readEnd(end: SegmentScanEnd): ReadEnd {
  return end === "zero" || end === "torn" || end === "page-header" ? end : "more";
}

/** Valid records that ended in the segment. */
function recordsIn(scan: SegmentScan): number {
  return scan.recordCount + (scan.joinedRecordLsn === undefined ? 0 : 1);
}
