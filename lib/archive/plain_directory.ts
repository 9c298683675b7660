import { ArchiveConflictError, WrongClusterError } from "../wal/errors.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { sameBytes } from "../wal/bytes.ts";
import type { Lsn } from "../wal/lsn.ts";
import { formatSegmentSize, parseSegmentName, type SegmentSize, segmentStart } from "../wal/segment.ts";
import { historyFileName, parseHistoryFileName, type TimelineId } from "../wal/timeline.ts";
import { type ArchiveContents, ArchiveError, EMPTY_CONTENTS } from "./archive.ts";
import { backLinksBefore, type ScanPublished } from "./back_links.ts";
import {
  type CompressionFormat,
  DamagedFileError,
  decompress,
  decompressUnfinished,
  FORMAT_OF_FORM,
} from "./compression.ts";
import type { Disk, DiskFile } from "./disk.ts";
import { firstDifference, type Naming, publishBytes, removeName, withFile } from "./durable.ts";
import { readHistoryBytes } from "./history_file.ts";
import { readFirstPage } from "./plain_first_page.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { joinRuns } from "./inventory.ts";
import { COMPRESSED_FORMS, IDENTITY_FILE, IN_PROGRESS_DIRECTORY, isCompressingName } from "./layout.ts";
import { PARTIAL_SUFFIX } from "./plain_layout.ts";
import { scanThrough, type TakeBytes } from "./segment_file.ts";
import { newestFirst, parsePlainFile, type PlainFile } from "./plain_file.ts";
import type { Leg, Modes } from "./segment_writer.ts";

/** The length of its content in the last bytes of a gzip file. */
const GZIP_LENGTH_BYTES = 4;
/** So many of the newest files are asked whose cluster they are of, until one tells. */
const WITNESSES = 8;

/** How the directory is used. */
export interface PlainDirectoryOptions {
  /** The disk as it is, without the archive's names. */
  readonly disk: Disk;
  readonly naming: Naming;
  /** A complete segment's name under which something else stands; it counts as missing. */
  onIncomplete(
    file: { readonly name: string; readonly format: CompressionFormat | undefined; readonly bytes: number },
  ): void;
}

/**
 * A directory as `pg_receivewal` keeps it, open for its one receiver: no identity file, no `inprogress/`.
 *
 * Whose cluster it is of, the first pages of its newest files tell.
 */
export class PlainDirectory {
  #identity: ArchiveIdentity | undefined;
  readonly modes: Modes = { file: 0o600, directory: 0o700 };

  private constructor(readonly disk: Disk, private readonly options: PlainDirectoryOptions) {}

  get identity(): ArchiveIdentity | undefined {
    return this.#identity;
  }

  get naming(): Naming {
    return this.options.naming;
  }

  /**
   * @param layout the same disk with the names of an archive
   * @throws {ArchiveError} when it is a walvault archive: its segments must not stand beside files of another layout.
   */
  static async open(layout: Disk, options: PlainDirectoryOptions): Promise<PlainDirectory> {
    if (await options.disk.entry(IDENTITY_FILE) !== undefined) {
      throw new ArchiveError(
        `directory "${layout.root}" is an archive of walvault: receive into it with walvault receive, or use another directory`,
      );
    }
    return new PlainDirectory(layout, options);
  }

  /** The permissions of new files, as the server's data directory has them. */
  withModes(modes: Modes): void {
    Object.assign(this.modes, modes);
  }

