import { WrongClusterError } from "../wal/errors.ts";
import { formatLsn } from "../wal/lsn.ts";
import { formatSegmentSize, segmentStart } from "../wal/segment.ts";
import type { Disk, DiskFile, NamedEntry } from "./disk.ts";
import { addName, type Naming, removeName, withFile } from "./durable.ts";
import { readFirstPage } from "./plain_first_page.ts";
import type { ArchiveIdentity } from "./identity.ts";
import { CONFLICTS_DIRECTORY, IN_PROGRESS_DIRECTORY, savedPath } from "./layout.ts";
import { parsePlainFile, type PlainFile } from "./plain_file.ts";
import type { Modes } from "./segment_writer.ts";

/** What was made an archive. */
export interface Adoption {
  readonly segments: number;
  /** Unfinished ones that were moved into `inprogress/`. */
  readonly partials: number;
}

/** Names that other receivers leave in their directories, and that mean the same in an archive. */
const OF_RECEIVERS = [
  // pg_receivewal, and walvault in its place.
  /^[0-9A-F]{24}(\.gz|\.lz4|\.zst)?(\.partial)?$/,
  /^[0-9A-F]{24}\.partial\.saved-[1-9][0-9]{0,8}$/,
  /^[0-9A-F]{8}\.history$/,
  /^[0-9A-F]{24}\.[0-9A-F]{8}\.backup$/,
  // pg_streamrecv; and an archive that lost its archive.json.
  new RegExp(`^(${IN_PROGRESS_DIRECTORY}|${CONFLICTS_DIRECTORY})$`),
];

/** Whether a name is one that other receivers leave. */
export function isOfReceivers(name: string): boolean {
  return OF_RECEIVERS.some((pattern) => pattern.test(name));
}

/** How a directory is adopted. */
export interface AdoptionOptions {
  readonly identity: ArchiveIdentity;
  readonly modes: Modes;
  readonly naming: Naming;
}

/**
 * Gives a directory that another receiver filled the layout of an archive: unfinished segments go into `inprogress/` as saved
 * copies. The caller then makes it an archive; when it comes to an end before that, the next call goes on.
 *
 * Before anything is changed, every segment is looked at.
 * @throws {WrongClusterError} when one is of another cluster, or not what its name says.
 */
export async function adoptFiles(disk: Disk, options: AdoptionOptions): Promise<Adoption> {
  const { identity } = options;
  const entries = await disk.entries(".") ?? [];
  const files = entries.flatMap((entry) => parsePlainFile(entry, identity.segmentSize) ?? []);
  for (const file of files) await checkFile(disk, file, identity);
  if (await disk.entry(IN_PROGRESS_DIRECTORY) === undefined) {
    await disk.makeDirectory(IN_PROGRESS_DIRECTORY, options.modes.directory);
    await disk.syncDirectory(".");
  }
  // What is here counts as safe from now on, and whoever wrote it may not have synced it.
  for (const { entry } of files.filter((file) => !file.isPartial)) {
    await withFile(disk, entry.name, (opened) => opened.sync());
  }
  const partials = files.filter((file) => file.isPartial);
  for (const file of partials) {
    if (file.format === undefined) {
      await moveAside(disk, { from: file.entry.name, segment: file.segment }, options);
    } else await decompressAside(disk, file, options);
  }
  for (const { from, segment } of await leftAside(disk, entries)) {
    await moveAside(disk, { from, segment }, options);
  }
  return { segments: files.length - partials.length, partials: partials.length };
}

