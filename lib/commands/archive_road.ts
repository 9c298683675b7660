import { isFilesFault } from "../archive/damaged_file.ts";
import type { Disk } from "../archive/disk.ts";
import { openPlain } from "../archive/durable.ts";
import type { ArchiveIdentity } from "../archive/identity.ts";
import {
  buildIndex,
  mayReplaceIndex,
  readIndex,
  readIndexHead,
  type ReadSegment,
  writeIndex,
} from "../archive/index.ts";
import { withPublished } from "../archive/published.ts";
import type { SegmentIndex, SegmentIndexHead } from "../archive/segment_index.ts";
import { type PlacedTransactionEnd, SegmentIndexer, TransactionTally } from "../archive/segment_indexer.ts";
import type { Modes } from "../archive/segment_writer.ts";
import type { RecordPlace, RecordsAround, RoadReader } from "../observe/find_target.ts";
import type { RoadRun, RoadSegment } from "../observe/wal_road.ts";
import type { ArchiveDirectory } from "../restore/archive_directory.ts";
import { scanThrough } from "../archive/segment_file.ts";
import { VanishedError } from "../restore/obstacle.ts";
import type { UnfinishedFile } from "../restore/stock.ts";
import type { Lsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";
import type { RecordTaker } from "../wal/record.ts";
import { RecordReader } from "../wal/record_reader.ts";
import { segmentEnd, segmentOffset } from "../wal/segment.ts";

/** Segments whose transactions are remembered at a time: of one, ten thousands. */
const MAXIMUM_REMEMBERED = 4;
/** Records above this size are not copied: where they begin, the next one tells. */
const MAXIMUM_KEPT_RECORD_BYTES = 1024 * 1024;
const ZERO_BYTES = 256 * 1024;

/** What a segment holds, all of it. */
interface SegmentContent {
  readonly index: SegmentIndex;
  readonly ends: readonly PlacedTransactionEnd[];
}

/** Where reading begins: in which segment of a run, and at which record there. */
interface ReadingStart {
  readonly first: number;
  readonly startLsn: Lsn;
}

/** How an `ArchiveRoad` works. */
export interface ArchiveRoadOptions {
  readonly identity: ArchiveIdentity;
  /** The files named in the runs. */
  readonly unfinished: readonly UnfinishedFile[];
  /** How an index is to be written; `undefined`: not at all. */
  readonly modes: Modes | undefined;
  /** A segment was read; `count` so far. */
  readonly onRead?: (count: number) => void;
  /** An index could not be written; told once. */
  readonly onNotWritten?: (error: unknown) => void;
}

/** What other roads through the same archive need not read again. */
export class KnownSegments {
  readonly heads = new Map<string, SegmentIndexHead>();
  /** The newest last. */
  readonly contents = new Map<string, SegmentContent>();
  readCount = 0;
}

/** The WAL of an archive along one timeline, by the indexes beside it, which are made where they are missing. */
export class ArchiveRoad implements RoadReader {
  readonly #disk: Disk;
  #isWriting: boolean;
  readonly #torn = new Set<string>();

  constructor(
    private readonly archive: ArchiveDirectory,
    readonly runs: readonly RoadRun[],
    private readonly options: ArchiveRoadOptions,
    private readonly known: KnownSegments = new KnownSegments(),
  ) {
    this.#disk = archive.disk;
    this.#isWriting = options.modes !== undefined;
  }

  async head(segment: RoadSegment): Promise<SegmentIndexHead> {
    const key = keyOf(segment);
    const known = this.known.heads.get(key);
    if (known !== undefined) return known;
    const stored = await this.#storedHead(segment);
    const head = stored ?? (await this.#content(segment)).index;
    this.known.heads.set(key, head);
    return head;
  }

  async knownHead(segment: RoadSegment): Promise<SegmentIndexHead | undefined> {
    return this.known.heads.get(keyOf(segment)) ?? await this.#storedHead(segment);
  }

  async index(segment: RoadSegment): Promise<SegmentIndex> {
    const known = this.known.contents.get(keyOf(segment));
    if (known !== undefined) return known.index;
    if (await this.#storedHead(segment) !== undefined) {
      const stored = await readIndex(this.#disk, { name: segment.name, identity: this.options.identity });
      if (stored !== undefined) return stored;
      // The head alone can be believed: the lists behind it are torn.
      this.#torn.add(segment.name);
    }
    return (await this.#content(segment)).index;
  }

  async ends(segment: RoadSegment): Promise<readonly PlacedTransactionEnd[]> {
    return (await this.#content(segment)).ends;
  }

  async recordsAt(run: RoadRun, lsn: Lsn): Promise<RecordsAround> {
    const at = Math.max(0, run.segments.findLastIndex((segment) => segment.startLsn <= lsn));
    const own = { first: at, startLsn: run.segments[at]?.startLsn ?? run.startLsn };
    const held = await this.#whereHeld(run, own);
    const { records, stoppedAt } = await this.#readAround(run, lsn, held);
    if (records.damagedLsn === undefined || stoppedAt === undefined || stoppedAt >= at) return records;
    // Damage before the segment hides no more than a record that goes on in it; the index may be older than the damage.
    await this.#content(run.segments[stoppedAt]!);
    return (await this.#readAround(run, lsn, own)).records;
  }

  /** Where a record begins that may hold the start of a segment. */
  async #whereHeld(run: RoadRun, own: ReadingStart): Promise<ReadingStart> {
    let { first, startLsn } = own;
    while (first > 0) {
      const before = run.segments[first - 1]!;
      const { scan } = await this.head(before);
      const isMiddle = scan.firstRecordLsn === undefined && scan.continuesFrom && scan.end === "segment-end";
      if (scan.openRecordLsn === undefined && !isMiddle) break;
      first--;
      startLsn = before.startLsn;
      if (scan.openRecordLsn === undefined) continue; // all of it is the middle of one record
      startLsn = scan.openRecordLsn;
      break;
    }
    return { first, startLsn };
  }

  /** `stoppedAt`: in which segment of the run valid records ended before `lsn` was reached. */
  async #readAround(
    run: RoadRun,
    lsn: Lsn,
    { first, startLsn }: ReadingStart,
  ): Promise<{ readonly records: RecordsAround; readonly stoppedAt: number | undefined }> {
    const search = new RecordSearch(lsn);
    const { segmentSize, systemIdentifier } = this.options.identity;
    const reader = new RecordReader({ startLsn, segmentSize, systemIdentifier, records: search });
    let stoppedAt: number | undefined;
    for (let index = first; index < run.segments.length && !search.isDone; index++) {
      const segment = run.segments[index]!;
      const isReadable = await this.#isReadable(segment, (bytes, position) => {
        const skipped = segmentOffset(reader.positionLsn, segmentSize) - position;
        const isBefore = skipped >= bytes.length && index === first;
        if (isBefore) return "more";
        // In steps of a page: the file may be long, and what is looked for close.
        for (let i = Math.max(0, skipped); i < bytes.length; i += PAGE_BYTES) {
          reader.push(bytes.subarray(i, Math.min(bytes.length, i + PAGE_BYTES)));
          if (reader.done || search.isDone) return "enough";
        }
        return "more";
      });
      const isCut = reader.positionLsn < segmentEnd(segment.number, segmentSize);
      if (isReadable && !reader.done && !isCut) continue;
      stoppedAt = index;
      break;
    }
    const { lastRecordLsn, endLsn } = reader.result();
    const found = search.result(
      lastRecordLsn === undefined ? undefined : { lsn: lastRecordLsn, endLsn },
      run.endLsn,
    );
    // Where a segment grows, records end without damage.
    const isDamaged = found.from === undefined && stoppedAt !== undefined && endLsn < run.endLsn &&
      run.segments[stoppedAt]?.unfinished === undefined;
    return { records: { ...found, damagedLsn: isDamaged ? endLsn : undefined }, stoppedAt };
  }

  /** Hands over a segment's bytes; false where the file is to blame that they can't be. */
  async #isReadable(segment: RoadSegment, take: Parameters<ReadSegment>[0]): Promise<boolean> {
    try {
      await this.#read(segment)(take);
      return true;
    } catch (error) {
      if (!isFilesFault(error)) throw error;
      return false;
    }
  }

  async #storedHead(segment: RoadSegment): Promise<SegmentIndexHead | undefined> {
    // Of an unfinished one there is none; of one that is shared, all of it is in there.
    if (segment.unfinished !== undefined || segment.limitLsn !== undefined) return undefined;
    const { identity } = this.options;
    const head = await readIndexHead(this.#disk, { name: segment.name, identity });
    const isToBeSettled = head?.openRecord === "unresolved" && this.#after(segment).length > 0;
    return isToBeSettled ? undefined : head;
  }

  /** Reads the whole segment. */
  async #content(segment: RoadSegment): Promise<SegmentContent> {
    const { contents, heads } = this.known;
    const key = keyOf(segment);
    const known = contents.get(key);
    if (known !== undefined) return known;
    const { content, isFinal } = await this.#build(segment);
    const isTorn = this.#torn.delete(segment.name);
    if (isFinal) await this.#keep(content.index, isTorn);
    const limited = limit(content, segment.limitLsn);
    heads.set(key, limited.index);
    contents.set(key, limited);
    for (const oldest of contents.keys()) {
      if (contents.size <= MAXIMUM_REMEMBERED) break;
      contents.delete(oldest);
    }
    return limited;
  }

  async #build(
    segment: RoadSegment,
  ): Promise<{ readonly content: SegmentContent; readonly isFinal: boolean }> {
    const { identity } = this.options;
    const ends: PlacedTransactionEnd[] = [];
    const following = [...this.#after(segment)];
    let isFinal = segment.unfinished === undefined;
    const next = (): ReadSegment | undefined => {
      const after = following.shift();
      if (after === undefined) return undefined;
      // What grows may say more tomorrow.
      if (after.unfinished !== undefined) isFinal = false;
      return this.#read(after);
    };
    let index: SegmentIndex;
    try {
      index = await buildIndex({ name: segment.name, identity }, this.#read(segment), {
        next,
        onEnd: (end) => void ends.push(end),
      });
    } catch (error) {
      if (!isFilesFault(error)) throw error;
      // The records end where it begins, as far as anybody can tell: that is shown as damage, and the others answer.
      return { content: { index: indexOfNothing(segment, identity), ends: [] }, isFinal: false };
    }
    this.known.readCount++;
    this.options.onRead?.(this.known.readCount);
    return { content: { index, ends }, isFinal };
  }

  #after(segment: RoadSegment): readonly RoadSegment[] {
    for (const { segments } of this.runs) {
      const at = segments.indexOf(segment);
      if (at !== -1) return segments.slice(at + 1);
    }
    return [];
  }

  /** Writes an index where it is missing or says less; never over one that shows damage. */
  async #keep(index: SegmentIndex, isTorn: boolean): Promise<void> {
    const stored = await readIndexHead(this.#disk, { name: index.name, identity: this.options.identity });
    const isRight = stored?.contentCrc === index.contentCrc && stored.openRecord === index.openRecord;
    if ((!isRight || isTorn) && mayReplaceIndex(stored, index)) await this.#write(index);
  }

  async #write(index: SegmentIndex): Promise<void> {
    const { modes, onNotWritten } = this.options;
    if (!this.#isWriting || modes === undefined) return;
    try {
      await writeIndex(this.#disk, index, modes);
    } catch (error) {
      // A cache: the answer is right without it, and the next one who may write there makes it.
      this.#isWriting = false;
      onNotWritten?.(error);
    }
  }

  #read(segment: RoadSegment): ReadSegment {
    const { segmentSize } = this.options.identity;
    const { name, unfinished } = segment;
    return async (take) => {
      if (unfinished !== undefined && await this.#readUnfinished(segment, take)) return;
      const found = await withPublished(
        this.#disk,
        { name, segmentSize, open: openPlain },
        async ({ readThrough }) => {
          await readThrough(take);
          return true;
        },
      );
      if (found === undefined) throw new VanishedError(`"${this.#disk.root}/${name}" is gone`);
    };
  }

  /** Whether it is still there; what is not yet written of it reads as zeros. */
  async #readUnfinished(segment: RoadSegment, take: Parameters<ReadSegment>[0]): Promise<boolean> {
    const { segmentSize } = this.options.identity;
    const file = await this.#fullest(segment);
    if (file === undefined) return false;
    let position = 0;
    let wanted: "more" | "enough" = "more";
    try {
      await this.archive.readUnfinished(file, async (bytes, at) => {
        const part = bytes.subarray(0, segmentSize - at);
        wanted = part.length === 0 ? "enough" : await take(part, at);
        position = at + part.length;
        return wanted;
      });
    } catch (error) {
      // Published between the listing and now.
      if (error instanceof VanishedError && position === 0) return false;
      throw error;
    }
    const zeros = new Uint8Array(ZERO_BYTES);
    while (wanted === "more" && position < segmentSize) {
      const part = zeros.subarray(0, segmentSize - position);
      wanted = await take(part, position);
      position += part.length;
    }
    return true;
  }

  /** Of several files that hold the beginning of a segment, the one whose records go furthest. */
  async #fullest({ startLsn, unfinished }: RoadSegment): Promise<UnfinishedFile | undefined> {
    const files = this.options.unfinished.filter(({ path }) => unfinished?.includes(path));
    if (files.length < 2) return files[0];
    const { segmentSize } = this.options.identity;
    let best: { readonly file: UnfinishedFile; readonly endLsn: Lsn } | undefined;
    for (const file of files) {
      try {
        const { endLsn } = await scanThrough((take) => this.archive.readUnfinished(file, take), {
          startLsn,
          segmentSize,
        });
        if (best === undefined || endLsn > best.endLsn) best = { file, endLsn };
      } catch (error) {
        if (!(error instanceof VanishedError)) throw error;
      }
    }
    return best?.file;
  }
}

