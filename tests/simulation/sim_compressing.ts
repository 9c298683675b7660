import type { Archive } from "../../lib/archive/archive.ts";
import type { Clock } from "../../lib/archive/clock.ts";
import { SegmentCompressor } from "../../lib/archive/compress.ts";
import { type CompressionFormat, openPieceEncoder } from "../../lib/archive/compression.ts";
import type { Disk } from "../../lib/archive/disk.ts";
import { PIECE_BYTES } from "../../lib/archive/piece_encoder.ts";
import { openDirectPieceWorker, OUTPUT_BYTES, type PieceWorker } from "../../lib/archive/piece_worker.ts";

/** As `receive` waits for it. */
const STOP_TIMEOUT_MS = 2000;

/** One process compresses at a time, and what a dead one reads of it does not matter. */
const MEMORY = { content: new Uint8Array(PIECE_BYTES), output: new Uint8Array(OUTPUT_BYTES) };

/** How compression goes in one seed. */
export interface CompressingPlan {
  /** Not gzip: its decoder waits for real threads. */
  readonly format: Exclude<CompressionFormat, "gzip">;
  readonly resting: boolean;
  /** Which byte of a piece of so many bytes comes to the disk as another one; `undefined`: none. */
  flip(bytes: number): number | undefined;
  readonly trace: (text: string) => void;
}

/** Compression beside a receiver, as `receive --compress` runs it, on the simulated machine. */
export class SimCompressing {
  #compressor: SegmentCompressor | undefined;

  constructor(
    private readonly archive: Archive,
    private readonly plan: CompressingPlan,
    private readonly machine: { readonly disk: Disk; readonly clock: Clock },
  ) {
    this.#start();
  }

  published(segment: string): void {
    this.#start();
    this.#compressor?.published(segment);
  }

  async close(): Promise<void> {
    const late = new Promise<void>((resolve) => this.machine.clock.setTimer(STOP_TIMEOUT_MS, resolve));
    await Promise.race([this.#compressor?.stop(), late]);
  }

  #start(): void {
    const { archive: { identity, modes, naming }, plan: { format, resting, trace } } = this;
    if (this.#compressor !== undefined || identity === undefined) return;
    const { disk, clock } = this.machine;
    const archive = { disk, segmentSize: identity.segmentSize, modes, naming };
    this.#compressor = new SegmentCompressor(archive, this.#worker(), {
      format,
      resting,
      clock,
      events: {
        segmentCompressed: ({ path }) => trace(`compressed ${path}`),
        compressionHeldUp: ({ error }) => trace(`compression is held up: ${(error as Error).message}`),
        compressionGoesOn: () => trace("compression goes on"),
        segmentLeftAlone: ({ segment, problem }) => trace(`left alone: ${segment}: ${problem}`),
      },
    });
  }

  /** A machine whose memory is not the best. */
  #worker(): PieceWorker {
    const { format, flip } = this.plan;
    const worker = openDirectPieceWorker(() => openPieceEncoder({ format, level: 1 }), MEMORY);
    return {
      ...worker,
      async compress(contentBytes) {
        const bytes = await worker.compress(contentBytes);
        const at = flip(bytes);
        if (at !== undefined) MEMORY.output[at]! ^= 1;
        return bytes;
      },
    };
  }
}
