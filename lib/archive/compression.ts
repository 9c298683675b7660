import type { Compression, CompressionFormat } from "./compression_format.ts";
import { ContentOutlet } from "./content_outlet.ts";
import { DamagedFileError } from "./damaged_file.ts";
import type { DiskFile } from "./disk.ts";
import { FileBytes } from "./file_bytes.ts";
import { readGzip } from "./gzip_reader.ts";
import { decodeLz4Block, lz4BlockEncoder } from "./lz4_block.ts";
import { encodeLz4Frame } from "./lz4_frame.ts";
import { readLz4 } from "./lz4_reader.ts";
import { PIECE_BYTES, type PieceEncoder, pieceEncoder } from "./piece_encoder.ts";
import type { TakeBytes } from "./segment_file.ts";
import { xxHash32 } from "./xx_hash32.ts";
import { zlib } from "./zlib.ts";
import { readZstd } from "./zstd_reader.ts";

export { DamagedFileError };
export {
  type Compression,
  type CompressionFormat,
  FORM_OF_FORMAT,
  FORMAT_OF_FORM,
  formatCompression,
  parseCompression,
} from "./compression_format.ts";

/**
 * Hands over what a compressed file holds, front to back, in pieces that are valid during the call only.
 *
 * The content of a file that has no checksum of its own is proven by its WAL records, so it must be a segment.
 * @throws {DamagedFileError} when it is cut off or damaged, or does not hold exactly `wantBytes`; bytes may have been
 * handed over before that shows, and it never shows behind an "enough".
 */
export async function decompress(
  file: DiskFile,
  source: { readonly format: CompressionFormat; readonly label: string; readonly wantBytes: number },
  take: TakeBytes,
): Promise<void> {
  const outlet = new ContentOutlet(source, take);
  await READERS[source.format](new FileBytes(file), outlet);
  outlet.finish();
}

/**
 * Hands over as much as can be read of a compressed file that its writer may not have finished, and then resolves.
 *
 * Nothing is proven: where the content ends, and whether it is right up to there, its records must tell.
 */
export async function decompressUnfinished(
  file: DiskFile,
  source: { readonly format: CompressionFormat; readonly label: string; readonly maximumBytes: number },
  take: TakeBytes,
): Promise<void> {
  const { format, label, maximumBytes: wantBytes } = source;
  const outlet = new ContentOutlet({ label, wantBytes, unfinished: true }, take);
  try {
    await READERS[format](new FileBytes(file), outlet);
  } catch (error) {
    // It ends where it is cut off, or where something else stands.
    if (!(error instanceof DamagedFileError)) throw error;
  }
}

const READERS = { zstd: readZstd, gzip: readGzip, lz4: readLz4 };

/** Makes a compressed file out of content that comes in pieces of any length, on the calling thread. */
export class PieceCompressor {
  readonly #encoder: PieceEncoder;
  readonly #piece = new Uint8Array(PIECE_BYTES);
  #pieceBytes = 0;

  constructor(compression: Compression) {
    this.#encoder = openPieceEncoder(compression);
  }

  /** Takes a copy of the next bytes; returns what of the compressed file is finished by them, in order. */
  push(bytes: Uint8Array): readonly Uint8Array[] {
    const finished: Uint8Array[] = [];
    for (let done = 0; done < bytes.length;) {
      const part = bytes.subarray(done, done + PIECE_BYTES - this.#pieceBytes);
      this.#piece.set(part, this.#pieceBytes);
      this.#pieceBytes += part.length;
      done += part.length;
      if (this.#pieceBytes === PIECE_BYTES) finished.push(this.#finishPiece());
    }
    return finished;
  }

  /** The rest of the compressed file, when all content has come. */
  end(): readonly Uint8Array[] {
    const finished = this.#pieceBytes > 0 ? [this.#finishPiece()] : [];
    return [...finished, this.#encoder.end()];
  }

  #finishPiece(): Uint8Array {
    const bytes = this.#encoder.piece(this.#piece.subarray(0, this.#pieceBytes));
    this.#pieceBytes = 0;
    return bytes;
  }
}

/** An encoder for one file, on the calling thread. */
export function openPieceEncoder(compression: Compression): PieceEncoder {
  return pieceEncoder(compression, {
    zlib: zlib(),
    hash: xxHash32,
    encodeBlock: lz4BlockEncoder(),
    encodeFrame: encodeLz4Frame,
    decodeBlock: decodeLz4Block,
  });
}
