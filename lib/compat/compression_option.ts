import type { Compression, CompressionFormat } from "../archive/compression.ts";

/** What `--compress` asks for: `undefined` for none, or what is wrong with it, in the original's words. */
export type CompressionOption =
  | { readonly kind: "compression"; readonly compression: Compression | undefined }
  | { readonly kind: "wrong"; readonly problem: string };

/** By method: the levels that PostgreSQL allows, and what counts without one. */
const LEVELS = {
  none: { lowest: 0, highest: 0, byDefault: 0 },
  gzip: { lowest: 1, highest: 9, byDefault: -1 },
  lz4: { lowest: 1, highest: 12, byDefault: 0 },
  zstd: { lowest: -131072, highest: 22, byDefault: 3 },
} as const;

type Method = keyof typeof LEVELS;

/** The level that our own encoder takes for one of PostgreSQL's. */
const OWN_LEVEL: Readonly<Record<CompressionFormat, (level: number) => number>> = {
  gzip: (level) => level === LEVELS.gzip.byDefault ? 6 : level,
  // There is one way only.
  lz4: () => 1,
  zstd: (level) => Math.min(Math.max(level, -7), 19),
};

/**
 * Reads `METHOD[:DETAIL]`, or a bare level of gzip.
 *
 * zstd is read too, which `pg_receivewal` knows and does not do.
 * @see parse_compress_options(), parse_compress_specification(), src/common/compression.c (PostgreSQL 15 to 18)
 */
export function parseCompressionOption(text: string): CompressionOption {
  const wrong = (problem: string) => ({ kind: "wrong" as const, problem });
  const bare = wholeNumber(text);
  if (bare === 0 || text === "") return { kind: "compression", compression: undefined };
  const colon = text.indexOf(":");
  const method = bare !== undefined ? "gzip" : colon === -1 ? text : text.slice(0, colon);
  const detail = bare !== undefined ? text : colon === -1 ? undefined : text.slice(colon + 1);
  if (!isMethod(method)) return wrong(`unrecognized compression algorithm: "${method}"`);
  const read = readDetail(method, detail);
  if (typeof read === "string") return wrong(`invalid compression specification: ${read}`);
  if (method === "none") return { kind: "compression", compression: undefined };
  return { kind: "compression", compression: { format: method, level: OWN_LEVEL[method](read.level) } };
}

function isMethod(text: string): text is Method {
  return Object.hasOwn(LEVELS, text);
}

interface Detail {
  level: number;
  workers: boolean;
  long: boolean;
}

function readDetail(method: Method, text: string | undefined): Detail | string {
  const { lowest, highest, byDefault } = LEVELS[method];
  const detail: Detail = { level: byDefault, workers: false, long: false };
  const bare = text === undefined ? undefined : wholeNumber(text);
  if (bare !== undefined) detail.level = bare;
  else if (text !== undefined) {
    for (const entry of text.split(",")) {
      const problem = readEntry(entry, detail);
      if (problem !== undefined) return problem;
    }
  }
  const { level } = detail;
  const named = `compression algorithm "${method}"`;
  if (method === "none" && level !== 0) return `${named} does not accept a compression level`;
  if ((level < lowest || level > highest) && level !== byDefault) {
    return `${named} expects a compression level between ${lowest} and ${highest} (default at ${byDefault})`;
  }
  if (detail.workers && method !== "zstd") return `${named} does not accept a worker count`;
  if (detail.long && method !== "zstd") return `${named} does not support long-distance mode`;
  return detail;
}

/** Returns what is wrong with it. */
function readEntry(entry: string, detail: Detail): string | undefined {
  const equals = entry.indexOf("=");
  const keyword = equals === -1 ? entry : entry.slice(0, equals);
  const value = equals === -1 ? undefined : entry.slice(equals + 1);
  if (keyword === "") return "found empty string where a compression option was expected";
  if (keyword === "long") {
    if (value !== undefined && !/^(yes|no|on|off|0|1)$/i.test(value)) {
      return `value for compression option "${keyword}" must be a Boolean value`;
    }
    detail.long = true;
    return undefined;
  }
  if (keyword !== "level" && keyword !== "workers") return `unrecognized compression option: "${keyword}"`;
  if (value === undefined) return `compression option "${keyword}" requires a value`;
  const number = wholeNumber(value);
  if (number === undefined) return `value for compression option "${keyword}" must be an integer`;
  if (keyword === "level") detail.level = number;
  else detail.workers = true;
  return undefined;
}

/** As strtol() reads it, when that takes the whole text. */
function wholeNumber(text: string): number | undefined {
  return /^\s*[+-]?[0-9]+$/.test(text) ? Number(text) : undefined;
}
