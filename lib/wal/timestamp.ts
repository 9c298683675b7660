declare const timestampBrand: unique symbol;

/**
 * A moment as WAL holds it: microseconds since 2000-01-01 00:00 UTC.
 *
 * @see TimestampTz, src/include/datatype/timestamp.h
 */
export type Timestamp = bigint & { readonly [timestampBrand]: never };

/** Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock begins. */
export const POSTGRES_EPOCH_US = 946_684_800_000_000n;

const MIN_INT64 = -(1n << 63n);
const MAX_INT64 = (1n << 63n) - 1n;
/** Of JavaScript's dates, beyond which nothing can be written as one; PostgreSQL's go further. */
const MAX_DATE_MS = 8_640_000_000_000_000n;

/**
 * The moment of this value.
 *
 * @throws {RangeError} outside 64 bits.
 */
export function timestamp(us: bigint): Timestamp {
  if (us < MIN_INT64 || us > MAX_INT64) {
    throw new RangeError(`Cannot make a timestamp of ${us}: want 64 bits of microseconds`);
  }
  return us as Timestamp;
}

/** The moment so many microseconds after 1970-01-01 00:00 UTC. */
export function timestampOfUnix(us: bigint): Timestamp {
  return timestamp(us - POSTGRES_EPOCH_US);
}

/** Microseconds since 1970-01-01 00:00 UTC. */
export function unixMicroseconds(time: Timestamp): bigint {
  return time + POSTGRES_EPOCH_US;
}

/**
 * Writes a moment as PostgreSQL does, in UTC: "2026-11-25 09:30:00.123456+00", without zeros at the end of the
 * fraction.
 *
 * What no date of JavaScript can be comes out as a number, with "us since 2000" after it.
 */
export function formatTimestamp(time: Timestamp): string {
  const us = unixMicroseconds(time);
  const seconds = us >= 0n ? us / 1_000_000n : -((-us + 999_999n) / 1_000_000n);
  const ms = seconds * 1000n;
  if (ms > MAX_DATE_MS || ms < -MAX_DATE_MS) return `${time} us since 2000`;
  const [day = "", rest = ""] = new Date(Number(ms)).toISOString().split("T");
  const fraction = (us - seconds * 1_000_000n).toString().padStart(6, "0").replace(/0+$/, "");
  return `${day} ${rest.slice(0, 8)}${fraction === "" ? "" : `.${fraction}`}+00`;
}
