import { crc32c } from "../../lib/wal/crc32c.ts";
import { PAGE_BYTES } from "../../lib/wal/page.ts";

/** A record to be written: how long, and of which kind. Its data is made up. */
export interface RecordPlan {
  readonly totalBytes: number;
  readonly resourceManager?: number;
  readonly info?: number;
  readonly xid?: number;
  /** What follows the header; made up where it is not given. */
  readonly body?: Uint8Array;
}

/** Where a record came to lie. */
export interface PlacedRecord {
  readonly lsn: bigint;
  readonly prevLsn: bigint;
  /** The first byte after it, rounded up to 8 bytes. */
  readonly endLsn: bigint;
}

export const SYSTEM_IDENTIFIER = 0x6543_2109_8765_4321n;
export const MIB = 1024 * 1024;

/** WAL as a server would write it from a segment's start on: pages, headers, links, CRCs. */
export function buildWal(options: {
  readonly startLsn: bigint;
  readonly segmentBytes: number;
  readonly records: readonly RecordPlan[];
  readonly prevLsn?: bigint;
  readonly timeline?: number;
}): { readonly segments: Uint8Array[]; readonly records: PlacedRecord[] } {
  const { startLsn, segmentBytes, timeline = 1 } = options;
  const segments: Uint8Array[] = [];
  const records: PlacedRecord[] = [];
  let prevLsn = options.prevLsn ?? (startLsn === 0n ? 0n : startLsn - 64n);
  let position = 0;
  const segment = () => {
    const index = Math.floor(position / segmentBytes);
    return segments[index] ??= new Uint8Array(segmentBytes);
  };
  /** At a page's first byte: its header. */
  const enterPage = (remainingBytes: number) => {
    if (position % PAGE_BYTES !== 0) return;
    const bytes = segment();
    const offset = position % segmentBytes;
    const isLong = offset === 0;
    writePageHeader(bytes, offset, { pageLsn: startLsn + BigInt(position), timeline, remainingBytes });
    if (isLong) {
      const view = new DataView(bytes.buffer);
      view.setUint16(2, view.getUint16(2, true) | 2, true);
      view.setBigUint64(24, SYSTEM_IDENTIFIER, true);
      view.setUint32(32, segmentBytes, true);
      view.setUint32(36, PAGE_BYTES, true);
    }
    position += isLong ? 40 : 24;
  };
  for (const [index, plan] of options.records.entries()) {
    enterPage(0);
    const lsn = startLsn + BigInt(position);
    const record = encodeRecord(plan, prevLsn, index);
    for (let taken = 0; taken < record.length;) {
      enterPage(record.length - taken);
      const count = Math.min(record.length - taken, PAGE_BYTES - position % PAGE_BYTES);
      segment().set(record.subarray(taken, taken + count), position % segmentBytes);
      taken += count;
      position += count;
    }
    position = Math.ceil(position / 8) * 8;
    records.push({ lsn, prevLsn, endLsn: startLsn + BigInt(position) });
    prevLsn = lsn;
    const isSwitch = plan.resourceManager === 0 && plan.info === 0x40;
    if (isSwitch) position = Math.ceil(position / segmentBytes) * segmentBytes;
  }
  return { segments, records };
}

export function writePageHeader(
  bytes: Uint8Array,
  offset: number,
  header: {
    readonly pageLsn: bigint;
    readonly timeline: number;
    readonly remainingBytes: number;
    readonly flags?: number;
  },
): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  view.setUint16(offset, 0xd110, true);
  view.setUint16(offset + 2, header.flags ?? (header.remainingBytes > 0 ? 1 : 0), true);
  view.setUint32(offset + 4, header.timeline, true);
  view.setBigUint64(offset + 8, header.pageLsn, true);
  view.setUint32(offset + 16, header.remainingBytes, true);
}

function encodeRecord(plan: RecordPlan, prevLsn: bigint, seed: number): Uint8Array {
  const bytes = new Uint8Array(plan.totalBytes);
  for (let i = 24; i < bytes.length; i++) bytes[i] = (i * 31 + seed * 7) & 255;
  if (plan.body !== undefined) bytes.set(plan.body, 24);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, plan.totalBytes, true);
  view.setUint32(4, plan.xid ?? 700 + seed, true);
  view.setBigUint64(8, prevLsn, true);
  bytes[16] = plan.info ?? 0x10;
  bytes[17] = plan.resourceManager ?? 10;
  view.setUint32(20, crc32c(bytes.subarray(0, 20), crc32c(bytes.subarray(24))), true);
  return bytes;
}

/**
 * A second, simple reader of one segment, to hold the scanner against: takes the pages apart, then walks the records.
 *
 * Knows nothing of damage; `covered` holds the offsets of all bytes that some record's CRC vouches for.
 */
export function readRecords(bytes: Uint8Array, startLsn: bigint): {
  readonly records: { readonly lsn: bigint; readonly prevLsn: bigint; readonly end: number }[];
  readonly covered: ReadonlySet<number>;
} {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const records: { lsn: bigint; prevLsn: bigint; end: number }[] = [];
  const covered = new Set<number>();
  const isPage = (page: number) => view.getBigUint64(page + 8, true) === startLsn + BigInt(page);
  const headerBytes = (page: number) => (view.getUint16(page + 2, true) & 2) !== 0 ? 40 : 24;
  let at = headerBytes(0);
  const left = (view.getUint16(2, true) & 1) !== 0 ? view.getUint32(16, true) : 0;
  const skip = (count: number, visit?: (offset: number) => void) => {
    for (let k = 0; k < count; k++) {
      if (at % PAGE_BYTES === 0) {
        if (at >= bytes.length || !isPage(at)) return false;
        at += headerBytes(at);
      }
      visit?.(at++);
      if (visit === undefined) at++;
    }
    return true;
  };
  if (!skip(left)) return { records, covered };
  for (;;) {
    at = Math.ceil(at / 8) * 8;
    if (at >= bytes.length) break;
    if (at % PAGE_BYTES === 0) {
      if (!isPage(at)) break;
      at += headerBytes(at);
    }
    const start = at;
    const total = view.getUint32(at, true);
    if (total < 24) break;
    const offsets: number[] = [];
    if (!skip(total, (offset) => offsets.push(offset))) break;
    const record = Uint8Array.from(offsets, (offset) => bytes[offset]!);
    const fields = new DataView(record.buffer);
    if (crc32c(record.subarray(0, 20), crc32c(record.subarray(24))) !== fields.getUint32(20, true)) break;
    for (const offset of offsets) covered.add(offset);
    const prevLsn = fields.getBigUint64(8, true);
    records.push({ lsn: startLsn + BigInt(start), prevLsn, end: Math.ceil(at / 8) * 8 });
    if (record[17] === 0 && (record[16]! & 0xf0) === 0x40) break;
  }
  return { records, covered };
}
