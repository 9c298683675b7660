import type { LineageStock, SegmentRun } from "../wal/lineage.ts";
import { segmentName, type SegmentNumber } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Archive } from "./archive.ts";
import {
  encodeGapAcceptance,
  encodeGapHealing,
  encodeGapRecord,
  encodeGapWithdrawal,
  gapOfSegments,
  missingByLedger,
  segmentsOfGap,
} from "./gaps.ts";
import { isAnchoredBehind } from "./forward_link.ts";
import { isSegmentEntry } from "./inventory.ts";
import { GAP_LEDGER_FILE, SEGMENT_FORMS } from "./layout.ts";
import { RangeProof, type UnprovenSegment } from "./range_proof.ts";
import { ReceivingArchive, type ReceivingOptions } from "./receiving_archive.ts";

/** WAL that no server has any more. */
interface MissingWal {
  readonly run: SegmentRun;
  readonly reason: string;
  readonly server: string;
  readonly answer: string;
}

/** An archive as a receiver uses it that goes on behind WAL that is missing. */
export class GapReceivingArchive extends ReceivingArchive {
  readonly #archive: Archive;
  readonly #proofOn: () => Promise<Archive>;
  #beside: Promise<Archive> | undefined;
  #proof: RangeProof | undefined;
  readonly #now: () => Date;

  /**
   * @param options.now the wall clock
   * @param options.proofOn the same archive on a disk of its own, to read much of it beside what becomes durable; without
   * it that waits for the reading.
   */
  constructor(archive: Archive, options: ReceivingOptions & { now(): Date; proofOn?(): Promise<Archive> }) {
    super(archive, options);
    this.#archive = archive;
    this.#proofOn = options.proofOn ?? (() => Promise.resolve(archive));
    this.#now = options.now;
  }

  /** Writes down that WAL is missing; durable when it resolves, to what takes it back. */
  async recordGap({ run, reason, server, answer }: MissingWal): Promise<() => Promise<void>> {
    const recordedAt = this.#now().toISOString();
    const range = gapOfSegments(run, this.#segmentSize);
    await this.#archive.appendToLedger(encodeGapRecord({ ...range, recordedAt, reason, server, answer }));
    return () => this.#archive.appendToLedger(encodeGapWithdrawal({ ...range, recordedAt }));
  }

  /** Writes down once more what is recorded of these segments; durable when it resolves. */
  async confirmGap(run: SegmentRun): Promise<void> {
    const size = this.#segmentSize;
    const { records, acceptances } = await this.#archive.ledger();
    const touches = (entry: Parameters<typeof segmentsOfGap>[0]) => {
      const { timeline, firstNumber, endNumber } = segmentsOfGap(entry, size);
      return timeline === run.timeline && firstNumber < run.endNumber && endNumber > run.firstNumber;
    };
    // What tells the same twice is written once.
    const lines = new Map(
      [
        ...records.filter(touches).map(encodeGapRecord),
        ...acceptances.filter(touches).map(encodeGapAcceptance),
      ]
        .map((line) => [new TextDecoder().decode(line), line]),
    );
    for (const line of lines.values()) await this.#archive.appendToLedger(line);
  }

  /** Changes whenever something is written down. */
  async gapMark(): Promise<string> {
    const entry = await this.#archive.disk.entry(GAP_LEDGER_FILE);
    return entry === undefined ? "" : `${entry.inode} ${entry.bytes}`;
  }

  /** What is written down; it may not be durable. */
  async ledgerGaps(): Promise<LineageStock["gaps"]> {
    return missingByLedger(await this.#archive.ledger(), this.#segmentSize);
  }

  /** Whether a complete segment is there, in whatever form; its name may not be durable. */
  async hasSegment({ timeline, number }: { timeline: TimelineId; number: SegmentNumber }): Promise<boolean> {
    const size = this.#segmentSize;
    const name = segmentName(timeline, number, size);
    for (const form of SEGMENT_FORMS) {
      const entry = await this.#archive.disk.entry(name + form);
      if (entry !== undefined && isSegmentEntry({ name: name + form, ...entry }, size)) return true;
    }
    return false;
  }

  /**
   * The segments of a range that are not proven: missing, not whole, damaged, or contradicted by a neighbour. All others
   * are durable when it resolves.
   *
   * To be asked before a range that was written down as missing counts as healed: a name alone may be that of a copy under
   * way. What was read once costs a look at its name; of the rest every byte is read.
   * @throws what aborts it, soon.
   */
  async proveSegments(run: SegmentRun, signal?: AbortSignal): Promise<readonly UnprovenSegment[]> {
    const archive = await this.#proofArchive();
    this.#proof ??= new RangeProof(archive);
    return await this.#proof.unproven(run, signal);
  }

  /** Whether something stands right behind a range, published or growing, that tells which segments belong there. */
  async isAnchored({ timeline, endNumber }: SegmentRun): Promise<boolean> {
    const { disk } = await this.#proofArchive();
    const number = endNumber - 1n as SegmentNumber;
    return await isAnchoredBehind(disk, { timeline, number, segmentSize: this.#segmentSize });
  }

  /** Writes down that these segments are here and proven; durable when it resolves. */
  async recordHealed(run: SegmentRun): Promise<void> {
    const healing = { ...gapOfSegments(run, this.#segmentSize), healedAt: this.#now().toISOString() };
    await this.#archive.appendToLedger(encodeGapHealing(healing));
  }

  /** Whatever segment was seen before it was called survives a power cut when it resolves. */
  async syncNames(): Promise<void> {
    await this.#archive.disk.syncDirectory(".");
  }

  /** Opened once, when it is needed. */
  #proofArchive(): Promise<Archive> {
    return this.#beside ??= this.#proofOn().catch((error) => {
      this.#beside = undefined;
      throw error;
    });
  }

  get #segmentSize() {
    const { identity } = this.#archive;
    if (identity === undefined) throw new Error("Cannot tell of missing WAL: the archive is not claimed");
    return identity.segmentSize;
  }
}
