import { sameBytes } from "../wal/bytes.ts";
import { ArchiveConflictError, WrongClusterError } from "../wal/errors.ts";
import { emptyHistory, type TimelineHistory } from "../wal/history.ts";
import type { LineageStock } from "../wal/lineage.ts";
import type { Lsn } from "../wal/lsn.ts";
import { PAGE_BYTES } from "../wal/page.ts";
import { isAllZero } from "../wal/scanner.ts";
import { formatSegmentSize, type SegmentSize } from "../wal/segment.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import { adoptFiles, type Adoption, isOfReceivers } from "./adopt.ts";
import { allEnded } from "./all_ended.ts";
import { backLinksBefore, type ScanPublished } from "./back_links.ts";
import { DamagedFileError, formatKind } from "./damaged_file.ts";
import type { Disk, DiskEntry, NamedEntry } from "./disk.ts";
import { type Naming, publishBytes, readWhole, removeName, withFile, writeTemporary } from "./durable.ts";
import { readHistoryBytes, readHistoryOf } from "./history_file.ts";
import { type ArchiveIdentity, decodeIdentity, encodeIdentity } from "./identity.ts";
import { EMPTY_LEDGER, type GapLedger, missingByLedger } from "./gaps.ts";
import { appendToLedger, readLedger } from "./gap_ledger_file.ts";
import { takeInventory } from "./inventory.ts";
import {
  classifyOther,
  CONFLICTS_DIRECTORY,
  IDENTITY_FILE,
  IN_PROGRESS_DIRECTORY,
  isCompressingName,
  isPushedName,
  parseInProgressName,
  SEGMENT_FORMS,
} from "./layout.ts";
import { modesBelow } from "./modes.ts";
import { keepConflict } from "./conflict.ts";
import { compareWithPublished } from "./published.ts";
import { countWrittenBytes } from "./segment_file.ts";
import type { Leg, Modes } from "./segment_writer.ts";

const MAXIMUM_IDENTITY_BYTES = 4096;

/** Why a directory can't be used as an archive; the message ends with what to do. */
export class ArchiveError extends Error {
  override readonly name: string = "ArchiveError";
}

/** What an archive holds, as far as a receiver has to know. */
export interface ArchiveContents extends LineageStock {
  readonly histories: readonly { readonly timeline: TimelineId; readonly bytes: Uint8Array }[];
  /** Names of complete segments under which something else stands: no file, or one of another size. */
  readonly incomplete: readonly string[];
}

/** Of an archive that is not made yet. */
export const EMPTY_CONTENTS: ArchiveContents = {
  runs: [],
  histories: [],
  unfinished: [],
  incomplete: [],
  gaps: { recorded: [], accepted: [], healed: [] },
};

/** How the archive is used. */
export interface ArchiveOptions {
  readonly naming: Naming;
  /** The user that writes; `undefined` where the system has no such numbers. */
  readonly userId: number | undefined;
  /** A directory that another receiver filled may become an archive too; told when it has. */
  readonly onAdopted?: ((adoption: Adoption) => void) | undefined;
}

/**
 * One cluster's archive directory, open for its one receiver.
 *
 * `open` only looks; nothing is written before `claim`, which the caller makes under the archive's lock.
 */
export class Archive {
  #identity: ArchiveIdentity | undefined;

  private constructor(
    readonly disk: Disk,
    private readonly options: ArchiveOptions,
    readonly modes: Modes,
    identity: ArchiveIdentity | undefined,
  ) {
    this.#identity = identity;
  }

  /** `undefined` while the directory is empty. */
  get identity(): ArchiveIdentity | undefined {
    return this.#identity;
  }

  get naming(): Naming {
    return this.options.naming;
  }

