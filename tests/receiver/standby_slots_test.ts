import assert from "node:assert/strict";
import { test } from "node:test";
import type { ServerRole, SlotView } from "../../lib/protocol/replication_views.ts";
import {
  type KeptWal,
  STANDBY_SLOTS_INTERVAL_MS,
  STANDBY_SLOTS_LOOK_MS,
  STANDBY_SLOTS_STOP_MS,
  StandbySlots,
  type StandbySlotsOptions,
} from "../../lib/receiver/standby_slots.ts";
import { emptyHistory, formatHistory, type TimelineHistory } from "../../lib/wal/history.ts";
import { formatLsn, type Lsn } from "../../lib/wal/lsn.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { at, FakeClock, fakeLog, serverError, SIZE, SYSTEM_IDENTIFIER, watched } from "./fakes.ts";

const SLOT: SlotView = {
  name: "wv",
  activePid: undefined,
  restartLsn: at(1),
  walStatus: "reserved",
  safeWalBytes: undefined,
};

/** Timeline 2, left from timeline 1 in the middle of segment 1. */
const SECOND: TimelineHistory = {
  timeline: timelineId(2),
  entries: [{ timeline: timelineId(1), endLsn: at(1.5), reason: "" }],
};

function keptWal(flushLsn: Lsn, history = emptyHistory(timelineId(1))): KeptWal {
  return { history, flushLsn, segmentSize: SIZE };
}

const flushedTo = (flushLsn: Lsn, history?: TimelineHistory) => ({
  flushed: () => Promise.resolve(keptWal(flushLsn, history)),
});

class Standby {
  slots: SlotView[] = [];
  serverVersion = 150_004;
  systemIdentifier = SYSTEM_IDENTIFIER;
  timeline = timelineId(1);
  history: TimelineHistory | undefined;
  role: ServerRole = "standby";
  /** What it has replayed. */
  endLsn = at(9);
  /** Where a slot begins that is made there. */
  restartLsn = at(1);
  connectError: unknown;
  sqlError: unknown;
  /** What happens behind a query, before the next one. */
  onAsked: (query: string) => void = () => {};
  /** From here on nothing is answered. */
  silentFrom: string | undefined;
  readonly journal: string[] = [];

  #answer<T>(query: string, answer: () => T): Promise<T> {
    if (this.silentFrom === query) return new Promise(() => {});
    const said = answer();
    this.onAsked(query);
    return Promise.resolve(said);
  }

  readonly host = {
    name: "db2:5432",
    connect: () => {
      this.journal.push("connect");
      if (this.connectError !== undefined) return Promise.reject(this.connectError);
      const { serverVersion } = this;
      return this.#answer("connect", () => ({ ...this.#server, serverVersion }));
    },
  };

  readonly #server = {
    address: "db2:5432",
    identifySystem: () =>
      this.#answer("identify", () => ({
        systemIdentifier: this.systemIdentifier,
        timeline: this.timeline,
        flushLsn: at(9),
      })),
    timelineHistory: () =>
      this.#answer(
        "history",
        () => this.history === undefined ? undefined : new TextEncoder().encode(formatHistory(this.history)),
      ),
    openSlots: () =>
      this.sqlError === undefined
        ? this.#answer("sql", () => this.#slotSession)
        : Promise.reject(this.sqlError),
    createSlot: (name: string) => {
      this.journal.push(`create ${name}`);
      this.slots.push({ ...SLOT, name, restartLsn: this.restartLsn });
      return Promise.resolve();
    },
    close: () => Promise.resolve(this.journal.push("close")).then(() => {}),
  };

  readonly #slotSession = {
    position: () => this.#answer("position", () => ({ role: this.role, endLsn: this.endLsn })),
    slots: () => this.#answer("slots", () => this.slots),
    /** As the server does it. */
    advance: (name: string, { toLsn, role }: { readonly toLsn: Lsn; readonly role: ServerRole }) => {
      if (role !== this.role) return Promise.resolve(undefined);
      this.journal.push(`advance ${name} ${formatLsn(toLsn)}`);
      this.slots = [{ ...SLOT, restartLsn: toLsn }];
      return Promise.resolve(toLsn);
    },
    close: () => Promise.resolve(),
  };

  get changes(): readonly string[] {
    return this.journal.filter((line) => /create|advance/.test(line));
  }
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
    streamingFrom: () => "db1:5432",
    ...flushedTo(at(3)),
    ...more,
  });
  return { clock, entries, lines, abort, outcome: watched(slots.run(abort.signal)) };
}