  /**
   * Checks that what is there is of this cluster.
   *
   * @throws {WrongClusterError} when the newest file that tells is of another one.
   */
  async claim(server: ArchiveIdentity): Promise<void> {
    const files = newestFirst(await this.#files(server.segmentSize));
    for (const file of files.slice(0, WITNESSES)) {
      const first = await readFirstPage(this.options.disk, file);
      if (first.kind !== "header") continue;
      const { header } = first;
      if (header.systemIdentifier !== server.systemIdentifier) {
        throw new WrongClusterError(
          `segment file "${file.entry.name}" belongs to the cluster with system identifier ${header.systemIdentifier}, ` +
            `the server has ${server.systemIdentifier}`,
        );
      }
      if (header.segmentBytes !== Number(server.segmentSize)) {
        throw new WrongClusterError(
          `segment file "${file.entry.name}" is of a cluster with segments of ${header.segmentBytes} bytes, ` +
            `the server's are of ${formatSegmentSize(server.segmentSize)}`,
        );
      }
      break;
    }
    this.#identity = server;
    await this.#removePublishedPartials(files);
    // What a compression that was cut off left behind.
    for (const name of await this.disk.list(IN_PROGRESS_DIRECTORY) ?? []) {
      if (isCompressingName(name)) await removeName(this.disk, `${IN_PROGRESS_DIRECTORY}/${name}`);
    }
  }

  /**
   * Removes what an earlier `pg_receivewal` left compressed of a segment that is complete now, and tells the names of
   * those that hold something else up to their last record.
   */
  async removePassedPartials(segment: string): Promise<readonly string[]> {
    const size = this.#identity?.segmentSize;
    const kept: string[] = [];
    for (const form of COMPRESSED_FORMS) {
      const name = segment + form + PARTIAL_SUFFIX;
      if (size === undefined || await this.options.disk.entry(name) === undefined) continue;
      if (await this.#isPassed({ name, segment, format: FORMAT_OF_FORM[form], size })) {
        await removeName(this.options.disk, name);
      } else kept.push(name);
    }
    return kept;
  }

  async #isPassed(
    { name, segment, format, size }: {
      readonly name: string;
      readonly segment: string;
      readonly format: CompressionFormat;
      readonly size: SegmentSize;
    },
  ): Promise<boolean> {
    const parsed = parseSegmentName(segment, size);
    if (parsed === undefined) return false;
    const startLsn = segmentStart(parsed.number, size);
    const read = (take: TakeBytes) =>
      withFile(
        this.options.disk,
        name,
        (file) =>
          decompressUnfinished(
            file,
            { format, label: `${this.disk.root}/${name}`, maximumBytes: size },
            take,
          ),
      );
    const scan = await scanThrough(async (take) => void await read(take), { startLsn, segmentSize: size });
    const validBytes = Number(scan.endLsn - startLsn);
    let same = true;
    await withFile(this.options.disk, segment, (complete) =>
      read(async (bytes, position) => {
        const want = bytes.subarray(0, Math.max(0, validBytes - position));
        const own = new Uint8Array(want.length);
        const count = await complete.read(own, position);
        same &&= count === own.length && want.every((byte, index) => byte === own[index]);
        return same && want.length === bytes.length ? "more" : "enough";
      }));
    return same;
  }