/** Copies that were moved aside before: `NAME.partial.saved-N` of ours, `inprogress/NAME.save` of pg_streamrecv. */
async function leftAside(
  disk: Disk,
  entries: readonly NamedEntry[],
): Promise<readonly { readonly from: string; readonly segment: string }[]> {
  const besides = entries.map(({ name }) => name).filter((name) =>
    /^[0-9A-F]{24}\.partial\.saved-/.test(name)
  );
  const within = (await disk.list(IN_PROGRESS_DIRECTORY) ?? []).filter((name) =>
    /^[0-9A-F]{24}\.save$/.test(name)
  );
  return [
    ...besides.map((name) => ({ from: name, segment: name.slice(0, 24) })),
    ...within.map((name) => ({ from: `${IN_PROGRESS_DIRECTORY}/${name}`, segment: name.slice(0, 24) })),
  ];
}

async function checkFile(disk: Disk, file: PlainFile, identity: ArchiveIdentity): Promise<void> {
  const { entry, timeline, number, isPartial, format } = file;
  // One of another length counts as missing, whatever it holds.
  if (format === undefined && !isPartial && entry.bytes !== Number(identity.segmentSize)) return;
  const refuse = (problem: string) =>
    new WrongClusterError(
      `Cannot make "${disk.root}" an archive: "${entry.name}" in it ${problem}; move it away, or use another directory`,
    );
  const first = await readFirstPage(disk, file);
  if (first.kind === "empty" && isPartial) return;
  if (first.kind !== "header") throw refuse("does not begin with the first page of a segment");
  const { systemIdentifier, segmentBytes, pageLsn, timeline: pageTimeline } = first.header;
  if (systemIdentifier !== identity.systemIdentifier) {
    throw refuse(
      `belongs to the cluster with system identifier ${systemIdentifier}, the server has ${identity.systemIdentifier}`,
    );
  }
  if (segmentBytes !== Number(identity.segmentSize)) {
    throw refuse(
      `is of segments of ${segmentBytes} bytes, the server's are of ${
        formatSegmentSize(identity.segmentSize)
      }`,
    );
  }
  const startLsn = segmentStart(number, identity.segmentSize);
  if (pageLsn !== startLsn) {
    throw refuse(`begins at ${formatLsn(pageLsn)}, its name says ${formatLsn(startLsn)}`);
  }
  if (pageTimeline > timeline) {
    throw refuse(`begins with timeline ${pageTimeline}, its name says ${timeline}`);
  }
}

/** The new name is safe before the old one goes. */
async function moveAside(
  disk: Disk,
  { from, segment }: { readonly from: string; readonly segment: string },
  { naming }: AdoptionOptions,
): Promise<void> {
  await withFile(disk, from, (file) => file.sync());
  for (let count = 1;; count++) {
    if (!await addName(disk, { from, to: savedPath(segment, count) }, naming)) continue;
    await disk.syncDirectory(IN_PROGRESS_DIRECTORY);
    await removeName(disk, from);
    return;
  }
}

/** What can be read of it becomes a plain copy. */
async function decompressAside(
  disk: Disk,
  { entry: { name }, segment, format }: PlainFile,
  { identity, modes }: AdoptionOptions,
): Promise<void> {
  const { segmentSize } = identity;
  if (format === undefined) return;
  const path = await freeSavedPath(disk, segment);
  const copy = await disk.create(path, modes.file);
  try {
    await copy.truncate(Number(segmentSize));
    const label = `${disk.root}/${name}`;
    const { decompressUnfinished } = await import("./compression.ts");
    await withFile(
      disk,
      name,
      (file: DiskFile) =>
        decompressUnfinished(file, { format, label, maximumBytes: segmentSize }, async (bytes, position) => {
          await copy.write(bytes, position);
          return "more" as const;
        }),
    );
    await copy.sync();
  } catch (error) {
    await removeName(disk, path);
    throw error;
  } finally {
    await copy.close();
  }
  await disk.syncDirectory(IN_PROGRESS_DIRECTORY);
  await removeName(disk, name);
}

async function freeSavedPath(disk: Disk, segment: string): Promise<string> {
  for (let count = 1;; count++) {
    const path = savedPath(segment, count);
    if (await disk.entry(path) === undefined) return path;
  }
}
