import { type CompressionFormat, FORMAT_OF_FORM } from "../archive/compression_format.ts";
import { DamagedFileError, NotAFileError } from "../archive/damaged_file.ts";
import type { Disk } from "../archive/disk.ts";
import { readWhole, withPlainFile } from "../archive/durable.ts";
import { type ArchiveIdentity, decodeIdentity } from "../archive/identity.ts";
import {
  CONFLICTS_DIRECTORY,
  IDENTITY_FILE,
  IN_PROGRESS_DIRECTORY,
  LOCK_FILE,
  SEGMENT_FORMS,
} from "../archive/layout.ts";
import { readThrough, type TakeBytes } from "../archive/segment_file.ts";
import { cutHistoryProblem, emptyHistory, parseHistory, type TimelineHistory } from "../wal/history.ts";
import { decodePageHeader, LONG_PAGE_HEADER_BYTES } from "../wal/page.ts";
import { isAllZero } from "../wal/scanner.ts";
import { type SegmentSize, segmentSize } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import { OutageError, VanishedError } from "./obstacle.ts";
import { isWalName, type Stock, takeStock, takeStockWithoutSize, type UnfinishedFile } from "./stock.ts";

/** The largest segments that PostgreSQL makes. */
const MAXIMUM_SEGMENT_BYTES = 1 << 30;
const MAXIMUM_IDENTITY_BYTES = 4096;
/** Larger than any history: a line per timeline, of at most some hundred bytes. */
const MAXIMUM_HISTORY_BYTES = 1 << 20;

/** All names in an archive. */
export interface ArchiveNames {
  readonly root: readonly string[];
  readonly inProgress: readonly string[];
}

/** Who wrote a directory of WAL, as one of its segments tells. */
interface Origin {
  readonly systemIdentifier: bigint | undefined;
  readonly segmentSize: SegmentSize;
}

/** An archive, or a directory that `pg_receivewal` fills, as a restore reads it; nothing in it is changed. */
export class ArchiveDirectory {
  private constructor(
    readonly disk: Disk,
    /** `undefined` in a directory of `pg_receivewal`. */
    readonly identity: ArchiveIdentity | undefined,
  ) {}

  /** @throws {DamagedFileError} when `archive.json` can't be right. */
  static async open(disk: Disk): Promise<ArchiveDirectory> {
    const bytes = await readWhole(disk, IDENTITY_FILE, MAXIMUM_IDENTITY_BYTES, withPlainFile);
    if (bytes === undefined) return new ArchiveDirectory(disk, undefined);
    try {
      return new ArchiveDirectory(disk, decodeIdentity(bytes));
    } catch (cause) {
      throw new DamagedFileError(`Cannot read the archive "${disk.root}"`, { cause });
    }
  }

  /**
   * Every name, the growing ones first: what is published in between is then found among the published ones.
   *
   * @throws {OutageError} when this is neither an archive nor a directory of `pg_receivewal`: a disk that is not mounted.
   */
  async names(): Promise<ArchiveNames> {
    const inProgress = await this.disk.list(IN_PROGRESS_DIRECTORY);
    const root = await this.disk.list(".");
    if (root === undefined) {
      throw new OutageError(
        `Cannot read the archive "${this.disk.root}": there is no such directory`,
        "Look whether its disk is mounted; a relative path counts from the working directory, the server's data directory",
      );
    }
    const marks = [LOCK_FILE, IN_PROGRESS_DIRECTORY, CONFLICTS_DIRECTORY].filter((name) =>
      root.includes(name)
    );
    if (this.identity === undefined && (marks.length > 0 || !root.some(isWalName))) {
      throw new OutageError(
        `Cannot read the archive "${this.disk.root}": it has no ${IDENTITY_FILE}` +
          (marks.length > 0 ? `, but "${marks.join('", "')}"` : " and no WAL"),
        "Look whether its disk is mounted",
      );
    }
    // What an archive always has: a listing without it is cut short, or of another directory.
    const lacks = [IDENTITY_FILE, IN_PROGRESS_DIRECTORY].find((name) => !root.includes(name));
    if (this.identity !== undefined && (lacks !== undefined || inProgress === undefined)) {
      throw new OutageError(
        `Cannot read the archive "${this.disk.root}": its listing lacks "${lacks ?? IN_PROGRESS_DIRECTORY}"`,
        "Look whether its disk is mounted, and whether all of the archive was copied",
      );
    }
    return { root, inProgress: inProgress ?? [] };
  }

  /** What the names say; of segments only their timelines where nobody can tell their size. */
  async stock(names: ArchiveNames): Promise<{ readonly stock: Stock; readonly origin: Origin | undefined }> {
    const origin = await this.origin(names);
    const stock = origin === undefined
      ? takeStockWithoutSize(names.root)
      : takeStock(names, origin.segmentSize);
    return { stock, origin };
  }

  /** The files where segments grow, or were left; those that a receiver moves. */
  async unfinishedFiles(size: SegmentSize): Promise<readonly UnfinishedFile[]> {
    const where = this.identity === undefined ? "." : IN_PROGRESS_DIRECTORY;
    const names = await this.disk.list(where) ?? [];
    const root = this.identity === undefined ? names : [];
    return takeStock({ root, inProgress: this.identity === undefined ? [] : names }, size).unfinished;
  }