test("StandbySlots makes a slot, and moves it along to what is durable here, one time each ten seconds", async () => {
  const standby = new Standby();
  let flushLsn = at(3);
  const { clock, abort, outcome, lines } = start(standby, {
    flushed: () => Promise.resolve(keptWal(flushLsn)),
  });
  await clock.advance(0);
  assert.deepEqual(standby.journal, ["connect", "create wv", "advance wv 0/300000", "close"]);
  flushLsn = at(4);
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  assert.deepEqual(standby.journal.slice(4), ["connect", "advance wv 0/400000", "close"]);
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  assert.deepEqual(standby.journal.slice(7), ["connect", "close"], "it is there already");
  assert.deepEqual(lines("warn"), []);
  abort.abort();
  await clock.advance(0);
  assert.equal(outcome.done, true);
  assert.equal(clock.timers, 0);
});

test("StandbySlots makes a slot soon after the first server streams", async () => {
  const standby = new Standby();
  const received: { wal?: KeptWal } = {};
  const { clock, abort } = start(standby, {
    flushed: () => Promise.resolve(received.wal),
    streamingFrom: () => received.wal === undefined ? undefined : "db1:5432",
  });
  await clock.advance(30_500);
  assert.deepEqual(standby.journal, [], "nobody is asked before");
  received.wal = keptWal(at(3));
  await clock.advance(1000);
  assert.deepEqual(standby.changes, ["create wv", "advance wv 0/300000"]);
  abort.abort();
});

test("StandbySlots says that a slot begins later than what is missing here", async () => {
  const standby = new Standby();
  standby.restartLsn = at(5.5);
  const { clock, abort, entries } = start(standby, flushedTo(at(4.75)));
  await clock.advance(2 * STANDBY_SLOTS_INTERVAL_MS);
  abort.abort();
  assert.deepEqual(standby.changes, ["create wv"]);
  const warnings = entries.filter(({ level }) => level === "warn");
  assert.deepEqual(warnings.map(({ event }) => event), ["slot on standby begins late"]);
  assert.equal(warnings[0]?.fields["restartLsn"], "0/580000");
});

test("StandbySlots says once, and again behind the next gap, that a gap keeps a slot where it is", async () => {
  const standby = new Standby();
  standby.slots = [SLOT];
  let wal: KeptWal = { ...keptWal(at(3)), gapLsn: at(3) };
  const { clock, abort, entries, lines } = start(standby, { flushed: () => Promise.resolve(wal) });
  await clock.advance(3 * STANDBY_SLOTS_INTERVAL_MS);
  assert.deepEqual(standby.changes, ["advance wv 0/300000"]);
  assert.deepEqual(lines("warn"), ["slot is not moved along"]);
  const told = entries.find(({ level }) => level === "warn")?.fields;
  assert.match(String(told?.["error"]), /WAL from 0\/300000 on is missing here/);
  assert.match(String(told?.["hint"]), /walvault gap heal.*walvault gap accept/);
  wal = keptWal(at(6));
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  wal = { ...keptWal(at(7)), gapLsn: at(7) };
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  wal = { ...keptWal(at(9)), gapLsn: at(9) };
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  abort.abort();
  assert.equal(lines("warn").length, 2, "what it has not replayed it keeps anyway");
});

test("StandbySlots moves no slot past what a standby had replayed when it was still on the archive's timeline", async () => {
  const standby = new Standby();
  standby.slots = [SLOT];
  standby.endLsn = at(2);
  // It may be promoted, and write WAL of its own, between any two of the questions.
  standby.onAsked = (query) => void (query === "position" && (standby.endLsn = at(7)));
  const { clock, abort } = start(standby, flushedTo(at(5)));
  await clock.advance(0);
  abort.abort();
  assert.deepEqual(standby.changes, ["advance wv 0/200000"]);
});

for (const query of ["position", "slots"]) {
  test(`StandbySlots moves no slot of a standby that is promoted behind the question for ${query}`, async () => {
    const standby = new Standby();
    standby.slots = [SLOT];
    standby.onAsked = (asked) => {
      if (asked !== query) return;
      standby.role = "primary";
      standby.timeline = timelineId(2);
    };
    const { clock, abort } = start(standby);
    await clock.advance(0);
    abort.abort();
    assert.deepEqual(standby.changes, []);
  });
}

