import { Buffer } from "node:buffer";
import { zstdDecompressSync } from "node:zlib";
import { type CompressionFormat, FORMAT_OF_FORM, openPieceEncoder } from "../../lib/archive/compression.ts";
import { COMPRESSED_FORMS, parseInProgressName, SEGMENT_FORMS } from "../../lib/archive/layout.ts";
import { parseSegmentName } from "../../lib/wal/segment.ts";
import { type Inode, sameBytes, type SimDisk } from "./sim_disk.ts";
import { SEGMENT_BYTES, SEGMENT_SIZE } from "./sim_wal.ts";

/** The name of a segment, and how it is stored there. */
export interface StoredName {
  readonly segment: string;
  readonly form: typeof SEGMENT_FORMS[number];
}

const names = new Map<string, StoredName | undefined>();

/** Takes a name of the archive's directory apart; `undefined` for one that is no segment's. */
export function storedName(name: string): StoredName | undefined {
  if (!names.has(name)) {
    const form = COMPRESSED_FORMS.find((each) => name.endsWith(each)) ?? "";
    const segment = name.slice(0, name.length - form.length);
    const isSegment = parseSegmentName(segment, SEGMENT_SIZE) !== undefined;
    names.set(name, isSegment ? { segment, form } : undefined);
  }
  return names.get(name);
}

const numbers = new Map<string, bigint | undefined>();

/** The segment that a file of the archive, in whatever form, or of `inprogress/` is of. */
export function numberOf(name: string): bigint | undefined {
  if (!numbers.has(name)) {
    numbers.set(name, parseInProgressName(storedName(name)?.segment ?? name, SEGMENT_SIZE)?.number);
  }
  return numbers.get(name);
}

/** The published file of a segment that programs see, in whatever form. */
export function publishedFile(disk: SimDisk, segment: string): Inode | undefined {
  for (const form of SEGMENT_FORMS) {
    const inode = disk.file(segment + form);
    if (inode !== undefined) return inode;
  }
  return undefined;
}

/** The segments, in whatever form, whose names a power cut would leave for certain. */
export function certainSegments(disk: SimDisk): ReadonlySet<string> {
  const found = new Set<string>();
  for (const [name] of disk.certainFiles(".")) {
    const stored = storedName(name);
    if (stored !== undefined) found.add(stored.segment);
  }
  return found;
}

/** What a published file holds, decoded; `undefined` when it is no whole file of its form. */
export function contentOf(name: string, inode: Inode): Uint8Array | undefined {
  const form = storedName(name)?.form ?? "";
  if (form === "") return inode.content;
  // What is published never changes: that is watched by the disk.
  if (!contents.has(inode)) contents.set(inode, decoded(inode.content, FORMAT_OF_FORM[form]));
  return contents.get(inode);
}

const contents = new WeakMap<Inode, Uint8Array | undefined>();

/** Whether a power cut right now would leave the first `bytes` of `want` under this name, whatever its form. */
export function holds(name: string, inode: Inode, want: Uint8Array, bytes: number): boolean {
  if ((storedName(name)?.form ?? "") === "") return inode.holds(want, bytes);
  // Before it is published, and so synced, it has no such name.
  if (!inode.clean) return false;
  const known = equals.get(inode);
  if (known === want) return true;
  const content = contentOf(name, inode);
  if (content === undefined || !sameBytes(content.subarray(0, bytes), want.subarray(0, bytes))) return false;
  if (bytes === SEGMENT_BYTES) equals.set(inode, want);
  return true;
}

/** What a compressed file was found to hold all of. */
const equals = new WeakMap<Inode, Uint8Array>();

/** Decoded without waiting, and checked to its last byte: nothing real may be waited for here. */
function decoded(bytes: Uint8Array, format: CompressionFormat): Uint8Array | undefined {
  try {
    if (format === "zstd") return zstdDecompressSync(bytes, { maxOutputLength: SEGMENT_BYTES + 1 });
    const encoder = openPieceEncoder({ format, level: 1 });
    const content = encoder.decode(bytes, { contentBytes: SEGMENT_BYTES, isFirst: true });
    // It looks at the content alone: what is around it must be what belongs there.
    const again = Buffer.concat([encoder.piece(content), encoder.end()]);
    return sameBytes(again, bytes) ? content : undefined;
  } catch {
    return undefined;
  }
}
