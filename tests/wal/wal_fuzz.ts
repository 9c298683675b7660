/** Real and made-up WAL, changed at random, through everything here that reads WAL: no crash, and no invented record. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { readdirSync, readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { decodeLz4Block } from "../../lib/archive/lz4_block.ts";
import { crc32c } from "../../lib/wal/crc32c.ts";
import { type Lsn, lsn } from "../../lib/wal/lsn.ts";
import { decodePageHeader, PAGE_BYTES } from "../../lib/wal/page.ts";
import { decodePglz } from "../../lib/wal/pglz.ts";
import { decodeRecordHeader, type WalRecord } from "../../lib/wal/record.ts";
import { type BlockImage, decodeRecordBody, restoreImage } from "../../lib/wal/record_body.ts";
import { RecordReader } from "../../lib/wal/record_reader.ts";
import { RecordWalk } from "../../lib/wal/record_walk.ts";
import { parseSegmentName, type SegmentSize, segmentSize, segmentStart } from "../../lib/wal/segment.ts";
import { Random } from "../simulation/random.ts";
import { buildWal, MIB, type RecordPlan } from "./wal_builder.ts";

/** WAL as it was written, and the records in it. */
interface Original {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly startLsn: Lsn;
  readonly size: SegmentSize;
  readonly records: ReadonlyMap<Lsn, Uint8Array>;
  /** Records behind the end of valid WAL: left from an earlier life of the file. */
  readonly leftOver: readonly Uint8Array[];
  /** Bytes up to the end of valid WAL. */
  readonly contentBytes: number;
}

/** How many inputs were read, and what came of them. */
export interface FuzzCounts {
  inputs: number;
  /** Records handed over, all of them real. */
  records: number;
  /** Real records that were put where nothing tells that they are not at home there. */
  moved: number;
  bodies: number;
  refusedBodies: number;
  images: number;
}

const FIXTURES = new URL("../fixtures/wal/", import.meta.url);
/** Of a window of WAL that is changed: enough for a record over pages, and few enough for millions of inputs. */
const MOST_PAGES = 3;
const MAJORS = [10, 11, 12, 13, 14, 15, 16, 17, 18];
const NUMBERS = [
  0,
  1,
  23,
  24,
  25,
  0xff,
  0x7fff,
  0xffff,
  0x10000,
  0x3fff_ffff,
  0x4000_0000,
  0x7fff_ffff,
  0x8000_0000,
];

let corpus: readonly Original[] | undefined;
let picked: readonly Uint8Array[] | undefined;

/** Records of every shape, with images of every compression. */
function pickedBodies(): readonly Uint8Array[] {
  const text = () => gunzipSync(readFileSync(new URL("records.json.gz", FIXTURES))).toString("utf8");
  return picked ??= (JSON.parse(text()) as { readonly bytes: string }[])
    .map(({ bytes }) => new Uint8Array(Buffer.from(bytes, "base64")));
}

function original(name: string, bytes: Uint8Array, startLsn: Lsn, size: SegmentSize): Original {
  const records = new Map<Lsn, Uint8Array>();
  const reader = new RecordReader({
    startLsn,
    segmentSize: size,
    records: { wants: () => true, take: (record) => records.set(record.lsn, record.bytes.slice()) },
  });
  reader.push(bytes);
  const contentBytes = Math.min(
    bytes.length,
    Math.max(PAGE_BYTES, Number(reader.result().endLsn - startLsn)),
  );
  const leftOver = recordsIn(bytes.subarray(contentBytes));
  return { name, bytes, startLsn, size, records, leftOver, contentBytes };
}

/** What may be a record by its CRC, wherever it lies within a page. */
function recordsIn(bytes: Uint8Array): readonly Uint8Array[] {
  const found: Uint8Array[] = [];
  for (let at = 0; at + 24 <= bytes.length; at += 8) {
    const header = decodeRecordHeader(bytes.subarray(at));
    if (header === undefined || header.totalBytes < 24 || header.totalBytes > PAGE_BYTES) continue;
    const record = bytes.subarray(at, at + header.totalBytes);
    if (crc32c(record.subarray(0, 20), crc32c(record.subarray(24))) === header.crc) found.push(record);
  }
  return found;
}

