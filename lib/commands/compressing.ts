import { availableParallelism } from "node:os";
import type { Archive } from "../archive/archive.ts";
import { type CompressorEvents, SegmentCompressor } from "../archive/compress.ts";
import { type Compression, formatCompression } from "../archive/compression.ts";
import { openCompressionThread } from "../archive/compression_thread.ts";
import type { Disk } from "../archive/disk.ts";
import { openDiskThread } from "../archive/disk_thread.ts";
import { PIECE_BYTES } from "../archive/piece_encoder.ts";
import { OUTPUT_BYTES, type PieceWorker } from "../archive/piece_worker.ts";
import { type Log, messageChain } from "../log.ts";
import { realClock } from "./clock.ts";

/** Begins of what the disk allocates stand at a page: some is lost between them. */
const MEMORY_BYTES = PIECE_BYTES + OUTPUT_BYTES + 8192;
/** With so many, compression takes nothing from receiving, and from a server beside it. */
const ENOUGH_PROCESSORS = 4;
/** A disk that stalls must not hold up the end. */
const STOP_TIMEOUT_MS = 2000;

/**
 * Compresses an archive's segments while it receives, on two threads of its own: one waits for the disk, one computes.
 *
 * For the holder of the archive's lock. It begins as soon as the archive is known to be one.
 */
export class Compressing {
  readonly #disk: Disk;
  readonly #worker: PieceWorker;
  #compressor: SegmentCompressor | undefined;

  constructor(
    private readonly archive: Archive,
    private readonly compression: Compression,
    private readonly log: Log,
  ) {
    this.#disk = openDiskThread(archive.disk.root, MEMORY_BYTES);
    const memory = { content: this.#disk.allocate(PIECE_BYTES), output: this.#disk.allocate(OUTPUT_BYTES) };
    this.#worker = openCompressionThread(compression, memory);
    this.#start();
  }

  /** A segment was published. */
  published(segment: string): void {
    this.#start();
    this.#compressor?.published(segment);
  }

  /** Gives up what is under way; "stuck" when the disk still has something of it. */
  async close(): Promise<"ended" | "stuck"> {
    const late = new Promise<void>((resolve) => void setTimeout(resolve, STOP_TIMEOUT_MS).unref());
    await Promise.race([this.#compressor?.stop(), late]);
    await this.#worker.close();
    return await this.#disk.close();
  }

  #start(): void {
    const { identity, modes, naming } = this.archive;
    if (this.#compressor !== undefined || identity === undefined) return;
    const { segmentSize } = identity;
    const { format } = this.compression;
    this.log.debug("compressing segments", { compression: formatCompression(this.compression) });
    this.#compressor = new SegmentCompressor({ disk: this.#disk, segmentSize, modes, naming }, this.#worker, {
      format,
      resting: availableParallelism() < ENOUGH_PROCESSORS,
      clock: realClock,
      events: compressorEvents(this.log),
    });
  }
}

function compressorEvents(log: Log): CompressorEvents {
  return {
    segmentCompressed: ({ segment, path, bytes }) =>
      log.debug("segment compressed", { segment, path, bytes }),
    compressionHeldUp: ({ segment, error }) =>
      log.warn("compression waits", {
        ...(segment === undefined ? {} : { segment }),
        error: messageChain(error),
      }),
    compressionGoesOn: () => log.info("compression goes on"),
    segmentLeftAlone: ({ segment, problem }) => log.warn("segment not compressed", { segment, problem }),
  };
}
