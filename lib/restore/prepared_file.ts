import type { Disk } from "../archive/disk.ts";
import { withFile } from "../archive/durable.ts";
import { temporaryName } from "../archive/layout.ts";
import type { PublishedSegment } from "../archive/published.ts";
import { crc32c } from "../wal/crc32c.ts";
import { LONG_PAGE_HEADER_BYTES, PAGE_BYTES, SHORT_PAGE_HEADER_BYTES } from "../wal/page.ts";
import type { ArchiveDirectory } from "./archive_directory.ts";

const PREFIX = "walvault-ahead-";

/** Since when the machine and the server run, and who reads. */
export interface Boot {
  /**
   * Another one after each start of the machine: what was written before may be torn, as nothing is synced.
   *
   * Hexadecimal digits.
   */
  readonly bootId: string;
  /**
   * Another one for each start of the server, and for each data directory: what came with a copy of one, or with a snapshot
   * of its file system, may be torn within the same start of the machine.
   */
  readonly serverRun: string;
  /** Nobody else's file is taken. */
  readonly userId: number;
}

/** Where a segment is written while it is read ahead; `suffix` makes it a name that nobody uses again. */
export function preparingName(segment: string, suffix: string): string {
  return temporaryName(`${PREFIX}${segment}-${suffix}`);
}

/** Whether that is a name of `preparingName`, for this segment. */
export function isPreparingName(name: string, segment: string): boolean {
  return name.startsWith(`${PREFIX}${segment}-`) && /^[\w-]+\.tmp$/.test(name);
}

/** Whether a file beside a server's WAL is one that was read ahead, or is being read. */
export function isPrepared(name: string): boolean {
  return /^walvault-ahead-[0-9A-F]{24}-[\w-]+(\.tmp)?$/.test(name);
}

/**
 * The name under which a segment stands that was read ahead out of this file of the archive, as it is now.
 *
 * All that must be the same when it is asked for is in it: the start of the machine and of the server, the archive and its
 * cluster, the file and when it was written, and how much of it was looked at. Then only one look tells whether it is there.
 */
export async function preparationOf(
  { archive, systemIdentifier, proof, ahead }: {
    readonly archive: ArchiveDirectory;
    readonly systemIdentifier: bigint | undefined;
    readonly proof: string;
    readonly ahead: Boot;
  },
  segment: string,
  published: Pick<PublishedSegment, "path" | "state">,
): Promise<string> {
  const root = await archive.disk.entry(".");
  const state = await published.state();
  const facts = [
    archive.disk.root,
    root?.inode,
    `${archive.identity?.systemIdentifier ?? systemIdentifier}`,
    published.path,
    state.inode,
    state.bytes,
    state.modifiedMs,
    state.changedMs,
    proof,
    ahead.serverRun,
  ];
  const checksum = crc32c(new TextEncoder().encode(JSON.stringify(facts))).toString(16).padStart(8, "0");
  return `${PREFIX}${segment}-${ahead.bootId}-${state.inode.toString(16)}-${checksum}`;
}

/** The headers of a segment's first and last page. */
export interface OuterPages {
  readonly first: Uint8Array;
  readonly last: Uint8Array;
}

/** Of what was read ahead under this name; `undefined` when it is not there, or is no such file. */
export async function preparedFile(
  wal: Disk,
  name: string,
  want: { readonly bytes: number; readonly ownerId: number },
): Promise<OuterPages | undefined> {
  const entry = await wal.entry(name);
  if (entry?.kind !== "file" || entry.bytes !== want.bytes || entry.ownerId !== want.ownerId) {
    return undefined;
  }
  return await withFile(wal, name, async (file) => {
    const read = async (bytes: number, position: number) => {
      const header = new Uint8Array(bytes);
      return header.subarray(0, await file.read(header, position));
    };
    return {
      first: await read(LONG_PAGE_HEADER_BYTES, 0),
      last: await read(SHORT_PAGE_HEADER_BYTES, want.bytes - PAGE_BYTES),
    };
  });
}
