import { crc32cOfRange } from "./crc32c.ts";
import { advance, type Lsn } from "./lsn.ts";
import {
  decodePageHeader,
  LONG_PAGE_HEADER_BYTES,
  PAGE_BYTES,
  type PageHeader,
  SHORT_PAGE_HEADER_BYTES,
} from "./page.ts";
import {
  decodeRecordHeader,
  isSwitchRecord,
  RECORD_ALIGNMENT_BYTES,
  RECORD_HEADER_BYTES,
  RECORD_HEADER_CRC_OFFSET,
  type RecordHeader,
  recordHeaderProblem,
} from "./record.ts";
import { segmentFloor, type SegmentSize } from "./segment.ts";

/**
 * Follows one record from its first byte to its last, over pages and segments, and looks at nothing else.
 *
 * Takes the bytes in order, cut anywhere, and keeps none of them.
 */
export class RecordWalk {
  readonly #recordLsn: Lsn;
  readonly #headerBytes = new Uint8Array(RECORD_HEADER_BYTES);
  readonly #pageBytes = new Uint8Array(LONG_PAGE_HEADER_BYTES);
  /** Bytes since the record's first one, those of page headers too. */
  #pushed = 0;
  /** Of this page's header; 0 when the page has been entered. */
  #pageHeaderLeft = 0;
  #pageHeaderTaken = 0;
  /** Bytes of the record itself. */
  #taken = 0;
  #crc = 0;
  #header: RecordHeader | undefined;
  #state: "open" | "whole" | "broken" = "open";

  constructor(recordLsn: Lsn) {
    this.#recordLsn = recordLsn;
  }

  /** `open`: more bytes are wanted; `whole`: its CRC holds; `broken`: no valid record begins there. */
  get state(): "open" | "whole" | "broken" {
    return this.#state;
  }

  /** As soon as all of it is there; its own word until the state is `whole`. */
  get header(): RecordHeader | undefined {
    return this.#header;
  }

  /** Where the next byte is to come from; where the record ends, once it is whole. */
  get positionLsn(): Lsn {
    return advance(this.#recordLsn, this.#pushed);
  }

  /** Takes the bytes at `positionLsn`; those behind the record's end are left alone. */
  push(bytes: Uint8Array): void {
    const start = Number(this.#recordLsn % BigInt(PAGE_BYTES));
    for (let i = 0; i < bytes.length && this.#state === "open";) {
      const inPage = (start + this.#pushed) % PAGE_BYTES;
      if (inPage === 0 && this.#pageHeaderTaken === 0) this.#pageHeaderLeft = SHORT_PAGE_HEADER_BYTES;
      const until = Math.min(
        bytes.length,
        i + (this.#pageHeaderLeft > 0 ? this.#pageHeaderLeft : this.#wantedBytes(inPage)),
      );
      if (this.#pageHeaderLeft > 0) this.#takePageHeader(bytes.subarray(i, until));
      else this.#takeRecord(bytes, i, until);
      this.#pushed += until - i;
      i = until;
      if (this.#header !== undefined && this.#taken === this.#header.totalBytes) this.#leave();
    }
  }

  #wantedBytes(inPage: number): number {
    const total = this.#header?.totalBytes ?? RECORD_HEADER_BYTES;
    return Math.min(PAGE_BYTES - inPage, total - this.#taken);
  }

  #takePageHeader(bytes: Uint8Array): void {
    this.#pageBytes.set(bytes, this.#pageHeaderTaken);
    this.#pageHeaderTaken += bytes.length;
    this.#pageHeaderLeft -= bytes.length;
    if (this.#pageHeaderLeft > 0) return;
    const header = decodePageHeader(this.#pageBytes.subarray(0, this.#pageHeaderTaken));
    if (header === undefined) { // a long one: more of it is to come
      this.#pageHeaderLeft = LONG_PAGE_HEADER_BYTES - this.#pageHeaderTaken;
      return;
    }
    const pageLsn = advance(this.#recordLsn, this.#pushed + bytes.length - this.#pageHeaderTaken);
    this.#pageHeaderTaken = 0;
    if (!this.#continues(header, pageLsn)) this.#state = "broken";
  }

  #continues(page: PageHeader, pageLsn: Lsn): boolean {
    if (page.pageLsn !== pageLsn || !page.isContinuation) return false;
    // While the record's own header is cut, its length is known all the same: records begin at multiples of 8.
    const total = new DataView(this.#headerBytes.buffer).getUint32(0, true);
    return page.remainingBytes === total - this.#taken;
  }

  #takeRecord(bytes: Uint8Array, start: number, end: number): void {
    if (this.#header !== undefined) {
      this.#crc = crc32cOfRange(bytes, { start, end }, this.#crc);
      this.#taken += end - start;
      return;
    }
    this.#headerBytes.set(bytes.subarray(start, end), this.#taken);
    this.#taken += end - start;
    if (this.#taken < RECORD_HEADER_BYTES) return;
    const header = decodeRecordHeader(this.#headerBytes);
    if (header === undefined) return;
    const at = { recordLsn: this.#recordLsn, expectedPrevLsn: undefined };
    if (recordHeaderProblem(header, at) === undefined) this.#header = header;
    else this.#state = "broken";
  }

  #leave(): void {
    const covered = { start: 0, end: RECORD_HEADER_CRC_OFFSET };
    const crc = crc32cOfRange(this.#headerBytes, covered, this.#crc);
    this.#state = crc === this.#header?.crc ? "whole" : "broken";
  }
}

/**
 * Where the record after this one begins.
 *
 * Behind the padding to a multiple of 8, behind the header of a page that begins there, and after an XLOG_SWITCH in the
 * next segment.
 */
export function nextRecordLsn(
  record: { readonly header: RecordHeader; readonly endLsn: Lsn },
  size: SegmentSize,
): Lsn {
  const alignment = BigInt(RECORD_ALIGNMENT_BYTES);
  const aligned = (record.endLsn + alignment - 1n) / alignment * alignment as Lsn;
  const segmentStart = segmentFloor(aligned, size);
  if (isSwitchRecord(record.header) && aligned !== segmentStart) {
    return advance(segmentStart, size + LONG_PAGE_HEADER_BYTES);
  }
  return recordBehind(aligned, size);
}

/** Where a record begins that follows the end of another: behind the header of a page that begins there. */
export function recordBehind(endLsn: Lsn, size: SegmentSize): Lsn {
  if (endLsn % BigInt(PAGE_BYTES) !== 0n) return endLsn;
  const isFirst = endLsn === segmentFloor(endLsn, size);
  return advance(endLsn, isFirst ? LONG_PAGE_HEADER_BYTES : SHORT_PAGE_HEADER_BYTES);
}
