import assert from "node:assert/strict";
import { test } from "node:test";
import {
  ArchiveConflictError,
  CorruptWalError,
  WalGapError,
  WrongClusterError,
} from "../../lib/wal/errors.ts";
import { parseLsn } from "../../lib/wal/lsn.ts";

test("CorruptWalError says where and what", () => {
  const cause = new Error("why");
  const error = new CorruptWalError(parseLsn("0/3002000"), "page magic 0xD110, want 0xD10D", { cause });
  assert.equal(error.message, "Cannot decode WAL at 0/3002000: page magic 0xD110, want 0xD10D");
  assert.equal(error.name, "CorruptWalError");
  assert.equal(error.lsn, 0x3002000n);
  assert.equal(error.cause, cause);
});

test("the other errors carry their names", () => {
  assert.equal(new ArchiveConflictError("m").name, "ArchiveConflictError");
  assert.equal(new WrongClusterError("m").name, "WrongClusterError");
  assert.equal(new WalGapError("m").name, "WalGapError");
});
