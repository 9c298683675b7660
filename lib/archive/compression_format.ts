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