for (
  const [what, history, moved, problem] of [
    ["is of the same line", SECOND, ["advance wv 0/300000"], undefined],
    ["has no history to show", undefined, [], /does not have 00000002\.history/],
    [
      "left timeline 1 elsewhere",
      { ...SECOND, entries: [{ ...SECOND.entries[0]!, endLsn: at(1.25) }] },
      [],
      /another past/,
    ],
  ] as const
) {
  test(`StandbySlots looks at the timeline's history: a standby that ${what}`, async () => {
    for (const slots of [[SLOT], []]) {
      const standby = new Standby();
      Object.assign(standby, { slots, timeline: timelineId(2), history });
      const { clock, abort, entries } = start(standby, flushedTo(at(3), SECOND));
      await clock.advance(0);
      abort.abort();
      assert.deepEqual(standby.changes.filter((line) => !line.startsWith("create")), moved);
      if (problem === undefined) continue;
      assert.deepEqual(standby.changes, []);
      assert.match(String(entries[0]?.fields["error"]), problem);
    }
  });
}

test("StandbySlots moves the primary's slot along while a standby streams, and makes none there", async () => {
  const primary = new Standby();
  primary.role = "primary";
  const { clock, abort, lines } = start(primary);
  await clock.advance(0);
  assert.deepEqual(primary.changes, []);
  primary.slots = [SLOT];
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  assert.deepEqual(primary.changes, ["advance wv 0/300000"]);
  assert.deepEqual(lines("warn"), []);
  abort.abort();
});

test("StandbySlots says that the primary's slot stays where it is when it is on another timeline", async () => {
  const primary = new Standby();
  Object.assign(primary, { role: "primary", slots: [SLOT], timeline: timelineId(2) });
  const { clock, abort, entries } = start(primary);
  await clock.advance(2 * STANDBY_SLOTS_INTERVAL_MS);
  abort.abort();
  assert.deepEqual(primary.changes, []);
  const warnings = entries.filter(({ level }) => level === "warn");
  assert.deepEqual(warnings.map(({ event }) => event), ["slot is not moved along"]);
  assert.match(String(warnings[0]?.fields["error"]), /primary on timeline 2, received is timeline 1/);
});

for (const silentFrom of ["connect", "sql", "position", "identify", "slots"]) {
  test(`StandbySlots waits for a standby that is silent from "${silentFrom}" on neither at a stop nor for ever`, async () => {
    const silent = new Standby();
    silent.silentFrom = silentFrom;
    const other = new Standby();
    const { clock, abort, outcome, lines } = start(silent, { hosts: [silent.host, other.host] });
    await clock.advance(STANDBY_SLOTS_LOOK_MS - 1);
    assert.deepEqual(lines("warn"), []);
    assert.equal(other.journal.filter((line) => line === "connect").length, 2, "the other one is kept");
    abort.abort();
    await clock.advance(STANDBY_SLOTS_STOP_MS);
    assert.equal(outcome.done, true);
    assert.deepEqual(lines("warn"), []);
    assert.equal(clock.timers, 0);
  });
}

test("StandbySlots says that a standby does not answer, and asks it again", async () => {
  const standby = new Standby();
  standby.silentFrom = "slots";
  const { clock, abort, entries } = start(standby);
  await clock.advance(STANDBY_SLOTS_LOOK_MS + STANDBY_SLOTS_STOP_MS);
  assert.deepEqual(entries.map(({ fields }) => fields["error"]), ["no answer in 20 s"]);
  standby.silentFrom = undefined;
  await clock.advance(STANDBY_SLOTS_INTERVAL_MS);
  assert.deepEqual(standby.changes, ["create wv", "advance wv 0/300000"]);
  abort.abort();
});

for (
  const [what, prepare, more] of [
    ["nothing is known yet", () => {}, { flushed: () => Promise.resolve(undefined) }],
    ["another timeline is streamed", (standby: Standby) => void (standby.timeline = timelineId(2)), {}],
    ["somebody uses it", (standby: Standby) => void (standby.slots = [{ ...SLOT, activePid: 42 }]), {}],
    ["it is further", (standby: Standby) => void (standby.slots = [{ ...SLOT, restartLsn: at(4) }]), {}],
    ["the archive has no cluster yet", () => {}, { systemIdentifier: () => undefined }],
    ["the host streams", () => {}, { streamingFrom: () => "db2:5432" }],
  ] as const
) {
  for (const slots of [[SLOT], []]) {
    if (slots.length === 0 && (what === "somebody uses it" || what === "it is further")) continue;
    test(`StandbySlots leaves a slot alone, and makes none, while ${what}${slots.length === 0 ? "; without a slot" : ""}`, async () => {
      const standby = new Standby();
      standby.slots = slots;
      prepare(standby);
      const { clock, abort, lines } = start(standby, more);
      await clock.advance(0);
      assert.deepEqual(standby.changes, []);
      assert.deepEqual(lines("warn"), []);
      abort.abort();
    });
  }
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
    assert.deepEqual(standby.changes, []);
    abort.abort();
  });
}
