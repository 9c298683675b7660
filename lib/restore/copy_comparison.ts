import type { TakeBytes } from "../archive/segment_file.ts";
import { crc32cOfRange } from "../wal/crc32c.ts";
import { advance, type Lsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";

/** A file that can be read front to back. */
export interface Readable {
  readThrough(take: TakeBytes): Promise<void>;
}

/** What of two files is to be the same. */
export interface ComparedRange {
  /** Of the files' first byte. */
  readonly fileStartLsn: Lsn;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

/** The first page in which two files differ within a range; `undefined` when none does. Neither has to be opened twice. */
export async function firstDifferentPage(
  files: readonly [Readable, Readable],
  range: ComparedRange,
): Promise<Lsn | undefined> {
  if (range.startLsn >= range.endLsn) return undefined;
  const left = await pageSums(files[0], range);
  const right = await pageSums(files[1], range);
  const page = left.findIndex((sum, index) => sum !== right[index]);
  return page === -1 ? undefined : advance(range.fileStartLsn, page * PAGE_BYTES);
}

/** A checksum of what each page has within the range. */
async function pageSums(
  file: Readable,
  { fileStartLsn, startLsn, endLsn }: ComparedRange,
): Promise<Uint32Array> {
  const start = Number(startLsn - fileStartLsn);
  const end = Number(endLsn - fileStartLsn);
  const sums = new Uint32Array(Math.ceil(end / PAGE_BYTES));
  await file.readThrough((bytes, position) => {
    const until = Math.min(end, position + bytes.length);
    for (let at = Math.max(start, position); at < until;) {
      const page = Math.floor(at / PAGE_BYTES);
      const pageEnd = Math.min(until, (page + 1) * PAGE_BYTES);
      sums[page] = crc32cOfRange(bytes, { start: at - position, end: pageEnd - position }, sums[page]!);
      at = pageEnd;
    }
    return until < end ? "more" : "enough";
  });
  return sums;
}
