import type { SegmentSize } from "../wal/segment.ts";
import type { Disk, DiskFile } from "./disk.ts";
import { withFile } from "./durable.ts";
import { COMPRESSED_FORMS } from "./layout.ts";
import { type SegmentForm, withPublished } from "./published.ts";
import type { TakeBytes } from "./segment_file.ts";

const READ_BYTES = 64 * 1024;

/** The bytes of one segment, wherever they are: hands them over from `position` on, as far as `take` wants. */
export type SegmentBytes = (position: number, take: TakeBytes) => Promise<void>;

/** The bytes of an open file. */
export function bytesOfFile(file: DiskFile): SegmentBytes {
  return async (start, take) => {
    const buffer = new Uint8Array(READ_BYTES);
    for (let position = start;;) {
      const count = await file.read(buffer, position);
      if (count === 0 || await take(buffer.subarray(0, count), position) === "enough") return;
      if (count < buffer.length) return;
      position += count;
    }
  };
}

/** Gives `use` the bytes of a published segment; `undefined` when there is none. */
export async function withPublishedBytes<T>(
  disk: Disk,
  segment: {
    readonly name: string;
    readonly segmentSize: SegmentSize;
    /** All, if it is not given. */
    readonly forms?: readonly SegmentForm[];
  },
  use: (bytes: SegmentBytes) => Promise<T>,
): Promise<T | undefined> {
  // The plain form needs no reading of what comes before; the compressed ones do.
  const plain = segment.forms?.includes("") === false ? undefined : await withFile(
    disk,
    segment.name,
    async (file) => ({ result: await use(bytesOfFile(file)) }),
  );
  if (plain !== undefined) return plain.result;
  return await withPublished(
    disk,
    { forms: [...COMPRESSED_FORMS, ""], ...segment },
    (published) =>
      use((start, take) =>
        published.readThrough((bytes, position) => {
          const skipped = Math.max(0, start - position);
          return skipped >= bytes.length ? "more" : take(bytes.subarray(skipped), position + skipped);
        })
      ),
  );
}
