import { SegmentCompressor } from "../archive/compress.ts";
import type { Compression } from "../archive/compression.ts";
import { type CompressionThreads, openCompressionThreads } from "../archive/compression_threads.ts";
import type { Disk } from "../archive/disk.ts";
import type { PlainDirectory } from "../archive/plain_directory.ts";
import { plainLayout, plainText, type SyncPolicy } from "../archive/plain_layout.ts";
import { realClock } from "../commands/clock.ts";
import { messageChain } from "../log.ts";
import type { ProgramLog } from "./program_log.ts";

/** A disk that stalls must not hold up the end. */
const STOP_TIMEOUT_MS = 2000;

interface PlainCompressingOptions {
  readonly plain: PlainDirectory;
  readonly compression: Compression;
  readonly sync: SyncPolicy;
  readonly log: ProgramLog;
}

/**
 * Compresses the segments of this run, each when it is complete; those from before `-Z` was given stay as they are.
 *
 * The original writes the growing segment compressed. Here it is plain, so that nothing of it is ever written twice.
 */
export class PlainCompressing {
  readonly #waiting = new Set<string>();
  #compressor: SegmentCompressor | undefined;
  #stuck = false;
  #drained: (() => void) | undefined;

  private constructor(
    private readonly options: PlainCompressingOptions,
    private readonly threads: CompressionThreads,
  ) {}

  static async open(options: PlainCompressingOptions): Promise<PlainCompressing> {
    const threads = await openCompressionThreads(options.plain.disk.root, options.compression);
    return new PlainCompressing(options, threads);
  }

  /** A segment is complete. */
  published(segment: string): void {
    this.#waiting.add(segment);
    this.#compressor ??= this.#start(segment);
    this.#compressor.published(segment);
  }

  /** Waits until all are compressed, or `timeoutMs`; then gives up what is under way. */
  async close(timeoutMs: number): Promise<void> {
    if (this.#waiting.size > 0 && !this.#stuck) await this.#whenDrained(timeoutMs);
    await Promise.race([this.#compressor?.stop(), after(STOP_TIMEOUT_MS)]);
    await this.threads.close();
  }

  #whenDrained(timeoutMs: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#drained = resolve;
    return Promise.race([promise, after(timeoutMs)]);
  }

  #start(first: string): SegmentCompressor {
    const { plain, sync, log, compression } = this.options;
    const segmentSize = plain.identity?.segmentSize;
    if (segmentSize === undefined) throw new Error("Cannot compress: the directory is not claimed");
    const layout = plainLayout(this.threads.disk, {
      sync: sync === "none" ? "none" : "all",
      segmentBytes: () => segmentSize,
    });
    const disk: Disk = {
      ...layout,
      list: async (path) => {
        const names = await layout.list(path);
        return path === "." && names !== undefined ? dueNames(names, first) : names;
      },
    };
    const done = (segment: string) => {
      this.#waiting.delete(segment);
      if (this.#waiting.size === 0) this.#drained?.();
    };
    return new SegmentCompressor(
      { disk, segmentSize, modes: plain.modes, naming: plain.naming },
      this.threads.worker,
      {
        format: compression.format,
        resting: false,
        clock: realClock,
        events: {
          segmentCompressed: ({ segment }) => done(segment),
          segmentLeftAlone: ({ segment, problem }) => {
            log.warning(`could not compress file "${segment}": ${plainText(problem)}`);
            done(segment);
          },
          compressionHeldUp: ({ segment, error }) => {
            this.#stuck = true;
            log.warning(
              `could not compress file "${segment ?? plain.disk.root}": ${plainText(messageChain(error))}`,
            );
            this.#drained?.();
          },
          compressionGoesOn: () => this.#stuck = false,
        },
      },
    );
  }
}

/** Those from the first segment of this run on, those a run before it did not come to, and what a crash left in both forms. */
export function dueNames(names: readonly string[], first: string): readonly string[] {
  const place = (name: string) => name.slice(8, 24);
  const compressed = new Set(
    names.filter((name) => /^[0-9A-F]{24}\.(zst|gz|lz4)$/.test(name)).map((name) => name.slice(0, 24)),
  );
  let newest: string | undefined;
  for (const name of compressed) if (newest === undefined || place(name) > newest) newest = place(name);
  const begin = newest !== undefined && newest < place(first) ? newest : place(first);
  return names.filter((name) =>
    /^[0-9A-F]{24}$/.test(name) && (place(name) >= begin || compressed.has(name))
  );
}

function after(ms: number): Promise<void> {
  return new Promise((resolve) => void setTimeout(resolve, ms).unref());
}
