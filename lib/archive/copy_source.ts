import { WrongClusterError } from "../wal/errors.ts";
import { numbersOf, type SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { type SegmentNumber, type SegmentSize, segmentStart } from "../wal/segment.ts";
import { BroughtFileError, IncompleteSegmentError, type Neighbour } from "./acceptance.ts";
import { decompress } from "./compression.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { Disk, DiskFile, FileState } from "./disk.ts";
import { readWhole, withFile } from "./durable.ts";
import { type GapFiller, onlyFile } from "./gap_filler.ts";
import { type ArchiveIdentity, decodeIdentity } from "./identity.ts";
import { IDENTITY_FILE, IN_PROGRESS_DIRECTORY, nameOf } from "./layout.ts";
import { copiesOf, type CopyNames, type SegmentCopy } from "./segment_copies.ts";
import { isWholeAndRight, proveSegmentFile } from "./segment_proof.ts";

const MAXIMUM_IDENTITY_BYTES = 4096;
/** So many files are remembered that were no good; what is forgotten is only looked at again. */
const MAXIMUM_REMEMBERED = 4096;

/** Which files of a directory count. */
export interface CopySourceOptions {
  /** How answers call it. */
  readonly name: string;
  /**
   * - `all`: of another archive, a directory of `pg_receivewal`, or a server's `pg_wal`.
   * - `unfinished`: of the archive itself, what is kept from earlier runs.
   */
  readonly places: "all" | "unfinished";
  /** Of the cluster that the directory is of, if something beside it tells. */
  systemIdentifier?(): Promise<bigint | undefined>;
}

/**
 * A directory where copies of missing segments may be: another one, which is only read, or this archive's own `inprogress/`.
 *
 * A file that was no good is not read again before it changes.
 */
export class CopySource {
  #names: CopyNames | undefined;
  #isKnownCluster = false;
  readonly #refused = new Map<string, Refusal & { readonly state: string }>();
  /** Of segments where it was left because it has nothing complete of them, in this round. */
  readonly #lacking = new Set<string>();

  constructor(
    private readonly disk: Disk,
    private readonly filler: GapFiller,
    private readonly options: CopySourceOptions,
  ) {}

  get name(): string {
    return this.options.name;
  }

  /** What is there is looked for anew. */
  beginRound(): Promise<void> {
    this.#names = undefined;
    this.#lacking.clear();
    return Promise.resolve();
  }

  endRound(): Promise<void> {
    this.#names = undefined;
    return Promise.resolve();
  }

  /**
   * Brings what it has of these segments; `onBrought` is told of each when that is durable.
   *
   * From what stands behind downwards, each vouched for by the one that came before: a clone of the server is found out
   * before anything of it has a name. Whoever lacks the last of them can't be found out so; what it has at the other end
   * is asked for with "before", when nobody else has any more.
   * @returns what is to be said of the rest; `undefined` when it brought all.
   */
  async bring(
    run: SegmentRun,
    onBrought: (number: SegmentNumber) => void,
    signal: AbortSignal,
    tiedTo: Neighbour = "behind",
  ): Promise<string | undefined> {
    const { timeline, endNumber } = run;
    const lastNumber = endNumber - 1n as SegmentNumber;
    const keyOf = (number: SegmentNumber) => `${timeline} ${number}`;
    if (tiedTo === "before" && !this.#lacking.has(keyOf(lastNumber))) return undefined;
    const names = this.#names ??= await this.#look();
    let lacking = 0n;
    for (const number of numbersOf(run)) {
      const name = nameOf({ timeline, number }, this.#identity.segmentSize);
      if (copiesOf(name, names).length === 0) lacking++;
    }
    const lacks = lacking === 0n ? [] : [`lacks ${lacking === 1n ? "1 segment" : `${lacking} segments`}`];
    const hasLast =
      copiesOf(nameOf({ timeline, number: lastNumber }, this.#identity.segmentSize), names).length > 0;
    const awaited = tiedTo === "behind" && hasLast
      ? await this.filler.whatIsAwaited({ timeline, number: lastNumber })
      : undefined;
    if (awaited?.isForEver === true) this.#lacking.add(keyOf(lastNumber));
    if (awaited !== undefined) return awaited.text;
    for (const number of numbersOf(run, tiedTo === "behind" ? "down" : "up")) {
      signal.throwIfAborted();
      const stop = await this.#bringFirst({ timeline, number, tiedTo }, names);
      if (stop !== undefined) {
        if (stop.isLack) this.#lacking.add(keyOf(number));
        return [...lacks, ...stop.problems.slice(0, 1)].join("; ");
      }
      onBrought(number);
    }
    return undefined;
  }

  /** What is to be said against all copies of a segment; `undefined` when the archive has it now. */
  async #bringFirst(
    { timeline, number, tiedTo }: {
      readonly timeline: SegmentRun["timeline"];
      readonly number: SegmentNumber;
      readonly tiedTo: Neighbour;
    },
    names: CopyNames,
  ): Promise<{ readonly problems: readonly string[]; readonly isLack: boolean } | undefined> {
    const name = nameOf({ timeline, number }, this.#identity.segmentSize);
    const refusals: Refusal[] = [];
    for (const copy of copiesOf(name, names)) {
      const refusal = await this.#bringCopy({ name, number, copy, tiedTo });
      if (refusal === undefined) return undefined;
      refusals.push(refusal);
    }
    const problems = refusals.map(({ problem }) => problem);
    return { problems, isLack: refusals.every(({ isLack }) => isLack) };
  }

  get #identity(): ArchiveIdentity {
    const { identity } = this.filler.archive;
    if (identity === undefined) throw new Error("Cannot heal a gap: the archive is not made yet");
    return identity;
  }

  async #look(): Promise<CopyNames> {
    const { places } = this.options;
    const inProgress = await this.disk.list(IN_PROGRESS_DIRECTORY) ?? [];
    if (places === "unfinished") return { root: new Set(), inProgress };
    const names = await this.disk.list(".");
    if (names === undefined) {
      throw new BroughtFileError(`Cannot look into "${this.disk.root}": there is no such directory`);
    }
    await this.#refuseOtherCluster();
    return { root: new Set(names), inProgress };
  }

  /** @throws {WrongClusterError} when it says that it is another cluster's. */
  async #refuseOtherCluster(): Promise<void> {
    const bytes = await readWhole(this.disk, IDENTITY_FILE, MAXIMUM_IDENTITY_BYTES);
    const told = bytes === undefined ? undefined : decodeIdentity(bytes);
    const own = this.#identity;
    const systemIdentifier = told?.systemIdentifier ?? await this.options.systemIdentifier?.();
    if (systemIdentifier !== undefined && systemIdentifier !== own.systemIdentifier) {
      throw new WrongClusterError(
        `Cannot take WAL from "${this.disk.root}": it belongs to the cluster with system identifier ${systemIdentifier}, ` +
          `this archive to ${own.systemIdentifier}`,
      );
    }
    if (told !== undefined && told.segmentSize !== own.segmentSize) {
      throw new WrongClusterError(
        `Cannot take WAL from "${this.disk.root}": its segments are of ${told.segmentSize} bytes, want ${own.segmentSize}`,
      );
    }
    this.#isKnownCluster = systemIdentifier !== undefined;
  }

  /** Why a copy is no good; `undefined` when the archive has the segment now. */
  async #bringCopy(wanted: Wanted): Promise<Refusal | undefined> {
    const { path } = wanted.copy;
    const result = await withFile(this.disk, path, async (file): Promise<{ refusal?: Refusal }> => {
      const state = textOf(await file.state());
      const before = this.#refused.get(path);
      if (before?.state === state) return { refusal: before };
      try {
        await this.#takeFrom(file, wanted);
        return {};
      } catch (error) {
        const judgement = this.filler.judge(error);
        if (judgement === "failed" || !(error instanceof Error)) throw error;
        const isLack = error instanceof IncompleteSegmentError || error instanceof DamagedFileError;
        const refusal = { problem: error.message, isLack };
        if (judgement === "refused") {
          if (this.#refused.size >= MAXIMUM_REMEMBERED) this.#refused.clear();
          this.#refused.set(path, { state, ...refusal });
        }
        return { refusal };
      }
    });
    return result === undefined ? { problem: `"${path}" is gone`, isLack: false } : result.refusal;
  }

  async #takeFrom(file: DiskFile, { name, number, copy, tiedTo }: Wanted): Promise<void> {
    const { segmentSize } = this.#identity;
    const systemIdentifier = this.#isKnownCluster ? this.#identity.systemIdentifier : undefined;
    const tie = { systemIdentifier, tiedTo };
    const { format, path } = copy;
    if (format === undefined) {
      await refuseIncomplete(file, { path, startLsn: segmentStart(number, segmentSize), segmentSize });
      const beside = onlyFile(name, file, this.disk.root);
      const open = (other: string) => other === name ? beside.open(other) : this.disk.open(other);
      return await this.filler.take(name, { root: this.disk.root, open }, tie);
    }
    const label = `${this.disk.root}/${path}`;
    await this.filler.takeFilled(name, tie, async (target) => {
      await decompress(file, { format, label, wantBytes: segmentSize }, async (bytes, position) => {
        await target.write(bytes, position);
        return "more" as const;
      });
    });
  }
}

/** Why a copy was not taken. */
interface Refusal {
  readonly problem: string;
  /** It is no complete segment, whosever it is. */
  readonly isLack: boolean;
}

interface Wanted {
  readonly name: string;
  readonly number: SegmentNumber;
  readonly copy: SegmentCopy;
  readonly tiedTo: Neighbour;
}

/** Before anything of it is written: most copies that are kept are no whole segments. */
async function refuseIncomplete(
  file: DiskFile,
  { path, ...segment }: {
    readonly path: string;
    readonly startLsn: Lsn;
    readonly segmentSize: SegmentSize;
  },
): Promise<void> {
  const bytes = await file.bytes();
  if (bytes !== segment.segmentSize) {
    throw new IncompleteSegmentError(`"${path}" has ${bytes} bytes, want ${segment.segmentSize}`);
  }
  const scan = await proveSegmentFile(file, segment);
  if (isWholeAndRight(scan)) return;
  throw new IncompleteSegmentError(
    `"${path}" is no complete segment: its WAL is right only up to ${formatLsn(scan.contentEndLsn)}` +
      (scan.problem === undefined ? "" : ` (${scan.problem})`),
  );
}

function textOf({ inode, bytes, modifiedMs, changedMs }: FileState): string {
  return `${inode} ${bytes} ${modifiedMs} ${changedMs}`;
}
