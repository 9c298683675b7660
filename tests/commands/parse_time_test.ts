import assert from "node:assert/strict";
import { test } from "node:test";
import { type OffsetAt, parseTime } from "../../lib/commands/parse_time.ts";
import { formatTimestamp } from "../../lib/wal/timestamp.ts";

/** Two hours ahead in summer 2026, one in winter, as in most of Europe. */
const EUROPE: OffsetAt = (ms) => ms >= Date.UTC(2026, 2, 29, 1) && ms < Date.UTC(2026, 9, 25, 1) ? 120 : 60;

const utc = (text: string, local: OffsetAt = EUROPE) => formatTimestamp(parseTime(text, local));

test("parseTime() takes Z, offsets, names of zones, and local time", () => {
  const table: Readonly<Record<string, string>> = {
    "2026-11-25 14:30:00Z": "2026-11-25 14:30:00+00",
    "2026-11-25T14:30:00.123456z": "2026-11-25 14:30:00.123456+00",
    "2026-11-25 14:30:00.5 UTC": "2026-11-25 14:30:00.5+00",
    "2026-11-25 14:30:00,25 GMT": "2026-11-25 14:30:00.25+00",
    "2026-11-25 14:30:00+01": "2026-11-25 13:30:00+00",
    "2026-11-25 14:30:00 -0330": "2026-11-25 18:00:00+00",
    "2026-11-25 14:30:00+05:45": "2026-11-25 08:45:00+00",
    "2026-11-25 14:30": "2026-11-25 13:30:00+00",
    "2026-07-25 14:30": "2026-07-25 12:30:00+00",
    "2026-07-25": "2026-07-24 22:00:00+00",
    "2026-07-25 +00": "2026-07-25 00:00:00+00",
    "  2026-11-25 14:30:00  ": "2026-11-25 13:30:00+00",
    "2026-11-25 14:30:00 Europe/Berlin": "2026-11-25 13:30:00+00",
    "2026-07-25 14:30:00 Europe/Berlin": "2026-07-25 12:30:00+00",
    "2026-11-25 14:30:00 Asia/Kathmandu": "2026-11-25 08:45:00+00",
    "2026-11-25 14:30:00 America/New_York": "2026-11-25 19:30:00+00",
    // As find itself writes it.
    "2026-11-25 13:21:03.892395+00": "2026-11-25 13:21:03.892395+00",
    // The day on which the clocks are put forward, before and after.
    "2026-03-29 01:59:59": "2026-03-29 00:59:59+00",
    "2026-03-29 03:00:00": "2026-03-29 01:00:00+00",
    "2026-10-25 01:59:59": "2026-10-24 23:59:59+00",
    "2026-10-25 03:00:00": "2026-10-25 02:00:00+00",
    "2026-10-25 02:30:00+01": "2026-10-25 01:30:00+00",
    "2026-10-25 02:30:00+02": "2026-10-25 00:30:00+00",
  };
  for (const [text, want] of Object.entries(table)) assert.equal(utc(text), want, text);
});

test("parseTime() refuses what is no time, and says why", () => {
  const table: Readonly<Record<string, RegExp>> = {
    "": /want a time such as/,
    "yesterday": /want a time such as/,
    "2026-11-25 14:30:00.1234567": /want a time such as/,
    "14:30": /want a time such as/,
    "25.11.2026 14:30": /want a time such as/,
    "2026-02-30 12:00": /there is no such day/,
    "2026-13-01": /there is no such day/,
    "2026-11-25 24:00:00": /no such time of the day/,
    "2026-11-25 12:60:00": /no such time of the day/,
    "2026-11-25 12:00:60": /no such time of the day/,
    "2026-11-25 12:00:00+16": /there is no offset/,
    "2026-11-25 12:00:00+01:60": /there is no offset/,
    "2026-11-25 12:00:00 Mars/Olympus": /there is no zone "Mars\/Olympus" here; give an offset/,
    "2026-03-29 02:30:00": /the clocks of local time never showed that, as they were put forward/,
    "2026-10-25 02:30:00": /the clocks of local time showed that twice, as they were put back/,
    "2026-10-25 02:30:00 Europe/Berlin": /the clocks of Europe\/Berlin showed that twice/,
    "2026-03-29 02:30:00 Europe/Berlin": /the clocks of Europe\/Berlin never showed that/,
  };
  for (const [text, problem] of Object.entries(table)) {
    assert.throws(() => parseTime(text, EUROPE), (error: Error) => {
      assert.ok(error instanceof SyntaxError, text);
      assert.match(error.message, problem, text);
      return true;
    });
  }
});

test("parseTime() takes this machine's own local time", () => {
  const expected = new Date(2026, 5, 15, 12, 30, 15).toISOString().replace("T", " ").replace(".000Z", "+00");
  assert.equal(formatTimestamp(parseTime("2026-06-15 12:30:15")), expected);
});
