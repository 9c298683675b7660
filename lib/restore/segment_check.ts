import { CorruptWalError } from "../wal/errors.ts";
import { advance, formatLsn, type Lsn } from "../wal/lsn.ts";
import {
  ALL_PAGE_FLAGS,
  decodePageHeader,
  LONG_PAGE_HEADER_BYTES,
  PAGE_BYTES,
  type PageHeader,
} from "../wal/page.ts";
import { isAllZero } from "../wal/scanner.ts";
import type { WantedSegment } from "./unfinished_segment.ts";
import { mayHoldPagesOf } from "./unfinished_segment.ts";

/** Bytes of a page that tell whether it is of this place. */
const ADDRESS_END = 16;

/**
 * Looks at a complete segment while it is copied: its size, its first page, and the address of each other page.
 *
 * Records are not read, as PostgreSQL does that itself and a restore waits for every segment. Where pages are empty
 * only the records can tell whether that is right: see `emptyFrom`.
 */
export class SegmentCheck {
  #takenBytes = 0;
  #emptyFrom: Lsn | undefined;
  #pageTimeline = 0;

  constructor(private readonly wanted: WantedSegment) {}

  /** The timeline that the first page tells; 0 before it was taken. */
  get pageTimeline(): number {
    return this.#pageTimeline;
  }

  /** The first empty page: all after it are empty too, which is right after an XLOG_SWITCH only. */
  get emptyFrom(): Lsn | undefined {
    return this.#emptyFrom;
  }

  /**
   * Takes the next bytes; of a page whose beginning is cut nothing is looked at.
   *
   * @throws {CorruptWalError}
   */
  take(bytes: Uint8Array): void {
    const { startLsn, segmentSize } = this.wanted;
    const start = this.#takenBytes;
    this.#takenBytes += bytes.length;
    if (this.#takenBytes > segmentSize) {
      throw new CorruptWalError(startLsn, `more than ${segmentSize} bytes, want as many`);
    }
    if (start === 0) this.#checkFirstPage(bytes);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const startLow = Number(startLsn & 0xffff_ffffn);
    const startHigh = Number(startLsn >> 32n);
    for (let at = -start & (PAGE_BYTES - 1); at + ADDRESS_END <= bytes.length; at += PAGE_BYTES) {
      // Nothing carries over from the low half: segments are aligned. Two numbers are quicker than a bigint.
      const isOwn = view.getUint32(at + 8, true) === startLow + start + at &&
        view.getUint32(at + 12, true) === startHigh;
      if (isOwn && this.#emptyFrom === undefined) continue;
      this.#judge(bytes.subarray(at, at + ADDRESS_END), advance(startLsn, start + at), isOwn);
    }
  }

  /**
   * Takes the header of the last page without what lies before it. An empty one tells nothing, as after an XLOG_SWITCH.
   *
   * @throws {CorruptWalError}
   */
  takeLastPage(header: Uint8Array): void {
    const { startLsn, segmentSize } = this.wanted;
    const pageLsn = advance(startLsn, segmentSize - PAGE_BYTES);
    const address = decodePageHeader(header)?.pageLsn;
    if (address === pageLsn || (address !== undefined && isAllZero(header))) return;
    throw new CorruptWalError(
      pageLsn,
      address === undefined ? "no page header" : `page address ${formatLsn(address)}, want its own`,
    );
  }

  /** All bytes were taken. */
  end(): void {
    const { startLsn, segmentSize } = this.wanted;
    if (this.#takenBytes === segmentSize) return;
    throw new CorruptWalError(startLsn, `${this.#takenBytes} bytes, want ${segmentSize}`);
  }

  #judge(header: Uint8Array, pageLsn: Lsn, isOwn: boolean): void {
    if (isOwn) {
      throw new CorruptWalError(
        this.#emptyFrom ?? pageLsn,
        `an empty page, with more WAL at ${formatLsn(pageLsn)}`,
      );
    }
    if (!isAllZero(header)) {
      const address = new DataView(header.buffer, header.byteOffset).getBigUint64(8, true) as Lsn;
      throw new CorruptWalError(pageLsn, `page address ${formatLsn(address)}, want its own`);
    }
    this.#emptyFrom ??= pageLsn;
  }

  #checkFirstPage(bytes: Uint8Array): void {
    const header = bytes.length < LONG_PAGE_HEADER_BYTES ? undefined : decodePageHeader(bytes);
    const problem = header === undefined ? "no page header" : this.#firstPageProblem(header);
    if (problem !== undefined) throw new CorruptWalError(this.wanted.startLsn, problem);
    this.#pageTimeline = header?.timeline ?? 0;
  }

  #firstPageProblem(header: PageHeader): string | undefined {
    const { startLsn, segmentSize, systemIdentifier, timeline } = this.wanted;
    if (header.pageLsn !== startLsn) return `page address ${formatLsn(header.pageLsn)}, want its own`;
    if ((header.flags & ~ALL_PAGE_FLAGS) !== 0) {
      return `page flags 0x${header.flags.toString(16).toUpperCase()}, want none above 0x${
        ALL_PAGE_FLAGS.toString(16)
      }`;
    }
    if (!header.isLong) return "a short page header, want a long one";
    if (systemIdentifier !== undefined && header.systemIdentifier !== systemIdentifier) {
      return `system identifier ${header.systemIdentifier}, want ${systemIdentifier}: it is of another cluster`;
    }
    if (header.segmentBytes !== segmentSize) {
      return `a segment size of ${header.segmentBytes} bytes, want ${segmentSize}`;
    }
    if (header.pageBytes !== PAGE_BYTES) {
      return `a page size of ${header.pageBytes} bytes, want ${PAGE_BYTES}`;
    }
    if (header.magic >> 8 !== 0xd0 && header.magic >> 8 !== 0xd1) {
      return `page magic 0x${header.magic.toString(16).toUpperCase()}, want one of PostgreSQL's`;
    }
    if (header.timeline === 0 || !mayHoldPagesOf(header.timeline, this.wanted)) {
      return `a page of timeline ${header.timeline}, want ${timeline} or an ancestor of it`;
    }
    return undefined;
  }
}
