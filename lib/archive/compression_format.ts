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
