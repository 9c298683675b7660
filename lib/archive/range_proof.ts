import { messageChain } from "../log.ts";
import type { TimelineHistory } from "../wal/history.ts";
import type { SegmentRun } from "../wal/lineage.ts";
import { formatLsn } from "../wal/lsn.ts";
import { type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import { type SegmentNumber, segmentStart } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Archive } from "./archive.ts";
import { checkBackLink } from "./back_link.ts";
import { isFilesFault } from "./damaged_file.ts";
import type { DiskEntry } from "./disk.ts";
import { openPlain, withFile } from "./durable.ts";
import { readHistoryOf } from "./history_file.ts";
import { firstPageProblem } from "./first_page.ts";
import { checkForwardLink } from "./forward_link.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { nameOf, SEGMENT_FORMS } from "./layout.ts";
import { withPublished } from "./published.ts";
import { withPublishedBytes } from "./segment_bytes.ts";
import { isWholeAndRight } from "./segment_proof.ts";

/** So many segments are remembered; what is forgotten is only looked at again. */
const MAXIMUM_REMEMBERED = 65_536;

interface Place {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
}

/** A segment that is not proven. */
export interface UnprovenSegment {
  readonly name: string;
  /** What is wrong with it. */
  readonly problem: string;
}

interface FoundForm {
  readonly path: string;
  readonly entry: DiskEntry;
  /** Which file it is, and when it was written. */
  readonly written: string;
}

/**
 * Proves segments that stand in an archive, whoever gave them their names: a copy that is under way, a file of zeros and
 * damage have a name too.
 *
 * What was read once, right or wrong, is not read again before it or a neighbour is another file or was written to.
 */
export class RangeProof {
  /** By name: what came of it, of which files, and when they were written. */
  readonly #looked = new Map<string, { readonly files: string; readonly problem: string | undefined }>();
  /** Proven names may not be durable yet. */
  #isSyncDue = false;

  constructor(private readonly archive: Archive) {}

  /**
   * The segments of a range that are not proven, those that are missing too; the others are durable.
   *
   * Proven: every record of it holds, to its end, its pages are of this cluster and this timeline, and neither neighbour
   * contradicts it. Whoever named it with our programs synced it before; of a copy made by hand a sync writes what is
   * still in memory, and tells of what could not be written since: to write all of it anew, as where our own earlier
   * sync may have failed, is not needed.
   */
  async unproven(run: SegmentRun, signal?: AbortSignal): Promise<readonly UnprovenSegment[]> {
    const { disk, identity } = this.archive;
    if (identity === undefined) throw new Error("Cannot prove segments: the archive is not claimed");
    const unproven: UnprovenSegment[] = [];
    const formAt = (number: bigint) =>
      number < 0n
        ? Promise.resolve(undefined)
        : this.#find({ timeline: run.timeline, number: number as SegmentNumber }, identity);
    let before = await formAt(run.firstNumber - 1n);
    let own = await formAt(run.firstNumber);
    for (let number = run.firstNumber; number < run.endNumber; number++) {
      signal?.throwIfAborted();
      const behind = await formAt(number + 1n);
      const place = { timeline: run.timeline, number };
      const name = nameOf(place, identity.segmentSize);
      const files = [before, own, behind].map((found) => found?.written ?? "-").join(" ");
      const problem = own === undefined
        ? "it is missing"
        : await this.#problemOf(place, { name, own, files, identity, signal });
      if (problem !== undefined) unproven.push({ name, problem });
      [before, own] = [own, behind];
    }
    // A power cut must not take a name away that counts from now on.
    if (this.#isSyncDue) {
      // Before: what another call proves meanwhile is due again.
      this.#isSyncDue = false;
      try {
        await disk.syncDirectory(".");
      } catch (error) {
        this.#isSyncDue = true;
        throw error;
      }
    }
    return unproven;
  }

