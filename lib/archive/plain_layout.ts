import type { Disk, DiskFile } from "./disk.ts";
import { IN_PROGRESS_DIRECTORY } from "./layout.ts";

/** The end of a growing segment's name where `pg_receivewal` keeps it: beside the complete ones. */
export const PARTIAL_SUFFIX = ".partial";

const BELOW_IN_PROGRESS = `${IN_PROGRESS_DIRECTORY}/`;
const SEGMENT = /^([0-9A-F]{24})(.*)$/s;

/** Which syncs reach the disk. */
export type SyncPolicy =
  | "all"
  /** Only those of a segment that is complete, and of its name. */
  | "complete-segments"
  | "none";

/**
 * A disk as an archive's writer sees it, whose `inprogress/NAME` is `NAME.partial` in the directory itself.
 *
 * So what writes an archive writes the layout of `pg_receivewal` too. Saved copies are `NAME.partial.saved-N`: no
 * program takes these for a segment.
 */
export function plainLayout(
  disk: Disk,
  options: { readonly sync: SyncPolicy; readonly segmentBytes: () => number },
): Disk {
  const real = (path: string) => plainPath(path);
  const wrap = (file: DiskFile) => options.sync === "all" ? file : lazyFile(file, options);
  return {
    root: disk.root,
    allocate: (bytes) => disk.allocate(bytes),
    open: async (path) => {
      const file = await disk.open(real(path));
      return file === undefined ? undefined : wrap(file);
    },
    create: async (path, mode) => wrap(await disk.create(real(path), mode)),
    append: async (path, mode) => wrap(await disk.append(real(path), mode)),
    link: (existing, added) => disk.link(real(existing), real(added)),
    rename: (from, to) => disk.rename(real(from), real(to)),
    unlink: (path) => disk.unlink(real(path)),
    async list(path) {
      const names = await disk.list(real(path));
      return path === IN_PROGRESS_DIRECTORY ? names?.flatMap(inProgressNameOf) : names;
    },
    async entries(path) {
      const entries = await disk.entries(real(path));
      if (path !== IN_PROGRESS_DIRECTORY) return entries;
      return entries?.flatMap((entry) => inProgressNameOf(entry.name).map((name) => ({ ...entry, name })));
    },
    entry: (path) => disk.entry(real(path)),
    makeDirectory: (path, mode) => disk.makeDirectory(real(path), mode),
    async syncDirectory(path) {
      if (options.sync !== "none") await disk.syncDirectory(real(path));
    },
    setPatience: (ms) => disk.setPatience?.(ms),
    space: () => disk.space(),
    close: () => disk.close(),
  };
}

/** The path in the plain layout of one in an archive. */
export function plainPath(path: string): string {
  if (path === IN_PROGRESS_DIRECTORY) return ".";
  if (!path.startsWith(BELOW_IN_PROGRESS)) return path;
  return path.slice(BELOW_IN_PROGRESS.length).replace(SEGMENT, `$1${PARTIAL_SUFFIX}$2`);
}

/** A message that names paths of an archive, with those of the plain layout in their place. */
export function plainText(text: string): string {
  return text.replace(/inprogress\/([0-9A-F]{24})/g, `$1${PARTIAL_SUFFIX}`);
}

/** What a name of the directory is called in `inprogress/`; none for what does not belong there. */
function inProgressNameOf(name: string): string[] {
  const [, segment, rest] =
    /^([0-9A-F]{24})\.partial((?:\.saved-[0-9]+|\.(?:zst|gz|lz4)\.tmp)?)$/.exec(name) ?? [];
  return segment === undefined ? [] : [segment + (rest ?? "")];
}

/** A file whose syncs are left out, until its last byte is written where complete segments count. */
function lazyFile(
  file: DiskFile,
  { sync, segmentBytes }: { readonly sync: SyncPolicy; readonly segmentBytes: () => number },
): DiskFile {
  let complete = false;
  return {
    write: async (bytes, position) => {
      await file.write(bytes, position);
      if (position + bytes.length === segmentBytes()) complete = true;
    },
    read: (buffer, position) => file.read(buffer, position),
    truncate: (bytes) => file.truncate(bytes),
    sync: async () => {
      if (sync === "complete-segments" && complete) await file.sync();
    },
    bytes: () => file.bytes(),
    inode: () => file.inode(),
    state: () => file.state(),
    close: () => file.close(),
  };
}
