/** Flips bits of an archive, one at a time: each must be found, or be proven harmless. */
import assert from "node:assert/strict";
import * as fs from "node:fs";
import { join } from "node:path";
import { FORMAT_OF_FORM } from "../../lib/archive/compression.ts";
import { openDirectDisk } from "../../lib/archive/direct_disk.ts";
import { withFile } from "../../lib/archive/durable.ts";
import type { Prover } from "../../lib/archive/verify/prover.ts";
import {
  proveSegment,
  readContent,
  type SegmentProof,
  type SegmentTask,
} from "../../lib/archive/verify/segment_proof.ts";
import { cutHistoryProblem, parseHistory } from "../../lib/wal/history.ts";
import { decodePageHeader, PAGE_BYTES } from "../../lib/wal/page.ts";
import { parseSegmentName, segmentStart } from "../../lib/wal/segment.ts";
import { parseHistoryFileName } from "../../lib/wal/timeline.ts";
import type { Random } from "../simulation/random.ts";
import { readRecords } from "../wal/wal_builder.ts";
import { problemsOf, SEGMENT_SIZE, verifyIn } from "./verify_scene.ts";

/** One bit of a file. */
export interface Flip {
  /** Below the archive. */
  readonly path: string;
  readonly offset: number;
  readonly bit: number;
}

/** An archive whose files were proven once: after a flip only the changed one is read anew. */
export class FlippedArchive {
  readonly #proofs = new Map<string, SegmentProof | undefined>();
  readonly #regions = new Map<string, Regions>();
  #changed: string | undefined;

  constructor(readonly directory: string) {}

  /** Files with WAL, compressed or not. */
  segments(): readonly string[] {
    const names = (below: string) => fs.readdirSync(join(this.directory, below)).sort();
    const isWal = (name: string) => /^[0-9A-F]{24}/.test(name);
    return [
      ...names(".").filter(isWal),
      ...names("inprogress").filter(isWal).map((name) => `inprogress/${name}`),
    ];
  }

  /** Files without WAL: the identity and the histories. */
  texts(): readonly string[] {
    return fs.readdirSync(this.directory).filter((name) => /\.(history|json)$/.test(name)).sort();
  }

  bytesOf(path: string): Uint8Array {
    return fs.readFileSync(join(this.directory, path));
  }

  /** Every bit in the headers of a plain file's pages. */
  *headerFlips(path: string): Iterable<Flip> {
    const bytes = this.bytesOf(path);
    for (let page = 0; page < bytes.length; page += PAGE_BYTES) {
      const header = decodePageHeader(bytes.subarray(page));
      // Pages that were never written have none.
      const headerBytes = header === undefined || header.magic === 0 ? 0 : header.headerBytes;
      yield* flipsOf(path, page, page + headerBytes);
    }
  }

  /** Every bit of a file. */
  *allFlips(path: string): Iterable<Flip> {
    yield* flipsOf(path, 0, this.bytesOf(path).length);
  }