/** The same file reads otherwise when only the part before a switch counts. */
function keyOf({ name, limitLsn }: RoadSegment): string {
  return limitLsn === undefined ? name : `${name} ${limitLsn}`;
}

/** Of a segment whose file can't be read. */
function indexOfNothing(
  { name, startLsn }: RoadSegment,
  { systemIdentifier, segmentSize }: ArchiveIdentity,
): SegmentIndex {
  const indexer = new SegmentIndexer({ name, startLsn, segmentSize, systemIdentifier });
  indexer.push(new Uint8Array(segmentSize));
  return indexer.result();
}

/** Leaves out what begins at `limitLsn` or later. */
function limit({ index, ends }: SegmentContent, limitLsn: Lsn | undefined): SegmentContent {
  if (limitLsn === undefined) return { index, ends };
  const isBefore = ({ lsn }: { readonly lsn: Lsn }) => lsn < limitLsn;
  const ownEnds = ends.filter(isBefore);
  const tally = new TransactionTally();
  for (const end of ownEnds) tally.add(end, end.lsn);
  const restorePoints = index.restorePoints.filter(isBefore);
  const checkpoints = index.checkpoints.filter(isBefore);
  const backupEnds = index.backupEnds.filter(isBefore);
  return {
    index: {
      ...index,
      transactions: tally.summary(),
      xids: tally.xids(),
      subxids: tally.subxids(),
      restorePoints,
      restorePointCount: restorePoints.length,
      checkpoints,
      checkpointCount: checkpoints.length,
      backupEnds,
      backupEndCount: backupEnds.length,
    },
    ends: ownEnds,
  };
}

