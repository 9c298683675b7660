import { type Timestamp, timestampOfUnix } from "../wal/timestamp.ts";

const TIME_TEXT = new RegExp(
  "^([0-9]{4})-([0-9]{2})-([0-9]{2})" + // date
    "(?:[ T]([0-9]{2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,6}))?)?)?" + // time of the day
    "(?:\\s*([Zz]|[+-][0-9]{2}(?::?[0-9]{2})?|[A-Za-z][A-Za-z0-9_+/-]*))?$",
);

/** Minutes by which a place's clocks are ahead of UTC at a moment, in milliseconds since 1970. */
export type OffsetAt = (ms: number) => number;

/** This machine's own. */
export const localOffset: OffsetAt = (ms) => -new Date(ms).getTimezoneOffset();

const DAY_MS = 86_400_000;

/**
 * Reads a time such as "2026-11-25 14:30:00.5+01".
 *
 * The zone is Z, UTC, an offset (+01, +0530, +05:30), a name (Europe/Berlin), or nothing: then it is local time.
 * @throws {SyntaxError} on anything else; also for a time that the place's clocks show twice, or never, as they are put
 * back or forward. The message is about the text alone: what is wrong with it, and what would do.
 */
export function parseTime(text: string, local: OffsetAt = localOffset): Timestamp {
  const parts = TIME_TEXT.exec(text.trim());
  if (parts === null) {
    throw new SyntaxError(
      'want a time such as "2026-11-25 14:30:00+01", with an offset, Z, a zone\'s name, or nothing for local time',
    );
  }
  const [, year, month, day, hour = "0", minute = "0", second = "0", fraction = "", zone] = parts;
  const wallMs = Date.UTC(
    Number(year),
    Number(month) - 1,
    Number(day),
    Number(hour),
    Number(minute),
    Number(second),
  );
  const written = new Date(wallMs).toISOString();
  const want = `${year}-${month}-${day}T${pad(hour)}:${pad(minute)}:${pad(second)}`;
  // JavaScript makes the 1st of March of the 31st of February.
  if (!written.startsWith(want)) throw new SyntaxError("there is no such day, or no such time of the day");
  const unixMs = momentOf(wallMs, zone, local);
  return timestampOfUnix(BigInt(unixMs) * 1000n + BigInt(fraction.padEnd(6, "0")));
}

function pad(digits: string): string {
  return digits.padStart(2, "0");
}

function momentOf(wallMs: number, zone: string | undefined, local: OffsetAt): number {
  if (zone === undefined) return onlyMoment(wallMs, local, "local time");
  if (/^(z|utc|gmt)$/i.test(zone)) return wallMs;
  const offset = /^([+-])([0-9]{2}):?([0-9]{2})?$/.exec(zone);
  if (offset === null) return onlyMoment(wallMs, offsetOfZone(zone), zone);
  const minutes = Number(offset[2]) * 60 + Number(offset[3] ?? 0);
  // As PostgreSQL's limits for a zone.
  if (minutes >= 16 * 60 || Number(offset[3] ?? 0) > 59) {
    throw new SyntaxError(`there is no offset "${zone}"`);
  }
  return wallMs - (offset[1] === "-" ? -minutes : minutes) * 60_000;
}

/** The one moment at which the clocks there show this. */
function onlyMoment(wallMs: number, offsetAt: OffsetAt, where: string): number {
  const offsets = new Set([offsetAt(wallMs - DAY_MS), offsetAt(wallMs + DAY_MS)]);
  const moments = [...offsets].map((offset) => ({ ms: wallMs - offset * 60_000, offset }))
    .filter(({ ms, offset }) => offsetAt(ms) === offset);
  const [moment] = moments;
  if (moment !== undefined && moments.length === 1) return moment.ms;
  throw new SyntaxError(
    moment === undefined
      ? `the clocks of ${where} never showed that, as they were put forward; give an offset, such as +01`
      : `the clocks of ${where} showed that twice, as they were put back; give an offset, such as +01`,
  );
}

function offsetOfZone(zone: string): OffsetAt {
  let format: Intl.DateTimeFormat;
  try {
    format = new Intl.DateTimeFormat("en-US", {
      timeZone: zone,
      hourCycle: "h23",
      year: "numeric",
      month: "numeric",
      day: "numeric",
      hour: "numeric",
      minute: "numeric",
      second: "numeric",
    });
  } catch {
    throw new SyntaxError(`there is no zone "${zone}" here; give an offset, such as +01`);
  }
  return (ms) => {
    const parts = new Map(format.formatToParts(ms).map(({ type, value }) => [type, Number(value)]));
    const part = (type: Intl.DateTimeFormatPartTypes) => parts.get(type) ?? 0;
    const wall = Date.UTC(
      part("year"),
      part("month") - 1,
      part("day"),
      part("hour"),
      part("minute"),
      part("second"),
    );
    return (wall - Math.floor(ms / 1000) * 1000) / 60_000;
  };
}