/** All fixtures, and WAL of short and long records, over segments too. */
function originals(): readonly Original[] {
  if (corpus !== undefined) return corpus;
  const real = readdirSync(FIXTURES).filter((name) => /^[0-9].*\.gz$/.test(name)).map((name) => {
    const bytes = new Uint8Array(gunzipSync(readFileSync(new URL(name, FIXTURES))));
    const size = segmentSize(bytes.length);
    const segment = parseSegmentName(name.slice(-27, -3), size) ?? assert.fail(name);
    return original(name, bytes, segmentStart(segment.number, size), size);
  });
  const random = new Random(1);
  const plans: RecordPlan[] = [];
  for (let bytes = 0; bytes < 2 * MIB;) {
    const totalBytes = Math.floor(random.spread(24, 30_000));
    plans.push({ totalBytes });
    bytes += totalBytes;
  }
  const startLsn = lsn(0xffff_fff0_0000n);
  const { segments } = buildWal({ startLsn, segmentBytes: MIB, records: plans });
  const made = new Uint8Array(segments.length * MIB);
  for (const [index, segment] of segments.entries()) made.set(segment, index * MIB);
  return corpus = [...real, original("made", made, startLsn, segmentSize(MIB))];
}

/** Reads `inputs` changed inputs, always the same ones for a seed. */
export function fuzzWal(
  { inputs, seed, progress }: {
    readonly inputs: number;
    readonly seed: number;
    readonly progress?: (counts: FuzzCounts) => void;
  },
): FuzzCounts {
  const random = new Random(seed);
  const all = originals();
  const counts: FuzzCounts = { inputs: 0, records: 0, moved: 0, bodies: 0, refusedBodies: 0, images: 0 };
  while (counts.inputs < inputs) {
    const input = counts.inputs++;
    const from = random.pick(all);
    try {
      readChanged(random, from, all, counts);
    } catch (error) {
      throw new Error(`Input ${input} of seed ${seed}, from ${from.name}`, { cause: error });
    }
    if (counts.inputs % 500_000 === 0) progress?.(counts);
  }
  return counts;
}

function readChanged(random: Random, from: Original, all: readonly Original[], counts: FuzzCounts): void {
  const lastPage = Math.floor((from.contentBytes - 1) / PAGE_BYTES);
  // Where the segment begins or ends more often than chance would have it.
  const segmentPages = from.size / PAGE_BYTES;
  const edge = random.pick([0, segmentPages - 1, segmentPages, lastPage]);
  const page = Math.min(lastPage, random.chance(0.3) ? edge : random.integer(0, lastPage));
  const pages = random.integer(1, MOST_PAGES);
  const at = page * PAGE_BYTES;
  const window = from.bytes.slice(at, at + pages * PAGE_BYTES);
  const startLsn = lsn(from.startLsn + BigInt(at));
  const changed = change(random, window, all);

  const bodies: Uint8Array[] = [];
  const take = ({ lsn: at, endLsn, header, bytes }: WalRecord) => {
    assert.equal(bytes.length, header.totalBytes);
    assert.ok(endLsn > at && at >= startLsn && endLsn <= startLsn + BigInt(changed.length + 7));
    const real = from.records.get(at);
    if (!isSame(real, bytes)) {
      // Nothing stands before the first record that could tell; and the clusters of some fixtures have the same
      // history, so that a record of one fits into another at its own place.
      const isFirst = reader.result().recordCount === 1;
      const isMoved = all.some(({ records, leftOver }) =>
        isSame(records.get(at), bytes) ||
        isFirst && [...records.values(), ...leftOver].some((each) => isSame(each, bytes))
      );
      if (!isMoved) assert.fail(`an invented record at ${at}`);
      counts.moved++;
    }
    counts.records++;
    if (bodies.length < 2 && random.chance(0.2)) bodies.push(bytes.slice());
  };
  const records = { wants: () => random.chance(0.9), take };
  const reader = new RecordReader({ startLsn, segmentSize: from.size, records });
  for (let i = 0; i < changed.length;) {
    const until = random.chance(0.7) ? changed.length : i + random.integer(1, 9000);
    reader.push(changed.subarray(i, until));
    i = until;
  }
  const { endLsn } = reader.result();
  assert.ok(endLsn >= startLsn && endLsn <= startLsn + BigInt(from.size));
  if (bodies.length === 0) bodies.push(changed.subarray(random.integer(0, changed.length)));
  for (const body of bodies) readBody(random, body, counts);
  if (random.chance(0.1)) readBody(random, random.pick(pickedBodies()), counts);
  if (random.chance(0.1)) walk(random, changed, startLsn);
}

