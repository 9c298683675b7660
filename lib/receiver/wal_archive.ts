import type { SocketLoan } from "../protocol/replication.ts";
import type { TimelineHistory } from "../wal/history.ts";
import type { LineageStock, SegmentRun } from "../wal/lineage.ts";
import type { Lsn } from "../wal/lsn.ts";
import type { SegmentNumber, SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";

/** What an archive holds; all of it durable. */
export interface ArchiveContents extends LineageStock {
  readonly histories: readonly { readonly timeline: TimelineId; readonly bytes: Uint8Array }[];
  /** Names of complete segments under which something else stands: no file, or one of another size. */
  readonly incomplete: readonly string[];
}

/** What a leg's owner is told while bytes become durable. */
export interface LegListener {
  /** `writeLsn`, `flushLsn`, `congested` or `shortOfRoom` may have changed. */
  onProgress(): void;
  /** Nothing more of this leg becomes durable. */
  onFailure(error: unknown): void;
  /** The disk is full; the sink tries again by itself. */
  onDiskFull(): void;
  /** The sink has nothing to do: it may have the socket lent, and take WAL from it without the way through here. */
  onIdle?(): SocketLoan | undefined;
}

/** That the archive's disk has less free than it should, and how much would do. */
export interface ShortOfRoom {
  readonly freeBytes: number;
  readonly wantBytes: number;
}

/** A sink that takes WAL from the socket itself, and answers the server. */
export interface SinkLoan {
  readonly serverEndLsn: Lsn;
  /** Grows with whatever comes from the server. */
  readonly heardCount: number;
  /** From its return on nobody else sends anything to the socket; it is given back soon. */
  end(): void;
}

/** Takes one contiguous piece of WAL, on one timeline, from a segment's start on. Nothing here blocks. */
export interface WalSink {
  /** Everything below it was pushed. */
  readonly receivedLsn: Lsn;
  /** Everything below it was handed to the operating system. */
  readonly writeLsn: Lsn;
  /** Everything below it survives a power cut. */
  readonly flushLsn: Lsn;
  /** True while the disk does not keep up: the reader should pause. */
  readonly congested: boolean;
  /** There is too little room to go on reading; what was pushed becomes durable all the same. */
  readonly shortOfRoom?: ShortOfRoom | undefined;
  /** True when all that was pushed is durable. */
  readonly idle: boolean;
  /** The loan of the socket, while there is one: what came over it, and the way to end it soon. */
  readonly loan?: SinkLoan | undefined;
  /** Takes a copy of bytes that follow `receivedLsn`. */
  push(bytes: Uint8Array): void;
  setServerEnd(lsn: Lsn): void;
  /** Nothing more is at hand to push right now. */
  drained(): void;
  /** Resolves when everything pushed is durable (or the sink has failed) and the files are let go. */
  finish(): Promise<void>;
  /** Gives up what is not yet durable; resolves when the files are let go. */
  abandon(): Promise<void>;
}

/** WAL of one complete segment of the archive, which a server that goes on behind it must have too. */
export interface Overlap {
  readonly timeline: TimelineId;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
}

/** Where the receiver puts WAL. Any call may reject with what the disk says. */
export interface WalArchive {
  /** Makes the archive this cluster's at the first use, and checks it at each other; throws `WrongClusterError`. */
  claim(server: { readonly systemIdentifier: bigint; readonly segmentSize: SegmentSize }): Promise<void>;
  contents(): Promise<ArchiveContents>;
  /** Where the last valid record ends in what is here of a segment that is not complete; `undefined` when nothing is. */
  unfinishedEnd?(
    segment: { readonly timeline: TimelineId; readonly number: SegmentNumber },
  ): Promise<Lsn | undefined>;
  /** How much room is missing to begin a leg; `undefined` when there is enough, or nobody asks. */
  shortOfRoom?(): Promise<ShortOfRoom | undefined>;
  /** Durable when it resolves; throws `ArchiveConflictError` when the archive has another one for that timeline. */
  storeHistory(timeline: TimelineId, bytes: Uint8Array): Promise<"stored" | "present">;
  /** What a server has to show before it is followed from a segment's start on; `undefined` when there is no need. */
  planOverlap(
    leg: { readonly startLsn: Lsn; readonly lineage: TimelineHistory },
  ): Promise<Overlap | undefined>;
  /**
   * Throws `ArchiveConflictError` when the server sent other WAL than the archive has, `CorruptWalError` when the archive's
   * own is damaged and the server's is not. What it sent is kept.
   */
  compareOverlap(
    sent: { readonly overlap: Overlap; readonly bytes: Uint8Array; readonly server: string },
  ): Promise<void>;
  /** Begins to write at `startLsn`, a segment's start, on the lineage's own timeline. */
  openLeg(
    leg: { readonly startLsn: Lsn; readonly lineage: TimelineHistory; readonly server: string },
    listener: LegListener,
  ): Promise<WalSink>;
}

/** WAL that no server has any more. */
export interface MissingWal {
  readonly run: SegmentRun;
  readonly reason: string;
  /** Who was asked last, and the answer. */
  readonly server: string;
  readonly answer: string;
}

/** A segment that has its name, and is not proven. */
export interface UnprovenSegment {
  readonly name: string;
  /** What is wrong with it. */
  readonly problem: string;
}

/** An archive that is told of WAL that is missing. */
export interface GapArchive extends WalArchive {
  /** Writes down that WAL is missing; durable when it resolves. */
  recordGap(missing: MissingWal): Promise<unknown>;
  /**
   * Writes down once more what is recorded of these segments; durable when it resolves. What an earlier process wrote may
   * still be lost in a power cut.
   */
  confirmGap(run: SegmentRun): Promise<void>;
  /** Changes whenever something is written down. */
  gapMark(): Promise<string>;
  /** What is written down; it may not be durable. */
  ledgerGaps(): Promise<LineageStock["gaps"]>;
  /**
   * Whether a complete segment is there; it costs less than to look at all of them. Before `syncNames` a power cut may
   * still take its name away.
   */
  hasSegment(segment: { readonly timeline: TimelineId; readonly number: SegmentNumber }): Promise<boolean>;
  /**
   * The segments of a range that are not proven, byte for byte; all others are durable when it resolves. A name alone may
   * be that of a copy under way, or of damage. It may take long, and holds up nothing that becomes durable meanwhile.
   *
   * @throws what aborts it, soon.
   */
  proveSegments(run: SegmentRun, signal?: AbortSignal): Promise<readonly UnprovenSegment[]>;
  /**
   * Whether something stands right behind a range that tells which segments belong there: another server's look right as
   * long as nothing does.
   */
  isAnchored(run: SegmentRun): Promise<boolean>;
  /** Writes down that these segments are here and proven; durable when it resolves. */
  recordHealed(run: SegmentRun): Promise<void>;
  /** Whatever segment was seen before it was called survives a power cut when it resolves. */
  syncNames(): Promise<void>;
}

/** Brings in WAL that is missing, from wherever it is: other hosts, other archives, copies of this one. */
export interface GapHealer {
  /** Grows with every byte that it takes: a segment may be large, and come slowly. */
  readonly takenBytes?: number;
  /**
   * Asks every source once for these segments, lowest first, and brings in what it gets, complete and durable.
   *
   * It rejects only when it was told to stop. Whoever receives says which gaps are healed: by what is here then.
   */
  heal(gaps: readonly SegmentRun[], signal: AbortSignal): Promise<void>;
}
