import { ArchiveConflictError, WrongClusterError } from "../wal/errors.ts";
import { overlap } from "../wal/lineage.ts";
import type { SegmentNumber } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { acceptFile } from "./accept.ts";
import {
  type BroughtDirectory,
  BroughtFileError,
  IncompleteSegmentError,
  type Neighbour,
} from "./acceptance.ts";
import type { Archive } from "./archive.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { DiskFile, DiskSpace } from "./disk.ts";
import { removeName } from "./durable.ts";
import { isAnchoredBehind } from "./forward_link.ts";
import { segmentsOfGap } from "./gaps.ts";
import { readHistoryBytes } from "./history_file.ts";
import { IN_PROGRESS_DIRECTORY, isPushedName, pushedPath } from "./layout.ts";
import { judgeRoom, type MinimumFree } from "./minimum_free.ts";

/** What is said of a segment for which the time has not come. */
export const NOTHING_BEHIND_YET = "nothing stands right behind it yet that could vouch for it";
const NOTHING_BEHIND_EVER =
  "what follows it was given up, so nothing behind it can vouch for it: walvault gap heal takes it " +
  "from those that continue what comes before it";

/** Why a segment can't be tied to what stands right behind it. */
export interface Awaited {
  readonly text: string;
  /** Nothing will stand there, as that was given up. */
  readonly isForEver: boolean;
}

/** What ties a segment to the archive. */
export interface Tie {
  /** Of the cluster that the segment's whole source is known to be of. */
  readonly systemIdentifier: bigint | undefined;
  readonly tiedTo: Neighbour;
}

/** What a filler is given from outside. */
export interface GapFillerOptions {
  /** Memory that the archive's disk takes without a copy; as in `AcceptOptions`. */
  readonly pieces: readonly Uint8Array[];
  /** The wall clock, in milliseconds since 1970. */
  nowMs(): number;
  /** Lower-case letters and digits, others each time. */
  suffix(): string;
  /** What receiving leaves free, which is not for old WAL either; without it a disk is filled to its last byte. */
  readonly minimumFree?: MinimumFree | undefined;
}

/** Old WAL would take the room that what comes now needs; the round ends. */
export class NoRoomError extends Error {
  override readonly name = "NoRoomError";
}

/**
 * Brings segments that are missing into an archive, through the checks of `acceptFile` and more: only what is proven, from
 * its first record to its last byte, closes a gap, and only if a neighbour in the archive vouches for it.
 *
 * It takes no lock, and works beside a receiver, pushes and others of its kind.
 */
export class GapFiller {
  #takenBytes = 0;

  constructor(readonly archive: Archive, private readonly options: GapFillerOptions) {}

  /** Grows with every byte of a segment that is brought. */
  get takenBytes(): number {
    return this.#takenBytes;
  }

  /**
   * Takes the segment `name` out of a directory; resolves when it is durable under its own name, whoever brought it.
   *
   * @throws as `acceptFile` does; {NoRoomError}.
   */
  async take(name: string, from: BroughtDirectory, tie: Tie): Promise<void> {
    await this.#refuseShortage(name, 1);
    await this.#accept(name, this.#counted(from), tie);
  }

