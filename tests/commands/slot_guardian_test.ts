import assert from "node:assert/strict";
import { test } from "node:test";
import { realClock } from "../../lib/commands/clock.ts";
import { SlotGuardian } from "../../lib/commands/slot_guardian.ts";
import { startFakeServer } from "../session/fake_server.ts";
import { logIn } from "../session/fake_walsender.ts";
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
