import * as fs from "node:fs";
import { basename, dirname } from "node:path";
import { decompressUnfinished } from "../archive/compression.ts";
import { FORMAT_OF_FORM } from "../archive/compression_format.ts";
import { openDirectDisk } from "../archive/direct_disk.ts";
import { withFile } from "../archive/durable.ts";
import { COMPRESSED_FORMS } from "../archive/layout.ts";
import { readThrough, type TakeBytes } from "../archive/segment_file.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { decodePageHeader, LONG_PAGE_HEADER_BYTES, type PageHeader } from "../wal/page.ts";
import { type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import { segmentName, segmentNumberAt, segmentOffset, segmentSize } from "../wal/segment.ts";
import { type TimelineId, timelineId } from "../wal/timeline.ts";

/** What a file that was named holds. */
export interface WalFile {
  readonly path: string;
  readonly content: WalContent;
}

/** The WAL in a file, or why there is none. */
export type WalContent =
  | {
    readonly kind: "wal";
    readonly timeline: TimelineId;
    /** The name that its first page says; the file may have another. */
    readonly segment: string;
    /** Whether that is the file's name, whatever comes after it. */
    readonly isNamedSo: boolean;
    readonly page: PageHeader;
    readonly scan: SegmentScan;
  }
  | { readonly kind: "none"; readonly reason: string };

const MAXIMUM_SEGMENT_BYTES = 1 << 30;

/**
 * Reads one WAL file, complete or not, compressed or not, whatever its name.
 *
 * @throws what the operating system says, with the path before it.
 */
export async function readWalFile(path: string): Promise<WalFile> {
  try {
    const real = fs.realpathSync(path);
    if (!fs.statSync(real).isFile()) return { path, content: { kind: "none", reason: "it is no file" } };
    const disk = openDirectDisk(dirname(real));
    const form = COMPRESSED_FORMS.find((end) =>
      path.replace(/\.partial(\.saved-[0-9]+)?$/, "").endsWith(end)
    );
    const content = await withFile(disk, basename(real), (file) =>
      readContent(
        (take) =>
          form === undefined ? readThrough(file, take) : decompressUnfinished(
            file,
            { format: FORMAT_OF_FORM[form], label: path, maximumBytes: MAXIMUM_SEGMENT_BYTES },
            take,
          ),
        path,
      ));
    return { path, content: content ?? { kind: "none", reason: "it is gone" } };
  } catch (cause) {
    throw new Error(`Cannot read "${path}"`, { cause });
  }
}

async function readContent(read: (take: TakeBytes) => Promise<void>, path: string): Promise<WalContent> {
  const start = new Uint8Array(LONG_PAGE_HEADER_BYTES);
  let taken = 0;
  let problem: string | undefined;
  let opened: { readonly page: PageHeader; readonly scanner: SegmentScanner } | undefined;
  await read((bytes) => {
    let rest = bytes;
    if (opened === undefined) {
      const count = Math.min(bytes.length, start.length - taken);
      start.set(bytes.subarray(0, count), taken);
      taken += count;
      if (taken < start.length) return "more";
      const page = decodePageHeader(start);
      problem = page === undefined ? "it begins with no page of WAL" : pageProblem(page);
      if (page === undefined || problem !== undefined) return "enough";
      opened = { page, scanner: new SegmentScanner(placeOf(page)) };
      opened.scanner.push(start);
      rest = bytes.subarray(count);
    }
    opened.scanner.push(rest);
    return opened.scanner.done ? "enough" : "more";
  });
  if (opened === undefined) {
    return { kind: "none", reason: problem ?? `it has ${taken} bytes, too few for a page of WAL` };
  }
  const { page, scanner } = opened;
  const { startLsn, segmentSize: size } = placeOf(page);
  const timeline = timelineId(page.timeline);
  const name = basename(path);
  const number = segmentNumberAt(startLsn, size);
  const byPage = segmentName(timeline, number, size);
  // A segment's first page may be of an ancestor of the timeline that the file belongs to.
  const isNamedSo = /^[0-9A-F]{24}/.test(name) && name.slice(8, 24) === byPage.slice(8);
  return {
    kind: "wal",
    timeline: isNamedSo ? timelineId(parseInt(name.slice(0, 8), 16) || 1) : timeline,
    segment: isNamedSo ? name.slice(0, 24) : byPage,
    isNamedSo,
    page,
    scan: scanner.result(),
  };
}

function placeOf(
  page: PageHeader,
): { readonly startLsn: Lsn; readonly segmentSize: ReturnType<typeof segmentSize> } {
  return { startLsn: page.pageLsn, segmentSize: segmentSize(page.segmentBytes ?? 0) };
}

/** Why this can't be a segment's first page. */
function pageProblem(page: PageHeader): string | undefined {
  if (page.magic === 0) return "it begins with zeros: nothing was written to it yet";
  if (!page.isLong || page.segmentBytes === undefined) return "it begins with no segment's first page";
  try {
    const size = segmentSize(page.segmentBytes);
    if (segmentOffset(page.pageLsn, size) !== 0) {
      return `its first page is of ${formatLsn(page.pageLsn)}, want a segment's start`;
    }
    timelineId(page.timeline);
  } catch {
    // Sizes and timelines that no server has: this is something else.
    return "it begins with no segment's first page";
  }
  return undefined;
}
