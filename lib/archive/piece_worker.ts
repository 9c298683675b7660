import { Buffer } from "node:buffer";
import { PIECE_BYTES, type PieceEncoder } from "./piece_encoder.ts";
import { zlib } from "./zlib.ts";

/** Room for the longest that a piece can become, in any format. */
export const OUTPUT_BYTES = PIECE_BYTES + (PIECE_BYTES >>> 5);

/** What a piece is compressed from, and into. */
export interface PieceMemory {
  /** `PIECE_BYTES` of content. */
  readonly content: Uint8Array;
  /** `OUTPUT_BYTES` for what it becomes. */
  readonly output: Uint8Array;
}

/** A piece in the memory. */
export interface PieceLengths {
  readonly contentBytes: number;
  readonly outputBytes: number;
  readonly isFirst: boolean;
}

/** Compresses files, one after the other and each piece by piece, wherever that is done. One call at a time. */
export interface PieceWorker {
  readonly memory: PieceMemory;
  /** Begins a file; what of one before it is unfinished is forgotten. */
  begin(): Promise<void>;
  /** Compresses the first `contentBytes` of `content` into `output`; resolves to how many bytes they became. */
  compress(contentBytes: number): Promise<number>;
  /** Puts what stands after the last piece into `output`; resolves to how many bytes that is. */
  end(): Promise<number>;
  /**
   * Whether the piece in `output` is, to the bit, the one that was made, and decodes to exactly what stands in `content`.
   *
   * The pieces of a file come in the order in which they were made.
   */
  holds(piece: PieceLengths): Promise<boolean>;
  close(): Promise<void>;
}

/** What `PieceWorker` does, at once. */
export interface PieceWork {
  begin(): void;
  compress(contentBytes: number): number;
  end(): number;
  holds(piece: PieceLengths): boolean;
}

/**
 * The work on the calling thread.
 *
 * Its source text runs in the compression thread too, so it uses nothing but its parameters and globals.
 */
export function pieceWork(
  openEncoder: () => PieceEncoder,
  { memory, compare, crc32 }: {
    readonly memory: PieceMemory;
    readonly compare: (a: Uint8Array, b: Uint8Array) => number;
    readonly crc32: (bytes: Uint8Array) => number;
  },
): PieceWork {
  let encoder = openEncoder();
  // Decoding a piece alone does not look at all that readers of the whole file believe: a header, a mark of the end.
  let checksums: number[] = [];
  let looked = 0;
  const put = (bytes: Uint8Array): number => {
    memory.output.set(bytes);
    return bytes.length;
  };
  return {
    begin() {
      encoder = openEncoder();
      checksums = [];
    },
    compress(contentBytes) {
      const piece = encoder.piece(memory.content.subarray(0, contentBytes));
      checksums.push(crc32(piece));
      return put(piece);
    },
    end: () => put(encoder.end()),
    holds({ contentBytes, outputBytes, isFirst }) {
      if (isFirst) looked = 0;
      // A copy: decoders need not take shared memory.
      const piece = memory.output.slice(0, outputBytes);
      if (crc32(piece) !== checksums[looked++]) return false;
      const content = encoder.decode(piece, { contentBytes, isFirst });
      return content.length === contentBytes &&
        compare(content, memory.content.subarray(0, contentBytes)) === 0;
    },
  };
}

/** For those who may stand still meanwhile: tests. */
export function openDirectPieceWorker(openEncoder: () => PieceEncoder, memory: PieceMemory): PieceWorker {
  const work = pieceWork(openEncoder, {
    memory,
    compare: Buffer.compare,
    crc32: (bytes) => zlib().crc32(bytes),
  });
  const act = <T>(run: () => T): Promise<T> => new Promise((resolve) => resolve(run()));
  return {
    memory,
    begin: () => act(() => work.begin()),
    compress: (contentBytes) => act(() => work.compress(contentBytes)),
    end: () => act(() => work.end()),
    holds: (piece) => act(() => work.holds(piece)),
    close: () => Promise.resolve(),
  };
}
