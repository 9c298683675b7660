declare const lsnBrand: unique symbol;

/**
 * A log sequence number: one byte's position in the WAL, 0 to 2^64-1.
 *
 * Never a number: 2^53 is not 2^64.
 * @see XLogRecPtr, src/include/access/xlogdefs.h
 */
export type Lsn = bigint & { readonly [lsnBrand]: never };

const MAX_LSN = 0xffff_ffff_ffff_ffffn;
const LSN_TEXT = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/;

/**
 * The LSN of this value.
 *
 * @throws {RangeError} outside 0 to 2^64-1.
 */
export function lsn(value: bigint): Lsn {
  if (value < 0n || value > MAX_LSN) {
    throw new RangeError(`Cannot make an LSN of ${value}: want 0 to 2^64-1`);
  }
  return value as Lsn;
}

/** 0/0, which PostgreSQL uses for "no position": no WAL byte is there. Ours is `undefined`; this one is for the wire. */
export const ZERO_LSN: Lsn = lsn(0n);

/**
 * Reads an LSN as PostgreSQL's `pg_lsn` type does: two halves of 1 to 8 hex digits in either case, one slash.
 *
 * @throws {SyntaxError} on anything else, signs, spaces and "0x" included.
 * @see pg_lsn_in_internal(), src/backend/utils/adt/pg_lsn.c
 */
export function parseLsn(text: string): Lsn {
  const halves = LSN_TEXT.exec(text);
  if (halves === null) {
    throw new SyntaxError(
      `Cannot parse LSN: ${JSON.stringify(text)}, want two hex numbers like "16/B374D848"`,
    );
  }
  return ((BigInt(`0x${halves[1]}`) << 32n) | BigInt(`0x${halves[2]}`)) as Lsn;
}

/**
 * Writes an LSN as PostgreSQL does: "16/B374D848", upper case, no leading zeros.
 *
 * @see LSN_FORMAT_ARGS(), src/include/access/xlogdefs.h
 */
export function formatLsn(lsn: Lsn): string {
  return `${hex(lsn >> 32n)}/${hex(lsn & 0xffff_ffffn)}`;
}

function hex(half: bigint): string {
  return half.toString(16).toUpperCase();
}

/**
 * The LSN this many bytes further.
 *
 * @throws {RangeError} when that is outside 0 to 2^64-1, or `bytes` is not an integer.
 */
export function advance(startLsn: Lsn, bytes: number | bigint): Lsn {
  return lsn(startLsn + BigInt(bytes));
}

/** How many bytes lie from `startLsn` to `endLsn`; negative when `endLsn` comes first. */
export function bytesBetween(range: { readonly startLsn: Lsn; readonly endLsn: Lsn }): bigint {
  return range.endLsn - range.startLsn;
}

/** The earlier of two LSNs. */
export function minLsn(a: Lsn, b: Lsn): Lsn {
  return a < b ? a : b;
}

/** The later of two LSNs. */
export function maxLsn(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}
