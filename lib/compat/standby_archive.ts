import * as fs from "node:fs";
import {
  type CompressionFormat,
  DamagedFileError,
  decompress,
  FORMAT_OF_FORM,
} from "../archive/compression.ts";
import { openDirectDisk } from "../archive/direct_disk.ts";
import { withFile } from "../archive/durable.ts";
import { SEGMENT_FORMS } from "../archive/layout.ts";
import { decodePageHeader, LONG_PAGE_HEADER_BYTES } from "../wal/page.ts";
import {
  parseSegmentName,
  segmentName,
  type SegmentNumber,
  type SegmentSize,
  segmentSize,
} from "../wal/segment.ts";

/** The longest segment there is. */
const LONGEST_SEGMENT_BYTES = 1 << 30;

type Form = typeof SEGMENT_FORMS[number];

/** How far a file of the archive is. */
export type Readiness =
  /** Not there, or not all of it yet. */
  | { readonly kind: "not-yet" }
  | { readonly kind: "ready"; readonly form: Form; readonly segmentSize: SegmentSize | undefined }
  | { readonly kind: "too-long" };

const NOT_YET: Readiness = { kind: "not-yet" };

/**
 * A directory of WAL files as `pg_standby` uses it: written by any archive_command, by pg_receivewal, or a walvault archive.
 *
 * A segment counts as there when it has its full size, which its own first page tells; a compressed one when it can be
 * read to its end.
 */
export class StandbyArchive {
  constructor(private readonly directory: string) {}

  /** Whether the directory can be looked into at all. */
  get exists(): boolean {
    return fs.statSync(this.directory, { throwIfNoEntry: false }) !== undefined;
  }

  /** Where a file stands when it is not compressed. */
  pathOf(name: string): string {
    return `${this.directory}/${name}`;
  }

  /** Looks for a file. */
  async look(name: string): Promise<Readiness> {
    const bytes = sizeOf(this.pathOf(name));
    if (bytes !== undefined) {
      if (!isSegment(name)) return { kind: "ready", form: "", segmentSize: undefined };
      const size = sizeInHeader(readStart(this.pathOf(name)));
      if (size === undefined || bytes < size) return NOT_YET;
      return bytes > size ? { kind: "too-long" } : { kind: "ready", form: "", segmentSize: size };
    }
    if (!isSegment(name)) return NOT_YET;
    for (const form of SEGMENT_FORMS) {
      if (form === "" || sizeOf(this.pathOf(name + form)) === undefined) continue;
      const size = await this.#sizeInCompressed(name, form);
      if (size !== undefined) return { kind: "ready", form, segmentSize: size };
    }
    return NOT_YET;
  }