  #counted(from: BroughtDirectory): BroughtDirectory {
    return {
      root: from.root,
      open: async (path) => {
        const file = await from.open(path);
        return file === undefined ? undefined : withRead(file, async (buffer, position) => {
          const count = await file.read(buffer, position);
          this.#takenBytes += count;
          return count;
        });
      },
    };
  }

  async #accept(
    name: string,
    from: BroughtDirectory,
    { systemIdentifier, tiedTo }: Tie,
  ): Promise<void> {
    const { pieces } = this.options;
    const startedMs = this.options.nowMs();
    const accepted = await acceptFile(this.archive, { disk: from, name }, {
      systemIdentifier,
      suffix: this.options.suffix(),
      startedMs,
      pieces,
      only: "proven",
      tiedTo,
    });
    if (accepted.outcome === "kept") {
      throw new Error(`Cannot archive ${name}: it was kept, and not published`);
    }
  }

  /**
   * Takes the segment `name`, which `fill` writes into a file of this archive's file system: nothing of it is held in
   * memory.
   */
  async takeFilled(
    name: string,
    tie: Tie,
    fill: (file: Pick<DiskFile, "write">) => Promise<void>,
  ): Promise<void> {
    const { archive } = this;
    // What is filled, and the copy of it that gets the name.
    await this.#refuseShortage(name, 2);
    const filled = `${name}.filled`;
    await this.#removeLeftOver(filled);
    const path = pushedPath(filled, this.options.suffix());
    const file = await archive.disk.create(path, archive.modes.file);
    try {
      await fill({
        write: async (bytes, position) => {
          await file.write(bytes, position);
          this.#takenBytes += bytes.length;
        },
      });
      await this.#accept(name, onlyFile(name, file, archive.disk.root), tie);
    } finally {
      try {
        await file.close();
        await removeName(archive.disk, path);
      } catch {
        // The segment is durable, or there is a better reason; the next one of its kind or a receiver removes it.
      }
    }
  }

  /**
   * Why a segment can't be tied to what stands right behind it, whoever brings it; `undefined` when it can be.
   *
   * Of a wrong server whole gaps look right, and only what stands behind tells.
   */
  async whatIsAwaited(place: {
    readonly timeline: TimelineId;
    readonly number: SegmentNumber;
  }): Promise<Awaited | undefined> {
    const { disk, identity } = this.archive;
    if (identity === undefined) throw new Error("Cannot heal a gap: the archive is not made yet");
    const { segmentSize } = identity;
    if (await isAnchoredBehind(disk, { ...place, segmentSize })) return undefined;
    const behind = {
      timeline: place.timeline,
      firstNumber: place.number + 1n as SegmentNumber,
      endNumber: place.number + 2n as SegmentNumber,
    };
    const isForEver = (await this.archive.ledger()).acceptances
      .some((range) => overlap(segmentsOfGap(range, segmentSize), behind));
    return { text: isForEver ? NOTHING_BEHIND_EVER : NOTHING_BEHIND_YET, isForEver };
  }

  /** The history that the archive has of a timeline. */
  historyOf(timeline: TimelineId): Promise<Uint8Array | undefined> {
    return readHistoryBytes(this.archive.disk, timeline);
  }

  /**
   * What to do about a segment that was not taken.
   *
   * - `refused`: the same bytes will be refused again.
   * - `passing`: another try may do.
   * - `failed`: it is not the segment's fault.
   */
  judge(error: unknown): "refused" | "passing" | "failed" {
    if (isLasting(error)) return "refused";
    return error instanceof BroughtFileError ? "passing" : "failed";
  }

  /**
   * As much must stay free as receiving wants before it goes on: whoever waits for room gets it first.
   *
   * @throws {NoRoomError} when less than that would be left.
   */
  async #refuseShortage(name: string, segments: number): Promise<void> {
    const { archive: { disk, identity }, options: { minimumFree: minimum } } = this;
    if (minimum === undefined || identity === undefined) return;
    const segmentBytes = Number(identity.segmentSize);
    let space: DiskSpace;
    try {
      space = await disk.space();
    } catch {
      // A file system that does not tell is not watched: a write finds out when it is full.
      return;
    }
    const left = { ...space, freeBytes: space.freeBytes - segments * segmentBytes };
    const short = judgeRoom(left, { minimum, segmentBytes, wasShort: true });
    if (short === undefined) return;
    throw new NoRoomError(
      `Cannot bring in ${name}: no room, want ${short.wantBytes} bytes free beside it on the disk of "${disk.root}"`,
    );
  }

  /** What a killed one left. Another one that is at work holds its file open, and needs no name. */
  async #removeLeftOver(filled: string): Promise<void> {
    const { disk, modes } = this.archive;
    const names = await disk.list(IN_PROGRESS_DIRECTORY);
    if (names === undefined) {
      await disk.makeDirectory(IN_PROGRESS_DIRECTORY, modes.directory);
      await disk.syncDirectory(".");
    }
    for (const name of names ?? []) {
      if (isPushedName(name, filled)) await removeName(disk, `${IN_PROGRESS_DIRECTORY}/${name}`);
    }
  }
}

/** True for what the file itself is to blame for, or does not agree with: as long as it stays the same, so does that. */
function isLasting(error: unknown): boolean {
  return error instanceof IncompleteSegmentError || error instanceof WrongClusterError ||
    error instanceof ArchiveConflictError || error instanceof DamagedFileError ||
    error instanceof SyntaxError;
}

/** A directory with one file in it, which stays open. */
export function onlyFile(name: string, file: DiskFile, root: string): BroughtDirectory {
  return {
    root,
    open: (path) => Promise.resolve(path === name ? keptOpen(file) : undefined),
  };
}

function withRead(file: DiskFile, read: DiskFile["read"]): DiskFile {
  return {
    write: (bytes, position) => file.write(bytes, position),
    truncate: (bytes) => file.truncate(bytes),
    sync: () => file.sync(),
    read,
    bytes: () => file.bytes(),
    inode: () => file.inode(),
    state: () => file.state(),
    close: () => file.close(),
  };
}

function keptOpen(file: DiskFile): DiskFile {
  return {
    write: () => Promise.reject(new BroughtFileError("Cannot write to a file that was brought")),
    truncate: () => Promise.reject(new BroughtFileError("Cannot cut a file that was brought")),
    sync: () => file.sync(),
    read: (buffer, position) => file.read(buffer, position),
    bytes: () => file.bytes(),
    inode: () => file.inode(),
    state: () => file.state(),
    // Its owner closes it.
    close: () => Promise.resolve(),
  };
}