/** Finds the records on both sides of a position, by handing over all but the longest. */
class RecordSearch implements RecordTaker {
  #before: RecordPlace | undefined;
  #from: RecordPlace | undefined;

  constructor(private readonly lsn: Lsn) {}

  get isDone(): boolean {
    return this.#from !== undefined;
  }

  wants(_resourceManager: number, _info: number, totalBytes: number): boolean {
    return !this.isDone && totalBytes <= MAXIMUM_KEPT_RECORD_BYTES;
  }

  take(
    record: { readonly lsn: Lsn; readonly endLsn: Lsn; readonly header: { readonly prevLsn: Lsn } },
  ): void {
    if (this.isDone) return;
    const { prevLsn } = record.header;
    // One that was too long to be handed over ends where this one begins.
    const isSkipped = this.#before === undefined || prevLsn > this.#before.lsn;
    if (isSkipped) this.#add({ lsn: prevLsn, endLsn: record.lsn });
    this.#add({ lsn: record.lsn, endLsn: record.endLsn });
  }

  #add(place: RecordPlace): void {
    if (this.#from !== undefined) return;
    if (place.lsn >= this.lsn) this.#from = place;
    else this.#before = place;
  }

  /** `last`: the last record of all that was read. Records at `limitLsn` or later do not count. */
  result(last: RecordPlace | undefined, limitLsn: Lsn) {
    if (last !== undefined && last.lsn > (this.#before?.lsn ?? -1n)) this.#add(last);
    const from = this.#from === undefined || this.#from.lsn >= limitLsn ? undefined : this.#from;
    return { before: this.#before, from };
  }
}
