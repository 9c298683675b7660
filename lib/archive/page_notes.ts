import { advance, type Lsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";
import { IN_PROGRESS_DIRECTORY } from "./layout.ts";
import { MAXIMUM_UNSYNCED_BYTES } from "./leg_sink.ts";
import { isAllZero } from "../wal/scanner.ts";
import type { SegmentSize } from "../wal/segment.ts";

/** A file that only our own writer writes to; what others left may have been saved beside it. */
const OWN_FILE = new RegExp(`^${IN_PROGRESS_DIRECTORY}/[0-9A-F]{24}$`);

/** How much of an unfinished file, by its path, may have been written and not yet synced; others than we may never sync. */
export function unsyncedBytesOf(path: string): number {
  return OWN_FILE.test(path) ? MAXIMUM_UNSYNCED_BYTES : Infinity;
}

/** What a power cut keeps or loses as one. */
const SECTOR_BYTES = 512;

/** What the pages of a file show, wherever its records end. */
export class PageNotes {
  /** Pages with their own address. */
  readonly #own: Uint8Array;
  /** Of each page: one more than the number of its last sector that is all zero, 0 when none is. */
  readonly #zeroSector: Uint8Array;
  /** Up to and including the last byte that is not zero. */
  writtenBytes = 0;
  takenBytes = 0;
  readonly #page = new Uint8Array(PAGE_BYTES);

  constructor(private readonly wanted: { readonly startLsn: Lsn; readonly segmentSize: SegmentSize }) {
    const pages = wanted.segmentSize / PAGE_BYTES;
    this.#own = new Uint8Array(pages);
    this.#zeroSector = new Uint8Array(pages);
  }

  /** Some page carries its own address: WAL of this segment was written there. */
  get hasOwnPages(): boolean {
    return this.#own.includes(1);
  }

  /** Up to the end of the last page with its own address. */
  get ownBytes(): number {
    return Math.min(this.writtenBytes, (this.#own.lastIndexOf(1) + 1) * PAGE_BYTES);
  }

  /** Takes the next bytes, cut anywhere. */
  take(bytes: Uint8Array): void {
    const limit = Math.min(bytes.length, this.wanted.segmentSize - this.takenBytes);
    for (let i = 0; i < limit;) {
      const inPage = this.takenBytes % PAGE_BYTES;
      const count = Math.min(limit - i, PAGE_BYTES - inPage);
      if (count === PAGE_BYTES) this.#note(bytes.subarray(i, i + count), this.takenBytes / PAGE_BYTES);
      else {
        this.#page.set(bytes.subarray(i, i + count), inPage);
        if (inPage + count === PAGE_BYTES) this.#note(this.#page, (this.takenBytes - inPage) / PAGE_BYTES);
      }
      this.takenBytes += count;
      i += count;
    }
  }

  /** The file may end inside a page. */
  end(): void {
    const inPage = this.takenBytes % PAGE_BYTES;
    if (inPage > 0) this.#note(this.#page.fill(0, inPage), (this.takenBytes - inPage) / PAGE_BYTES);
  }

  #note(page: Uint8Array, index: number): void {
    if (isAllZero(page)) {
      this.#zeroSector[index] = PAGE_BYTES / SECTOR_BYTES;
      return;
    }
    let length = PAGE_BYTES;
    while (page[length - 1] === 0) length--;
    this.writtenBytes = index * PAGE_BYTES + length;
    const view = new DataView(page.buffer, page.byteOffset, PAGE_BYTES);
    if (view.getBigUint64(8, true) === advance(this.wanted.startLsn, index * PAGE_BYTES)) {
      this.#own[index] = 1;
    }
    for (let sector = PAGE_BYTES / SECTOR_BYTES - 1; sector >= 0; sector--) {
      if (!isAllZero(page.subarray(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES))) continue;
      this.#zeroSector[index] = sector + 1;
      break;
    }
  }

  /**
   * Whether WAL of this segment lies behind a place where none is valid: what is there between, or `undefined`.
   *
   * A machine that loses its power keeps some sectors of what was not synced and loses others, which are zero then.
   * Nothing of that was acknowledged. Without such a sector the bytes were there, and are not what was written; nor are
   * they where more than `unsyncedBytes` lie behind it: by then they had been synced.
   */
  behind(
    { provenBytes, contentBytes, unsyncedBytes }: {
      readonly provenBytes: number;
      readonly contentBytes: number;
      readonly unsyncedBytes: number;
    },
  ): "lost writes" | "changed bytes" | undefined {
    const next = this.#own.indexOf(1, Math.floor(contentBytes / PAGE_BYTES) + 1);
    if (next === -1) return undefined;
    const first = Math.floor(provenBytes / PAGE_BYTES);
    for (let page = next - 1; page >= first; page--) {
      const lastZero = this.#zeroSector[page] ?? 0;
      const zeroEnd = page * PAGE_BYTES + lastZero * SECTOR_BYTES;
      if (lastZero === 0 || zeroEnd <= provenBytes) continue;
      return this.ownBytes - zeroEnd > unsyncedBytes ? "changed bytes" : "lost writes";
    }
    return "changed bytes";
  }
}
