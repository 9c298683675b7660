import { basename, dirname } from "node:path";
import process from "node:process";
import { allEnded } from "../archive/all_ended.ts";
import { acceptFile } from "../archive/accept.ts";
import type { Accepted, AcceptOptions } from "../archive/acceptance.ts";
import { Archive } from "../archive/archive.ts";
import { openDirectDisk } from "../archive/direct_disk.ts";
import type { Disk } from "../archive/disk.ts";
import { IDENTITY_FILE } from "../archive/layout.ts";
import { readAhead } from "../archive/read_ahead.ts";
import { UsageError } from "./context.ts";
import { systemIdentifierHere } from "./control_file.ts";

/** Takes the file at `path` into the archive on this disk; the first of `pieces` is filled meanwhile. */
export async function acceptBrought(
  disk: Disk,
  path: string,
  { pieces, compression }: Pick<AcceptOptions, "pieces" | "compression">,
): Promise<Accepted> {
  const brought = { disk: openDirectDisk(dirname(path)), name: basename(path) };
  const startedMs = Date.now();
  const opening = openArchive(disk);
  // Awaited below; until then it is nobody's loss.
  opening.catch(() => {});
  const ahead = await readAhead(brought.disk, brought.name, pieces[0]!);
  const archive = await opening;
  const suffix = [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(36)).join("");
  return await acceptFile(archive, brought, {
    systemIdentifier: await systemIdentifierHere(),
    suffix,
    startedMs,
    pieces,
    ahead,
    compression,
  });
}

/** Push never makes an archive: where none is, its disk may just not be mounted. */
async function openArchive(disk: Disk): Promise<Archive> {
  const [root, identity, archive] = await allEnded([
    disk.entry("."),
    disk.entry(IDENTITY_FILE),
    Archive.open(disk, { naming: { hardLinks: true }, userId: process.geteuid?.() }),
  ]);
  if (await identity === undefined) {
    const what = await root === undefined
      ? "there is no such directory"
      : "it is no archive, as there is no archive.json in it";
    throw new UsageError(
      `Cannot archive into "${disk.root}": ${what}; is its disk mounted?`,
      `To make an archive of an empty directory: walvault init --archive ${disk.root} --connection 'host=… user=…'`,
    );
  }
  return await archive;
}
