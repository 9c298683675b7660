import assert from "node:assert/strict";
import { test } from "node:test";
import { formatBytes, formatLiveLine, LiveLine } from "../../lib/commands/live_line.ts";
import type { LegPosition } from "../../lib/receiver/leg.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { segmentSize } from "../../lib/wal/segment.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { FakeClock, fakeLog } from "../receiver/fakes.ts";

const POSITION: LegPosition = {
  timeline: timelineId(10),
  segmentSize: segmentSize(1 << 24),
  receivedLsn: lsn(0x5_0000_0000n),
  flushLsn: lsn(0x4_ffff_ff00n),
  serverLsn: lsn(0x5_0012_d687n),
};
const CLEAR = "\r\x1b[K";

function terminal({ isTerminal = true, enabled = true } = {}) {
  const written: string[] = [];
  const clock = new FakeClock();
  const line = new LiveLine({ isTerminal, write: (text) => void written.push(text) }, clock, { enabled });
  return { written, clock, line };
}

test("formatLiveLine() tells position, segment, rate, lag and what is not yet safe", () => {
  assert.equal(
    formatLiveLine(POSITION, 12_345_678),
    "5/0 in 0000000A0000000500000000 | 12.3 MB/s | behind 1.2 MB | not yet safe 256 B",
  );
});

test("formatLiveLine() names the segment as files are named, in each size of segment", () => {
  const table = [
    [0n, 1 << 24, "0/0 in 000000010000000000000000"],
    [0xff_ffffn, 1 << 24, "0/FFFFFF in 000000010000000000000000"],
    [0x100_0000n, 1 << 24, "0/1000000 in 000000010000000000000001"],
    [0x5a_3f2b_1800n, 1 << 24, "5A/3F2B1800 in 000000010000005A0000003F"],
    [0x5a_3f2b_1800n, 1 << 20, "5A/3F2B1800 in 000000010000005A000003F2"],
    [0x5a_3f2b_1800n, 1 << 30, "5A/3F2B1800 in 000000010000005A00000000"],
  ] as const;
  for (const [received, bytes, want] of table) {
    const receivedLsn = lsn(received);
    const position = { timeline: timelineId(1), segmentSize: segmentSize(bytes), receivedLsn };
    const line = formatLiveLine({ ...position, flushLsn: receivedLsn, serverLsn: receivedLsn }, 0);
    assert.equal(line, `${want} | 0 B/s | behind 0 B | not yet safe 0 B`);
  }
});

test("formatLiveLine() shows no negative lag while the server has not told its position", () => {
  assert.match(formatLiveLine({ ...POSITION, serverLsn: lsn(0n) }, 0), /\| 0 B\/s \| behind 0 B \|/);
});

test("formatBytes() keeps three digits in each unit, also where rounding reaches the next", () => {
  const table = [
    [0, "0 B"],
    [1, "1 B"],
    [999, "999 B"],
    [999.4, "999 B"],
    [999.5, "1.0 kB"],
    [1000, "1.0 kB"],
    [12_340, "12.3 kB"],
    [99_949, "99.9 kB"],
    [99_950, "100 kB"],
    [999_499, "999 kB"],
    [999_500, "1.0 MB"],
    [1e9, "1.0 GB"],
    [1e12, "1.0 TB"],
    [1e15, "1000 TB"],
  ] as const;
  for (const [bytes, want] of table) assert.equal(formatBytes(bytes), want);
});

test("LiveLine draws at most once a second, over the line before", async () => {
  const { written, clock, line } = terminal();
  line.show(POSITION);
  for (let tenth = 0; tenth < 30; tenth++) {
    await clock.advance(100);
    line.show(POSITION);
  }
  assert.equal(written.length, 4);
  assert.ok(written.every((text) => text.startsWith(CLEAR) && !text.includes("\n")));
});

test("LiveLine tells the rate since the last drawing, none across timelines or backwards", async () => {
  const { written, clock, line } = terminal();
  const moved = (bytes: bigint, timeline = 10) => ({
    ...POSITION,
    timeline: timelineId(timeline),
    receivedLsn: lsn(POSITION.receivedLsn + bytes),
  });
  const rates = () => written.map((text) => /\| ([^|]*)\/s/.exec(text)?.[1]);
  line.show(POSITION);
  await clock.advance(2000);
  line.show(moved(2_000_000n));
  await clock.advance(1000);
  line.show(moved(9_000_000n, 11));
  await clock.advance(1000);
  line.show(moved(-16n, 11));
  assert.deepEqual(rates(), ["0 B", "1.0 MB", "0 B", "0 B"]);
});

test("LiveLine makes way for log lines", () => {
  const { written, line } = terminal();
  const { log, entries } = fakeLog();
  const above = line.above(log);
  above.info("nothing drawn yet");
  assert.deepEqual(written, []);
  line.show(POSITION);
  for (const level of ["error", "warn", "info", "debug"] as const) above[level]("event", { level });
  assert.equal(written.length, 2, "cleared once");
  assert.equal(written.at(-1), CLEAR);
  assert.deepEqual(entries.slice(1).map(({ level, fields }) => [level, fields]), [
    ["error", { level: "error" }],
    ["warn", { level: "warn" }],
    ["info", { level: "info" }],
    ["debug", { level: "debug" }],
  ]);
  line.clear();
  assert.equal(written.length, 2, "nothing to clear");
});

for (const options of [{ isTerminal: false }, { enabled: false }]) {
  test(`LiveLine writes nothing with ${JSON.stringify(options)}`, () => {
    const { written, line } = terminal(options);
    line.show(POSITION);
    line.clear();
    assert.deepEqual(written, []);
  });
}
