import { parseHistory, type TimelineHistory } from "../wal/history.ts";
import type { SegmentRun } from "../wal/lineage.ts";
import { type SegmentScan, SegmentScanner } from "../wal/scanner.ts";
import { type SegmentNumber, segmentStart } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import { MAXIMUM_TEXT_BYTES } from "./accept_text.ts";
import type { Archive } from "./archive.ts";
import { checkBackLink } from "./back_link.ts";
import { isFilesFault } from "./damaged_file.ts";
import type { DiskEntry } from "./disk.ts";
import { openPlain, readWhole, withFile } from "./durable.ts";
import { firstPageProblem } from "./first_page.ts";
import { checkForwardLink } from "./forward_link.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { nameOf, SEGMENT_FORMS } from "./layout.ts";
import { withPublished } from "./published.ts";
import { withPublishedBytes } from "./segment_bytes.ts";
import { isWholeAndRight } from "./segment_proof.ts";

/** So many segments are remembered; what is forgotten is only proven again. */
const MAXIMUM_REMEMBERED = 65_536;

interface Place {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
}

interface FoundForm {
  readonly path: string;
  readonly entry: DiskEntry;
}

/**
 * Proves segments that stand in an archive, whoever gave them their names: a copy that is under way, a file of zeros and
 * damage have a name too.
 *
 * What is proven once is not read again before it or a neighbour is another file.
 */
export class RangeProof {
  /** By name: of which files it was proven. */
  readonly #proven = new Map<string, string>();

  constructor(private readonly archive: Archive) {}

  /**
   * The segments of a range that are not proven, by name, those that are missing too; the others are durable.
   *
   * Proven: every record of it holds, to its end, its pages are of this cluster and this timeline, and neither neighbour
   * contradicts it. Whoever named it with our programs synced it before; of a copy made by hand a sync writes what is
   * still in memory, and tells of what could not be written since: to write all of it anew, as where our own earlier
   * sync may have failed, is not needed.
   */
  async unproven(run: SegmentRun): Promise<readonly string[]> {
    const { disk, identity } = this.archive;
    if (identity === undefined) throw new Error("Cannot prove segments: the archive is not claimed");
    const names: string[] = [];
    const proven = new Map<string, string>();
    const formAt = (number: bigint) =>
      number < 0n
        ? Promise.resolve(undefined)
        : this.#find({ timeline: run.timeline, number: number as SegmentNumber }, identity);
    let before = await formAt(run.firstNumber - 1n);
    let own = await formAt(run.firstNumber);
    for (let number = run.firstNumber; number < run.endNumber; number++) {
      const behind = await formAt(number + 1n);
      const place = { timeline: run.timeline, number };
      const name = nameOf(place, identity.segmentSize);
      const files = [before, own, behind].map(textOf).join(" ");
      if (own === undefined) names.push(name);
      else if (this.#proven.get(name) !== files) {
        if (await this.#prove(place, { own, identity })) proven.set(name, files);
        else names.push(name);
      }
      [before, own] = [own, behind];
    }
    // A power cut must not take a name away that counts from now on.
    if (proven.size > 0) await disk.syncDirectory(".");
    if (this.#proven.size + proven.size > MAXIMUM_REMEMBERED) this.#proven.clear();
    for (const [name, files] of proven) this.#proven.set(name, files);
    return names;
  }

  async #find(place: Place, { segmentSize }: ArchiveIdentity): Promise<FoundForm | undefined> {
    const name = nameOf(place, segmentSize);
    for (const form of SEGMENT_FORMS) {
      const entry = await this.archive.disk.entry(name + form);
      if (entry !== undefined) return { path: name + form, entry };
    }
    return undefined;
  }

  /** All of it is looked at through one form; that one is synced. */
  async #prove(
    { timeline, number }: Place,
    { own, identity }: { readonly own: FoundForm; readonly identity: ArchiveIdentity },
  ): Promise<boolean> {
    const { disk } = this.archive;
    const { segmentSize } = identity;
    const name = nameOf({ timeline, number }, segmentSize);
    if (own.entry.kind !== "file") return false;
    if (own.path === name && own.entry.bytes !== Number(segmentSize)) return false;
    const startLsn = segmentStart(number, segmentSize);
    const forms = SEGMENT_FORMS.filter((form) => own.path === name + form);
    try {
      const scan = await withPublished(
        disk,
        { name, segmentSize, forms, open: openPlain },
        async (segment) => {
          const scanner = new SegmentScanner({ startLsn, segmentSize });
          await segment.readThrough((bytes) => {
            scanner.push(bytes);
            return "more";
          });
          return scanner.result();
        },
      );
      if (scan === undefined || !isWholeAndRight(scan)) return false;
      const lineage = await this.#lineage(timeline);
      if (!isOfThisPlace(scan, { identity, timeline, lineage })) return false;
      const isTied = await withPublishedBytes(disk, { name, segmentSize, forms }, async (bytes) => {
        const linked = { timeline, number, lineage, scan, bytes };
        return (await checkBackLink(disk, linked)).kind !== "broken" &&
          (await checkForwardLink(disk, linked)).kind !== "broken";
      });
      if (isTied !== true) return false;
    } catch (error) {
      if (isFilesFault(error)) return false;
      throw error;
    }
    const isSynced = await withFile(disk, own.path, async (file) => {
      await file.sync();
      // It may have grown, or be another one by now: then what was read is not what counts.
      return await file.inode() === own.entry.inode && await file.bytes() === own.entry.bytes;
    });
    return isSynced === true;
  }

  async #lineage(timeline: TimelineId): Promise<TimelineHistory | undefined> {
    const bytes = await readWhole(this.archive.disk, historyFileName(timeline), MAXIMUM_TEXT_BYTES);
    return bytes === undefined ? undefined : parseHistory(timeline, bytes);
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

function textOf(found: FoundForm | undefined): string {
  return found === undefined ? "-" : `${found.path}:${found.entry.inode}:${found.entry.bytes}`;
}
