import { type Compression, parseCompression } from "../archive/compression_format.ts";
import type { MinimumFree } from "../archive/minimum_free.ts";
import type { RangeBound } from "../archive/verify/plan.ts";
import { type Lsn, parseLsn } from "../wal/lsn.ts";
import { type TimelineId, timelineId } from "../wal/timeline.ts";

/** A text that an option does not take; the message says what it wants, and ends with a full stop. */
export class InvalidOptionValue extends Error {
  override readonly name = "InvalidOptionValue";
  /** What commander tells its own such error by: it adds the option's name, and shows the usage. */
  readonly code = "commander.invalidArgument";
}

/** For commander: an LSN such as 16/B374D848. */
export function lsnOption(text: string): Lsn {
  try {
    return parseLsn(text);
  } catch {
    throw new InvalidOptionValue(`want an LSN such as 16/B374D848, got "${text}".`);
  }
}

/** For commander, which would make `undefined` an empty text: a format to compress with, and a level; or "none". */
export function compressionOption(text: string): Compression | "none" {
  try {
    return parseCompression(text) ?? "none";
  } catch (error) {
    const reason = (error as Error).message.replace(/^Cannot compress with "[^"]*": /, "");
    throw new InvalidOptionValue(`${reason}.`);
  }
}

/** For commander: seconds, with decimals, above 0; becomes milliseconds. */
export function secondsOption(text: string): number {
  const seconds = Number(text);
  if (!/^[0-9]+(\.[0-9]+)?$/.test(text) || seconds <= 0 || seconds > 86_400) {
    throw new InvalidOptionValue(`want seconds above 0 and at most 86400, got "${text}".`);
  }
  return seconds * 1000;
}

const BYTES_OF_UNIT = { B: 1n, kB: 1n << 10n, MB: 1n << 20n, GB: 1n << 30n, TB: 1n << 40n } as const;

/** For commander: a size in PostgreSQL's units, where 1kB is 1024 bytes; a bare number counts bytes. */
export function bytesOption(text: string): bigint {
  const [, number, unit = "B"] = /^([0-9]{1,15})(B|kB|MB|GB|TB)?$/.exec(text) ?? [];
  if (number === undefined) {
    throw new InvalidOptionValue(`want a size such as 64MB, in B, kB, MB, GB or TB, got "${text}".`);
  }
  return BigInt(number) * BYTES_OF_UNIT[unit as keyof typeof BYTES_OF_UNIT];
}

/** For commander: what must stay free of a file system, a size or a share of it such as 5%. */
export function minimumFreeOption(text: string): MinimumFree {
  const [, share] = /^([0-9]{1,2}(?:\.[0-9]{1,3})?)%$/.exec(text) ?? [];
  if (share !== undefined) return { kind: "percent", percent: Number(share) };
  try {
    return { kind: "bytes", bytes: Number(bytesOption(text)) };
  } catch {
    throw new InvalidOptionValue(
      `want a size such as 2GB, in B, kB, MB, GB or TB, or a share such as 5%, got "${text}".`,
    );
  }
}

/** For commander: an exit code that a server takes for the end of all WAL. */
export function absentExitOption(text: string): number {
  const code = Number(text);
  if (!/^[0-9]{1,3}$/.test(text) || code < 1 || code > 125) {
    throw new InvalidOptionValue(`want an exit code from 1 to 125, got "${text}".`);
  }
  return code;
}

/** For commander: a name that CREATE_REPLICATION_SLOT takes. */
export function slotNameOption(text: string): string {
  if (!/^[a-z0-9_]{1,63}$/.test(text)) {
    throw new InvalidOptionValue(`want 1 to 63 lower-case letters, digits and underscores, got "${text}".`);
  }
  return text;
}

/** For commander: an LSN, or the name of a segment. */
export function rangeBoundOption(text: string): RangeBound {
  if (/^[0-9A-F]{24}$/.test(text)) return { segment: text };
  try {
    return { lsn: parseLsn(text) };
  } catch {
    throw new InvalidOptionValue(
      `want an LSN such as 16/B374D848 or a segment such as 0000000100000016000000B3, got "${text}".`,
    );
  }
}

/** For commander: a timeline as PostgreSQL's own tools take it, in decimal digits. */
export function timelineOption(text: string): TimelineId {
  try {
    if (/^[0-9]{1,10}$/.test(text)) return timelineId(Number(text));
  } catch {
    // As any other text.
  }
  throw new InvalidOptionValue(`want a timeline from 1 to 4294967295, got "${text}".`);
}

/** For commander: how many at a time. */
export function jobsOption(text: string): number {
  const jobs = Number(text);
  if (!/^[0-9]{1,3}$/.test(text) || jobs < 1 || jobs > 256) {
    throw new InvalidOptionValue(`want a number from 1 to 256, got "${text}".`);
  }
  return jobs;
}

/** For commander: an option that may be given several times. */
export function listOption(text: string, before: readonly string[] = []): readonly string[] {
  if (text === "") throw new InvalidOptionValue("want a directory.");
  return [...before, text];
}