  /** Which cluster's WAL this is; `undefined` when no file tells. */
  async origin(names: ArchiveNames): Promise<Origin | undefined> {
    if (this.identity !== undefined) return this.identity;
    const segments = names.root.filter((name) => /^[0-9A-F]{24}/.test(name)).sort().reverse();
    // Plain files first: they tell it in their first bytes. The newest, as the oldest may go at any time.
    for (const name of segments.filter((name) => !/\.(gz|lz4|zst)/.test(name))) {
      const origin = await unlessNoFile(
        this.#originOf((take) => this.#readFile({ path: name, format: undefined }, take)),
      );
      if (origin !== undefined) return origin;
    }
    for (const name of segments.filter((name) => /\.(gz|lz4|zst)$/.test(name))) {
      const origin = await unlessNoFile(this.originOfPublished(name.slice(0, 24)));
      if (origin !== undefined) return origin;
    }
    for (const name of segments) {
      const [, form] = /(\.gz|\.lz4|\.zst)\.partial$/.exec(name) ?? [];
      if (form === undefined) continue;
      const format = FORMAT_OF_FORM[form as keyof typeof FORMAT_OF_FORM];
      const origin = await unlessNoFile(
        this.#originOf((take) => this.#readFile({ path: name, format }, take)),
      );
      if (origin !== undefined) return origin;
    }
    return undefined;
  }

  /** What a complete segment tells of its cluster; `undefined` when it is not there, or its first page can't be right. */
  async originOfPublished(name: string): Promise<Origin | undefined> {
    for (const form of [...SEGMENT_FORMS, ""] as const) {
      const file = { path: name + form, format: form === "" ? undefined : FORMAT_OF_FORM[form] };
      if (await this.disk.entry(file.path) === undefined) continue;
      return await this.#originOf((take) => this.#readFile(file, take));
    }
    return undefined;
  }

  async #originOf(source: (take: TakeBytes) => Promise<void>): Promise<Origin | undefined> {
    const start = new Uint8Array(LONG_PAGE_HEADER_BYTES);
    let taken = 0;
    await source((bytes) => {
      const count = Math.min(bytes.length, start.length - taken);
      start.set(bytes.subarray(0, count), taken);
      taken += count;
      return taken === start.length ? "enough" : "more";
    });
    const header = taken === start.length ? decodePageHeader(start) : undefined;
    if (header?.segmentBytes === undefined) return undefined;
    try {
      return { systemIdentifier: header.systemIdentifier, segmentSize: segmentSize(header.segmentBytes) };
    } catch {
      // A header that can't be right: another file may tell, and this one is judged when it is asked for.
      return undefined;
    }
  }

  /** Hands over what an unfinished segment holds, as far as it can be read. */
  async readUnfinished(file: UnfinishedFile, take: TakeBytes): Promise<void> {
    await this.#readFile(file, take);
  }

  async #readFile(
    { path, format }: { readonly path: string; readonly format: CompressionFormat | undefined },
    take: TakeBytes,
  ): Promise<void> {
    const found = await withPlainFile(this.disk, path, async (file) => {
      const label = `${this.disk.root}/${path}`;
      if (format === undefined) {
        await readThrough(file, take);
        return true;
      }
      const { decompressUnfinished } = await import("../archive/compression.ts");
      await decompressUnfinished(file, { format, label, maximumBytes: MAXIMUM_SEGMENT_BYTES }, take);
      return true;
    });
    if (found === undefined) throw new VanishedError(`"${this.disk.root}/${path}" is gone`);
  }

  /** Whether anything was ever written into an unfinished segment. */
  async hasContent(file: UnfinishedFile): Promise<boolean> {
    // A compressed one is not made of zeros beforehand; its first bytes of WAL may still be on the way.
    if (file.format !== undefined) return ((await this.disk.entry(file.path))?.bytes ?? 0) > 0;
    let found = false;
    await this.readUnfinished(file, (bytes) => {
      found = !isAllZero(bytes);
      return found ? "enough" : "more";
    });
    return found;
  }

  /** A small file as it is; `undefined` when absent. */
  async readSmall(name: string): Promise<Uint8Array | undefined> {
    return await readWhole(this.disk, name, MAXIMUM_HISTORY_BYTES, withPlainFile);
  }

  /**
   * The history of a timeline; `undefined` when the archive has none.
   *
   * @throws {DamagedFileError} when the file can't be right.
   */
  async history(timeline: TimelineId): Promise<TimelineHistory | undefined> {
    const bytes = await this.readSmall(historyFileName(timeline));
    if (bytes === undefined) return timeline === 1 ? emptyHistory(timeline) : undefined;
    return this.parseHistory(timeline, bytes);
  }

  /** @throws {DamagedFileError} when these are no history of that timeline, whole. */
  parseHistory(timeline: TimelineId, bytes: Uint8Array): TimelineHistory {
    const path = `${this.disk.root}/${historyFileName(timeline)}`;
    let history: TimelineHistory;
    try {
      history = parseHistory(timeline, bytes);
    } catch (cause) {
      throw new DamagedFileError(`Cannot read "${path}"`, { cause });
    }
    const problem = cutHistoryProblem(history, bytes);
    if (problem !== undefined) throw new DamagedFileError(`Cannot read "${path}": ${problem}`);
    return history;
  }
}

/** Another file may tell. */
async function unlessNoFile(origin: Promise<Origin | undefined>): Promise<Origin | undefined> {
  try {
    return await origin;
  } catch (error) {
    if (error instanceof NotAFileError) return undefined;
    throw error;
  }
}
