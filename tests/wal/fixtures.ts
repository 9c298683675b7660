import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import type { Lsn } from "../../lib/wal/lsn.ts";
import { parseSegmentName, type SegmentSize, segmentSize, segmentStart } from "../../lib/wal/segment.ts";

const DIRECTORY = new URL("../fixtures/wal/", import.meta.url);

/** Real segments of PostgreSQL 10 to 18; tests/fixtures/wal/README.md says what they are. */
export const FIXTURES: readonly { readonly file: string; readonly major: number; readonly name: string }[] =
  JSON
    .parse(readFileSync(new URL("expected.json", DIRECTORY), "utf8"));

/** The segment in one of those files. */
export function fixture(file: string): {
  readonly bytes: Uint8Array;
  readonly size: SegmentSize;
  readonly startLsn: Lsn;
  readonly segment: string;
} {
  const bytes = gunzipSync(readFileSync(new URL(file, DIRECTORY)));
  const size = segmentSize(bytes.length);
  const segment = /[0-9A-F]{24}/.exec(file)?.[0] ?? "";
  return { bytes, size, startLsn: segmentStart(parseSegmentName(segment, size)!.number, size), segment };
}
