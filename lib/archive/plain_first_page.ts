import { decodePageHeader, LONG_PAGE_HEADER_BYTES, type PageHeader } from "../wal/page.ts";
import { isAllZero } from "../wal/scanner.ts";
import type { Disk } from "./disk.ts";
import { withFile } from "./durable.ts";
import type { PlainFile } from "./plain_file.ts";

/** The longest segment there is. */
const LONGEST_SEGMENT_BYTES = 1 << 30;

/** What a file of WAL begins with. */
export type FirstPage =
  | { readonly kind: "header"; readonly header: PageHeader }
  /** Nothing was written there yet. */
  | { readonly kind: "empty" }
  /** Something else than the first page of a segment, or nothing that can be read. */
  | { readonly kind: "foreign" };

/** Reads the header that begins a segment, in whatever form the file stands. */
export async function readFirstPage(
  disk: Disk,
  { entry, format }: Pick<PlainFile, "entry" | "format">,
): Promise<FirstPage> {
  const start = new Uint8Array(LONG_PAGE_HEADER_BYTES);
  let filled = 0;
  const take = (bytes: Uint8Array) => {
    const part = bytes.subarray(0, start.length - filled);
    start.set(part, filled);
    filled += part.length;
    return filled < start.length ? "more" : "enough";
  };
  await withFile(disk, entry.name, async (file) => {
    if (format === undefined) filled = await file.read(start, 0);
    else {
      const label = `${disk.root}/${entry.name}`;
      const { decompressUnfinished } = await import("./compression.ts");
      await decompressUnfinished(file, { format, label, maximumBytes: LONGEST_SEGMENT_BYTES }, take);
    }
  });
  if (isAllZero(start)) return { kind: "empty" };
  const header = filled < start.length ? undefined : decodePageHeader(start);
  return header?.isLong === true ? { kind: "header", header } : { kind: "foreign" };
}
