import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { realClock } from "../../lib/commands/clock.ts";
import { SlotGuardian } from "../../lib/commands/slot_guardian.ts";
import { formatLsn, lsn } from "../../lib/wal/lsn.ts";
import { frame } from "../protocol/frames.ts";
import { fakeLog } from "../receiver/fakes.ts";
import { type FakeConnection, startFakeServer } from "../session/fake_server.ts";
import { logIn, READY } from "../session/fake_walsender.ts";
import { settingsFor, SILENT, tcpHost, until } from "../session/support.ts";

const POLICY = { lagBytes: undefined, afterMs: 1, action: "warn" } as const;

/** How long its look, which gets no answer from here on, holds up the end of the watch. */
async function endMs(silentFrom: "login" | "first query"): Promise<number> {
  await using server = await startFakeServer(async (connection) => {
    if (silentFrom === "first query") await logIn(connection);
  });
  const settings = settingsFor([tcpHost(server.port)]);
  const guardian = new SlotGuardian(settings, { slot: "s", policy: POLICY, clock: realClock, log: SILENT });
  const abort = new AbortController();
  const running = guardian.run(abort.signal);
  // The look at the slot takes a second connection.
  await until(() => server.connections >= (silentFrom === "login" ? 1 : 2));
  const beganMs = performance.now();
  abort.abort();
  await running;
  return performance.now() - beganMs;
}

for (const silentFrom of ["login", "first query"] as const) {
  test(`a server that is silent from its ${silentFrom} on does not hold up the end of the watch`, {
    timeout: 30_000,
  }, async () => {
    assert.ok(await endMs(silentFrom) < 3000);
  });
}

/** One row of texts. */
function sendRow(connection: FakeConnection, row: Readonly<Record<string, string>>): void {
  const names = Object.keys(row);
  const column = (
    name: string,
  ) => [...Buffer.from(name), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0];
  const value = (text: string) => [0, 0, 0, text.length, ...Buffer.from(text)];
  connection.send(
    frame("T", [0, names.length, ...names.flatMap(column)]),
    frame("D", [0, names.length, ...Object.values(row).flatMap(value)]),
    frame("C", [...Buffer.from("SELECT"), 0]),
    READY,
  );
}

test("a slot that a gap holds back is not dropped for what is written while it is looked at", {
  timeout: 30_000,
}, async () => {
  // All that is written is durable here at once.
  let endLsn = 100n << 20n;
  await using server = await startFakeServer(async (connection) => {
    let command = await logIn(connection);
    while (command !== "") {
      if (command.includes("READ_REPLICATION_SLOT")) {
        sendRow(connection, { slot_type: "physical", restart_lsn: "0/100000", restart_tli: "1" });
      } else if (command.includes("IDENTIFY_SYSTEM")) {
        sendRow(connection, { systemid: "7", timeline: "1", xlogpos: formatLsn(lsn(endLsn)), dbname: "" });
        endLsn += 1n << 20n;
      } else {
        const refused = ["SERROR", "C42501", "Mno"].flatMap((field) => [...Buffer.from(field), 0]);
        connection.send(frame("E", [...refused, 0]), READY);
      }
      command = await connection.receive();
    }
  });
  const { log, entries } = fakeLog();
  const guardian = new SlotGuardian(settingsFor([tcpHost(server.port)]), {
    slot: "s",
    policy: { lagBytes: 10n << 20n, afterMs: undefined, action: "drop-slot" },
    clock: { ...realClock, setTimer: (_ms, fire) => realClock.setTimer(1, fire) },
    log,
    durable: () => lsn(endLsn),
  });
  const abort = new AbortController();
  const running = guardian.run(abort.signal);
  await until(() => entries.some(({ level }) => level === "error"));
  abort.abort();
  await running;
  assert.deepEqual(
    entries.filter(({ level }) => level === "error").map(({ event }) => event),
    ["slot is held back"],
  );
  assert.equal(guardian.halt.aborted, false);
});
