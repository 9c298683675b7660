import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import type { SlotPosition } from "../../lib/protocol/replication.ts";
import { DROP_ELSEWHERE_MS, dropElsewhere, tellElsewhere } from "../../lib/receiver/slots_elsewhere.ts";
import { timelineId } from "../../lib/wal/timeline.ts";
import { at, FakeClock, fakeLog, serverError, SYSTEM_IDENTIFIER, watched } from "./fakes.ts";

const PHYSICAL: SlotPosition = { kind: "physical", restartLsn: at(1), restartTimeline: undefined };

interface Scripted {
  readonly slot?: SlotPosition | undefined;
  readonly systemIdentifier?: bigint;
  readonly isPrimary?: boolean;
  readonly connectError?: unknown;
  readonly dropError?: unknown;
  readonly silent?: boolean;
}

function ask(act: typeof dropElsewhere, servers: readonly Scripted[]) {
  const journal: string[] = [];
  const hosts = servers.map((server, index) => {
    const name = `db${index + 2}`;
    const connect = () => {
      if (server.connectError !== undefined) return Promise.reject(server.connectError);
      if (server.silent) return new Promise<never>(() => {});
      const { systemIdentifier = SYSTEM_IDENTIFIER } = server;
      return Promise.resolve({
        identifySystem: () => Promise.resolve({ systemIdentifier, timeline: timelineId(1), flushLsn: at(9) }),
        readSlot: () => Promise.resolve("slot" in server ? server.slot : PHYSICAL),
        dropSlot: (name: string) => {
          if (server.dropError !== undefined) return Promise.reject(server.dropError);
          return Promise.resolve(journal.push(`drop ${name} on db${index + 2}`)).then(() => {});
        },
        close: () => Promise.resolve(),
      });
    };
    const unsuitable = new ConnectionError("unsuitable", `Cannot use ${name}: it is a primary`);
    return {
      name,
      connect,
      connectToStandby: () => server.isPrimary ? Promise.reject(unsuitable) : connect(),
    };
  });
  const clock = new FakeClock();
  const { log, entries, lines } = fakeLog();
  const outcome = watched(act({ hosts, slot: "wv", systemIdentifier: SYSTEM_IDENTIFIER, clock, log }));
  return { journal, clock, entries, lines, outcome };
}

test("dropElsewhere() drops a slot on every standby that has it, and on no other server", async () => {
  const { journal, clock, lines, outcome } = ask(dropElsewhere, [
    {},
    { slot: undefined },
    { slot: { ...PHYSICAL, kind: "logical" } },
    { systemIdentifier: 1n },
    {},
    // As under another name that leads to where it was dropped.
    { isPrimary: true, slot: undefined },
  ]);
  await clock.advance(0);
  assert.deepEqual(journal, ["drop wv on db2", "drop wv on db6"]);
  assert.deepEqual(outcome.value, []);
  assert.deepEqual(lines(), ["info slot dropped", "info slot dropped"]);
  assert.equal(clock.timers, 0);
});

test("dropElsewhere() says where a slot may be left, and what to run there", async () => {
  const { journal, clock, entries, outcome } = ask(dropElsewhere, [
    { silent: true },
    { connectError: new Error("refused") },
    { isPrimary: true },
    { dropError: serverError("55006", "it is in use") },
    {},
  ]);
  await clock.advance(DROP_ELSEWHERE_MS);
  assert.deepEqual(journal, ["drop wv on db6"], "nobody waits for the others");
  assert.deepEqual(outcome.value, ["db2", "db3", "db4", "db5"]);
  const told = new Map(
    entries.filter(({ level }) => level === "error").map(({ fields }) => [fields["server"], fields]),
  );
  assert.match(String(told.get("db2")?.["error"]), /no answer in 20 s/);
  assert.match(String(told.get("db3")?.["error"]), /refused/);
  assert.equal(told.get("db4")?.["error"], "it is the primary");
  assert.match(String(told.get("db5")?.["error"]), /in use/);
  for (const fields of told.values()) {
    assert.match(
      String(fields["hint"]),
      /run there: SELECT pg_drop_replication_slot\(slot_name\) FROM pg_replication_slots WHERE slot_name = 'wv'/,
    );
  }
});

test("tellElsewhere() changes nothing, and tells where the slot is", async () => {
  const { journal, clock, entries, outcome } = ask(tellElsewhere, [
    {},
    { slot: undefined },
    { connectError: new Error("refused") },
    { isPrimary: true },
    { isPrimary: true, systemIdentifier: 1n },
  ]);
  await clock.advance(0);
  assert.deepEqual(journal, []);
  assert.deepEqual(outcome.value, ["db2", "db5"]);
  assert.deepEqual(
    entries.map(({ level, event }) => `${level} ${event}`),
    ["warn slot is left on standby", "warn slot is left on primary"],
  );
  assert.match(String(entries[0]?.fields["hint"]), /add --slot-on-standbys/);
  assert.match(
    String(entries[1]?.fields["hint"]),
    /if it is to go, run there: SELECT pg_drop_replication_slot/,
  );
});
