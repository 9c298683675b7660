import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import type { SlotView } from "../../lib/protocol/replication_views.ts";
import {
  STANDBY_SLOTS_INTERVAL_MS,
  StandbySlots,
  type StandbySlotsOptions,
} from "../../lib/receiver/standby_slots.ts";
import { formatLsn, type Lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { at, FakeClock, fakeLog, serverError, SYSTEM_IDENTIFIER, watched } from "./fakes.ts";

const SLOT: SlotView = {
  name: "wv",
  activePid: undefined,
  restartLsn: at(1),
  walStatus: "reserved",
  safeWalBytes: undefined,
};

class Standby {
  slots: SlotView[] = [];
  serverVersion = 150_004;
  systemIdentifier = SYSTEM_IDENTIFIER;
  timeline = timelineId(1);
  connectError: unknown;
  sqlError: unknown;
  readonly journal: string[] = [];

  readonly host = {
    name: "db2:5432",
    connect: () => {
      this.journal.push("connect");
      if (this.connectError !== undefined) return Promise.reject(this.connectError);
      return Promise.resolve({
        address: "db2:5432",
        serverVersion: this.serverVersion,
        identifySystem: () =>
          Promise.resolve({
            systemIdentifier: this.systemIdentifier,
            timeline: this.timeline,
            flushLsn: at(2),
          }),
        replicationViews: () =>
          this.sqlError === undefined
            ? Promise.resolve({ slots: this.slots })
            : Promise.reject(this.sqlError),
        createSlot: (name: string) => {
          this.journal.push(`create ${name}`);
          this.slots.push({ ...SLOT, name });
          return Promise.resolve();
        },
        advanceSlot: (name: string, toLsn: Lsn) => {
          this.journal.push(`advance ${name} ${formatLsn(toLsn)}`);
          this.slots = [{ ...SLOT, restartLsn: toLsn }];
          return Promise.resolve();
        },
        close: () => Promise.resolve(this.journal.push("close")).then(() => {}),
      });
    },
  };
}

function start(standby: Standby, more: Partial<StandbySlotsOptions> = {}) {
  const clock = new FakeClock();
  const { log, entries, lines } = fakeLog();
  const abort = new AbortController();
  const slots = new StandbySlots({
    hosts: [standby.host],
    slot: "wv",
    clock,
    log,
    systemIdentifier: () => SYSTEM_IDENTIFIER,
    flushed: () => Promise.resolve({ timeline: timelineId(1), flushLsn: at(3) }),
    ...more,
  });
  return { clock, entries, lines, abort, outcome: watched(slots.run(abort.signal)) };
}

test("StandbySlots makes a slot, and moves it along to what is durable here, one time each ten seconds", async () => {
  const standby = new Standby();
  const { clock, abort, outcome, lines } = start(standby);
  await clock.advance(0);
  assert.deepEqual(standby.journal, ["connect", "create wv", "close"]);
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  assert.deepEqual(standby.journal.slice(3), ["connect", "advance wv 0/300000", "close"]);
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  assert.deepEqual(standby.journal.slice(6), ["connect", "close"], "it is there already");
  assert.deepEqual(lines("warn"), []);
  abort.abort();
  await clock.advance(0);
  assert.equal(outcome.done, true);
  assert.equal(clock.timers, 0);
});

for (
  const [what, prepare, more] of [
    ["nothing is known yet", () => {}, { flushed: () => Promise.resolve(undefined) }],
    ["another timeline is streamed", (standby: Standby) => void (standby.timeline = timelineId(2)), {}],
    ["somebody uses it", (standby: Standby) => void (standby.slots = [{ ...SLOT, activePid: 42 }]), {}],
    ["it is further", (standby: Standby) => void (standby.slots = [{ ...SLOT, restartLsn: at(4) }]), {}],
    ["the archive has no cluster yet", () => {}, { systemIdentifier: () => undefined }],
    [
      "the host is the primary",
      (standby: Standby) =>
        void (standby.connectError = new ConnectionError("unsuitable", "it is a primary")),
      {},
    ],
  ] as const
) {
  test(`StandbySlots leaves a slot alone while ${what}`, async () => {
    const standby = new Standby();
    standby.slots = [SLOT];
    prepare(standby);
    const { clock, abort, lines } = start(standby, more);
    await clock.advance(0);
    assert.equal(standby.journal.some((line) => /create|advance/.test(line)), false);
    assert.deepEqual(lines("warn"), []);
    abort.abort();
  });
}

for (
  const [what, prepare, problem] of [
    [
      "lets nobody in for SQL",
      (standby: Standby) => void (standby.sqlError = serverError("28000")),
      /28000|no/,
    ],
    ["is of another cluster", (standby: Standby) => void (standby.systemIdentifier = 1n), /of the cluster 1/],
    ["is too old", (standby: Standby) => void (standby.serverVersion = 120_004), /12 is too old/],
    ["is not there", (standby: Standby) => void (standby.connectError = new Error("refused")), /refused/],
    [
      "has lost it",
      (standby: Standby) => void (standby.slots = [{ ...SLOT, walStatus: "lost" }]),
      /has lost WAL/,
    ],
    [
      "has one that reserves nothing",
      (standby: Standby) => void (standby.slots = [{ ...SLOT, restartLsn: undefined }]),
      /reserves nothing/,
    ],
  ] as const
) {
  test(`StandbySlots says once that a standby ${what}, makes nothing there, and looks again`, async () => {
    const standby = new Standby();
    prepare(standby);
    const { clock, abort, entries } = start(standby);
    await clock.advance(3 * STANDBY_SLOTS_INTERVAL_MS);
    const warnings = entries.filter(({ level }) => level === "warn");
    assert.equal(warnings.length, 1);
    assert.match(String(warnings[0]?.fields["error"]), problem);
    assert.equal(standby.journal.filter((line) => line === "connect").length, 4);
    assert.equal(standby.journal.some((line) => /create|advance/.test(line)), false);
    abort.abort();
  });
}
