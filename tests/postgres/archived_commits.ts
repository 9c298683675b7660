/** The commits that stand in an archive, by the program's own reader of records. */
import * as fs from "node:fs";
import { join } from "node:path";
import { formatLsn, type Lsn } from "../../lib/wal/lsn.ts";
import { decodeRecordBody } from "../../lib/wal/record_body.ts";
import { RecordReader } from "../../lib/wal/record_reader.ts";
import { decodeTransactionEnd, isTransactionEnd } from "../../lib/wal/rmgr/transaction.ts";
import { segmentName, segmentNumberAt, segmentStart } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import type { ArchiveFiles } from "./receiver.ts";

/** Transactions, and why reading went no further: for the text of a failure. */
export interface ArchivedCommits {
  readonly xids: ReadonlySet<number>;
  readonly readTo: string;
}

/** Reads one timeline from the segment of `startLsn` on; the receiver may go on meanwhile. */
export function archivedCommits(
  archive: ArchiveFiles,
  { timeline, startLsn }: { readonly timeline: number; readonly startLsn: Lsn },
): ArchivedCommits {
  const { segmentSize } = archive;
  const xids = new Set<number>();
  let number = segmentNumberAt(startLsn, segmentSize);
  const reader = new RecordReader({
    startLsn: segmentStart(number, segmentSize),
    segmentSize,
    records: {
      wants: isTransactionEnd,
      take: (record) => {
        const version = reader.majorVersion;
        if (version === undefined) return;
        const { info, xid } = record.header;
        const { mainData } = decodeRecordBody(record.bytes, version);
        const end = decodeTransactionEnd({ info, xid, mainData }, version);
        if (end?.kind === "commit") xids.add(end.xid);
      },
    },
  });
  for (; !reader.done; number++) {
    const bytes = furthestCopy(archive, segmentName(timelineId(timeline), number, segmentSize));
    if (bytes === undefined) break;
    reader.push(bytes);
  }
  const { endLsn, end, problem } = reader.result();
  return { xids, readTo: `${formatLsn(endLsn)}, ${end} ${problem ?? ""}`.trimEnd() };
}

/** What is complete, else the copy that holds most. */
function furthestCopy(archive: ArchiveFiles, name: string): Uint8Array | undefined {
  // In the order in which files wander: what is moved on meanwhile is found after that.
  const copies = [...archive.growing(), ...archive.saved()].filter((file) => file.name === name)
    .flatMap((file) => {
      const bytes = readIfThere(file.path);
      return bytes === undefined ? [] : [{ file, bytes }];
    });
  const complete = readIfThere(join(archive.directory, name));
  if (complete !== undefined || copies.length === 0) return complete;
  const [first, ...others] = copies.map(({ file, bytes }) => ({
    bytes,
    end: archive.scanBytes(file, bytes).contentEndLsn,
  }));
  return others.reduce((furthest, copy) => copy.end > furthest.end ? copy : furthest, first!).bytes;
}

function readIfThere(path: string): Uint8Array | undefined {
  try {
    return fs.readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    return undefined;
  }
}
