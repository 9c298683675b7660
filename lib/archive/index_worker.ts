import { DamagedFileError } from "./damaged_file.ts";
import type { Disk } from "./disk.ts";
import { buildPublishedIndex, readIndexHead, writeIndex } from "./index.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { INDEX_DIRECTORY, indexPath } from "./layout.ts";
import type { OpenRecordState, SegmentIndex } from "./segment_index.ts";
import type { Modes } from "./segment_writer.ts";
import { parseSegmentName, segmentName, type SegmentNumber } from "../wal/segment.ts";

/** A record goes on into so many segments at most before its index waits no longer for them. */
const FOLLOWING = 2;

/** Makes indexes of published segments, wherever that is done. One call at a time. */
export interface IndexWorker {
  /**
   * Makes and writes one; "gone" when there is no such segment.
   *
   * @throws {DamagedFileError} when the one that is there was made of other bytes: it shows damage, and stays.
   */
  index(name: string): Promise<OpenRecordState | "gone">;
  /** Segments that have no index, oldest first, `limit` at most. */
  missing(limit: number): Promise<readonly string[]>;
  /** "stuck" when the disk still has something of what was under way. */
  close(): Promise<"ended" | "stuck">;
}

/** Which archive, and how to write there. */
export interface IndexedArchive {
  readonly identity: ArchiveIdentity;
  readonly modes: Modes;
}

/** The work on the calling thread. */
export function directIndexWorker(disk: Disk, { identity, modes }: IndexedArchive): IndexWorker {
  const { segmentSize } = identity;
  return {
    async index(name) {
      const index = await indexOf(disk, name, identity);
      if (index === undefined) return "gone";
      const stored = await readIndexHead(disk, { name, identity });
      if (stored !== undefined && stored.contentCrc !== index.contentCrc) {
        throw new DamagedFileError(
          `Cannot index "${disk.root}/${name}": it holds other bytes than when its index was made, and the index stays; ` +
            `if it was exchanged on purpose, remove "${indexPath(name)}"`,
        );
      }
      await writeIndex(disk, index, modes);
      return index.openRecord;
    },
    async missing(limit) {
      const indexed = new Set(
        (await disk.list(INDEX_DIRECTORY) ?? []).map((entry) => `${INDEX_DIRECTORY}/${entry}`),
      );
      const names = new Set<string>();
      for (const entry of await disk.list(".") ?? []) {
        const name = /^([0-9A-F]{24})(?:\.(?:zst|gz|lz4))?$/.exec(entry)?.[1];
        if (name === undefined || parseSegmentName(name, segmentSize) === undefined) continue;
        if (!indexed.has(indexPath(name))) names.add(name);
      }
      return [...names].sort().slice(0, limit);
    },
    close: () => disk.close(),
  };
}

/** Makes a published segment's index, with what the segments behind it add; `undefined` when there is no such segment. */
export function indexOf(
  disk: Disk,
  name: string,
  identity: ArchiveIdentity,
): Promise<SegmentIndex | undefined> {
  return buildPublishedIndex(disk, { name, identity }, segmentsBehind(name, identity));
}

function segmentsBehind(name: string, { segmentSize }: ArchiveIdentity): readonly string[] {
  const segment = parseSegmentName(name, segmentSize);
  if (segment === undefined) return [];
  return Array.from(
    { length: FOLLOWING },
    (_, i) => segmentName(segment.timeline, segment.number + BigInt(i + 1) as SegmentNumber, segmentSize),
  );
}