  /** Whether `verify` finds it; the file is as before afterwards. */
  async isFound({ path, offset, bit }: Flip): Promise<boolean> {
    const file = join(this.directory, path);
    const handle = fs.openSync(file, "r+");
    const byte = new Uint8Array(1);
    fs.readSync(handle, byte, 0, 1, offset);
    const put = (value: number) => fs.writeSync(handle, Uint8Array.of(value), 0, 1, offset);
    try {
      put(byte[0]! ^ (1 << bit));
      this.#changed = path;
      return problemsOf(await this.#verify()).length > 0;
    } finally {
      put(byte[0]!);
      fs.closeSync(handle);
      this.#changed = undefined;
    }
  }

  async #verify() {
    return await verifyIn(this.directory, { prover: this.#prover() });
  }

  /** Nothing is wrong without a flip, else none would be needed. */
  async check(): Promise<void> {
    assert.deepEqual(problemsOf(await this.#verify()), []);
  }

  #prover(): Prover {
    const disk = openDirectDisk(this.directory);
    return {
      capacity: 1,
      prove: async (task: SegmentTask) => {
        if (task.path === this.#changed) return await proveSegment(disk, task, 0);
        const plain = (_key: string, value: unknown) => typeof value === "bigint" ? `${value}` : value;
        const key = JSON.stringify(task, plain);
        if (!this.#proofs.has(key)) this.#proofs.set(key, await proveSegment(disk, task, 0));
        return this.#proofs.get(key);
      },
      index: () => Promise.resolve(false),
      close: () => Promise.resolve(),
    };
  }

  /** Why a flip that nobody finds changes nothing; `undefined` when it does. */
  async harmlessReason(flip: Flip): Promise<string | undefined> {
    const { path } = flip;
    const timeline = parseHistoryFileName(path);
    if (timeline !== undefined) return this.#sameHistory(flip, timeline);
    if (path === "archive.json") return undefined;
    const form = /\.(zst|gz|lz4)$/.exec(path)?.[0];
    if (form !== undefined) return await this.#sameContent(flip, form as keyof typeof FORMAT_OF_FORM);
    let regions = this.#regions.get(path);
    if (regions === undefined) {
      regions = new Regions(this.bytesOf(path), path, this.#isFirst(path));
      this.#regions.set(path, regions);
    }
    return regions.harmlessReason(flip);
  }

  /** Nothing is there before it that could tell how a record began. */
  #isFirst(path: string): boolean {
    return path.slice(0, 24) === this.segments()[0]?.slice(0, 24);
  }

  #flipped({ path, offset, bit }: Flip): Uint8Array {
    const bytes = Uint8Array.from(this.bytesOf(path));
    bytes[offset]! ^= 1 << bit;
    return bytes;
  }

  #sameHistory(flip: Flip, timeline: ReturnType<typeof parseHistoryFileName> & number): string | undefined {
    const facts = (bytes: Uint8Array) => {
      try {
        const history = parseHistory(timeline, bytes);
        if (cutHistoryProblem(history, bytes) !== undefined) return undefined;
        return history.entries.map((entry) => `${entry.timeline} ${entry.endLsn}`).join();
      } catch {
        return undefined;
      }
    };
    return facts(this.#flipped(flip)) === facts(this.bytesOf(flip.path)) ? "the same history" : undefined;
  }

  async #sameContent(flip: Flip, form: keyof typeof FORMAT_OF_FORM): Promise<string | undefined> {
    const other = join(this.directory, "flipped");
    const contentOf = async (path: string) => {
      const content = new Uint8Array(SEGMENT_SIZE);
      await withFile(openDirectDisk(this.directory), path, (file) =>
        readContent(file, {
          format: FORMAT_OF_FORM[form],
          role: "complete",
          segmentSize: SEGMENT_SIZE,
          label: path,
        }, (bytes, position) => {
          content.set(bytes, position);
          return "more";
        }));
      return content;
    };
    fs.writeFileSync(other, this.#flipped(flip));
    try {
      const [one, two] = [await contentOf(flip.path), await contentOf("flipped")];
      return one.every((byte, index) => byte === two[index]) ? "the same content" : undefined;
    } catch {
      return undefined;
    } finally {
      fs.rmSync(other);
    }
  }
}

/** Flips at random places of random files. */
export function* randomFlips(archive: FlippedArchive, random: Random, count: number): Iterable<Flip> {
  const files = archive.segments().map((path) => ({ path, bytes: archive.bytesOf(path).length }));
  for (let i = 0; i < count; i++) {
    const { path, bytes } = random.pick(files);
    yield { path, offset: random.integer(0, bytes - 1), bit: random.integer(0, 7) };
  }
}

/** Fails on the first one that is neither found nor harmless; counts the reasons of the latter. */
export async function findAll(
  archive: FlippedArchive,
  flips: Iterable<Flip>,
): Promise<{ readonly found: number; readonly harmless: ReadonlyMap<string, number> }> {
  let found = 0;
  const harmless = new Map<string, number>();
  for (const flip of flips) {
    if (await archive.isFound(flip)) {
      found++;
      continue;
    }
    const reason = await archive.harmlessReason(flip);
    assert.ok(reason !== undefined, `not found: bit ${flip.bit} of byte ${flip.offset} of "${flip.path}"`);
    harmless.set(reason, (harmless.get(reason) ?? 0) + 1);
  }
  return { found, harmless };
}

function* flipsOf(path: string, start: number, end: number): Iterable<Flip> {
  for (let offset = start; offset < end; offset++) {
    for (let bit = 0; bit < 8; bit++) yield { path, offset, bit };
  }
}

/** What the bytes of a plain segment are there for, by a second reader. */
class Regions {
  readonly #covered: ReadonlySet<number>;
  readonly #firstRecord: number;
  readonly #recordsEnd: number;
  readonly #lastRecord: number;
  readonly #isUnfinished: boolean;

  constructor(
    private readonly bytes: Uint8Array,
    path: string,
    private readonly isFirst: boolean,
  ) {
    const name = /[0-9A-F]{24}/.exec(path)![0];
    const startLsn = segmentStart(parseSegmentName(name, SEGMENT_SIZE)!.number, SEGMENT_SIZE);
    const { records, covered } = readRecords(bytes, startLsn);
    this.#covered = covered;
    this.#firstRecord = records.length === 0 ? SEGMENT_SIZE : Number(records[0]!.lsn - startLsn);
    this.#lastRecord = records.length === 0 ? 0 : Number(records.at(-1)!.lsn - startLsn);
    this.#recordsEnd = records.at(-1)?.end ?? 0;
    this.#isUnfinished = path.startsWith("inprogress/");
  }

  harmlessReason({ offset, bit }: Flip): string | undefined {
    // A record that is not followed by another may as well be one of which not all has come.
    if (this.#isUnfinished && offset >= this.#lastRecord) return "the end of an unfinished segment";
    if (this.#covered.has(offset)) return undefined;
    const inPage = offset % PAGE_BYTES;
    const header = decodePageHeader(this.bytes.subarray(offset - inPage));
    if (header !== undefined && inPage < header.headerBytes) {
      if (inPage >= 20 && inPage < 24) return "padding of a page's header";
      if (inPage === 2 && bit === 2) return "a flag that only tells what could be removed";
      if (inPage === 2 && bit === 3 && !header.isContinuation && !header.overwritesContrecord) {
        return "a flag that counts for open records only";
      }
      if (inPage >= 16 && inPage < 20 && !header.isContinuation) {
        return "a length that counts for open records only";
      }
      // Bytes still to come of a record that began before anything that is here, up to the next multiple of 8.
      return this.isFirst && offset - inPage === 0 && inPage >= 16
        ? "the first file's open record"
        : undefined;
    }
    if (this.isFirst && offset < this.#firstRecord) {
      return "the rest of a record that began before the first file";
    }
    if (offset < this.#recordsEnd && offset >= this.#firstRecord) return "padding between records";
    // Padding behind the record that began in the segment before.
    return offset < this.#firstRecord && this.#firstRecord - offset < 8
      ? "padding before the first record"
      : undefined;
  }
}
