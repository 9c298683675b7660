import { availableParallelism } from "node:os";
import type { Archive } from "../archive/archive.ts";
import { type CompressorEvents, SegmentCompressor } from "../archive/compress.ts";
import { type Compression, formatCompression } from "../archive/compression.ts";
import { type CompressionThreads, openCompressionThreads } from "../archive/compression_threads.ts";
import { type Log, messageChain } from "../log.ts";
import { realClock } from "./clock.ts";

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
  #compressor: SegmentCompressor | undefined;

  private constructor(
    private readonly archive: Archive,
    private readonly compression: Compression,
    private readonly log: Log,
    private readonly threads: CompressionThreads,
  ) {
    this.#start();
  }

  static async open(archive: Archive, compression: Compression, log: Log): Promise<Compressing> {
    const threads = await openCompressionThreads(archive.disk.root, compression);
    return new Compressing(archive, compression, log, threads);
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
    return await this.threads.close();
  }

  #start(): void {
    const { identity, modes, naming } = this.archive;
    if (this.#compressor !== undefined || identity === undefined) return;
    const { segmentSize } = identity;
    const { disk, worker } = this.threads;
    const { format } = this.compression;
    this.log.debug("compressing segments", { compression: formatCompression(this.compression) });
    this.#compressor = new SegmentCompressor({ disk, segmentSize, modes, naming }, worker, {
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
