import type { Lsn } from "../wal/lsn.ts";
import type { Archive } from "./archive.ts";
import type { Compression } from "./compression.ts";
import type { Disk, DiskFile } from "./disk.ts";
import { addName, errorCode, removeName } from "./durable.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { IN_PROGRESS_DIRECTORY, isPushedName } from "./layout.ts";
import type { ReadAhead } from "./read_ahead.ts";

/** What vouches for a segment: what stands right behind it, or the complete segment right before it. */
export type Neighbour = "behind" | "before";

/** The directory that a file comes from. */
export type BroughtDirectory = Pick<Disk, "root" | "open">;

/** A file that a server hands over. */
export interface BroughtFile {
  /** The directory that it is in: the history of its timeline may be there too. */
  readonly disk: BroughtDirectory;
  readonly name: string;
}

/** What the caller knows besides the file, and what may not be asked for here. */
export interface AcceptOptions {
  /** Of the data directory that the file comes from; `undefined` when it comes from none. */
  readonly systemIdentifier: bigint | undefined;
  /** Lower-case letters and digits that no other push uses at the same time. */
  readonly suffix: string;
  /** Wall clock, before anything of the file was read. */
  readonly startedMs: number;
  /**
   * Take nothing but a complete segment of which every record holds. What a server hands over itself is taken at its
   * word, and kept also when it is not complete: there is no better copy.
   */
  readonly only?: "proven";
  /** Take a segment only if it is tied to what the archive has right there; without it, whatever is not contradicted. */
  readonly tiedTo?: Neighbour;
  /** Publish segments in this form only. */
  readonly compression?: Compression | undefined;
  /** Memory that the archive's disk takes without a copy: two pieces of a segment or more, some written while one is filled. */
  readonly pieces: readonly Uint8Array[];
  /** What stands in the first of `pieces` already. */
  readonly ahead?: ReadAhead | undefined;
}

/**
 * What became of a file; all of it survives a power cut. Paths are below the archive's root.
 *
 * - `archived`: it has its own name in the archive.
 * - `present`: the archive has the same at `path` already, or more.
 * - `kept`: no complete segment; it is at `path` until the whole one comes.
 */
export type Accepted =
  | {
    readonly outcome: "archived" | "present";
    readonly path: string;
    /** Absent when there were none. */
    readonly damaged?: readonly DamagedForm[];
  }
  | {
    readonly outcome: "kept";
    readonly path: string;
    readonly validEndLsn: Lsn;
    /** Where other bytes of the same segment are, which differ below the end of valid WAL of both. */
    readonly contradicted: { readonly path: string; readonly differenceLsn: Lsn } | undefined;
  };

/** A published form that could not be read, and made room for a good one; paths are below the archive's root. */
export interface DamagedForm {
  readonly path: string;
  readonly keptPath: string;
}

/** A file that cannot be archived, whatever the archive holds; `hint` is one line. */
export class BroughtFileError extends Error {
  override readonly name = "BroughtFileError";

  constructor(message: string, readonly hint?: string) {
    super(message);
  }
}

/** A file that does not hold all of its segment, as far as its records tell. */
export class IncompleteSegmentError extends BroughtFileError {}

/** Nothing speaks against a segment, but its neighbour does not vouch for it yet. */
export class UntiedSegmentError extends BroughtFileError {}

/** One file on its way into an archive. */
export interface Acceptance {
  readonly archive: Archive;
  readonly identity: ArchiveIdentity;
  readonly brought: BroughtFile;
  readonly options: AcceptOptions;
  /** The name of `inprogress/` that it is written under. */
  readonly temporary: string;
  /** What nothing depends on any more, and never rejects; whoever made this waits for it at the end. */
  readonly tidying: Promise<void>[];
}

/**
 * Looks into `inprogress/`, which is there from now on, and removes what killed pushes of the same file left.
 *
 * One that is not dead finds its file gone, and is asked again by its server.
 */
export async function surveyInProgress({ archive, brought }: Acceptance): Promise<readonly string[]> {
  const { disk } = archive;
  const names = await disk.list(IN_PROGRESS_DIRECTORY);
  if (names === undefined) {
    // The receiver that made the archive was stopped before it made this.
    await disk.makeDirectory(IN_PROGRESS_DIRECTORY, archive.modes.directory);
    await disk.syncDirectory(".");
    return [];
  }
  for (const name of names) {
    if (isPushedName(name, brought.name)) await removeName(disk, `${IN_PROGRESS_DIRECTORY}/${name}`);
  }
  return names;
}

/**
 * Gives the temporary file, synced, a second name; false when that is taken. The caller syncs the directory.
 *
 * @throws {BroughtFileError} when the temporary file is gone.
 */
export async function linkTemporary(
  { archive, brought, temporary }: Acceptance,
  to: string,
): Promise<boolean> {
  try {
    return await addName(archive.disk, { from: temporary, to }, { hardLinks: true });
  } catch (error) {
    if (errorCode(error) !== "ENOENT") throw error;
    throw new BroughtFileError(
      `Cannot archive ${brought.name}: another push of it, or a receiver that started, removed what was written; ` +
        "the server will ask again",
    );
  }
}

/** Makes the temporary file for the time of `use`; to close it and to take its temporary name away is `tidying`. */
export async function withTemporary<T>(
  { archive: { disk, modes }, temporary, tidying }: Acceptance,
  use: (file: DiskFile) => Promise<T>,
): Promise<T> {
  const file = await disk.create(temporary, modes.file);
  try {
    return await use(file);
  } finally {
    // What matters is durable, or failed with a better reason; the next push of the file or a receiver removes it.
    for (const each of [file.close(), removeName(disk, temporary)]) tidying.push(each.catch(() => {}));
  }
}
