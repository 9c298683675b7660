import { acceptFile } from "./accept.ts";
import { type BroughtDirectory, BroughtFileError } from "./acceptance.ts";
import type { Archive } from "./archive.ts";
import type { DiskFile } from "./disk.ts";
import { removeName } from "./durable.ts";
import { IN_PROGRESS_DIRECTORY, isPushedName, pushedPath } from "./layout.ts";

/** What a filler is given from outside. */
export interface GapFillerOptions {
  /** Memory that the archive's disk takes without a copy; as in `AcceptOptions`. */
  readonly pieces: readonly Uint8Array[];
  /** The wall clock, in milliseconds since 1970. */
  nowMs(): number;
  /** Lower-case letters and digits, others each time. */
  suffix(): string;
}

/**
 * Brings segments that are missing into an archive, through the checks of `acceptFile` and more: only what is proven, from
 * its first record to its last byte, closes a gap.
 *
 * It takes no lock, and works beside a receiver, pushes and others of its kind.
 */
export class GapFiller {
  constructor(readonly archive: Archive, private readonly options: GapFillerOptions) {}

  /**
   * Takes the segment `name` out of a directory; resolves when it is durable under its own name, whoever brought it.
   *
   * @param systemIdentifier of the cluster that the whole directory is known to be of.
   * @throws as `acceptFile` does.
   */
  async take(name: string, from: BroughtDirectory, systemIdentifier: bigint | undefined): Promise<void> {
    const { pieces } = this.options;
    const startedMs = this.options.nowMs();
    const accepted = await acceptFile(this.archive, { disk: from, name }, {
      systemIdentifier,
      suffix: this.options.suffix(),
      startedMs,
      pieces,
      only: "proven",
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
    systemIdentifier: bigint | undefined,
    fill: (file: DiskFile) => Promise<void>,
  ): Promise<void> {
    const { archive } = this;
    const filled = `${name}.filled`;
    await this.#removeLeftOver(filled);
    const path = pushedPath(filled, this.options.suffix());
    const file = await archive.disk.create(path, archive.modes.file);
    try {
      await fill(file);
      await this.take(name, onlyFile(name, file, archive.disk.root), systemIdentifier);
    } finally {
      try {
        await file.close();
        await removeName(archive.disk, path);
      } catch {
        // The segment is durable, or there is a better reason; the next one of its kind or a receiver removes it.
      }
    }
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

/** A directory with one file in it, which stays open. */
export function onlyFile(name: string, file: DiskFile, root: string): BroughtDirectory {
  return {
    root,
    open: (path) => Promise.resolve(path === name ? keptOpen(file) : undefined),
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
