import type { Disk } from "./disk.ts";
import { buildPublishedIndex, writeIndex } from "./index.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { INDEX_DIRECTORY, indexPath } from "./layout.ts";
import type { OpenRecordState } from "./segment_index.ts";
import type { Modes } from "./segment_writer.ts";
import { parseSegmentName, segmentName, type SegmentNumber } from "../wal/segment.ts";

/** A record goes on into so many segments at most before its index waits no longer for them. */
const FOLLOWING = 2;

/** Makes indexes of published segments, wherever that is done. One call at a time. */
export interface IndexWorker {
  /** Makes and writes one; "gone" when there is no such segment. */
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
      const following = segmentsBehind(name, identity);
      const index = await buildPublishedIndex(disk, { name, identity }, following);
      if (index === undefined) return "gone";
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

function segmentsBehind(name: string, { segmentSize }: ArchiveIdentity): readonly string[] {
  const segment = parseSegmentName(name, segmentSize);
  if (segment === undefined) return [];
  return Array.from(
    { length: FOLLOWING },
    (_, i) => segmentName(segment.timeline, segment.number + BigInt(i + 1) as SegmentNumber, segmentSize),
  );
}
