import type { Disk, DiskFile, FileState } from "../../lib/archive/disk.ts";
import { Archive } from "../../lib/archive/archive.ts";
import { acceptFile } from "../../lib/archive/accept.ts";
import type { Accepted, AcceptOptions } from "../../lib/archive/acceptance.ts";
import { IDENTITY, NAMING } from "./on_sim_disk.ts";

/** A directory of a server, in memory: only its files can be read. */
export function broughtFiles(files: Readonly<Record<string, Uint8Array>>): Disk {
  const open = (path: string): Promise<DiskFile | undefined> => {
    const content = files[path];
    if (content === undefined) return Promise.resolve(undefined);
    const file = {
      read(buffer: Uint8Array, position: number) {
        const piece = content.subarray(position, position + buffer.length);
        buffer.set(piece);
        return Promise.resolve(piece.length);
      },
      bytes: () => Promise.resolve(content.length),
      state: () => Promise.resolve(stateOf(content)),
      close: () => Promise.resolve(),
    };
    return Promise.resolve(file as unknown as DiskFile);
  };
  return { root: "/pg_wal", open } as unknown as Disk;
}

function stateOf(content: Uint8Array): FileState {
  return { inode: 1, bytes: content.length, modifiedMs: 0, changedMs: 0 };
}

/** A directory with one file, which somebody writes to after `reads` pieces of it were read. */
export function growingFile(name: string, growth: {
  readonly reads: number;
  readonly before: Uint8Array;
  readonly after: Uint8Array;
  /** When it was written to, by the file system's clock. */
  readonly modifiedMs: readonly [before: number, after: number];
}): Disk {
  let reads = 0;
  const hasGrown = () => reads >= growth.reads;
  const content = () => hasGrown() ? growth.after : growth.before;
  const open = async (path: string): Promise<DiskFile | undefined> => {
    if (path !== name) return undefined;
    const rest = (await broughtFiles({ [name]: growth.before }).open(name))!;
    return {
      ...rest,
      async read(buffer: Uint8Array, position: number) {
        const now = (await broughtFiles({ [name]: content() }).open(name))!;
        // Not the look at the first page.
        if (buffer.length > 10_000) reads++;
        return await now.read(buffer, position);
      },
      state: () =>
        Promise.resolve({ ...stateOf(content()), modifiedMs: growth.modifiedMs[hasGrown() ? 1 : 0] }),
    };
  };
  return { root: "/pg_wal", open } as unknown as Disk;
}

/** Makes an archive of the disk, as `init` does. */
export async function makeArchive(disk: Disk, identity = IDENTITY): Promise<Archive> {
  const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
  await archive.claim(identity);
  return archive;
}

const PIECE_BYTES = 256 * 1024;

/** Hands one file to the archive on this disk, as one run of `push` does. */
export async function bring(
  disk: Disk,
  name: string,
  files: Readonly<Record<string, Uint8Array>> | Disk,
  options: Partial<AcceptOptions> = {},
): Promise<Accepted> {
  const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
  return await acceptFile(archive, { disk: isDisk(files) ? files : broughtFiles(files), name }, {
    systemIdentifier: IDENTITY.systemIdentifier,
    suffix: "1",
    startedMs: 1e12,
    pieces: [new Uint8Array(PIECE_BYTES), new Uint8Array(PIECE_BYTES)],
    ...options,
  });
}

function isDisk(files: Readonly<Record<string, Uint8Array>> | Disk): files is Disk {
  return typeof files["open"] === "function";
}