  /** What is wrong with a segment; `undefined` when it is proven. */
  async #problemOf(
    place: Place,
    { name, own, files, identity, signal }: {
      readonly name: string;
      readonly own: FoundForm;
      readonly files: string;
      readonly identity: ArchiveIdentity;
      readonly signal: AbortSignal | undefined;
    },
  ): Promise<string | undefined> {
    const before = this.#looked.get(name);
    if (before?.files === files) return before.problem;
    const problem = await this.#prove(place, { own, identity, signal });
    if (this.#looked.size >= MAXIMUM_REMEMBERED) this.#looked.clear();
    this.#looked.set(name, { files, problem });
    if (problem === undefined) this.#isSyncDue = true;
    return problem;
  }

  async #find(place: Place, { segmentSize }: ArchiveIdentity): Promise<FoundForm | undefined> {
    const name = nameOf(place, segmentSize);
    for (const form of SEGMENT_FORMS) {
      const entry = await this.archive.disk.entry(name + form);
      if (entry === undefined) continue;
      const path = name + form;
      return { path, entry, written: `${path}:${entry.inode}:${await this.#writtenText(path, entry)}` };
    }
    return undefined;
  }

  /** Who writes over a file, as cp does, leaves it the same one and as long. */
  async #writtenText(path: string, { kind, bytes }: DiskEntry): Promise<string> {
    if (kind !== "file") return `${bytes}`;
    const state = await withFile(this.archive.disk, path, (file) => file.state());
    return state === undefined ? "-" : `${state.bytes}:${state.modifiedMs}:${state.changedMs}`;
  }

  /** All of it is looked at through one form; that one is synced. */
  async #prove(
    { timeline, number }: Place,
    { own, identity, signal }: {
      readonly own: FoundForm;
      readonly identity: ArchiveIdentity;
      readonly signal: AbortSignal | undefined;
    },
  ): Promise<string | undefined> {
    const { disk } = this.archive;
    const { segmentSize } = identity;
    const name = nameOf({ timeline, number }, segmentSize);
    if (own.entry.kind !== "file") return `it is a ${own.entry.kind}, want a file`;
    if (own.path === name && own.entry.bytes !== Number(segmentSize)) {
      return `it has ${own.entry.bytes} bytes, want ${segmentSize}`;
    }
    const startLsn = segmentStart(number, segmentSize);
    const forms = SEGMENT_FORMS.filter((form) => own.path === name + form);
    try {
      const scan = await withPublished(
        disk,
        { name, segmentSize, forms, open: openPlain },
        async (segment) => {
          const scanner = new SegmentScanner({ startLsn, segmentSize });
          await segment.readThrough((bytes) => {
            signal?.throwIfAborted();
            scanner.push(bytes);
            return "more";
          });
          return scanner.result();
        },
      );
      if (scan === undefined) return "it is missing";
      if (!isWholeAndRight(scan)) return `its records end at ${formatLsn(scan.endLsn)}, want its whole WAL`;
      const lineage = await readHistoryOf(disk, timeline);
      if (!isOfThisPlace(scan, { identity, timeline, lineage })) {
        return "its pages are of another cluster, place or timeline";
      }
      const isTied = await withPublishedBytes(disk, { name, segmentSize, forms }, async (bytes) => {
        const linked = { timeline, number, lineage, scan, bytes };
        return (await checkBackLink(disk, linked)).kind !== "broken" &&
          (await checkForwardLink(disk, linked)).kind !== "broken";
      });
      if (isTied !== true) {
        return "it does not continue the segment before it, or the one behind does not continue it";
      }
    } catch (error) {
      if (isFilesFault(error)) return messageChain(error);
      throw error;
    }
    const isSynced = await withFile(disk, own.path, async (file) => {
      await file.sync();
      // It may have grown, or be another one by now: then what was read is not what counts.
      return await file.inode() === own.entry.inode && await file.bytes() === own.entry.bytes;
    });
    return isSynced === true ? undefined : "it changed while it was read";
  }
}

function isOfThisPlace(
  { firstPage, startLsn }: SegmentScan,
  { identity, timeline, lineage }: {
    readonly identity: ArchiveIdentity;
    readonly timeline: TimelineId;
    readonly lineage: TimelineHistory | undefined;
  },
): boolean {
  const ancestors = lineage?.entries.map((entry) => entry.timeline);
  return firstPage !== undefined &&
    firstPageProblem(firstPage, { identity, startLsn, timeline, ancestors }) === undefined;
}
