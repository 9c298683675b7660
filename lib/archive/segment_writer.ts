import { ArchiveConflictError, WrongClusterError } from "../wal/errors.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { advance, formatLsn, type Lsn } from "../wal/lsn.ts";
import { decodePageHeader, PAGE_BYTES } from "../wal/page.ts";
import { type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import { segmentEnd, type SegmentNumber, segmentNumberAt, segmentStart } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { Disk, DiskFile, ShortRoad } from "./disk.ts";
import {
  addName,
  copyAnew,
  firstDifference,
  isOutOfSpace,
  type Naming,
  removeName,
  withFile,
} from "./durable.ts";
import { firstPageProblem } from "./first_page.ts";
import {
  COMPRESSED_FORMS,
  IN_PROGRESS_DIRECTORY,
  inProgressPath,
  nameOf,
  parseInProgressName,
  savedPath,
  SEGMENT_FORMS,
} from "./layout.ts";
import {
  firstDifferenceFrom,
  type PublishedComparison,
  type SegmentForm,
  withPublished,
} from "./published.ts";
import { countWrittenBytes, scanSegmentFile } from "./segment_file.ts";
import { keepConflict } from "./conflict.ts";
import { judgeDifference } from "./divergence.ts";
import { bytesOfFile, withPublishedBytes } from "./segment_bytes.ts";
import { DIVERGED_ADVICE, explainDifference, seeDifference, type SideBytes } from "./segment_conflict.ts";

/** Bytes of the long page header that stands at a segment's start. */
const LONG_HEADER_BYTES = 40;

/**
 * Zeros are laid ahead of the data in pieces of this size: no commit waits long behind one, and they stay in the page
 * cache. Longer ones go past it, and then the first commit on each page waits until the page is read back.
 */
const ZERO_PIECE_BYTES = 64 * 1024;

/** So much of two copies of a segment is held in memory to look for records in it. */
const JUDGED_BYTES = 1 << 20;

/** One contiguous piece of WAL on one timeline, from a segment's start on. */
export interface Leg {
  readonly timeline: TimelineId;
  /** The start of a segment. */
  readonly startLsn: Lsn;
  /** The history of `timeline`: its ancestors may stand in the page headers. */
  readonly lineage: TimelineHistory;
  /**
   * The records that the first one of the leg may point back to, when the archive has the segment before.
   *
   * Two where that segment ends inside a record: after a crash the server gives that record up, and goes on from the
   * one before it.
   */
  readonly backLinks: readonly Lsn[];
  /** Who sends it, for messages. */
  readonly server?: string | undefined;
}

/** What the writer tells while it works; all are facts that are durable when they are told. */
export interface WriterEvents {
  segmentPublished(event: { readonly segment: string; readonly endLsn: Lsn }): void;
  /** What an earlier run received was moved aside. */
  savedCopyKept(event: { readonly path: string; readonly validEndLsn: Lsn }): void;
  /** The new copy has passed the saved one and is synced; the saved one is removed. */
  savedCopyPassed(event: { readonly path: string }): void;
  /** WAL of a PostgreSQL version that this program does not know; it is archived all the same. */
  unknownPageMagic(event: { readonly segment: string; readonly magic: number }): void;
}

/** Permissions of what the archive creates. */
export interface Modes {
  readonly file: number;
  readonly directory: number;
}

/** A segment that takes WAL from a socket by itself. */
export interface WriterRoad {
  readonly ended: Promise<WriterRoadEnd>;
  revoke(): void;
  readonly receivedLsn: Lsn;
  readonly serverEndLsn: Lsn;
  readonly heardCount: number;
}

/** How that ended. */
export interface WriterRoadEnd {
  /** All below it is durable; the socket's next message begins there. */
  readonly nextLsn: Lsn;
  /** What was read of it already. */
  readonly rest: Uint8Array;
  /** The connection is of no use any more. */
  readonly tornStatus: boolean;
  /** Nothing more comes from the socket. */
  readonly socketEnded: boolean;
  /** A sync failed: the writer is spent. */
  readonly error: Error | undefined;
}

interface SavedCopy {
  readonly path: string;
  /**
   * Where the first record begins. Before it stands the rest of one from the segment before, whose CRC is not here:
   * a power cut may have left a hole there that nothing shows.
   */
  readonly provenBytes: number;
  /** End of valid WAL: from the first record up to it a difference is a conflict. */
  readonly validBytes: number;
  /** The copy may go only when the new one has passed this. */
  readonly writtenBytes: number;
}

/** Where what comes now is other than what came before. */
interface SavedDifference {
  readonly differenceLsn: Lsn;
  /** Of the record that holds it, where the bytes before it do not tell. */
  readonly recordLsn?: Lsn | undefined;
}

interface OpenSegment {
  readonly number: SegmentNumber;
  readonly name: string;
  readonly file: DiskFile;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  /** Up to here the file's blocks are written, so that a later sync has no allocation to record. */
  zeroedBytes: number;
  /** Whether its name in `inprogress/` survives a power cut. */
  nameSynced: boolean;
  firstPageChecked: boolean;
  saved: readonly SavedCopy[];
}

/**
 * Writes one leg of WAL into the archive: `inprogress/` first, published segment by segment.
 *
 * Not one byte of an earlier run is overwritten: what stands in the way is moved aside, and goes when the new
 * copy has passed it and is synced (P3). One call at a time. Every call may reject with what the disk says: after an
 * error that `isOutOfSpace` and while `spent` is false the same call may be made again; after any other the next leg
 * starts again at the start of the unpublished segment.
 */
export class SegmentWriter {
  #segment: OpenSegment | undefined;
  #next: OpenSegment | undefined;
  #writeLsn: Lsn;
  #flushLsn: Lsn;
  #backLink: { readonly scanner: SegmentScanner; fedBytes: number } | undefined;
  #preparing = true;
  #notToPrepare: SegmentNumber | undefined;
  #spent = false;
  #road: ShortRoad | undefined;
  readonly #zeros: Uint8Array;

  constructor(
    private readonly disk: Disk,
    private readonly identity: ArchiveIdentity,
    private readonly leg: Leg,
    private readonly options: {
      readonly modes: Modes;
      readonly naming: Naming;
      readonly events: WriterEvents;
      /** Zeros that the disk takes without a copy, from `zeroPiece`. */
      readonly zeros: Uint8Array;
      /** `false`: the next segment's file is not made before its first byte comes. */
      readonly prepareNext?: boolean | undefined;
    },
  ) {
    this.#writeLsn = leg.startLsn;
    this.#flushLsn = leg.startLsn;
    this.#zeros = options.zeros;
    if (leg.backLinks.length > 0) {
      const scanner = new SegmentScanner({ startLsn: leg.startLsn, segmentSize: identity.segmentSize });
      this.#backLink = { scanner, fedBytes: 0 };
    }
  }

  /** Memory for the zeros that are laid ahead; one serves all writers of a disk, one after the other. */
  static zeroPiece(disk: Disk): Uint8Array {
    return disk.allocate(ZERO_PIECE_BYTES);
  }

  /** Everything of this leg below it was handed to the operating system. */
  get writeLsn(): Lsn {
    return this.#road === undefined ? this.#writeLsn : this.flushLsn;
  }

  /** Everything of this leg below it survives a power cut. */
  get flushLsn(): Lsn {
    return this.#road === undefined ? this.#flushLsn : this.#lsnAt(this.#road.durable);
  }

  /** True after an error that no further call can mend. */
  get spent(): boolean {
    return this.#spent;
  }

  /** True when the growing segment is received to its last byte: `publish` is due. */
  get segmentFull(): boolean {
    return this.#segment !== undefined && this.#writeLsn === this.#segment.endLsn;
  }

  /**
   * Writes bytes that follow `writeLsn`, at most to the end of the segment; resolves to how many it took.
   *
   * With `sync` it also does what `sync()` does, handing both to the disk at once; a full segment waits for `publish`.
   * When it rejects, `writeLsn` tells how many bytes it took all the same.
   */
  async append(bytes: Uint8Array, then: "sync" | "leave"): Promise<number> {
    const segment = this.#segment ??= await this.#open(this.#writeLsn);
    const room = Number(segment.endLsn - this.#writeLsn);
    const taken = bytes.length <= room ? bytes : bytes.subarray(0, room);
    const written = segment.file.write(taken, Number(this.#writeLsn - segment.startLsn)).then(() => {
      this.#writeLsn = advance(this.#writeLsn, taken.length);
    });
    // The last bytes of a segment are synced by publish.
    if (then === "leave" || taken.length === room) {
      await written;
      return taken.length;
    }
    // Both are under way: the disk keeps their order, and the sync counts only if the write did not fail.
    const [write, sync] = await Promise.allSettled([written, this.#syncFile(segment)]);
    if (write.status === "rejected") throw write.reason;
    if (sync.status === "rejected") throw sync.reason;
    await this.#afterSync(segment);
    return taken.length;
  }

  /** Makes all that was appended durable, and only then moves `flushLsn`. */
  async sync(): Promise<void> {
    const segment = this.#segment;
    if (segment === undefined || this.#flushLsn === this.#writeLsn) return;
    await this.#syncFile(segment);
    await this.#afterSync(segment);
  }

  /** Whether `takeShortRoad` can be taken: the runtime can, all is durable, and nothing is still to be proven. */
  get roadOpen(): boolean {
    const segment = this.#segment;
    if (segment?.file.takeShortRoad === undefined || this.#spent || this.segmentFull) return false;
    return this.#flushLsn === this.#writeLsn && segment.nameSynced && segment.firstPageChecked &&
      this.#backLink === undefined && segment.saved.length === 0;
  }

  /**
   * Lets the growing segment take WAL from the socket itself, as long as it is plain.
   *
   * Only where `roadOpen`; nothing else may be called until `ended` has settled.
   */
  takeShortRoad(descriptor: number, memory: Uint8Array): WriterRoad {
    const segment = this.#segment;
    const road = segment?.file.takeShortRoad?.({
      descriptor,
      memory,
      segmentStartLsn: segment.startLsn,
      segmentBytes: this.identity.segmentSize,
      position: Number(this.#writeLsn - segment.startLsn),
    });
    if (segment === undefined || road === undefined) {
      throw new Error("Cannot take the short road: it is not open");
    }
    const { startLsn } = segment;
    this.#road = road;
    const lsnAt = (position: number) => advance(startLsn, position);
    return {
      ended: this.#endOf(road, segment),
      revoke: () => road.revoke(),
      get receivedLsn() {
        return lsnAt(road.received);
      },
      get serverEndLsn() {
        return lsnAt(road.received + road.behind);
      },
      get heardCount() {
        return road.heardCount;
      },
    };
  }

  async #endOf(road: ShortRoad, segment: OpenSegment): Promise<WriterRoadEnd> {
    try {
      const { end, position, rest } = await road.ended;
      const { startLsn } = segment;
      this.#writeLsn = advance(startLsn, position);
      this.#flushLsn = this.#writeLsn;
      const failed = end.kind === "failed" && end.step === "sync";
      // As after any other sync that failed: it is never tried again.
      if (failed) this.#spent = true;
      const error = failed ? Object.assign(new Error(end.message), { code: end.code }) : undefined;
      return {
        nextLsn: this.#writeLsn,
        rest,
        tornStatus: end.kind === "torn-status",
        socketEnded: end.kind === "socket-ended",
        error,
      };
    } finally {
      this.#road = undefined;
    }
  }

  #lsnAt(position: number): Lsn {
    return advance(this.#segment?.startLsn ?? this.#flushLsn, position);
  }

  /**
   * Publishes the full segment under its own name (P1).
   *
   * The order: data synced, then the link, then the directory synced, then acknowledged, then the name in
   * `inprogress/` removed. A power cut before the directory's sync leaves a growing file, after it a published one.
   */
  async publish(): Promise<void> {
    const segment = this.#segment;
    if (segment === undefined) return;
    await this.#syncFile(segment);
    await this.#check(segment);
    // The saved copy may be all that a power cut would leave, until the new one's name is safe as well.
    if (segment.saved.length > 0) await this.#syncName(segment);
    await this.#passSavedCopies(segment);
    const growing = inProgressPath(segment.name);
    await this.#refuseExchange(segment, growing);
    const compressed = await this.#standsCompressed(segment.name);
    if (compressed || !await addName(this.disk, { from: growing, to: segment.name }, this.options.naming)) {
      await this.#compareWithPublished(segment);
    }
    await this.disk.syncDirectory(".");
    // It may have come, compressed, while the name was given.
    if (!compressed && await this.#standsCompressed(segment.name)) {
      await this.#compareWithPublished(segment, COMPRESSED_FORMS);
    }
    this.#flushLsn = segment.endLsn;
    this.#segment = undefined;
    this.options.events.segmentPublished({ segment: segment.name, endLsn: segment.endLsn });
    await segment.file.close();
    await removeName(this.disk, growing);
  }

  /**
   * Lays zeros ahead of the data, one piece a call, in the growing segment and then in the next; resolves to false
   * when there is nothing to prepare. A later sync then writes data only, where it would have to record new blocks too.
   */
  async prepareAhead(): Promise<boolean> {
    const segment = this.#segment;
    if (!this.#preparing || segment === undefined) return false;
    try {
      if (await this.#zeroPiece(segment, Number(this.#writeLsn - segment.startLsn))) return true;
      return this.options.prepareNext !== false && await this.#prepareNext(segment);
    } catch (error) {
      // Zeros are only for speed: the data itself tells when there is no room.
      if (!isOutOfSpace(error)) throw error;
      this.#preparing = false;
      return false;
    }
  }

  /** Lets go of the files, without a sync; the unfinished segment stays in `inprogress/`. */
  async close(): Promise<void> {
    const segment = this.#segment;
    const next = this.#next;
    this.#segment = undefined;
    this.#next = undefined;
    await next?.file.close();
    await segment?.file.close();
    const empty = segment !== undefined && this.#writeLsn === segment.startLsn;
    for (const unused of [next, empty ? segment : undefined]) {
      if (unused !== undefined) await removeName(this.disk, inProgressPath(unused.name));
    }
  }

  async #syncFile(segment: OpenSegment): Promise<void> {
    // The kernel may drop the pages whose write failed and call the next sync a success: never try again.
    if (this.#spent) throw new Error(`Cannot sync "${segment.name}": an earlier sync of it failed`);
    try {
      await segment.file.sync();
    } catch (error) {
      this.#spent = true;
      throw error;
    }
  }

  async #afterSync(segment: OpenSegment): Promise<void> {
    await this.#syncName(segment);
    await this.#check(segment);
    this.#flushLsn = this.#writeLsn;
    if (segment.saved.length > 0) await this.#passSavedCopies(segment);
  }

  async #syncName(segment: OpenSegment): Promise<void> {
    if (segment.nameSynced) return;
    await this.disk.syncDirectory(IN_PROGRESS_DIRECTORY);
    segment.nameSynced = true;
  }

  async #open(lsn: Lsn): Promise<OpenSegment> {
    const prepared = this.#next;
    if (prepared !== undefined && prepared.startLsn === lsn) {
      this.#next = undefined;
      return prepared;
    }
    const number = segmentNumberAt(lsn, this.identity.segmentSize);
    const name = nameOf({ timeline: this.leg.timeline, number }, this.identity.segmentSize);
    await this.#moveAside(name, number);
    return await this.#create(name, number);
  }

  async #create(name: string, number: SegmentNumber): Promise<OpenSegment> {
    const saved = await this.#savedCopies(name, number);
    // A try before this one may have failed between moving the file aside and syncing that name.
    if (saved.length > 0) await this.disk.syncDirectory(IN_PROGRESS_DIRECTORY);
    const file = await this.disk.create(inProgressPath(name), this.options.modes.file);
    try {
      await file.truncate(Number(this.identity.segmentSize));
    } catch (error) {
      await file.close();
      await removeName(this.disk, inProgressPath(name));
      throw error;
    }
    return {
      number,
      name,
      file,
      startLsn: segmentStart(number, this.identity.segmentSize),
      endLsn: segmentEnd(number, this.identity.segmentSize),
      zeroedBytes: 0,
      nameSynced: false,
      firstPageChecked: false,
      saved,
    };
  }

  #scan(file: DiskFile, number: SegmentNumber): Promise<SegmentScan> {
    const { segmentSize } = this.identity;
    return scanSegmentFile(file, { startLsn: segmentStart(number, segmentSize), segmentSize });
  }

  /** Moves what an earlier run left of this segment to a name where nothing writes. */
  async #moveAside(name: string, number: SegmentNumber): Promise<void> {
    const growing = inProgressPath(name);
    const left = await withFile(this.disk, growing, async (file) => {
      if (await countWrittenBytes(file) === 0) return { validEndLsn: undefined };
      return { validEndLsn: (await this.#scan(file, number)).endLsn };
    });
    if (left === undefined) return;
    if (left.validEndLsn === undefined) {
      await removeName(this.disk, growing);
      return;
    }
    for (let count = 1;; count++) {
      const saved = savedPath(name, count);
      if (!await addName(this.disk, { from: growing, to: saved }, this.options.naming)) continue;
      // The safe name is synced before the old one goes.
      await this.disk.syncDirectory(IN_PROGRESS_DIRECTORY);
      await removeName(this.disk, growing);
      this.options.events.savedCopyKept({ path: saved, validEndLsn: left.validEndLsn });
      return;
    }
  }

  async #savedCopies(name: string, number: SegmentNumber): Promise<readonly SavedCopy[]> {
    const startLsn = segmentStart(number, this.identity.segmentSize);
    const copies: SavedCopy[] = [];
    for (const entry of await this.disk.entries(IN_PROGRESS_DIRECTORY) ?? []) {
      const parsed = parseInProgressName(entry.name, this.identity.segmentSize);
      // What is no file is no copy of anything.
      if (parsed?.savedCount === undefined || entry.kind !== "file" || !entry.name.startsWith(name)) continue;
      const path = `${IN_PROGRESS_DIRECTORY}/${entry.name}`;
      await withFile(this.disk, path, async (file) => {
        const scan = await this.#scan(file, number);
        const validBytes = Number(scan.endLsn - startLsn);
        const provenBytes = Number((scan.firstRecordLsn ?? scan.endLsn) - startLsn);
        copies.push({ path, provenBytes, validBytes, writtenBytes: await countWrittenBytes(file) });
      });
    }
    return await this.#withoutRepeats(copies, name);
  }

  /** Removes a saved copy whose every byte another saved copy has too: many restarts must not fill the disk. */
  async #withoutRepeats(copies: readonly SavedCopy[], name: string): Promise<readonly SavedCopy[]> {
    const kept: SavedCopy[] = [];
    for (const copy of [...copies].sort((a, b) => b.writtenBytes - a.writtenBytes)) {
      const longer = await this.#firstWithSameBytes(kept, copy);
      // The copy that stays may be the younger one, and nobody knows what of it was ever synced.
      const sure = longer === undefined ? undefined : await this.#writeAnew(longer, name);
      if (longer === undefined || sure === undefined || !await this.#hasBytesOf(sure, copy)) {
        kept.push(copy, ...(sure === undefined ? [] : [sure]));
        continue;
      }
      kept[kept.indexOf(longer)] = sure;
      await removeName(this.disk, longer.path);
      await removeName(this.disk, copy.path);
    }
    return kept;
  }

  async #writeAnew(copy: SavedCopy, name: string): Promise<SavedCopy | undefined> {
    const fileBytes = Number(this.identity.segmentSize);
    for (let count = 1;; count++) {
      const path = savedPath(name, count);
      if (await this.disk.entry(path) !== undefined) continue;
      const { file: mode } = this.options.modes;
      if (!await copyAnew(this.disk, { from: copy.path, to: path }, { fileBytes, mode })) return undefined;
      await this.disk.syncDirectory(IN_PROGRESS_DIRECTORY);
      return { ...copy, path };
    }
  }

  async #hasBytesOf(copy: SavedCopy, shorter: SavedCopy): Promise<boolean> {
    return await firstDifference(this.disk, [shorter.path, copy.path], {
      start: 0,
      end: shorter.writtenBytes,
    }) ===
      undefined;
  }

  async #firstWithSameBytes(kept: readonly SavedCopy[], copy: SavedCopy): Promise<SavedCopy | undefined> {
    for (const other of kept) {
      if (await this.#hasBytesOf(other, copy)) return other;
    }
    return undefined;
  }

  async #passSavedCopies(segment: OpenSegment): Promise<void> {
    const syncedBytes = Number(this.#writeLsn - segment.startLsn);
    const passed = segment.saved.filter((saved) => saved.writtenBytes <= syncedBytes);
    if (passed.length === 0) return;
    const growing = inProgressPath(segment.name);
    for (const saved of passed) {
      const range = { start: saved.provenBytes, end: saved.validBytes };
      const differs = await firstDifference(this.disk, [saved.path, growing], range);
      const difference = differs === undefined
        ? await this.#otherRecordBehind(segment, saved)
        : { differenceLsn: advance(segment.startLsn, differs) };
      if (difference !== undefined) {
        const at = (bytes: number) => formatLsn(advance(segment.startLsn, bytes));
        const text = await withFile(
          this.disk,
          saved.path,
          (file) =>
            this.#explain(segment, difference, { label: "what came before", bytes: bytesOfFile(file) }),
        );
        await this.#refuseServer(segment, (kept) =>
          new ArchiveConflictError(
            `Cannot go on with ${segment.name}: ${this.#server} sends other bytes than were received before; ${text}; ` +
              `both are kept: what came before, valid to ${
                at(saved.validBytes)
              }, as "${this.disk.root}/${saved.path}", what comes now as "${kept}"; ${DIVERGED_ADVICE}, or, if what came before is ` +
              "of no use to anybody, move that file away and start again",
          ));
      }
      await removeName(this.disk, saved.path);
      segment.saved = segment.saved.filter((other) => other !== saved);
      this.options.events.savedCopyPassed({ path: saved.path });
    }
  }

  /**
   * Where a record of a saved copy that is whole differs from what came now, behind the end of its valid WAL.
   *
   * A power cut leaves holes, and damage too ends a scan: whatever is whole behind them was received all the same.
   */
  async #otherRecordBehind(segment: OpenSegment, saved: SavedCopy): Promise<SavedDifference | undefined> {
    const growing = inProgressPath(segment.name);
    const paths: [string, string] = [saved.path, growing];
    let sides: readonly [Uint8Array, Uint8Array] | undefined;
    for (let start = saved.validBytes; start < saved.writtenBytes;) {
      const difference = await firstDifference(this.disk, paths, { start, end: saved.writtenBytes });
      if (difference === undefined) return undefined;
      const from = difference - difference % PAGE_BYTES;
      // Mostly nothing differs, and neither is needed.
      sides ??= [new Uint8Array(JUDGED_BYTES), new Uint8Array(JUDGED_BYTES)];
      const read = async (path: string, bytes: Uint8Array) =>
        bytes.subarray(
          0,
          await withFile(this.disk, path, (file) => file.read(bytes, from)) ?? 0,
        );
      const startLsn = advance(segment.startLsn, from);
      const verdict = judgeDifference({
        startLsn,
        segmentSize: this.identity.segmentSize,
        sides: [await read(saved.path, sides[0]), await read(growing, sides[1])],
      });
      if (verdict?.kind === "diverged" && verdict.isWhole) return verdict;
      start = from + JUDGED_BYTES;
    }
    return undefined;
  }

  /** What two contents of a segment have at their first difference. */
  async #explain(segment: OpenSegment, difference: SavedDifference, other: SideBytes): Promise<string> {
    const own = { label: "what comes now", bytes: bytesOfFile(segment.file) };
    const { segmentSize } = this.identity;
    return explainDifference(await seeDifference([other, own], { ...difference, segmentSize }));
  }

  get #server(): string {
    return this.leg.server === undefined ? "the server" : `the server at ${this.leg.server}`;
  }

  async #check(segment: OpenSegment): Promise<void> {
    if (segment.firstPageChecked && this.#backLink === undefined) return;
    const writtenBytes = Number(this.#writeLsn - segment.startLsn);
    if (!segment.firstPageChecked && writtenBytes >= LONG_HEADER_BYTES) {
      await this.#checkFirstPage(segment);
      segment.firstPageChecked = true;
    }
    // The link is looked for in the leg's first segment; one record can fill it, and then there is none to check.
    if (segment.startLsn !== this.leg.startLsn) this.#backLink = undefined;
    if (this.#backLink !== undefined) await this.#checkBackLink(segment, writtenBytes);
  }

  async #checkFirstPage(segment: OpenSegment): Promise<void> {
    const bytes = new Uint8Array(LONG_HEADER_BYTES);
    await segment.file.read(bytes, 0);
    const header = decodePageHeader(bytes);
    const problem = header === undefined ? "its first page has no header" : firstPageProblem(header, {
      identity: this.identity,
      startLsn: segment.startLsn,
      timeline: this.leg.timeline,
      ancestors: this.leg.lineage.entries.map((ancestor) => ancestor.timeline),
    });
    if (problem !== undefined) {
      await this.#refuseServer(segment, (kept) =>
        new WrongClusterError(
          `Cannot archive ${segment.name}: ${problem}; the server's bytes are kept as "${kept}", the archive is unchanged`,
        ));
    }
    if (header !== undefined && header.majorVersion === undefined) {
      this.options.events.unknownPageMagic({ segment: segment.name, magic: header.magic });
    }
  }

  /** A wrong server often has the right system identifier; its records do not continue ours. */
  async #checkBackLink(segment: OpenSegment, writtenBytes: number): Promise<void> {
    const link = this.#backLink;
    if (link === undefined) return;
    const page = new Uint8Array(PAGE_BYTES);
    while (link.fedBytes < writtenBytes && !link.scanner.done) {
      const part = page.subarray(0, Math.min(page.length, writtenBytes - link.fedBytes));
      const count = await segment.file.read(part, link.fedBytes);
      if (count === 0) return;
      link.scanner.push(part.subarray(0, count));
      link.fedBytes += count;
      const { firstRecordLsn, firstRecordPrevLsn } = link.scanner.result();
      if (firstRecordLsn === undefined || firstRecordPrevLsn === undefined) continue;
      this.#backLink = undefined;
      if (this.leg.backLinks.includes(firstRecordPrevLsn)) return;
      await this.#refuseServer(segment, (kept) =>
        new ArchiveConflictError(
          `Cannot go on with ${segment.name} from ${this.#server}: its first record at ${
            formatLsn(firstRecordLsn)
          } follows one at ${formatLsn(firstRecordPrevLsn)}, but the archive's last record before it is at ${
            this.leg.backLinks.map(formatLsn).join(" or ")
          }: the server's WAL does not continue this archive; its bytes are kept as "${kept}", the archive is unchanged: ` +
            "connect to the server this archive belongs to, or give this one a new directory",
        ));
    }
  }

  /** Without the lock another process may have put its own file under our name: that one is not complete. */
  async #refuseExchange(segment: OpenSegment, growing: string): Promise<void> {
    const entry = await this.disk.entry(growing);
    // Without hard links an earlier try may have renamed it already.
    if (entry === undefined && !this.options.naming.hardLinks) return;
    if (entry?.inode === await segment.file.inode()) return;
    this.#refuse(
      new ArchiveConflictError(
        `Cannot publish ${segment.name}: "${this.disk.root}/${growing}" is no longer the file that was written; ` +
          "another process writes to this archive: stop all but one",
      ),
    );
  }

  async #standsCompressed(name: string): Promise<boolean> {
    for (const form of COMPRESSED_FORMS) {
      if (await this.disk.entry(name + form) !== undefined) return true;
    }
    return false;
  }

  /** The name is taken: the same bytes are success, others a conflict of which both sides are kept (P4). */
  async #compareWithPublished(segment: OpenSegment, forms?: readonly SegmentForm[]): Promise<void> {
    const { segmentSize } = this.identity;
    const published = { name: segment.name, segmentSize, ...(forms === undefined ? {} : { forms }) };
    let comparison: PublishedComparison | undefined;
    try {
      // The open file, not its name: without hard links it has the published name by now, and the compressor may have
      // put a compressed form in its place.
      comparison = await withPublished(this.disk, published, async (found) => ({
        path: found.path,
        difference: await firstDifferenceFrom(found, segment.file, segmentSize),
      }));
    } catch (cause) {
      if (!(cause instanceof DamagedFileError)) throw cause;
      this.#refuse(
        new ArchiveConflictError(
          `Cannot publish ${segment.name}: the archive's file of it is damaged; move that one away and start again`,
          { cause },
        ),
      );
    }
    // Taken away again, by hand: what is here gets its name at the next try.
    if (comparison === undefined) {
      throw Object.assign(new Error(`Cannot publish ${segment.name}: the archive's file of it is gone`), {
        code: "ENOENT",
      });
    }
    const { path, difference } = comparison;
    if (difference === undefined) {
      // Whoever linked it may not have synced it.
      await withFile(this.disk, path, (published) => published.sync());
      return;
    }
    const text = await this.#explainPublished(segment, { path, difference });
    const growing = inProgressPath(segment.name);
    // Without hard links it may stand under its own name already, beside the other form.
    const stands = path !== segment.name && await this.disk.entry(growing) === undefined;
    const kept = stands
      ? segment.name
      : await keepConflict(this.disk, { from: growing, name: segment.name }, this.options);
    this.#refuse(
      new ArchiveConflictError(
        `Cannot publish ${segment.name}: the archive has other bytes under this name${
          path === segment.name ? "" : `, compressed as "${path}"`
        }; ${text}; the archive's file is unchanged, the server's is kept as "${this.disk.root}/${kept}"`,
      ),
    );
  }

  async #explainPublished(
    segment: OpenSegment,
    { path, difference }: { readonly path: string; readonly difference: number },
  ): Promise<string> {
    const differenceLsn = advance(segment.startLsn, difference);
    const published = {
      name: segment.name,
      segmentSize: this.identity.segmentSize,
      forms: SEGMENT_FORMS.filter((form) => path === segment.name + form),
    };
    const text = await withPublishedBytes(
      this.disk,
      published,
      (bytes) => this.#explain(segment, { differenceLsn }, { label: "the archive's file", bytes }),
    ).catch((error) => {
      // Behind the difference it may be damaged too: then there is less to tell.
      if (!(error instanceof DamagedFileError)) throw error;
    });
    return text ?? `they differ first at ${formatLsn(differenceLsn)}`;
  }

  /** What does not belong here goes out of the way of what does: the right server must not find it in its place. */
  async #refuseServer(segment: OpenSegment, errorOf: (kept: string) => Error): Promise<never> {
    this.#spent = true;
    const from = inProgressPath(segment.name);
    const receivedBytes = Number(this.#writeLsn - segment.startLsn);
    const kept = await keepConflict(this.disk, { from, name: segment.name, receivedBytes }, this.options);
    throw errorOf(`${this.disk.root}/${kept}`);
  }

  #refuse(error: Error): never {
    this.#spent = true;
    throw error;
  }

  async #zeroPiece(segment: OpenSegment, writtenBytes: number): Promise<boolean> {
    const size = Number(this.identity.segmentSize);
    // Only whole pages beyond the data: zeros never touch a page that holds received bytes.
    const from = Math.max(segment.zeroedBytes, Math.ceil(writtenBytes / PAGE_BYTES) * PAGE_BYTES);
    if (from >= size) return false;
    const bytes = this.#zeros.subarray(0, Math.min(this.#zeros.length, size - from));
    await segment.file.write(bytes, from);
    segment.zeroedBytes = from + bytes.length;
    return true;
  }

  async #prepareNext(segment: OpenSegment): Promise<boolean> {
    if (this.#next === undefined) {
      const number = segment.number + 1n as SegmentNumber;
      const name = nameOf({ timeline: this.leg.timeline, number }, this.identity.segmentSize);
      if (this.#notToPrepare === number) return false;
      if (await this.disk.entry(inProgressPath(name)) !== undefined) {
        // What an earlier run left there is moved aside when its turn comes.
        this.#notToPrepare = number;
        return false;
      }
      this.#next = await this.#create(name, number);
    }
    if (!await this.#zeroPiece(this.#next, 0)) return false;
    await this.#next.file.sync();
    return true;
  }
}
