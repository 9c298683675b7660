import { formatLsn } from "../wal/lsn.ts";
import { decodePageHeader, LONG_PAGE_HEADER_BYTES } from "../wal/page.ts";
import { SegmentScanner } from "../wal/scanner.ts";
import { segmentOffset, type SegmentSize, segmentSize } from "../wal/segment.ts";

/**
 * Proves a segment by its records, where the file it came out of has no checksum of its own.
 *
 * Takes the content in pieces, as `SegmentScanner` does. Nothing but a whole row of valid records up to the end, or up
 * to an XLOG_SWITCH with zeros after it, is a proof; the start of a record that goes on in the next segment is none.
 */
export class ContentProof {
  readonly #size: SegmentSize | undefined;
  #scanner: SegmentScanner | undefined;
  #start: Uint8Array = new Uint8Array(0);

  constructor(bytes: number) {
    this.#size = sizeOf(bytes);
  }

  push(bytes: Uint8Array): void {
    if (this.#scanner !== undefined) {
      this.#scanner.push(bytes);
      return;
    }
    const start = new Uint8Array(this.#start.length + bytes.length);
    start.set(this.#start);
    start.set(bytes, this.#start.length);
    this.#start = start;
    const header = decodePageHeader(start);
    if (this.#size === undefined || header === undefined || start.length < LONG_PAGE_HEADER_BYTES) return;
    // What the page says about itself: whether that is what was asked for is to be judged by who knows the name.
    if (!header.isLong || segmentOffset(header.pageLsn, this.#size) !== 0) return;
    this.#scanner = new SegmentScanner({ startLsn: header.pageLsn, segmentSize: this.#size });
    this.#start = new Uint8Array(0);
    this.#scanner.push(start);
  }

  /** Why the content is not proven; `undefined` when it is. */
  problem(): string | undefined {
    const scan = this.#scanner?.result();
    if (scan === undefined) return "it does not begin with the first page of a segment";
    if (scan.end === "segment-end" || (scan.end === "switch" && scan.restIsZero === true)) return undefined;
    return `its records are valid up to ${formatLsn(scan.endLsn)} only`;
  }
}

function sizeOf(bytes: number): SegmentSize | undefined {
  try {
    return segmentSize(bytes);
  } catch {
    // No segment has this size, so nothing can be proven.
    return undefined;
  }
}