  /**
   * Puts a file that is ready where the server wants it: whole, or not at all.
   *
   * @throws what the disk or the decompression says; the target is then as it was.
   */
  async deliver(
    name: string,
    { form, segmentSize: size }: Readiness & { kind: "ready" },
    target: string,
  ): Promise<void> {
    const temporary = `${target}.tmp`;
    fs.rmSync(temporary, { force: true });
    try {
      if (form === "") fs.copyFileSync(this.pathOf(name), temporary);
      else {await this.#decompressInto(temporary, name, {
          form,
          segmentSize: size ?? segmentSize(LONGEST_SEGMENT_BYTES),
        });}
      const copied = sizeOf(temporary);
      if (size !== undefined && copied !== size) {
        throw new Error(`Cannot copy "${this.pathOf(name)}": ${copied} bytes came, want ${size}`);
      }
      fs.renameSync(temporary, target);
    } catch (error) {
      fs.rmSync(temporary, { force: true });
      throw error;
    }
  }

  /**
   * Removes the segments before `oldestKept`, whatever their timeline and form.
   *
   * @throws what the disk says, at the first that can't be removed.
   */
  async removeOlder(oldestKept: string, onRemove: (path: string) => void): Promise<void> {
    // Not readdirSync: that of Deno (2.9) ends without an error where reading fails half way.
    for (const name of await fs.promises.readdir(this.directory)) {
      if (!/^[0-9A-F]{24}(\.zst|\.gz|\.lz4)?$/.test(name) || name.slice(8, 24) >= oldestKept.slice(8, 24)) {
        continue;
      }
      const path = this.pathOf(name);
      if (fs.lstatSync(path).isDirectory()) continue;
      onRemove(path);
      fs.unlinkSync(path);
    }
  }

  async #sizeInCompressed(name: string, form: Exclude<Form, "">): Promise<SegmentSize | undefined> {
    const start = new Uint8Array(LONG_PAGE_HEADER_BYTES);
    let filled = 0;
    try {
      await this.#read(name, { form, segmentSize: segmentSize(LONGEST_SEGMENT_BYTES) }, (bytes) => {
        const part = bytes.subarray(0, start.length - filled);
        start.set(part, filled);
        filled += part.length;
        return filled < start.length ? "more" : "enough";
      });
    } catch (error) {
      if (!(error instanceof DamagedFileError)) throw error;
      // Its beginning can't be read: whoever writes it may not be done.
      return undefined;
    }
    return sizeInHeader(start);
  }

  async #decompressInto(
    path: string,
    name: string,
    stored: { readonly form: Exclude<Form, "">; readonly segmentSize: SegmentSize },
  ): Promise<void> {
    const fd = fs.openSync(path, "wx", 0o600);
    try {
      await this.#read(name, stored, (bytes, position) => {
        for (let done = 0; done < bytes.length;) {
          done += fs.writeSync(fd, bytes, done, bytes.length - done, position + done);
        }
        return "more";
      });
    } finally {
      fs.closeSync(fd);
    }
  }

  async #read(
    name: string,
    { form, segmentSize: size }: { readonly form: Exclude<Form, "">; readonly segmentSize: SegmentSize },
    take: (bytes: Uint8Array, position: number) => "more" | "enough",
  ): Promise<void> {
    const format: CompressionFormat = FORMAT_OF_FORM[form];
    const disk = openDirectDisk(this.directory);
    const source = { format, label: this.pathOf(name + form), wantBytes: size };
    const found = await withFile(disk, name + form, async (file) => {
      await decompress(file, source, take);
      return true;
    });
    if (found === undefined) throw Object.assign(new Error("it is gone"), { code: "ENOENT" });
  }
}

/** The segment that comes `count` segments before `name`; `undefined` when there is none. */
export function segmentBefore(name: string, count: number, size: SegmentSize): string | undefined {
  const segment = parseSegmentName(name, size);
  if (segment === undefined || segment.number < BigInt(count)) return undefined;
  return segmentName(segment.timeline, segment.number - BigInt(count) as SegmentNumber, size);
}

function isSegment(name: string): boolean {
  return /^[0-9A-F]{24}$/.test(name);
}

function sizeOf(path: string): number | undefined {
  return fs.statSync(path, { throwIfNoEntry: false })?.size;
}

function readStart(path: string): Uint8Array {
  const fd = fs.openSync(path, "r");
  try {
    const bytes = new Uint8Array(LONG_PAGE_HEADER_BYTES);
    return bytes.subarray(0, fs.readSync(fd, bytes, 0, bytes.length, 0));
  } finally {
    fs.closeSync(fd);
  }
}

/** What the first page says; `undefined` while it is not there, or is no page of WAL. */
function sizeInHeader(start: Uint8Array): SegmentSize | undefined {
  const header = start.length < LONG_PAGE_HEADER_BYTES ? undefined : decodePageHeader(start);
  if (header === undefined || !header.isLong) return undefined;
  try {
    return segmentSize(header.segmentBytes ?? 0);
  } catch {
    // No size that PostgreSQL has: these bytes are no WAL.
    return undefined;
  }
}
