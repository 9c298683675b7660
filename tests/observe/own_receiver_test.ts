import assert from "node:assert/strict";
import { test } from "node:test";
import { findOwnReceiver } from "../../lib/observe/own_receiver.ts";

const slot = (name: string, activePid?: number) => ({
  name,
  activePid,
  restartLsn: undefined,
  walStatus: undefined,
  safeWalBytes: undefined,
});
const sender = (pid: number, applicationName: string) => ({
  pid,
  applicationName,
  state: undefined,
  sentLsn: undefined,
  writeLsn: undefined,
  flushLsn: undefined,
  syncState: undefined,
  sinceReplyMs: undefined,
});
const SLOTS = [slot("other", 1), slot("mine", 2), slot("walvault")];
const SENDERS = [sender(1, "standby"), sender(2, "walvault"), sender(3, "walvault")];

function found(names: { slot?: string; applicationName?: string }, slots = SLOTS, senders = SENDERS): string {
  const own = findOwnReceiver({ slots, senders }, {
    slot: names.slot,
    applicationName: names.applicationName ?? "walvault",
  });
  return `${own.slot?.name} ${own.senders.map(({ pid }) => pid).join("+")}`;
}

test("findOwnReceiver() takes the slot that is named, and whoever uses it", () => {
  assert.equal(found({ slot: "other" }), "other 1");
  assert.equal(found({ slot: "walvault" }), "walvault ", "nobody uses it");
  assert.equal(found({ slot: "absent" }), "undefined ");
});

test("findOwnReceiver() takes the slot that the application uses, else the usual one", () => {
  assert.equal(found({}), "mine 2");
  assert.equal(found({}, [slot("other", 1), slot("walvault")]), "walvault 2+3");
  assert.equal(found({ applicationName: "elsewhere" }), "walvault ");
  assert.equal(found({}, []), "undefined 2+3", "it may receive without a slot");
  assert.equal(found({}, [], []), "undefined ");
});
