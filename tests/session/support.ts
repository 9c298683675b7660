/** Settings, handlers and logs for the tests of the session. */
import { setTimeout as sleep } from "node:timers/promises";
import type { ConnectionSettings, Host, TlsSettings } from "../../lib/conninfo/settings.ts";
import type { Log } from "../../lib/log.ts";
import type { WalStreamHandler } from "../../lib/protocol/replication.ts";
import type { Lsn } from "../../lib/wal/lsn.ts";

export const NO_TLS: TlsSettings = {
  mode: "disable",
  rootCert: undefined,
  cert: undefined,
  key: undefined,
  keyPassword: undefined,
  crl: undefined,
  serverNameIndication: true,
  negotiation: "postgres",
  minProtocol: undefined,
  maxProtocol: undefined,
};

/** A TCP host. */
export function tcpHost(
  port: number,
  changes: { name?: string; address?: string; password?: string } = {},
): Host {
  const name = changes.name ?? "127.0.0.1";
  return {
    name,
    port,
    target: { kind: "tcp", address: changes.address ?? name },
    password: changes.password,
  };
}

/** Settings for these hosts; short patience, no TLS. */
export function settingsFor(
  hosts: readonly Host[],
  changes: Partial<ConnectionSettings> = {},
): ConnectionSettings {
  return {
    hosts,
    user: "postgres",
    database: undefined,
    applicationName: "session test",
    options: undefined,
    clientEncoding: undefined,
    connectTimeoutMs: 10_000,
    targetSessionAttrs: "any",
    loadBalanceHosts: false,
    tls: NO_TLS,
    keepalive: { enabled: true, idleMs: undefined },
    requireAuth: undefined,
    ...changes,
  };
}

/** For tests with servers; Bun gives a test, and a hook, five seconds, and does not ask the suite around it. */
export const SLOW = { timeout: 120_000 } as const;

export const SILENT: Log = { error() {}, warn() {}, info() {}, debug() {} };

/** Counts, and checks that WAL is contiguous; `reached()` waits for a position. */
export class Counting implements WalStreamHandler {
  nextLsn: Lsn | undefined;
  walEndLsn = 0n;
  bytes = 0;
  repliesAsked = 0;
  drained = 0;

  onWal(startLsn: Lsn, bytes: Uint8Array): void {
    if (this.nextLsn !== undefined && startLsn !== this.nextLsn) throw new Error("WAL is not contiguous");
    this.nextLsn = (startLsn + BigInt(bytes.length)) as Lsn;
    this.bytes += bytes.length;
  }

  onServerPosition(message: { readonly walEndLsn: Lsn; readonly replyRequested: boolean }): void {
    this.walEndLsn = message.walEndLsn;
    if (message.replyRequested) this.repliesAsked++;
  }

  onDrained(): void {
    this.drained++;
  }

  reached(lsn: bigint): Promise<void> {
    return until(() => (this.nextLsn ?? 0n) >= lsn);
  }
}

/** Waits until it is so; fails after ten seconds. */
export async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  for (let i = 0; i < 500; i++) {
    if (await isSo()) return;
    await sleep(20);
  }
  throw new Error(`Not so after 10 s: ${isSo}`);
}
