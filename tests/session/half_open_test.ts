/** A connection of which the other side is gone and nobody says so: no call may wait for ever, and TCP itself looks too. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import { connect } from "../../lib/session/connect.ts";
import { COMMAND_TIMEOUT_MS } from "../../lib/session/link.ts";
import { startFakeServer } from "./fake_server.ts";
import { logIn } from "./fake_walsender.ts";
import { settingsFor, SILENT, SLOW, tcpHost, until } from "./support.ts";

/** A command's time is over after this; the tests are not to take a minute. */
const SHORT_MS = 300;

test("a command that a server never answers is given up when its time is over", SLOW, async () => {
  await using server = await startFakeServer(async (connection) => void await logIn(connection));
  const source = await connect(settingsFor([tcpHost(server.port)]), { log: SILENT });
  const { setTimeout: ofRuntime } = globalThis;
  const asked: (number | undefined)[] = [];
  globalThis.setTimeout = ((handler: () => void, ms?: number) => {
    asked.push(ms);
    return ofRuntime(handler, ms === COMMAND_TIMEOUT_MS ? SHORT_MS : ms);
  }) as typeof setTimeout;
  try {
    await assert.rejects(source.identifySystem(), (error) => {
      assert.ok(error instanceof ConnectionError);
      assert.equal(error.kind, "timeout");
      assert.match(error.message, /^Cannot identify \S+: no answer in 60 s$/);
      assert.match(error.hint ?? "", /look whether the server hangs/);
      return true;
    });
  } finally {
    globalThis.setTimeout = ofRuntime;
  }
  assert.ok(asked.includes(COMMAND_TIMEOUT_MS));
  await source.close();
});

/** What /proc/net/tcp says of a connection's timer: 2 is that of keepalives. */
function timerOf(ports: { readonly local: number; readonly remote: number }): string | undefined {
  const hex = (port: number) => port.toString(16).toUpperCase().padStart(4, "0");
  for (const line of readFileSync("/proc/net/tcp", "utf8").split("\n")) {
    const [, local, remote, , , timer] = line.trim().split(/\s+/);
    if (local?.endsWith(`:${hex(ports.local)}`) && remote?.endsWith(`:${hex(ports.remote)}`)) {
      return timer?.split(":")[0];
    }
  }
  return undefined;
}

for (
  const [keepalive, expected] of [
    [{ enabled: true, idleMs: undefined }, "02"],
    [{ enabled: true, idleMs: 30_000 }, "02"],
    [{ enabled: false, idleMs: undefined }, "00"],
  ] as const
) {
  test(
    `TCP keepalive is ${keepalive.enabled ? "on" : "off"} with ${JSON.stringify(keepalive)}`,
    { ...SLOW, skip: process.platform === "linux" ? false : "only Linux tells a socket's timers" },
    async () => {
      let remotePort: number | undefined;
      await using server = await startFakeServer(async (connection) => {
        remotePort = connection.socket.remotePort;
        await logIn(connection);
      });
      const source = await connect(settingsFor([tcpHost(server.port)], { keepalive }), { log: SILENT });
      // The timer of what was sent last comes first.
      await until(() => timerOf({ local: remotePort!, remote: server.port }) === expected);
      await source.close();
    },
  );
}
