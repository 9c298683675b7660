import type { Lsn } from "../wal/lsn.ts";
import { parseSegmentName, segmentStart } from "../wal/segment.ts";
import { isFilesFault } from "./damaged_file.ts";
import type { Disk } from "./disk.ts";
import { errorCode, openPlain, readWhole, removeName, withFile } from "./durable.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { INDEX_DIRECTORY, indexPath, temporaryName } from "./layout.ts";
import { withPublished } from "./published.ts";
import type { TakeBytes } from "./segment_file.ts";
import {
  decodeSegmentIndex,
  decodeSegmentIndexHead,
  encodeSegmentIndex,
  INDEX_HEAD_BYTES,
  type SegmentIndex,
  type SegmentIndexHead,
} from "./segment_index.ts";
import { type PlacedTransactionEnd, SegmentIndexer } from "./segment_indexer.ts";
import type { Modes } from "./segment_writer.ts";

/** More than any segment gives: the xids of 1 GiB of nothing but the shortest commits. */
const MAXIMUM_INDEX_BYTES = 256 * 1024 * 1024;

/** Which segment, of which cluster: an index of any other is none. */
export interface IndexedName {
  /** 24 digits. */
  readonly name: string;
  readonly identity: ArchiveIdentity;
}

/**
 * The head of a segment's index; `undefined` when there is none that can be believed.
 *
 * It says what was in the segment of that name when it was made: a published segment never changes (P1). Whoever reads
 * the segment anyway compares `contentCrc`; see `mayReplaceIndex` where it differs.
 */
export function readIndexHead(disk: Disk, segment: IndexedName): Promise<SegmentIndexHead | undefined> {
  return believed(segment, async () => {
    const head = new Uint8Array(INDEX_HEAD_BYTES);
    const count = await withFile(disk, indexPath(segment.name), (file) => file.read(head, 0));
    return count === undefined ? undefined : decodeSegmentIndexHead(head.subarray(0, count));
  });
}

/** As `readIndexHead`, with the lists. */
export function readIndex(disk: Disk, segment: IndexedName): Promise<SegmentIndex | undefined> {
  return believed(segment, async () => {
    const bytes = await readWhole(disk, indexPath(segment.name), MAXIMUM_INDEX_BYTES);
    return bytes === undefined ? undefined : decodeSegmentIndex(bytes);
  });
}

async function believed<T extends SegmentIndexHead>(
  { name, identity }: IndexedName,
  read: () => Promise<T | undefined>,
): Promise<T | undefined> {
  let index: T | undefined;
  try {
    index = await read();
  } catch {
    // Torn, damaged, of another version, or not to be read by this user: it is a cache, and the segment tells the same.
    return undefined;
  }
  const isOurs = index?.name === name && index.systemIdentifier === identity.systemIdentifier &&
    index.scan.segmentSize === identity.segmentSize &&
    index.scan.startLsn === startOf(name, identity);
  return isOurs ? index : undefined;
}

/**
 * Writes an index in the place of the one that is there; not synced, as it can be made anew.
 *
 * Readers see the old one or the new one. Two who write the same at a time may take the temporary file from each other:
 * then one of them fails with what the operating system says, and the other's counts.
 */
export async function writeIndex(disk: Disk, index: SegmentIndex, modes: Modes): Promise<void> {
  const path = indexPath(index.name);
  const temporary = temporaryName(path);
  if (await disk.entry(INDEX_DIRECTORY) === undefined) await makeIndexDirectory(disk, modes);
  await removeName(disk, temporary);
  const file = await disk.create(temporary, modes.file);
  try {
    try {
      await file.write(encodeSegmentIndex(index), 0);
    } finally {
      await file.close();
    }
    await disk.rename(temporary, path);
  } catch (error) {
    await removeName(disk, temporary);
    throw error;
  }
}

/**
 * Whether an index may take the place of the one that is there, by what the segment's bytes prove alone.
 *
 * Where they are no more what they were, and a record is shared with a neighbour, nothing in them tells whether that record
 * is still right: then the older index is all that shows the damage.
 */
export function mayReplaceIndex(stored: SegmentIndexHead | undefined, index: SegmentIndexHead): boolean {
  if (stored === undefined || stored.contentCrc === index.contentCrc) return true;
  return ![stored, index].some(({ scan }) => scan.continuesFrom || scan.openRecordLsn !== undefined);
}

async function makeIndexDirectory(disk: Disk, modes: Modes): Promise<void> {
  try {
    await disk.makeDirectory(INDEX_DIRECTORY, modes.directory);
  } catch (error) {
    // Somebody else was first.
    if (errorCode(error) !== "EEXIST") throw error;
  }
}

/** Hands over a segment's bytes, front to back. */
export type ReadSegment = (take: TakeBytes) => Promise<void>;

/**
 * Makes a segment's index out of its bytes.
 *
 * `next` gives the segments behind it, one after the other, for the record that goes on there; `undefined` where one is
 * not there (yet). They are read only if that record has something to say, and one that can't be read is as one that
 * is not there. `onEnd` is told each transaction's end.
 * @throws {RangeError} when `read` does not hand over a whole segment.
 */
export async function buildIndex(
  { name, identity }: IndexedName,
  read: ReadSegment,
  { next = () => undefined, onEnd }: {
    readonly next?: () => ReadSegment | undefined;
    readonly onEnd?: (end: PlacedTransactionEnd) => void;
  } = {},
): Promise<SegmentIndex> {
  const { systemIdentifier, segmentSize } = identity;
  const indexer = new SegmentIndexer(
    { name, startLsn: startOf(name, identity), segmentSize, systemIdentifier },
    onEnd,
  );
  await read((bytes) => {
    indexer.push(bytes);
    return "more";
  });
  while (indexer.wantsNext) {
    const readNext = next();
    if (readNext === undefined) break;
    let taken = 0;
    indexer.enterNext();
    try {
      await readNext((bytes) => {
        indexer.pushNext(bytes);
        taken += bytes.length;
        return indexer.wantsNext ? "more" : "enough";
      });
    } catch (error) {
      if (!isFilesFault(error)) throw error;
      break;
    }
    if (taken < segmentSize) break;
  }
  return indexer.result();
}

/**
 * Makes the index of a published segment, whatever its form; `undefined` when there is none.
 *
 * `following` names the segments behind it on the same road, the next one first: those that are not there end it.
 * @throws {DamagedFileError} when a compressed form can't be read.
 */
export async function buildPublishedIndex(
  disk: Disk,
  segment: IndexedName,
  following: readonly string[],
): Promise<SegmentIndex | undefined> {
  const { segmentSize } = segment.identity;
  return await withPublished(
    disk,
    { name: segment.name, segmentSize, open: openPlain },
    async ({ readThrough }) => {
      const names = [...following];
      const next = (): ReadSegment | undefined => {
        const name = names.shift();
        if (name === undefined) return undefined;
        return async (take) => {
          await withPublished(
            disk,
            { name, segmentSize, open: openPlain },
            (published) => published.readThrough(take),
          );
        };
      };
      return await buildIndex(segment, readThrough, { next });
    },
  );
}

function startOf(name: string, { segmentSize }: ArchiveIdentity): Lsn {
  const parsed = parseSegmentName(name, segmentSize);
  if (parsed === undefined) throw new RangeError(`Cannot index "${name}": want the name of a segment`);
  return segmentStart(parsed.number, segmentSize);
}
