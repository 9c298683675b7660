import { parseSegmentName, type SegmentSize } from "../wal/segment.ts";
import type { Clock } from "./clock.ts";
import { type CompressionFormat, DamagedFileError, FORM_OF_FORMAT } from "./compression.ts";
import type { Disk, DiskFile } from "./disk.ts";
import { addName, errorCode, type Naming, removeName, withFile } from "./durable.ts";
import { COMPRESSED_FORMS, compressingPath } from "./layout.ts";
import { PIECE_BYTES } from "./piece_encoder.ts";
import type { PieceWorker } from "./piece_worker.ts";
import { compareWithPublished } from "./published.ts";

/** So many names are known at a time; the rest of the backlog stands in the archive itself. */
const MAXIMUM_DUE = 256;
/** Segments that can't be compressed are left alone; of so many it is remembered. */
const MAXIMUM_LEFT_ALONE = 1024;
/** After a failure, a full disk above all, it is tried again. */
const RETRY_MS = 30_000;
/** What others bring, `push` for one, is found by looking. */
const LOOK_MS = 600_000;

/** Segments that come closer together than this are a burst: whoever sends it waits for nothing but receiving. */
const BURST_MS = 400;
/** In a burst, for each millisecond of work so many of rest. */
const REST_FACTOR = 3;
const MAXIMUM_REST_MS = 100;

/** What the compressor tells; all of it is durable when it is told. */
export interface CompressorEvents {
  segmentCompressed(event: { readonly segment: string; readonly path: string; readonly bytes: number }): void;
  /** It waits, and tries again by itself; the segments stay as they are. The same failure is told once. */
  compressionHeldUp(event: { readonly segment: string | undefined; readonly error: unknown }): void;
  compressionGoesOn(): void;
  /** This one segment stays as it is. */
  segmentLeftAlone(event: { readonly segment: string; readonly problem: string }): void;
}

/** The archive as the compressor needs it; it belongs to the holder of the archive's lock. */
export interface CompressorArchive {
  readonly disk: Disk;
  readonly segmentSize: SegmentSize;
  readonly modes: { readonly file: number };
  readonly naming: Naming;
}

/** Why one segment can't be compressed; others can. */
class LeftAlone extends Error {}

/**
 * Runs a sync that must not be tried again: the kernel tells a failure once, and calls the next try a success. While the
 * plain file stays, nothing is lost.
 */
async function onlyOnce(sync: () => Promise<void>): Promise<void> {
  try {
    await sync();
  } catch (cause) {
    throw new LeftAlone(`a sync beside it failed (${(cause as Error).message})`, { cause });
  }
}

/** Thrown between two pieces when it is to stop. */
class Stopped extends Error {}

/**
 * Compresses published segments, one after the other, oldest first: what waits stands in the archive, uncompressed.
 *
 * For each: the compressed file is written under a temporary name, synced, read back piece by piece and held against
 * the plain one, and gets its name by a link; the directory is synced; only then the plain one goes. So each of its
 * moments has one whole, synced segment that readers find, and a crash leaves that and perhaps a temporary file.
 */
export class SegmentCompressor {
  readonly #due: string[] = [];
  /** There may be more to do than is known. */
  #look = true;
  readonly #leftAlone = new Set<string>();
  #heldUp = false;
  /** The last failure that was told, and whether it came back after it was gone: then nothing is told of it. */
  #told: string | undefined;
  #quiet = false;
  #stopping = false;
  #wake: (() => void) | undefined;
  /** It sleeps because there is nothing to do. */
  #idle = false;
  #publishedAtMs = -Infinity;
  #burst = false;
  #pieceStartedMs: number;
  readonly #done: Promise<void>;

  constructor(
    private readonly archive: CompressorArchive,
    private readonly worker: PieceWorker,
    private readonly options: {
      readonly format: CompressionFormat;
      /** Whether it rests in a burst: where receiving needs all the processors there are. */
      readonly resting: boolean;
      readonly clock: Clock;
      readonly events: CompressorEvents;
    },
  ) {
    this.#pieceStartedMs = options.clock.nowMs();
    this.#done = this.#run();
  }

