import assert from "node:assert/strict";
import { it } from "node:test";
import { encodeCopyDone, encodeStandbyStatus } from "../../lib/protocol/standby_status.ts";
import { lsn, ZERO_LSN } from "../../lib/wal/lsn.ts";

const hex = (bytes: Uint8Array) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

it("encodeStandbyStatus() writes three positions, and apply is 0", () => {
  const status = { writeLsn: lsn(0x16_B374_D848n), flushLsn: lsn(2n ** 64n - 1n), replyRequested: true };
  assert.equal(
    hex(encodeStandbyStatus(status, 0x0102030405060708n)),
    "64" + "00000026" + "72" + "00000016b374d848" + "ffffffffffffffff" + "0000000000000000" +
      "0102030405060708" + "01",
  );
  const nothing = { writeLsn: ZERO_LSN, flushLsn: ZERO_LSN, replyRequested: false };
  assert.equal(
    hex(encodeStandbyStatus(nothing, -1n)),
    "640000002672" + "0".repeat(48) + "f".repeat(16) + "00",
  );
});

it("encodeStandbyStatus() gives bytes of its own each time", () => {
  const status = { writeLsn: ZERO_LSN, flushLsn: ZERO_LSN, replyRequested: false };
  assert.notEqual(encodeStandbyStatus(status, 0n).buffer, encodeStandbyStatus(status, 0n).buffer);
});

it("encodeCopyDone() is CopyDone", () => assert.equal(hex(encodeCopyDone()), "6300000004"));
