import assert from "node:assert/strict";
import { test } from "node:test";
import { formatSettings, recoverySettings } from "../../lib/observe/recovery_lines.ts";
import { lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { timestamp } from "../../lib/wal/timestamp.ts";

const TWO = timelineId(2);

test("recoverySettings() are the server's, and pin the timeline", () => {
  assert.deepEqual(
    formatSettings(recoverySettings({ kind: "time", time: timestamp(1n), inclusive: true }, TWO)),
    [
      "recovery_target_time = '2000-01-01 00:00:00.000001+00'",
      "recovery_target_inclusive = 'on'",
      "recovery_target_timeline = '2'",
    ],
  );
  assert.deepEqual(
    formatSettings(recoverySettings({ kind: "xid", xid: 4_294_967_295, inclusive: false }, TWO)),
    [
      "recovery_target_xid = '4294967295'",
      "recovery_target_inclusive = 'off'",
      "recovery_target_timeline = '2'",
    ],
  );
  assert.deepEqual(
    formatSettings(recoverySettings({ kind: "lsn", lsn: lsn(0x16_b374_d848n), inclusive: true }, TWO))[0],
    "recovery_target_lsn = '16/B374D848'",
  );
});

test("formatSettings() quotes as the server's configuration files want it", () => {
  const line = (name: string) => formatSettings(recoverySettings({ kind: "name", name }, TWO));
  assert.deepEqual(line("plain"), ["recovery_target_name = 'plain'", "recovery_target_timeline = '2'"]);
  assert.equal(line("it's")[0], "recovery_target_name = 'it''s'");
  assert.equal(line("a\\b\nc")[0], "recovery_target_name = 'a\\\\b\\nc'");
});
