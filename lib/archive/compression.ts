import * as zlib from "node:zlib";
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
import { readZstd } from "./zstd_reader.ts";

export { DamagedFileError };

/** How segments are compressed. */
export type CompressionFormat = "zstd" | "gzip" | "lz4";

/** A format, and how hard to try. */
export interface Compression {
  readonly format: CompressionFormat;
  /** As the format's own tool counts it. */
  readonly level: number;
}

/** The format that the end of a name tells. */
export const FORMAT_OF_FORM: Readonly<Record<".zst" | ".gz" | ".lz4", CompressionFormat>> = {
  ".zst": "zstd",
  ".gz": "gzip",
  ".lz4": "lz4",
};

/** The end of a name that tells the format. */
export const FORM_OF_FORMAT: Readonly<Record<CompressionFormat, ".zst" | ".gz" | ".lz4">> = {
  zstd: ".zst",
  gzip: ".gz",
  lz4: ".lz4",
};

/** By format: the levels there are, and the one that is taken when none is given. */
const LEVELS: Readonly<
  Record<CompressionFormat, { readonly lowest: number; readonly highest: number; readonly byDefault: number }>
> = {
  // The runtimes know no negative levels; above 19 a reader would need memory that a restore may not have.
  zstd: { lowest: 1, highest: 19, byDefault: 1 },
  gzip: { lowest: 1, highest: 9, byDefault: 6 },
  lz4: { lowest: 1, highest: 1, byDefault: 1 },
};

/**
 * Reads `zstd`, `gzip`, `lz4`, each with `:LEVEL` or PostgreSQL's `:level=LEVEL` after it, or `none` (`undefined`).
 *
 * @throws {SyntaxError} when it is none of these.
 * @throws {RangeError} when the format has no such level.
 */
export function parseCompression(text: string): Compression | undefined {
  if (text === "none") return undefined;
  const [, format = "", level] = /^([^:]*)(?::(?:level=)?(.*))?$/s.exec(text) ?? [];
  if (format !== "zstd" && format !== "gzip" && format !== "lz4") {
    throw new SyntaxError(`Cannot compress with "${format}": want zstd, gzip, lz4 or none`);
  }
  const { lowest, highest, byDefault } = LEVELS[format];
  if (level === undefined) return { format, level: byDefault };
  if (!/^-?[0-9]{1,3}$/.test(level)) {
    throw new SyntaxError(
      `Cannot compress with "${text}": the level is "${level}", want a number as in ${format}:1`,
    );
  }
  if (Number(level) < lowest || Number(level) > highest) {
    const want = lowest === highest ? `${lowest}, its only one` : `${lowest} to ${highest}`;
    throw new RangeError(`Cannot compress with "${text}": ${format} has no level ${level}, want ${want}`);
  }
  return { format, level: Number(level) };
}

/** As `parseCompression` reads it. */
export function formatCompression({ format, level }: Compression): string {
  return level === LEVELS[format].byDefault ? format : `${format}:${level}`;
}

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
    zlib,
    hash: xxHash32,
    encodeBlock: lz4BlockEncoder(),
    encodeFrame: encodeLz4Frame,
    decodeBlock: decodeLz4Block,
  });
}
