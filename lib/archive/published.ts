import type { SegmentSize } from "../wal/segment.ts";
import { type CompressionFormat, decompress, FORMAT_OF_FORM } from "./compression.ts";
import type { Disk, DiskFile } from "./disk.ts";
import { withFile } from "./durable.ts";
import { SEGMENT_FORMS } from "./layout.ts";
import { readThrough, type TakeBytes } from "./segment_file.ts";

/** The end of the name that tells how a published segment is stored; "" when as the server wrote it. */
export type SegmentForm = typeof SEGMENT_FORMS[number];

/** A complete segment in the archive, open, whatever its form. */
export interface PublishedSegment {
  /** Below the archive's root. */
  readonly path: string;
  readonly form: SegmentForm;
  /**
   * Hands over the segment's own bytes, front to back, in pieces that are valid during the call only.
   *
   * @throws {DamagedFileError} when a compressed one is cut off or damaged, or is not of the segment size; it may have
   * handed over bytes before it finds that out, and finds nothing out behind an "enough".
   */
  readThrough(take: TakeBytes): Promise<void>;
}

/**
 * Opens a published segment in whatever form it stands; `undefined` when there is none.
 *
 * A compressed form takes the plain one's place while others read: the plain one is looked for again at the end.
 */
export async function withPublished<T>(
  disk: Disk,
  segment: { readonly name: string; readonly segmentSize: SegmentSize },
  use: (published: PublishedSegment) => Promise<T>,
): Promise<T | undefined> {
  for (const form of [...SEGMENT_FORMS, ""] as const) {
    const path = segment.name + form;
    const found = await withFile(disk, path, async (file) => {
      const readAll = sourceOf(file, {
        form,
        label: `${disk.root}/${path}`,
        segmentSize: segment.segmentSize,
      });
      return { result: await use({ path, form, readThrough: readAll }) };
    });
    if (found !== undefined) return found.result;
  }
  return undefined;
}

function sourceOf(
  file: DiskFile,
  { form, label, segmentSize }: {
    readonly form: SegmentForm;
    readonly label: string;
    readonly segmentSize: SegmentSize;
  },
): (take: TakeBytes) => Promise<void> {
  const format: CompressionFormat | undefined = form === "" ? undefined : FORMAT_OF_FORM[form];
  if (format === undefined) return (take) => readThrough(file, take);
  return (take) => decompress(file, { format, label, wantBytes: segmentSize }, take);
}
