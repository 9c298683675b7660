import type { Lz4FrameTools } from "./lz4_frame.ts";

/** No piece has more content: memory for it is needed some times over, and longer ones come out no shorter. */
export const PIECE_BYTES = 1 << 20;

/** What `pieceEncoder` works with: its source text travels alone. */
export interface PieceTools extends Lz4FrameTools {
  readonly zlib: Pick<
    typeof import("node:zlib"),
    "constants" | "crc32" | "deflateRawSync" | "inflateRawSync" | "zstdCompressSync" | "zstdDecompressSync"
  >;
  readonly encodeFrame: (content: Uint8Array, tools: Lz4FrameTools) => Uint8Array;
  readonly decodeBlock: (block: Uint8Array, target: Uint8Array, start: number) => number;
}

/** Makes one compressed file, piece by piece; each piece is decoded without the others. */
export interface PieceEncoder {
  /** What the next bytes of the content, at most `PIECE_BYTES`, become. */
  piece(content: Uint8Array): Uint8Array;
  /** What stands after the last piece. */
  end(): Uint8Array;
  /** What a piece decodes to. `isFirst` tells whether `piece` returned it at its first call. */
  decode(bytes: Uint8Array, of: { readonly contentBytes: number; readonly isFirst: boolean }): Uint8Array;
}

/**
 * An encoder for one file.
 *
 * - zstd and lz4: a frame for each piece, with its content size and checksum.
 * - gzip: one member, whatever the length: older tools look for the content's size in its last four bytes. Each piece
 *   begins anew and ends at a byte's boundary.
 *
 * Its source text runs in the compression thread too, so it uses nothing but its parameters and globals.
 */
export function pieceEncoder(
  { format, level }: { readonly format: "zstd" | "gzip" | "lz4"; readonly level: number },
  tools: PieceTools,
): PieceEncoder {
  const { zlib } = tools;
  const { constants } = zlib;
  const nothing = new Uint8Array(0);
  const zstd = (): PieceEncoder => {
    const params = {
      [constants.ZSTD_c_compressionLevel]: level,
      [constants.ZSTD_c_checksumFlag]: 1,
      [constants.ZSTD_c_contentSizeFlag]: 1,
    };
    return {
      piece(content) {
        // Not in the types yet; without it the frame need not tell its content's size.
        const pledgedSrcSize = content.length;
        // Room for the longest frame there can be: Deno 2.9 adds an empty frame when it has to ask for more room.
        const options = { params, pledgedSrcSize, chunkSize: content.length + (content.length >>> 7) + 1024 };
        return zlib.zstdCompressSync(content, options);
      },
      end: () => nothing,
      decode: (bytes, { contentBytes }) =>
        zlib.zstdDecompressSync(bytes, {
          maxOutputLength: contentBytes + 1,
          chunkSize: Math.max(64, contentBytes),
        }),
    };
  };
  const gzip = (): PieceEncoder => {
    // Deflate, no name, no time, on a system that is not told.
    const header = Uint8Array.of(0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255);
    const finishFlush = constants.Z_SYNC_FLUSH;
    let started = false;
    let crc = 0;
    let bytes = 0;
    return {
      piece(content) {
        crc = zlib.crc32(content, crc);
        bytes += content.length;
        const deflated = zlib.deflateRawSync(content, { level, finishFlush, chunkSize: 256 * 1024 });
        if (started) return deflated;
        started = true;
        const first = new Uint8Array(header.length + deflated.length);
        first.set(header);
        first.set(deflated, header.length);
        return first;
      },
      end() {
        const tail = new Uint8Array((started ? 0 : header.length) + 10);
        if (!started) tail.set(header);
        const view = new DataView(tail.buffer, tail.length - 10);
        // An empty block, the last one, of fixed codes.
        view.setUint16(0, 3, true);
        view.setUint32(2, crc, true);
        view.setUint32(6, bytes % 2 ** 32, true);
        return tail;
      },
      decode: (piece, { contentBytes, isFirst }) =>
        zlib.inflateRawSync(isFirst ? piece.subarray(header.length) : piece, {
          finishFlush,
          maxOutputLength: contentBytes + 1,
          chunkSize: Math.max(64, contentBytes),
        }),
    };
  };
  const lz4 = (): PieceEncoder => ({
    piece: (content) => tools.encodeFrame(content, tools),
    end: () => nothing,
    decode(bytes, { contentBytes }) {
      const HEADER_BYTES = 15;
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      const word = view.getUint32(HEADER_BYTES, true);
      const start = HEADER_BYTES + 4;
      const block = bytes.subarray(start, start + (word & 0x7fffffff));
      if (word >>> 31 === 1) return block;
      const content = new Uint8Array(contentBytes);
      return content.subarray(0, tools.decodeBlock(block, content, 0));
    },
  });
  return { zstd, gzip, lz4 }[format]();
}
