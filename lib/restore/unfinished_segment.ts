import type { Disk, DiskFile } from "../archive/disk.ts";
import { withFile } from "../archive/durable.ts";
import { PageNotes, unsyncedBytesOf } from "../archive/page_notes.ts";
import { readThrough, type TakeBytes } from "../archive/segment_file.ts";
import { type TimelineHistory } from "../wal/history.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { isCompleteSegment, type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import type { SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { OwnFile, UnfinishedCopy } from "./segment_decision.ts";

/** Which segment a file should hold. */
export interface WantedSegment {
  readonly startLsn: Lsn;
  readonly segmentSize: SegmentSize;
  readonly timeline: TimelineId;
  /** `undefined` when nobody knows it. */
  readonly systemIdentifier: bigint | undefined;
  /** `undefined` when the archive does not have it: then pages of any older timeline will do. */
  readonly history: TimelineHistory | undefined;
}

/** Whether pages of this timeline may stand in a segment of that name. */
export function mayHoldPagesOf(
  timeline: number,
  wanted: Pick<WantedSegment, "timeline" | "history">,
): boolean {
  if (timeline === wanted.timeline) return true;
  if (wanted.history === undefined) return timeline < wanted.timeline;
  return wanted.history.entries.some((ancestor) => ancestor.timeline === timeline);
}

interface Reading {
  readonly scan: SegmentScan;
  readonly notes: PageNotes;
  readonly bytes: number;
}

async function readSegment(
  wanted: WantedSegment,
  source: (take: TakeBytes) => Promise<void>,
): Promise<Reading> {
  const { startLsn, segmentSize, systemIdentifier } = wanted;
  const scanner = new SegmentScanner({
    startLsn,
    segmentSize,
    ...(systemIdentifier === undefined ? {} : { systemIdentifier }),
    allowedTimeline: (timeline) => mayHoldPagesOf(timeline, wanted),
  });
  const notes = new PageNotes(wanted);
  let bytes = 0;
  await source((piece, position) => {
    scanner.push(piece);
    notes.take(piece);
    bytes = position + piece.length;
    return "more";
  });
  notes.end();
  return { scan: scanner.result(), notes, bytes };
}

/** Every record right, to the end of the segment. */
function isWhole({ scan, bytes }: Reading): boolean {
  const ended = scan.end === "segment-end" || (scan.end === "switch" && scan.restIsZero === true);
  return ended && isCompleteSegment(scan, bytes);
}

/** What a copy that is not published holds; `undefined` when that is nothing but zeros. */
export async function readUnfinished(
  path: string,
  wanted: WantedSegment,
  source: (take: TakeBytes) => Promise<void>,
): Promise<UnfinishedCopy | undefined> {
  const reading = await readSegment(wanted, source);
  const { scan, notes, bytes } = reading;
  if (notes.writtenBytes === 0) return undefined;
  const copy = {
    path,
    endLsn: scan.endLsn,
    contentEndLsn: scan.contentEndLsn,
    provenLsn: scan.firstRecordLsn ?? scan.endLsn,
    endsInRecord: scan.end === "torn",
  };
  if (isWhole(reading)) return { ...copy, state: "complete" };
  const problem = bytes > wanted.segmentSize
    ? `it has ${bytes} bytes, want ${wanted.segmentSize}`
    : damageProblem(reading, wanted, path);
  return problem === undefined ? { ...copy, state: "tail" } : { ...copy, state: "damaged", problem };
}

function damageProblem({ scan, notes }: Reading, wanted: WantedSegment, path: string): string | undefined {
  // An empty first page was lost in a power cut, and so was nothing that anybody was promised.
  if (scan.firstPage === undefined && scan.end === "page-header") return scan.problem;
  if (scan.end === "switch") {
    return scan.restIsZero === false ? "after its last record, an XLOG_SWITCH, it is not empty" : undefined;
  }
  const behind = notes.behind({
    provenBytes: Number(scan.endLsn - wanted.startLsn),
    contentBytes: Number(scan.contentEndLsn - wanted.startLsn),
    unsyncedBytes: unsyncedBytesOf(path),
  });
  if (behind !== "changed bytes") return undefined;
  return `${scan.problem ?? `at ${formatLsn(scan.contentEndLsn)}: nothing valid`}, with more WAL behind it`;
}

/** What the server has under the segment's name itself; `undefined` when that is nothing of this segment. */
export async function readOwnFile(
  disk: Disk,
  name: string,
  wanted: WantedSegment,
): Promise<OwnFile | undefined> {
  return await withFile(disk, name, async (file: DiskFile) => {
    const reading = await readSegment(wanted, (take) => readThrough(file, take));
    const { scan } = reading;
    if (scan.firstPage === undefined) return undefined;
    return { endLsn: scan.endLsn, contentEndLsn: scan.contentEndLsn, whole: isWhole(reading) };
  });
}