  /**
   * Looks whether a directory is an archive, or empty and so may become one.
   *
   * @throws {ArchiveError} when it is neither, or belongs to another user.
   */
  static async open(disk: Disk, options: ArchiveOptions): Promise<Archive> {
    const directories = [IN_PROGRESS_DIRECTORY, CONFLICTS_DIRECTORY];
    // At once; what they find counts in the order below.
    const [rootLook, identityRead, identityLook, ...looks] = await allEnded([
      disk.entry("."),
      readIdentity(disk),
      disk.entry(IDENTITY_FILE),
      ...directories.map((directory) => disk.entry(directory)),
    ]);
    const root = await rootLook;
    if (root === undefined) {
      throw new ArchiveError(
        `Cannot open the archive "${disk.root}": there is no such directory; make it with: mkdir -m 700 "${disk.root}"`,
      );
    }
    if (root.kind !== "directory") {
      throw new ArchiveError(
        `Cannot open the archive "${disk.root}": it is ${formatKind(root.kind)}, want a directory`,
      );
    }
    const identity = await identityRead;
    if (identity === undefined) await refuseForeignFiles(disk, options);
    refuseOtherUser(disk, options, identity === undefined ? root : await identityLook);
    for (const [index, directory] of directories.entries()) {
      const entry = await looks[index];
      if (entry === undefined || entry.kind === "directory") continue;
      throw new ArchiveError(
        `Cannot open the archive "${disk.root}": "${directory}" in it is ${
          formatKind(entry.kind)
        }, want a directory`,
      );
    }
    return new Archive(disk, options, modesBelow(root), identity);
  }

  /**
   * Makes the directory this cluster's archive, or checks that it is (P5).
   *
   * @throws {WrongClusterError} when it is another cluster's.
   */
  async claim(server: ArchiveIdentity): Promise<void> {
    if (this.#identity === undefined) {
      const adoption = await this.#adopt(server);
      const file = { name: IDENTITY_FILE, bytes: encodeIdentity(server), mode: this.modes.file };
      await publishBytes(this.disk, file, this.naming);
      // Somebody else may have been first.
      this.#identity = await readIdentity(this.disk);
      if (adoption !== undefined) this.options.onAdopted?.(adoption);
    }
    await this.#refuseExchange(this.#identity);
    const own = this.check(server);
    if (await this.disk.entry(IN_PROGRESS_DIRECTORY) === undefined) {
      await this.disk.makeDirectory(IN_PROGRESS_DIRECTORY, this.modes.directory);
    }
    const names = await this.disk.list(".") ?? [];
    for (const name of names) {
      if (classifyOther(name).kind === "temporary") await removeName(this.disk, name);
    }
    await this.disk.syncDirectory(".");
    await this.#removeUnused(own);
  }

  /**
   * Checks that the archive is this cluster's, and changes nothing (P5).
   *
   * @throws {WrongClusterError} when it is another cluster's.
   */
  check(server: ArchiveIdentity): ArchiveIdentity {
    const own = this.#identity;
    if (own?.systemIdentifier !== server.systemIdentifier) {
      throw new WrongClusterError(
        `Cannot archive into "${this.disk.root}": it belongs to the cluster with system identifier ${own?.systemIdentifier}, ` +
          `the server has ${server.systemIdentifier}; ${
            this.#adviseDirectory(String(server.systemIdentifier))
          }`,
      );
    }
    if (own.segmentSize !== server.segmentSize) {
      throw new WrongClusterError(
        `Cannot archive into "${this.disk.root}": its segments are of ${
          formatSegmentSize(own.segmentSize)
        }, ` +
          `the server's of ${formatSegmentSize(server.segmentSize)}; ${
            this.#adviseDirectory(formatSegmentSize(server.segmentSize))
          }`,
      );
    }
    return own;
  }

