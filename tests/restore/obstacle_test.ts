import assert from "node:assert/strict";
import { test } from "node:test";
import { DamagedFileError } from "../../lib/archive/damaged_file.ts";
import { exitCodeOf, obstacleOf, OutageError, VanishedError } from "../../lib/restore/obstacle.ts";
import { WaitTimeoutError } from "../../lib/restore/wait_for_file.ts";
import { CorruptWalError, WalGapError, WrongClusterError } from "../../lib/wal/errors.ts";
import { lsn } from "../../lib/wal/lsn.ts";

const ERRORS = [
  [new WrongClusterError("x"), "wrong cluster", 200],
  [new WalGapError("x"), "hole", 1],
  [new DamagedFileError("x"), "damage", 1],
  [new CorruptWalError(lsn(8n), "x"), "damage", 1],
  [new OutageError("x", "y"), "outage", 1],
  [Object.assign(new Error("x"), { code: "EIO" }), "outage", 1],
  [Object.assign(new Error("x"), { code: "ESTALE" }), "outage", 1],
  // Deno 2.9 has no name for this one.
  [Object.assign(new Error("x"), { code: "UNKNOWN", errno: -116 }), "outage", 1],
  [Object.assign(new Error("x"), { code: "UNKNOWN" }), "outage", 1],
  [Object.assign(new Error("x"), { errno: 116 }), "outage", 1],
  [new VanishedError("x"), "outage", 1],
  [Object.assign(new TypeError("x"), { code: "ERR_INVALID_ARG_TYPE" }), "other", 200],
  [new WaitTimeoutError("x"), "other", 200],
  [new TypeError("x"), "other", 200],
  ["x", "other", 200],
] as const;

test("only what may heal is 1, and only for a standby", () => {
  for (const [error, obstacle, standbyExit] of ERRORS) {
    assert.equal(obstacleOf(error), obstacle, String(error));
    for (const absentExit of [1, 66]) {
      const want = standbyExit === 1 ? absentExit : standbyExit;
      assert.equal(exitCodeOf(obstacle, { standby: true, absentExit }), want, String(error));
      assert.equal(exitCodeOf(obstacle, { standby: false, absentExit }), 200, String(error));
    }
  }
});