  /** What the directory holds. All of it survives a power cut, since the directory is synced before it is believed. */
  async contents(): Promise<ArchiveContents> {
    const identity = this.#identity;
    if (identity === undefined) return EMPTY_CONTENTS;
    await this.disk.syncDirectory(".");
    const files = newestFirst(await this.#files(identity.segmentSize));
    const complete: PlainFile[] = [];
    for (const file of files.filter((each) => !each.isPartial)) {
      // A later start must not rest on a file that can't be read; older ones are too many to be read at each start.
      const thorough = complete.length === 0;
      const bytes = await this.#contentBytes(file, { thorough, segmentSize: identity.segmentSize });
      if (bytes === Number(identity.segmentSize)) complete.push(file);
      else this.options.onIncomplete({ name: file.entry.name, format: file.format, bytes });
    }
    const histories: { timeline: TimelineId; bytes: Uint8Array }[] = [];
    for (const { name, kind } of await this.options.disk.entries(".") ?? []) {
      const timeline = parseHistoryFileName(name);
      if (timeline === undefined || kind !== "file") continue;
      const bytes = await readHistoryBytes(this.disk, timeline);
      if (bytes !== undefined) histories.push({ timeline, bytes });
    }
    return {
      runs: joinRuns(complete),
      histories,
      unfinished: files.filter((file) => file.isPartial),
      incomplete: [],
      gaps: EMPTY_CONTENTS.gaps,
    };
  }

  /**
   * Stores a timeline history; when it resolves, it is durable. The same bytes again are fine.
   *
   * @throws {ArchiveConflictError} when another history of that timeline is there.
   */
  async storeHistory(timeline: TimelineId, bytes: Uint8Array): Promise<"stored" | "present"> {
    const name = historyFileName(timeline);
    const present = await readHistoryBytes(this.disk, timeline);
    if (present === undefined) {
      if (await publishBytes(this.disk, { name, bytes, mode: this.modes.file }, this.naming)) return "stored";
    } else if (sameBytes(present, bytes)) {
      return "present";
    }
    throw new ArchiveConflictError(
      `timeline history file "${name}" in "${this.disk.root}" differs from the server's: two servers were promoted to timeline ${timeline}`,
    );
  }

  /** The leg that starts at `startLsn`, a segment's start, with what its first record must point back to. */
  async planLeg(startLsn: Lsn, lineage: TimelineHistory, scanSegment?: ScanPublished): Promise<Leg> {
    const segmentSize = this.#identity?.segmentSize;
    const backLinks = segmentSize === undefined
      ? []
      : await backLinksBefore(this.disk, { startLsn, lineage, segmentSize }, scanSegment);
    return { timeline: lineage.timeline, startLsn, lineage, backLinks };
  }

  async #files(size: SegmentSize): Promise<readonly PlainFile[]> {
    const entries = await this.options.disk.entries(".") ?? [];
    return entries.flatMap((entry) => parsePlainFile(entry, size) ?? []);
  }

  /** How many bytes of WAL a complete file holds: -1 for one that can't be read. */
  async #contentBytes(
    file: PlainFile,
    { thorough, segmentSize: size }: { readonly thorough: boolean; readonly segmentSize: SegmentSize },
  ): Promise<number> {
    if (file.format === undefined) return file.entry.bytes;
    if (thorough) {
      let bytes = 0;
      const whole = await this.#read(file, size, (piece) => {
        bytes += piece.length;
        return "more";
      });
      return whole ? bytes : -1;
    }
    if (file.format !== "gzip") return Number(size);
    const length = await withFile(
      this.options.disk,
      file.entry.name,
      (opened) => gzipLength(opened, file.entry.bytes),
    );
    return length ?? -1;
  }

  /** False when the file is damaged, or gone. */
  async #read(
    file: PlainFile,
    size: SegmentSize,
    take: (bytes: Uint8Array) => "more" | "enough",
  ): Promise<boolean> {
    const { entry: { name }, format } = file;
    if (format === undefined) return true;
    try {
      const found = await withFile(this.options.disk, name, async (opened) => {
        await decompress(opened, { format, label: `${this.disk.root}/${name}`, wantBytes: size }, take);
        return true;
      });
      return found === true;
    } catch (error) {
      if (!(error instanceof DamagedFileError)) throw error;
      return false;
    }
  }

  /** A crash between a segment's two names leaves both: the growing one goes when it holds the same. */
  async #removePublishedPartials(files: readonly PlainFile[]): Promise<void> {
    const size = this.#identity?.segmentSize;
    for (const { entry, segment: complete, format } of files.filter((file) => file.isPartial)) {
      const twin = files.find((file) => file.entry.name === complete)?.entry;
      if (twin === undefined || format !== undefined || size === undefined) continue;
      const same = twin.inode === entry.inode ||
        await firstDifference(this.options.disk, [entry.name, complete], { start: 0, end: Number(size) }) ===
          undefined;
      if (same) await removeName(this.options.disk, entry.name);
    }
  }
}

async function gzipLength(file: DiskFile, fileBytes: number): Promise<number> {
  const bytes = new Uint8Array(GZIP_LENGTH_BYTES);
  if (fileBytes < bytes.length) return -1;
  await file.read(bytes, fileBytes - bytes.length);
  return new DataView(bytes.buffer).getInt32(0, true);
}
