import { Buffer } from "node:buffer";
import { firstDifferentByte } from "../wal/bytes.ts";
import type { SegmentSize } from "../wal/segment.ts";
import { allEnded } from "./all_ended.ts";
import { type CompressionFormat, FORMAT_OF_FORM } from "./compression_format.ts";
import type { Disk, DiskFile, FileState } from "./disk.ts";
import { withFile } from "./durable.ts";
import { SEGMENT_FORMS } from "./layout.ts";
import { readThrough, type TakeBytes } from "./segment_file.ts";

const COMPARE_BYTES = 256 * 1024;

/** The end of the name that tells how a published segment is stored; "" when as the server wrote it. */
export type SegmentForm = typeof SEGMENT_FORMS[number];

/** Opens a file; `undefined` when it is absent. */
export type OpenFile = (disk: Disk, path: string) => Promise<DiskFile | undefined>;

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
  /** Of the file, as it is stored. */
  state(): Promise<FileState>;
}

/**
 * Opens a published segment in whatever form it stands; `undefined` when there is none.
 *
 * A compressed form takes the plain one's place while others read: the plain one is looked for again at the end.
 */
export async function withPublished<T>(
  disk: Disk,
  segment: {
    readonly name: string;
    readonly segmentSize: SegmentSize;
    /** All, if it is not given; in this order. */
    readonly forms?: readonly SegmentForm[];
    /** `openPlain` where nobody must wait for what is no file; the disk's own, if it is not given. */
    readonly open?: OpenFile;
  },
  use: (published: PublishedSegment) => Promise<T>,
): Promise<T | undefined> {
  for (const forms of looksFor(segment.forms ?? [...SEGMENT_FORMS, ""])) {
    const open = segment.open ?? ((disk: Disk, path: string) => disk.open(path));
    const found = await openFirst(forms.map((form) => segment.name + form), (path) => open(disk, path));
    if (found === undefined) continue;
    const { file, path } = found;
    try {
      const form = forms.find((each) => path === segment.name + each) ?? "";
      const label = `${disk.root}/${path}`;
      const readAll = sourceOf(file, { form, label, segmentSize: segment.segmentSize });
      return await use({ path, form, readThrough: readAll, state: () => file.state() });
    } finally {
      await file.close();
    }
  }
  return undefined;
}

/** What is looked for at once: compressed forms; the plain one is looked for before them, and again after them. */
function looksFor(forms: readonly SegmentForm[]): readonly (readonly SegmentForm[])[] {
  const looks: SegmentForm[][] = [];
  for (const form of forms) {
    const last = looks.at(-1);
    if (form === "" || last === undefined || last.includes("")) looks.push([form]);
    else last.push(form);
  }
  return looks;
}

/** Opens the first of some files that is there, all looked for at once; what is wrong with a later one does not count. */
async function openFirst(
  paths: readonly string[],
  open: (path: string) => Promise<DiskFile | undefined>,
): Promise<{ readonly path: string; readonly file: DiskFile } | undefined> {
  const looks = await Promise.allSettled(paths.map(open));
  const first = looks.findIndex((look) => look.status === "rejected" || look.value !== undefined);
  const later = looks.slice(first + 1).map((look) => look.status === "rejected" ? undefined : look.value);
  // Nothing was done with them.
  await allEnded(later.map((file) => file?.close() ?? Promise.resolve()));
  const found = looks[first];
  if (found?.status === "rejected") throw found.reason;
  return found?.value === undefined ? undefined : { path: paths[first]!, file: found.value };
}

/** A published segment beside a plain file that should hold the same. */
export interface PublishedComparison {
  /** Of the published one, below the archive's root. */
  readonly path: string;
  /** Offset of the first byte that differs, or that one of them has not; `undefined` when they are the same. */
  readonly difference: number | undefined;
}

/**
 * Compares a plain file with the published segment of that name, whatever its form; `undefined` when there is none.
 *
 * @throws {DamagedFileError} when the published one can't be read.
 */
export function compareWithPublished(
  disk: Disk,
  file: {
    /** Of the plain file. */
    readonly path: string;
    readonly name: string;
    readonly segmentSize: SegmentSize;
    readonly forms?: readonly SegmentForm[];
  },
): Promise<PublishedComparison | undefined> {
  return withPublished(disk, file, async (published) => {
    const difference = await withFile(disk, file.path, async (own) => {
      const at = await firstDifferenceFrom(published, own, file.segmentSize);
      return { at };
    });
    return { path: published.path, difference: difference === undefined ? 0 : difference.at };
  });
}

/** Offset of the first byte where a published segment and a plain file differ, or that one of them has not. */
export async function firstDifferenceFrom(
  published: Pick<PublishedSegment, "readThrough">,
  own: DiskFile,
  segmentSize: SegmentSize,
): Promise<number | undefined> {
  const buffer = new Uint8Array(COMPARE_BYTES);
  let difference: number | undefined;
  let end = 0;
  await published.readThrough(async (bytes, position) => {
    for (let done = 0; done < bytes.length; done += buffer.length) {
      const theirs = bytes.subarray(done, done + buffer.length);
      const ours = buffer.subarray(0, theirs.length);
      const count = await own.read(ours, position + done);
      if (count === ours.length && Buffer.compare(ours, theirs) === 0) continue;
      // The loop ends: where a file ends early it differs.
      const differs = firstDifferentByte(ours, theirs, { start: 0, end: count }) ?? count;
      difference = position + done + differs;
      return "enough";
    }
    end = position + bytes.length;
    return "more";
  });
  if (difference !== undefined) return difference;
  return end === segmentSize && await own.bytes() === segmentSize ? undefined : end;
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
  return async (take) => {
    // Only now: the decoders, the runtime's own above all, take a third of the time that a short command needs to start.
    const { decompress } = await import("./compression.ts");
    await decompress(file, { format, label, wantBytes: segmentSize }, take);
  };
}
