import type { TimelineHistory } from "../wal/history.ts";
import { type Lsn, maxLsn } from "../wal/lsn.ts";
import type { SegmentScan } from "../wal/scanner.ts";
import { segmentName, type SegmentNumber, segmentStart } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Archive, ArchiveContents } from "./archive.ts";
import { type ScanPublished, scanPublished } from "./back_links.ts";
import type { Clock } from "./clock.ts";
import { withFile } from "./durable.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { IN_PROGRESS_DIRECTORY } from "./layout.ts";
import { BUFFER_BYTES, type LegListener, LegSink } from "./leg_sink.ts";
import type { MinimumFree, ShortOfRoom } from "./minimum_free.ts";
import { compareOverlap, type Overlap, planOverlap, type SentOverlap } from "./overlap.ts";
import { RoomGuard } from "./room_guard.ts";
import { copiesOf } from "./segment_copies.ts";
import { scanSegmentFile } from "./segment_file.ts";
import { SegmentWriter, type WriterEvents } from "./segment_writer.ts";

/** Memory that a disk must be able to `allocate` for one receiving archive. */
export const RECEIVING_MEMORY_BYTES = BUFFER_BYTES + (1 << 20);

/** Of a server that nobody has asked yet. */
const USUAL_SEGMENT_BYTES = 16 << 20;

/** What can be received into: an archive, or a directory of another layout. */
export type ReceivingDirectory = Pick<
  Archive,
  "disk" | "identity" | "modes" | "naming" | "claim" | "contents" | "storeHistory" | "planLeg"
>;

/** How a receiver uses it. */
export interface ReceivingOptions {
  readonly clock: Clock;
  readonly events: WriterEvents;
  /** `false` where a segment must not be there before its first byte. */
  readonly prepareNext?: boolean;
  /** Without it a disk is filled to its last byte. */
  readonly minimumFree?: MinimumFree | undefined;
}

/** An archive as a receiver uses it: one leg at a time. */
export class ReceivingArchive {
  readonly #memory: Uint8Array;
  readonly #zeros: Uint8Array;
  readonly #guard: RoomGuard | undefined;
  /** Of the segment that a server was to show; a published one never changes. */
  #scanned: { readonly name: string; readonly scan: SegmentScan } | undefined;

  constructor(
    private readonly archive: ReceivingDirectory,
    private readonly options: ReceivingOptions,
  ) {
    this.#memory = archive.disk.allocate(BUFFER_BYTES);
    this.#zeros = SegmentWriter.zeroPiece(archive.disk);
    const { clock, minimumFree: minimum } = options;
    const { disk } = archive;
    const segmentBytes = () => archive.identity?.segmentSize ?? USUAL_SEGMENT_BYTES;
    if (minimum !== undefined) this.#guard = new RoomGuard({ disk, clock, minimum, segmentBytes });
  }

  claim(server: ArchiveIdentity): Promise<void> {
    return this.archive.claim(server);
  }

  contents(): Promise<ArchiveContents> {
    return this.archive.contents();
  }

  /** Where the last valid record ends in what is here of a segment that is not complete; `undefined` when nothing is. */
  async unfinishedEnd(
    { timeline, number }: { readonly timeline: TimelineId; readonly number: SegmentNumber },
  ): Promise<Lsn | undefined> {
    const { disk, identity } = this.archive;
    if (identity === undefined) return undefined;
    const { segmentSize } = identity;
    const inProgress = await disk.list(IN_PROGRESS_DIRECTORY) ?? [];
    const copies = copiesOf(segmentName(timeline, number, segmentSize), { root: new Set(), inProgress });
    const startLsn = segmentStart(number, segmentSize);
    let endLsn = startLsn;
    for (const { path } of copies) {
      const scan = await withFile(disk, path, (file) => scanSegmentFile(file, { startLsn, segmentSize }));
      if (scan !== undefined) endLsn = maxLsn(endLsn, scan.endLsn);
    }
    return endLsn > startLsn ? endLsn : undefined;
  }

  storeHistory(timeline: TimelineId, bytes: Uint8Array): Promise<"stored" | "present"> {
    return this.archive.storeHistory(timeline, bytes);
  }

  /** What a server has to show before it is followed; `undefined` when there is no need, or nothing to compare. */
  async planOverlap(
    leg: { readonly startLsn: Lsn; readonly lineage: TimelineHistory },
  ): Promise<Overlap | undefined> {
    const { disk, identity } = this.archive;
    if (identity === undefined) return undefined;
    return await planOverlap(
      disk,
      { ...leg, segmentSize: identity.segmentSize },
      async (disk, segment) => {
        const scan = await scanPublished(disk, segment);
        this.#scanned = typeof scan === "object" ? { name: segment.name, scan } : undefined;
        return scan;
      },
    );
  }

  /** @throws {ArchiveConflictError} @throws {CorruptWalError} when a server sent other bytes than the archive has. */
  async compareOverlap(sent: SentOverlap): Promise<void> {
    const { disk, identity, modes, naming } = this.archive;
    if (identity === undefined) return;
    await compareOverlap(disk, sent, { segmentSize: identity.segmentSize, modes, naming });
  }

  /** How much room is missing to go on; `undefined` when there is enough. */
  async shortOfRoom(): Promise<ShortOfRoom | undefined> {
    return await this.#guard?.look();
  }

  /** Begins to write at `startLsn`. The leg before it must be finished or abandoned. */
  async openLeg(
    leg: { readonly startLsn: Lsn; readonly lineage: TimelineHistory; readonly server?: string },
    listener: LegListener,
  ): Promise<LegSink> {
    const { disk, identity, modes, naming } = this.archive;
    if (identity === undefined) throw new Error("Cannot write WAL: the archive is not claimed");
    const scanned = this.#scanned;
    this.#scanned = undefined;
    // The whole of a segment: what the comparison has read is not read again.
    const scan: ScanPublished = async (disk, segment) =>
      scanned?.name === segment.name ? scanned.scan : await scanPublished(disk, segment);
    const plan = { ...await this.archive.planLeg(leg.startLsn, leg.lineage, scan), server: leg.server };
    const { clock, events, prepareNext } = this.options;
    const zeros = this.#zeros;
    const writer = new SegmentWriter(disk, identity, plan, { modes, naming, events, zeros, prepareNext });
    const setPatience = (ms: number) => disk.setPatience?.(ms);
    const guard = this.#guard;
    return new LegSink(writer, { memory: this.#memory, clock, listener, setPatience, guard });
  }
}
