import { nameOf, SEGMENT_FORMS } from "../archive/layout.ts";
import { withFile } from "../archive/durable.ts";
import { type Hole, holeBetween, type TailPlace, tailPlaces } from "../observe/lineage_cover.ts";
import type { ArchiveDirectory } from "../restore/archive_directory.ts";
import { VanishedError } from "../restore/obstacle.ts";
import type { UnfinishedFile } from "../restore/stock.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { advance, type Lsn, lsn, maxLsn, minLsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";
import { isAllZero, isWholeScan, type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import { type SegmentNumber, type SegmentSize, segmentStart } from "../wal/segment.ts";

/** What was received of a segment that is not complete. */
export interface Tail {
  readonly file: UnfinishedFile;
  readonly startLsn: Lsn;
  /** The end of its last valid record. */
  readonly endLsn: Lsn;
  /** The end of what is there, with the beginning of a record that is not there whole. */
  readonly receivedLsn: Lsn;
  readonly modifiedMs: number;
  /** Everything that the scan tells. */
  readonly scan: SegmentScan;
}

/** Where a lineage ends in an archive. */
export interface EndOfLineage {
  /** From here to the end nothing is missing, as far as that was looked at: the segment that the look began with. */
  readonly beginNumber: SegmentNumber;
  /** The first segment of which not all is here. */
  readonly endNumber: SegmentNumber;
  /** Everything below it lies in complete segments; `undefined` when there are none. */
  readonly completeEndLsn: Lsn | undefined;
  /** As `Tail`; without one, where the complete segments end. */
  readonly endLsn: Lsn | undefined;
  readonly receivedLsn: Lsn | undefined;
  readonly tail: Tail | undefined;
  /** Files of segments before it that were whole and had not got their own names yet. */
  readonly whole: readonly UnfinishedFile[];
  /** When something was last written here, by the file's own time. */
  readonly modifiedMs: number | undefined;
  /** Before WAL that is not complete and does not follow on what is. */
  readonly holes: readonly Hole[];
}

/** Which lineage's end is wanted, and from where on to look. */
export interface EndSearch {
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
  /** The segment after the last complete one that is known; `undefined` when none is. */
  readonly completeEnd: SegmentNumber | undefined;
}

/** A receiver that publishes and goes on while we look is followed this often. */
const MAXIMUM_ROUNDS = 8;

/**
 * Follows a lineage from its last complete segment to the last byte received, as it stands now.
 *
 * A receiver may publish, move and begin files meanwhile: a look that a file went away under is repeated.
 */
export async function findEnd(archive: ArchiveDirectory, search: EndSearch): Promise<EndOfLineage> {
  for (let round = 1;; round++) {
    try {
      return await lookForEnd(archive, search);
    } catch (error) {
      if (!(error instanceof VanishedError) || round === MAXIMUM_ROUNDS) throw error;
    }
  }
}

async function lookForEnd(archive: ArchiveDirectory, search: EndSearch): Promise<EndOfLineage> {
  const { lineage, segmentSize: size } = search;
  const unfinished: Candidate[] = [];
  for (const file of await archive.unfinishedFiles(size)) {
    const place = tailPlaces(lineage, file.number, size).find(({ timeline }) => timeline === file.timeline);
    // What is no file holds no WAL, and is told elsewhere.
    const kind = place === undefined ? undefined : (await archive.disk.entry(file.path))?.kind;
    if (place !== undefined && (kind === undefined || kind === "file")) unfinished.push({ file, place });
  }
  const begin = search.completeEnd ?? least(unfinished.map(({ file }) => file.number));
  if (begin === undefined) {
    return {
      beginNumber: 0n as SegmentNumber,
      endNumber: 0n as SegmentNumber,
      completeEndLsn: undefined,
      endLsn: undefined,
      receivedLsn: undefined,
      tail: undefined,
      whole: [],
      modifiedMs: undefined,
      holes: [],
    };
  }
  const end = await follow(archive, { ...search, begin, unfinished });
  const beyond = await firstBeyond(archive, unfinished, end.endNumber);
  if (beyond === undefined) return end;
  // What lies behind a hole is the archive's end all the same; the hole is told.
  const after = await follow(archive, { ...search, completeEnd: undefined, begin: beyond, unfinished });
  const hole = holeBetween({ startNumber: end.endNumber, endNumber: beyond }, lineage, size);
  const whole = [...end.whole, ...after.whole];
  return { ...after, whole, completeEndLsn: end.completeEndLsn, holes: [hole] };
}

interface Candidate {
  readonly file: UnfinishedFile;
  readonly place: TailPlace;
}

async function follow(
  archive: ArchiveDirectory,
  { lineage, segmentSize: size, completeEnd, begin, unfinished }: EndSearch & {
    readonly begin: SegmentNumber;
    readonly unfinished: readonly Candidate[];
  },
): Promise<EndOfLineage> {
  let publishedEnd = completeEnd;
  let number = begin;
  let modifiedMs: number | undefined;
  const whole: UnfinishedFile[] = [];
  for (;; number = number + 1n as SegmentNumber) {
    const published = await publishedPath(archive, tailPlaces(lineage, number, size)[0]!, number, size);
    if (published !== undefined) {
      if (publishedEnd === undefined || publishedEnd === number) publishedEnd = number + 1n as SegmentNumber;
      continue;
    }
    const tail = await bestTail(archive, unfinished.filter(({ file }) => file.number === number), size);
    modifiedMs = tail?.modifiedMs ?? modifiedMs;
    if (tail !== undefined && isWholeScan(tail.scan) && tail.endLsn === wholeEnd(tail, size)) {
      whole.push(tail.file);
      continue;
    }
    const completeEndLsn = publishedEnd === undefined ? undefined : segmentStart(publishedEnd, size);
    const startLsn = number === begin && completeEnd === undefined ? undefined : segmentStart(number, size);
    return {
      beginNumber: begin,
      endNumber: number,
      completeEndLsn,
      endLsn: tail?.endLsn ?? startLsn,
      receivedLsn: tail?.receivedLsn ?? startLsn,
      tail,
      whole,
      modifiedMs: modifiedMs ?? await lastModified(archive, lineage, number, size),
      holes: [],
    };
  }
}

/** The first segment behind the end of which something was received. */
async function firstBeyond(
  archive: ArchiveDirectory,
  unfinished: readonly Candidate[],
  endNumber: SegmentNumber,
): Promise<SegmentNumber | undefined> {
  const beyond = unfinished.map(({ file }) => file).filter(({ number }) => number > endNumber)
    .sort((a, b) => a.number < b.number ? -1 : 1);
  // Made ahead of its time, a file holds nothing.
  for (const file of beyond) {
    if (await archive.hasContent(file)) return file.number;
  }
  return undefined;
}

function wholeEnd({ startLsn }: Tail, size: SegmentSize): Lsn {
  return advance(startLsn, size);
}

async function publishedPath(
  archive: ArchiveDirectory,
  { timeline }: TailPlace,
  number: SegmentNumber,
  size: SegmentSize,
): Promise<string | undefined> {
  const name = nameOf({ timeline, number }, size);
  for (const form of [...SEGMENT_FORMS, ""]) {
    if (await archive.disk.entry(name + form) !== undefined) return name + form;
  }
  return undefined;
}

/** Among the copies of one segment the one that goes furthest; `undefined` when none holds anything. */
async function bestTail(
  archive: ArchiveDirectory,
  candidates: readonly Candidate[],
  size: SegmentSize,
): Promise<Tail | undefined> {
  let best: Tail | undefined;
  for (const candidate of candidates) {
    const tail = await readTail(archive, candidate, size);
    if (tail === undefined) continue;
    const isFurther = best === undefined || tail.endLsn > best.endLsn ||
      (tail.endLsn === best.endLsn && tail.receivedLsn > best.receivedLsn);
    if (isFurther) best = tail;
  }
  return best;
}

async function readTail(
  archive: ArchiveDirectory,
  { file, place }: Candidate,
  size: SegmentSize,
): Promise<Tail | undefined> {
  const startLsn = segmentStart(file.number, size);
  const scanner = new SegmentScanner({ startLsn, segmentSize: size });
  let writtenBytes = 0;
  await archive.readUnfinished(file, (bytes, position) => {
    scanner.push(bytes);
    if (!isAllZero(bytes)) {
      let length = bytes.length;
      while (bytes[length - 1] === 0) length--;
      writtenBytes = position + length;
    }
    if (!scanner.done) return "more";
    const { end, contentEndLsn } = scanner.result();
    // The rest is of no interest, unless it has to be empty.
    const neededBytes = Number(contentEndLsn - startLsn) + PAGE_BYTES;
    return end !== "switch" && position + bytes.length >= neededBytes ? "enough" : "more";
  });
  const modifiedMs = await withFile(archive.disk, file.path, async (open) => (await open.state()).modifiedMs);
  if (modifiedMs === undefined) throw new VanishedError(`"${archive.disk.root}/${file.path}" is gone`);
  if (writtenBytes === 0) return undefined;
  const scan = scanner.result();
  const isFilled = isWholeScan(scan);
  // Of the last page's part of an open record the scanner believes nothing, as no page follows; it has come all the same.
  const cut = minLsn(lsn(startLsn + BigInt(writtenBytes)), advance(scan.contentEndLsn, PAGE_BYTES));
  const limit = (position: Lsn) => place.limitLsn === undefined ? position : minLsn(position, place.limitLsn);
  return {
    file,
    startLsn,
    endLsn: limit(isFilled ? advance(startLsn, size) : scan.endLsn),
    receivedLsn: limit(isFilled ? advance(startLsn, size) : maxLsn(scan.contentEndLsn, cut)),
    modifiedMs,
    scan,
  };
}

/** Of the last complete segment, when nothing came after it. */
async function lastModified(
  archive: ArchiveDirectory,
  lineage: TimelineHistory,
  endNumber: SegmentNumber,
  size: SegmentSize,
): Promise<number | undefined> {
  if (endNumber === 0n) return undefined;
  const number = endNumber - 1n as SegmentNumber;
  const path = await publishedPath(archive, tailPlaces(lineage, number, size)[0]!, number, size);
  if (path === undefined) return undefined;
  // What else stands there is told elsewhere.
  if ((await archive.disk.entry(path))?.kind !== "file") return undefined;
  return await withFile(archive.disk, path, async (file) => (await file.state()).modifiedMs);
}

function least(numbers: readonly SegmentNumber[]): SegmentNumber | undefined {
  return numbers.reduce<SegmentNumber | undefined>(
    (lowest, number) => lowest === undefined || number < lowest ? number : lowest,
    undefined,
  );
}