/** `RecordWalk` and the header decoders, from any place. */
function walk(random: Random, changed: Uint8Array, startLsn: Lsn): void {
  const at = random.integer(0, Math.floor(changed.length / 8)) * 8;
  decodeRecordHeader(changed.subarray(at));
  decodePageHeader(changed.subarray(at));
  const recordLsn = lsn(startLsn + BigInt(at));
  const walk = new RecordWalk(recordLsn);
  walk.push(changed.subarray(at));
  assert.ok(walk.positionLsn <= startLsn + BigInt(changed.length));
}

/** Changes of a record's own bytes, which no CRC finds any more: the decoders must take or refuse them. */
function readBody(random: Random, bytes: Uint8Array, counts: FuzzCounts): void {
  const body = bytes.slice(0, random.chance(0.9) ? bytes.length : random.integer(0, bytes.length));
  // Mostly in the headers of the parts.
  for (let n = random.integer(0, 3); n > 0 && body.length > 24; n--) {
    body[random.integer(24, random.chance(0.7) ? Math.min(body.length - 1, 90) : body.length - 1)] = random
      .integer(0, 255);
  }
  counts.bodies++;
  try {
    const { blocks, mainData } = decodeRecordBody(body, random.pick(MAJORS));
    let partBytes = mainData.length;
    for (const { data, image, fork, id } of blocks) {
      partBytes += data.length + (image?.bytes.length ?? 0);
      assert.ok(fork <= 3 && id <= 32);
      if (image !== undefined) readImage(random, image, counts);
    }
    assert.ok(partBytes <= body.length);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    counts.refusedBodies++;
  }
}

function decodeLz4(bytes: Uint8Array, contentBytes: number): Uint8Array {
  const content = new Uint8Array(contentBytes);
  return content.subarray(0, decodeLz4Block(bytes, content, 0));
}

function readImage(random: Random, image: BlockImage, counts: FuzzCounts): void {
  counts.images++;
  for (const compression of [image.compression, "pglz", "lz4"] as const) {
    try {
      assert.equal(restoreImage({ ...image, compression }, { lz4: decodeLz4 }).length, 8192);
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
    }
  }
  const wantBytes = random.integer(0, 9000);
  try {
    assert.equal(decodePglz(image.bytes, wantBytes).length, wantBytes);
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
}

/** One to four changes of a kind that disks, networks, recycled files and enemies make. */
function change(random: Random, window: Uint8Array, all: readonly Original[]): Uint8Array {
  let bytes = window;
  const view = new DataView(bytes.buffer);
  for (let n = random.integer(1, 4); n > 0; n--) {
    const at = random.integer(0, bytes.length - 1);
    const count = Math.min(bytes.length - at, Math.floor(random.spread(1, 9000)));
    const word = Math.max(0, Math.min(at & ~7, bytes.length - 8));
    switch (random.integer(0, 9)) {
      case 0:
      case 1:
        bytes[at]! ^= 1 << random.integer(0, 7);
        break;
      case 2:
        bytes[at] = random.integer(0, 255);
        break;
      case 3:
        bytes.fill(random.pick([0, 0, 0xff, 0x55]), at, at + count);
        break;
      case 4:
        for (let i = at; i < at + Math.min(count, 64); i++) bytes[i] = random.integer(0, 255);
        break;
      case 5: // a number that lengths and links are made of
        if (bytes.length >= 8) view.setUint32(word, random.pick(NUMBERS), true);
        break;
      case 6: { // a page header's, or a page's flags
        const page = at - at % PAGE_BYTES;
        bytes[Math.min(bytes.length - 1, page + random.integer(0, 39))] = random.integer(0, 255);
        break;
      }
      case 7: { // other WAL, at the same place in its page or at another one
        const other = random.pick(all);
        const start = random.chance(0.5)
          ? random.integer(0, Math.floor(other.contentBytes / PAGE_BYTES)) * PAGE_BYTES + at % PAGE_BYTES
          : random.integer(0, other.contentBytes);
        bytes.set(other.bytes.subarray(start, start + count), at);
        break;
      }
      case 8: { // the same WAL, elsewhere
        const start = random.integer(0, bytes.length - count) & ~7;
        bytes.copyWithin(word, start, start + Math.min(count, bytes.length - word));
        break;
      }
      case 9: // cut off
        bytes = bytes.subarray(0, Math.max(1, at));
        break;
    }
  }
  return bytes;
}

function isSame(a: Uint8Array | undefined, b: Uint8Array): boolean {
  if (a?.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}
