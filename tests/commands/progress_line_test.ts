import assert from "node:assert/strict";
import { test } from "node:test";
import { formatDuration, formatProgress, ProgressLine } from "../../lib/commands/progress_line.ts";
import { FakeClock } from "../receiver/fakes.ts";

const CLEAR = "\r\x1b[K";

test("formatProgress() tells share, bytes, rate and time left", () => {
  assert.equal(
    formatProgress({ doneBytes: 2.1e9, totalBytes: 9.8e9 }, 512e6),
    "[#####-------------------]  21 % | 2.1 GB of 9.8 GB | 512 MB/s | 16 s left",
  );
  assert.equal(
    formatProgress({ doneBytes: 0, totalBytes: 1e6 }, 0),
    "[------------------------]   0 % | 0 B of 1.0 MB",
  );
  assert.equal(
    formatProgress({ doneBytes: 1e6, totalBytes: 1e6 }, 1e6),
    "[########################] 100 % | 1.0 MB of 1.0 MB | 1.0 MB/s | 0 s left",
  );
});

test("formatDuration() counts seconds, minutes and hours", () => {
  const cases = [[0, "0 s"], [0.2, "1 s"], [59, "59 s"], [60, "1 min 0 s"], [200, "3 min 20 s"], [
    3600,
    "1 h 0 min",
  ], [90_061, "25 h 1 min"]] as const;
  for (const [seconds, text] of cases) assert.equal(formatDuration(seconds), text);
});

test("ProgressLine draws on terminals only, four times a second, and goes away", async () => {
  for (const [isTerminal, enabled] of [[true, true], [false, true], [true, false]] as const) {
    const written: string[] = [];
    const clock = new FakeClock();
    const line = new ProgressLine({ isTerminal, write: (text) => void written.push(text) }, clock, {
      enabled,
    });
    line.show({ doneBytes: 0, totalBytes: 4e6 });
    line.show({ doneBytes: 1e6, totalBytes: 4e6 });
    await clock.advance(1000);
    line.show({ doneBytes: 2e6, totalBytes: 4e6 });
    line.clear();
    line.clear();
    if (!isTerminal || !enabled) assert.deepEqual(written, []);
    else {
      assert.equal(written.length, 3);
      assert.match(written[1]!, /50 % \| 2\.0 MB of 4\.0 MB \| 2\.0 MB\/s \| 1 s left$/);
      assert.equal(written[2], CLEAR);
    }
  }
});
