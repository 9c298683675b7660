import type { Disk, DiskFile } from "../../lib/archive/disk.ts";
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
      close: () => Promise.resolve(),
    };
    return Promise.resolve(file as unknown as DiskFile);
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
  files: Readonly<Record<string, Uint8Array>>,
  options: Partial<AcceptOptions> = {},
): Promise<Accepted> {
  const archive = await Archive.open(disk, { naming: NAMING, userId: undefined });
  return await acceptFile(archive, { disk: broughtFiles(files), name }, {
    systemIdentifier: IDENTITY.systemIdentifier,
    suffix: "1",
    pieces: [new Uint8Array(PIECE_BYTES), new Uint8Array(PIECE_BYTES)],
    ...options,
  });
}
