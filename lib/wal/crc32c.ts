/** The Castagnoli polynomial, bits reversed. */
const POLYNOMIAL = 0x82f63b78;

/** Bytes handled at once; one table of 256 entries for each. */
const SLICES = 16;

/** Table `k` (at `256 * k`) holds the CRC of each byte value followed by `k` zero bytes. */
const TABLES = makeTables();

function makeTables(): Int32Array {
  const tables = new Int32Array(SLICES * 256);
  for (let value = 0; value < 256; value++) {
    let crc = value;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    tables[value] = crc;
  }
  for (let i = 256; i < tables.length; i++) {
    const shorter = tables[i - 256]!;
    tables[i] = (shorter >>> 8) ^ tables[shorter & 255]!;
  }
  return tables;
}

/**
 * CRC-32C (Castagnoli) of the bytes, 0 to 2^32-1, as every WAL record carries it.
 *
 * `previous` is the CRC of the bytes before these: `crc32c(b, crc32c(a))` is the CRC of a followed by b.
 * @see src/port/pg_crc32c_sb8.c; https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4
 */
export function crc32c(bytes: Uint8Array, previous = 0): number {
  return crc32cOfRange(bytes, { start: 0, end: bytes.length }, previous);
}

/** CRC-32C of `bytes[start..end)`, without making a view; otherwise as `crc32c()`. */
export function crc32cOfRange(
  bytes: Uint8Array,
  range: { readonly start: number; readonly end: number },
  previous: number,
): number {
  const t = TABLES;
  const { end } = range;
  let i = range.start;
  let crc = ~previous;
  // Sixteen lookups that do not wait for each other. Reading single bytes is as fast as reading words here, and it
  // asks nothing of the alignment, which chunks from a socket do not have.
  for (const last = end - SLICES; i <= last; i += SLICES) {
    crc = t[3840 + ((crc ^ bytes[i]!) & 255)]! ^ t[3584 + (((crc >>> 8) ^ bytes[i + 1]!) & 255)]! ^
      t[3328 + (((crc >>> 16) ^ bytes[i + 2]!) & 255)]! ^ t[3072 + ((crc >>> 24) ^ bytes[i + 3]!)]! ^
      t[2816 + bytes[i + 4]!]! ^ t[2560 + bytes[i + 5]!]! ^ t[2304 + bytes[i + 6]!]! ^
      t[2048 + bytes[i + 7]!]! ^ t[1792 + bytes[i + 8]!]! ^ t[1536 + bytes[i + 9]!]! ^
      t[1280 + bytes[i + 10]!]! ^ t[1024 + bytes[i + 11]!]! ^ t[768 + bytes[i + 12]!]! ^
      t[512 + bytes[i + 13]!]! ^ t[256 + bytes[i + 14]!]! ^ t[bytes[i + 15]!]!;
  }
  for (; i < end; i++) crc = t[(crc ^ bytes[i]!) & 255]! ^ (crc >>> 8);
  return ~crc >>> 0;
}
