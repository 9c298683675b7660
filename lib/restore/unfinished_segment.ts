import type { Disk, DiskFile } from "../archive/disk.ts";
import { withFile } from "../archive/durable.ts";
import { readThrough, type TakeBytes } from "../archive/segment_file.ts";
import { type TimelineHistory } from "../wal/history.ts";
import { advance, formatLsn, type Lsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";
import { isAllZero, isCompleteSegment, type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import type { SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { OwnFile, UnfinishedCopy } from "./segment_decision.ts";

/** What a power cut keeps or loses as one. */
const SECTOR_BYTES = 512;

/** Which segment a file should hold. */
export interface WantedSegment {
  readonly startLsn: Lsn;
  readonly segmentSize: SegmentSize;
  readonly timeline: TimelineId;
  /** `undefined` when nobody knows it. */
  readonly systemIdentifier: bigint | undefined;
  /** `undefined` when the archive does not have it: then pages of any older timeline will do. */
  readonly history: TimelineHistory | undefined;
}

/** Whether pages of this timeline may stand in a segment of that name. */
export function mayHoldPagesOf(
  timeline: number,
  wanted: Pick<WantedSegment, "timeline" | "history">,
): boolean {
  if (timeline === wanted.timeline) return true;
  if (wanted.history === undefined) return timeline < wanted.timeline;
  return wanted.history.entries.some((ancestor) => ancestor.timeline === timeline);
}

/** What the pages of a file show, wherever its records end. */
class PageNotes {
  /** Pages with their own address. */
  readonly #own: Uint8Array;
  /** Of each page: one more than the number of its last sector that is all zero, 0 when none is. */
  readonly #zeroSector: Uint8Array;
  writtenBytes = 0;
  takenBytes = 0;
  readonly #page = new Uint8Array(PAGE_BYTES);

  constructor(private readonly wanted: WantedSegment) {
    const pages = wanted.segmentSize / PAGE_BYTES;
    this.#own = new Uint8Array(pages);
    this.#zeroSector = new Uint8Array(pages);
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
   * Nothing of that was acknowledged. Without such a sector the bytes were there, and are not what was written.
   */
  behind(
    { provenBytes, contentBytes }: { readonly provenBytes: number; readonly contentBytes: number },
  ): "lost writes" | "changed bytes" | undefined {
    const next = this.#own.indexOf(1, Math.floor(contentBytes / PAGE_BYTES) + 1);
    if (next === -1) return undefined;
    for (let page = Math.floor(provenBytes / PAGE_BYTES); page < next; page++) {
      const lastZero = this.#zeroSector[page] ?? 0;
      if (lastZero > 0 && page * PAGE_BYTES + lastZero * SECTOR_BYTES > provenBytes) return "lost writes";
    }
    return "changed bytes";
  }
}

interface Reading {
  readonly scan: SegmentScan;
  readonly notes: PageNotes;
  readonly bytes: number;
}

async function readSegment(
  wanted: WantedSegment,
  source: (take: TakeBytes) => Promise<void>,
): Promise<Reading> {
  const { startLsn, segmentSize, systemIdentifier } = wanted;
  const scanner = new SegmentScanner({
    startLsn,
    segmentSize,
    ...(systemIdentifier === undefined ? {} : { systemIdentifier }),
    allowedTimeline: (timeline) => mayHoldPagesOf(timeline, wanted),
  });
  const notes = new PageNotes(wanted);
  let bytes = 0;
  await source((piece, position) => {
    scanner.push(piece);
    notes.take(piece);
    bytes = position + piece.length;
    return "more";
  });
  notes.end();
  return { scan: scanner.result(), notes, bytes };
}

/** Every record right, to the end of the segment. */
function isWhole({ scan, bytes }: Reading): boolean {
  const ended = scan.end === "segment-end" || (scan.end === "switch" && scan.restIsZero === true);
  return ended && isCompleteSegment(scan, bytes);
}

/** What a copy that is not published holds; `undefined` when that is nothing but zeros. */
export async function readUnfinished(
  path: string,
  wanted: WantedSegment,
  source: (take: TakeBytes) => Promise<void>,
): Promise<UnfinishedCopy | undefined> {
  const reading = await readSegment(wanted, source);
  const { scan, notes, bytes } = reading;
  if (notes.writtenBytes === 0) return undefined;
  const copy = {
    path,
    endLsn: scan.endLsn,
    contentEndLsn: scan.contentEndLsn,
    provenLsn: scan.firstRecordLsn ?? scan.endLsn,
    endsInRecord: scan.end === "torn",
  };
  if (isWhole(reading)) return { ...copy, state: "complete" };
  const problem = bytes > wanted.segmentSize
    ? `it has ${bytes} bytes, want ${wanted.segmentSize}`
    : damageProblem(reading, wanted);
  return problem === undefined ? { ...copy, state: "tail" } : { ...copy, state: "damaged", problem };
}

function damageProblem({ scan, notes }: Reading, wanted: WantedSegment): string | undefined {
  // An empty first page was lost in a power cut, and so was nothing that anybody was promised.
  if (scan.firstPage === undefined && scan.end === "page-header") return scan.problem;
  if (scan.end === "switch") {
    return scan.restIsZero === false ? "after its last record, an XLOG_SWITCH, it is not empty" : undefined;
  }
  const behind = notes.behind({
    provenBytes: Number(scan.endLsn - wanted.startLsn),
    contentBytes: Number(scan.contentEndLsn - wanted.startLsn),
  });
  if (behind !== "changed bytes") return undefined;
  return `${scan.problem ?? `at ${formatLsn(scan.contentEndLsn)}: nothing valid`}, with more WAL behind it`;
}

/** What the server has under the segment's name itself; `undefined` when that is nothing of this segment. */
export async function readOwnFile(
  disk: Disk,
  name: string,
  wanted: WantedSegment,
): Promise<OwnFile | undefined> {
  return await withFile(disk, name, async (file: DiskFile) => {
    const reading = await readSegment(wanted, (take) => readThrough(file, take));
    const { scan } = reading;
    if (scan.firstPage === undefined) return undefined;
    return { endLsn: scan.endLsn, contentEndLsn: scan.contentEndLsn, whole: isWhole(reading) };
  });
}