  /** After initdb, pg_upgrade or pg_resetwal --wal-segsize: what is here stays good for the old cluster's backups. */
  #adviseDirectory(suffix: string): string {
    const directory = `${this.disk.root.replace(/\/+$/, "")}-${suffix}`;
    return `use a new directory for the new cluster, and keep this one with its backups: mkdir -m 700 "${directory}"`;
  }

  /**
   * Looks once more whether this is still the archive that was opened: whoever says that something is durable in it
   * does that last.
   *
   * @throws {WrongClusterError} when the archive is gone, or is another one.
   */
  async confirm(): Promise<void> {
    await this.#refuseExchange(this.#identity);
  }

  /** What another receiver left is this cluster's, and lies where an archive has it, before there is an archive. */
  async #adopt(server: ArchiveIdentity): Promise<Adoption | undefined> {
    const { naming, onAdopted } = this.options;
    const names = onAdopted === undefined ? [] : await this.disk.list(".") ?? [];
    if (!names.some(isOfReceivers)) return undefined;
    return await adoptFiles(this.disk, { identity: server, modes: this.modes, naming });
  }

  /**
   * Another directory under the same name is not this archive, and must not become one: what is acknowledged would lie
   * under a mount point.
   *
   * @throws {WrongClusterError} when the archive is gone, or is another one.
   */
  async #refuseExchange(own: ArchiveIdentity | undefined): Promise<void> {
    const now = await readIdentity(this.disk);
    if (
      own !== undefined && now?.systemIdentifier === own.systemIdentifier &&
      now.segmentSize === own.segmentSize
    ) return;
    throw new WrongClusterError(
      `Cannot go on with the archive "${this.disk.root}": ${
        now === undefined ? "archive.json is gone" : "archive.json is of another archive"
      }; look whether its disk is still mounted there, then start again`,
    );
  }

  /**
   * Removes what an earlier run had laid ahead and never used: it holds nothing, and its turn may never come; and what
   * a killed push left. One that is at work finds its file gone, and the server asks again.
   */
  async #removeUnused(identity: ArchiveIdentity): Promise<void> {
    for (const name of await this.disk.list(IN_PROGRESS_DIRECTORY) ?? []) {
      if (isPushedName(name)) await removeName(this.disk, `${IN_PROGRESS_DIRECTORY}/${name}`);
      const parsed = parseInProgressName(name, identity.segmentSize);
      if (parsed === undefined || parsed.savedCount !== undefined) continue;
      const path = `${IN_PROGRESS_DIRECTORY}/${name}`;
      const unused = await withFile(this.disk, path, async (file) => {
        const start = new Uint8Array(PAGE_BYTES);
        await file.read(start, 0);
        // The first page is enough to see that a file is in use; all of it, to see that it is not.
        return isAllZero(start) && await countWrittenBytes(file) === 0;
      });
      // A crash between giving a segment its own name and taking away this one leaves both.
      const published = unused !== true &&
        await this.#isPublished(path, { name, segmentSize: identity.segmentSize });
      if (unused === true || published) await removeName(this.disk, path);
    }
  }

  async #isPublished(
    path: string,
    segment: { readonly name: string; readonly segmentSize: SegmentSize },
  ): Promise<boolean> {
    try {
      const comparison = await compareWithPublished(this.disk, { ...segment, path });
      return comparison !== undefined && comparison.difference === undefined;
    } catch (error) {
      // What stands there can't be read: then what is here is all there is of it.
      if (error instanceof DamagedFileError) return false;
      throw error;
    }
  }

  /** Removes what a compression that was cut off left behind; under the archive's lock, with none under way. */
  async removeCompressing(): Promise<void> {
    for (const name of await this.disk.list(IN_PROGRESS_DIRECTORY) ?? []) {
      if (isCompressingName(name)) await removeName(this.disk, `${IN_PROGRESS_DIRECTORY}/${name}`);
    }
  }

  /**
   * What the archive holds. All of it survives a power cut: an earlier process may have died between giving a name
   * and syncing the directory, so the directories are synced before what was seen in them is believed.
   */
  async contents(): Promise<ArchiveContents> {
    const identity = this.#identity;
    if (identity === undefined) return EMPTY_CONTENTS;
    const names = {
      archive: await this.#archiveEntries(),
      inProgress: await this.disk.list(IN_PROGRESS_DIRECTORY),
    };
    // Behind the listing: a name that somebody gave in between would be believed, and not be durable.
    await this.disk.syncDirectory(".");
    // A process that died while it made the archive leaves none; the next `claim` makes it.
    if (names.inProgress !== undefined) await this.disk.syncDirectory(IN_PROGRESS_DIRECTORY);
    const inventory = takeInventory({ ...names, inProgress: names.inProgress ?? [] }, identity.segmentSize);
    const histories: { timeline: TimelineId; bytes: Uint8Array }[] = [];
    for (const timeline of inventory.histories) {
      const bytes = await readHistoryBytes(this.disk, timeline);
      if (bytes !== undefined) histories.push({ timeline, bytes });
    }
    return {
      runs: inventory.runs,
      histories,
      unfinished: inventory.unfinished,
      incomplete: inventory.incomplete,
      gaps: missingByLedger(await this.ledger(), identity.segmentSize),
    };
  }

  /** A timeline with its ancestors; with none where the archive does not have its history. */
  async lineage(timeline: TimelineId): Promise<TimelineHistory> {
    return await readHistoryOf(this.disk, timeline) ?? emptyHistory(timeline);
  }

  /**
   * What is known of WAL that is missing.
   *
   * A line that an earlier process wrote may not survive a power cut: see `appendToLedger`.
   * @throws {SyntaxError} when a newer program wrote in it.
   */
  async ledger(): Promise<GapLedger> {
    return await readLedger(this.disk) ?? EMPTY_LEDGER;
  }

  /** Adds a line to the ledger, beside whoever else does; durable when it resolves. */
  async appendToLedger(line: Uint8Array): Promise<void> {
    await appendToLedger(this.disk, line, this.modes.file);
  }

  /**
   * What stands in the archive directory. A segment whose compressed form takes the plain one's place meanwhile may be in
   * neither form where one listing looks: two listings together have it.
   */
  async #archiveEntries(): Promise<readonly NamedEntry[]> {
    const before = await this.disk.list(".") ?? [];
    const entries = [...await this.disk.entries(".") ?? []];
    const segmentOf = (name: string) => /^[0-9A-F]{24}(?=$|\.(zst|gz|lz4)$)/.exec(name)?.[0];
    const seen = new Set(entries.map(({ name }) => segmentOf(name)));
    for (const name of before) {
      const segment = segmentOf(name);
      if (segment === undefined || seen.has(segment)) continue;
      seen.add(segment);
      for (const form of SEGMENT_FORMS) {
        const entry = await this.disk.entry(segment + form);
        if (entry !== undefined) entries.push({ name: segment + form, ...entry });
      }
    }
    return entries;
  }

  /**
   * Stores a timeline history; when it resolves, it is durable. The same bytes again are fine.
   *
   * @throws {ArchiveConflictError} when the archive has another history of that timeline; both are kept.
   */
  async storeHistory(timeline: TimelineId, bytes: Uint8Array): Promise<"stored" | "present"> {
    const name = historyFileName(timeline);
    const file = { name, bytes, mode: this.modes.file };
    if (await this.disk.entry(name) === undefined && await publishBytes(this.disk, file, this.naming)) {
      return "stored";
    }
    const own = await readHistoryBytes(this.disk, timeline);
    if (own !== undefined && sameBytes(own, bytes)) return "present";
    const from = await writeTemporary(this.disk, file);
    const kept = await keepConflict(this.disk, { from, name }, { modes: this.modes, naming: this.naming });
    throw new ArchiveConflictError(
      `Cannot store ${name}: the archive has another history of timeline ${timeline} ("${this.disk.root}/${name}"), ` +
        `the server's is kept as "${this.disk.root}/${kept}"; two servers were promoted to the same timeline: ` +
        "find out which one is right, and give the other a new archive",
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
}

async function readIdentity(disk: Disk): Promise<ArchiveIdentity | undefined> {
  const bytes = await readWhole(disk, IDENTITY_FILE, MAXIMUM_IDENTITY_BYTES);
  if (bytes === undefined) return undefined;
  try {
    return decodeIdentity(bytes);
  } catch (error) {
    throw new ArchiveError(`Cannot open the archive "${disk.root}": ${(error as Error).message}`, {
      cause: error,
    });
  }
}

async function refuseForeignFiles(disk: Disk, { onAdopted }: ArchiveOptions): Promise<void> {
  const names = await disk.list(".") ?? [];
  const foreign = names.filter((name) => {
    if (onAdopted !== undefined && isOfReceivers(name)) return false;
    const { kind } = classifyOther(name);
    return kind === "foreign" || (kind === "own" && name !== "lock");
  });
  if (foreign.length === 0) return;
  const shown = foreign.sort().slice(0, 3).map((name) => JSON.stringify(name)).join(", ");
  throw new ArchiveError(
    `Cannot open the archive "${disk.root}": it has no archive.json but ${foreign.length} other ` +
      `${foreign.length === 1 ? "entry" : "entries"} (${shown}); use an empty directory`,
  );
}

function refuseOtherUser(disk: Disk, options: ArchiveOptions, witness: DiskEntry | undefined): void {
  const owner = witness?.ownerId;
  if (owner === undefined || options.userId === undefined || owner === options.userId) return;
  throw new ArchiveError(
    `Cannot write to the archive "${disk.root}": it belongs to the user with id ${owner}, this process runs as ${options.userId}; ` +
      `run walvault as its owner: sudo -u '#${owner}' walvault …`,
  );
}