  /** A segment was published: it is next, after those before it. */
  published(name: string): void {
    if (this.#look || this.#due.length >= MAXIMUM_DUE) this.#look = true;
    else this.#due.push(name);
    const nowMs = this.options.clock.nowMs();
    this.#burst = nowMs - this.#publishedAtMs < BURST_MS;
    this.#publishedAtMs = nowMs;
    if (this.#idle) this.#wake?.();
  }

  /** Gives up the piece under way; resolves when nothing of it is left but perhaps a temporary file. */
  async stop(): Promise<void> {
    this.#stopping = true;
    this.#wake?.();
    await this.#done;
  }

  async #run(): Promise<void> {
    while (!this.#stopping) await this.#step();
  }

  async #step(): Promise<void> {
    let name: string | undefined;
    try {
      if (this.#due.length === 0 && this.#look) await this.#find();
      name = this.#due[0];
      if (name === undefined) {
        this.#idle = true;
        await this.#sleep(LOOK_MS);
        this.#idle = false;
        this.#look = this.#due.length === 0;
        return;
      }
      await this.#compress(name);
      this.#due.shift();
      if (this.#heldUp && !this.#quiet) this.options.events.compressionGoesOn();
      this.#heldUp = false;
      this.#quiet = false;
    } catch (error) {
      if (this.#stopping) return;
      if (error instanceof LeftAlone && name !== undefined) this.#leaveAlone(name, error.message);
      else await this.#holdUp(name, error);
    }
  }

  #leaveAlone(name: string, problem: string): void {
    this.#due.shift();
    if (this.#leftAlone.size < MAXIMUM_LEFT_ALONE) this.#leftAlone.add(name);
    this.options.events.segmentLeftAlone({ segment: name, problem });
  }

  async #holdUp(name: string | undefined, error: unknown): Promise<void> {
    // One that fails for ever must not hold up all the others, nor be told of for ever.
    if (name !== undefined) this.#due.push(...this.#due.splice(0, 1));
    // The message of a full disk names another file each time.
    const problem = errorCode(error) ?? String(error);
    if (problem !== this.#told) this.options.events.compressionHeldUp({ segment: name, error });
    else if (!this.#heldUp) this.#quiet = true;
    this.#told = problem;
    this.#heldUp = true;
    await this.#sleep(RETRY_MS);
  }

  /** The oldest plain segments; the names of one timeline are in order, and those of an older one come first. */
  async #find(): Promise<void> {
    this.#look = false;
    const { disk, segmentSize } = this.archive;
    try {
      const names = await disk.list(".") ?? [];
      const plain = names.filter((name) =>
        parseSegmentName(name, segmentSize) !== undefined && !this.#leftAlone.has(name)
      ).sort();
      if (plain.length > MAXIMUM_DUE) this.#look = true;
      this.#due.push(...plain.slice(0, MAXIMUM_DUE));
    } catch (error) {
      this.#look = true;
      throw error;
    }
  }

  async #compress(name: string): Promise<void> {
    const { disk, segmentSize } = this.archive;
    await withFile(disk, name, async (plain) => {
      const bytes = await plain.bytes();
      if (bytes !== segmentSize) throw new LeftAlone(`it has ${bytes} bytes, want ${segmentSize}`);
      // A crash may have left both; or somebody else brought it, compressed.
      if (!await this.#standsCompressed(name)) await this.#addCompressed(name, plain);
      await this.#removePlain(name, plain);
    });
  }

  async #addCompressed(name: string, plain: DiskFile): Promise<void> {
    const { disk, naming, modes } = this.archive;
    const form = FORM_OF_FORMAT[this.options.format];
    const temporary = compressingPath(name, form);
    await removeName(disk, temporary);
    const file = await disk.create(temporary, modes.file);
    let bytes: number;
    try {
      try {
        const lengths = await this.#writePieces(plain, file);
        await file.sync();
        bytes = await this.#readBack(plain, file, lengths);
      } finally {
        await file.close();
      }
      // Somebody may have brought it meanwhile, in this form or another.
      const added = !await this.#standsCompressed(name) &&
        await addName(disk, { from: temporary, to: name + form }, naming);
      if (!added && !await this.#standsCompressed(name)) {
        throw new Error(`Cannot compress ${name}: "${name}${form}" came and went`);
      }
    } catch (error) {
      // Room for others on a full disk, and nothing left behind by a stop.
      await removeName(disk, temporary);
      throw error;
    }
    await onlyOnce(() => disk.syncDirectory("."));
    await removeName(disk, temporary);
    this.options.events.segmentCompressed({ segment: name, path: name + form, bytes });
  }

  /** Writes the compressed file; resolves to the lengths of its parts. */
  async #writePieces(plain: DiskFile, file: DiskFile): Promise<readonly number[]> {
    const { memory } = this.worker;
    const lengths: number[] = [];
    let position = 0;
    const write = async (outputBytes: number): Promise<void> => {
      await file.write(memory.output.subarray(0, outputBytes), position);
      position += outputBytes;
      lengths.push(outputBytes);
    };
    await this.worker.begin();
    for (let start = 0; start < this.archive.segmentSize; start += PIECE_BYTES) {
      await this.#nextPiece();
      await write(await this.worker.compress(await this.#readContent(plain, start)));
    }
    await write(await this.worker.end());
    return lengths;
  }

  /** Holds the written file against the plain one, byte for byte; resolves to its length. */
  async #readBack(plain: DiskFile, file: DiskFile, lengths: readonly number[]): Promise<number> {
    const { memory } = this.worker;
    const refuse = () => new LeftAlone("its compressed file does not read back as it was written");
    let position = 0;
    for (const [index, outputBytes] of lengths.entries()) {
      await this.#nextPiece();
      const isEnd = index === lengths.length - 1;
      // What follows the pieces is made once more, and compared as it is.
      const expected = isEnd ? memory.output.slice(0, await this.worker.end()) : undefined;
      const output = memory.output.subarray(0, outputBytes);
      if (await file.read(output, position) !== outputBytes) throw refuse();
      position += outputBytes;
      if (expected !== undefined) {
        if (expected.length !== output.length || expected.some((byte, at) => byte !== output[at])) {
          throw refuse();
        }
        continue;
      }
      const contentBytes = await this.#readContent(plain, index * PIECE_BYTES);
      if (!await this.worker.holds({ contentBytes, outputBytes, isFirst: index === 0 })) throw refuse();
    }
    if (await file.bytes() !== position) throw refuse();
    return position;
  }

  async #readContent(plain: DiskFile, start: number): Promise<number> {
    const want = Math.min(PIECE_BYTES, this.archive.segmentSize - start);
    const count = await plain.read(this.worker.memory.content.subarray(0, want), start);
    if (count < want) throw new LeftAlone(`it ends after ${start + count} bytes`);
    return count;
  }

  /**
   * Whether the segment stands there in a compressed form, and holds the same.
   *
   * @throws {LeftAlone} when it holds something else.
   */
  async #standsCompressed(name: string): Promise<boolean> {
    const { disk, segmentSize } = this.archive;
    try {
      const comparison = await compareWithPublished(disk, {
        path: name,
        name,
        segmentSize,
        forms: COMPRESSED_FORMS,
      });
      if (comparison === undefined) return false;
      const { path, difference } = comparison;
      if (difference !== undefined) {
        throw new LeftAlone(`"${path}" holds other bytes, first at byte ${difference}`);
      }
      // Whoever linked it may not have synced it.
      await onlyOnce(async () => void await withFile(disk, path, (file) => file.sync()));
      return true;
    } catch (error) {
      if (error instanceof DamagedFileError) throw new LeftAlone(error.message, { cause: error });
      throw error;
    }
  }

  /** The compressed form is synced; now its name as well, and then nobody needs the plain one. */
  async #removePlain(name: string, plain: DiskFile): Promise<void> {
    const { disk } = this.archive;
    await onlyOnce(() => disk.syncDirectory("."));
    // Somebody may have put another file under the name: that one was not looked at.
    const entry = await disk.entry(name);
    if (entry === undefined) return;
    if (entry.inode !== await plain.inode()) throw new LeftAlone("it was exchanged meanwhile");
    await removeName(disk, name);
    await disk.syncDirectory(".");
  }

  /** Between two pieces: the place to give up, and to make way. */
  async #nextPiece(): Promise<void> {
    const { clock, resting } = this.options;
    const nowMs = clock.nowMs();
    if (nowMs - this.#publishedAtMs >= BURST_MS) this.#burst = false;
    if (this.#burst && resting) {
      const workedMs = nowMs - this.#pieceStartedMs;
      await this.#sleep(Math.min(MAXIMUM_REST_MS, REST_FACTOR * workedMs));
    }
    if (this.#stopping) throw new Stopped("Compression is to stop");
    this.#pieceStartedMs = clock.nowMs();
  }

  #sleep(delayMs: number): Promise<void> {
    if (this.#stopping) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = this.options.clock.setTimer(delayMs, () => this.#wake?.());
      this.#wake = () => {
        this.#wake = undefined;
        cancel();
        resolve();
      };
    });
  }
}
