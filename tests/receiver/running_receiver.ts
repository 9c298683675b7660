import assert from "node:assert/strict";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import type { LegPosition } from "../../lib/receiver/leg.ts";
import { type ReceiveEnd, type ReceiveOptions, receiveWal } from "../../lib/receiver/receive.ts";
import type { HostReply } from "../../lib/receiver/lack.ts";
import type { GapHealer } from "../../lib/receiver/wal_archive.ts";
import type { WalSource } from "../../lib/receiver/wal_source.ts";
import {
  FakeArchive,
  FakeClock,
  fakeLog,
  FakeServer,
  type FakeSource,
  type Journal,
  settled,
  watched,
} from "./fakes.ts";

/** What counts where a test says nothing. */
export const OPTIONS: ReceiveOptions = {
  slot: undefined,
  createSlot: false,
  endLsn: undefined,
  loop: true,
  gaps: "record",
  applicationName: "walvault",
  timing: {
    statusIntervalMs: 10_000,
    receiveTimeoutMs: 60_000,
    stallTimeoutMs: 15_000,
    stopTimeoutMs: 10_000,
  },
};

/** How a run differs from the plainest one. */
export interface Given {
  readonly options?: Partial<ReceiveOptions>;
  /** Several hosts, in the order of trying; the first is `server`. */
  readonly others?: readonly Partial<FakeServer>[];
  /** Brings in what is missing. */
  readonly heal?: GapHealer["heal"];
  /** How much of it has come. */
  readonly takenBytes?: () => number;
  readonly prepare?: (parts: { readonly server: FakeServer; readonly archive: FakeArchive }) => void;
}

/** A receiver at work on an archive in memory and servers that do what a test tells them. */
export async function startReceiving(given: Given = {}) {
  const journal: Journal = [];
  const server = new FakeServer(journal);
  const archive = new FakeArchive(journal);
  const others = (given.others ?? []).map((differences) =>
    Object.assign(new FakeServer(journal), differences)
  );
  given.prepare?.({ server, archive });
  const clock = new FakeClock();
  const abort = new AbortController();
  const { log, entries, lines } = fakeLog();
  const positions: LegPosition[] = [];
  const connectedAtMs: number[] = [];
  const askedAtMs: number[] = [];
  const outcome = watched<ReceiveEnd>(receiveWal(
    {
      connect: (accept, signal) => connect([server, ...others], accept, signal),
      askHosts: (ask, signal) => askHosts([server, ...others], ask, signal),
      archive,
      healer: given.heal === undefined ? undefined : {
        heal: given.heal,
        get takenBytes() {
          return given.takenBytes?.() ?? 0;
        },
      },
      clock,
      log,
      random: () => 0.5,
      onPosition: (position) => positions.push(position),
      onStreaming: () => {},
    },
    { ...OPTIONS, ...given.options },
    abort.signal,
  ));
  async function connect(
    hosts: readonly FakeServer[],
    accept: (source: WalSource) => Promise<boolean>,
    signal: AbortSignal,
  ): Promise<FakeSource> {
    signal.throwIfAborted();
    connectedAtMs.push(clock.nowMs());
    const errors: unknown[] = [];
    for (const host of hosts) {
      try {
        return await connectHost(host, accept, signal);
      } catch (error) {
        signal.throwIfAborted();
        errors.push(error);
      }
    }
    if (errors.length === 1) throw errors[0];
    const text = errors.map((error) => (error as Error).message).join("; ");
    throw new ConnectionError("refused", text, { cause: new AggregateError(errors) });
  }
  async function connectHost(
    host: FakeServer,
    accept: (source: WalSource) => Promise<boolean>,
    signal: AbortSignal,
  ): Promise<FakeSource> {
    if (host.silent.has("connect")) {
      await new Promise((_resolve, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
    }
    if (host.connectError !== undefined) throw host.connectError;
    const source = host.open();
    try {
      assert.ok(await accept(source), "a server that will not do is told by a throw");
      return source;
    } catch (error) {
      await source.close();
      throw error;
    }
  }
  async function askHosts<T>(
    hosts: readonly FakeServer[],
    ask: (source: WalSource) => Promise<T>,
    signal: AbortSignal,
  ): Promise<readonly HostReply<T>[]> {
    askedAtMs.push(clock.nowMs());
    const replies: HostReply<T>[] = [];
    for (const host of hosts) {
      const { address } = host;
      try {
        let answer: T | undefined;
        const taken = await connectHost(host, async (source) => {
          answer = await ask(source);
          return true;
        }, signal);
        await taken.close();
        replies.push({ address, answer: answer as T });
      } catch (error) {
        replies.push({ address, error });
      }
    }
    signal.throwIfAborted();
    return replies;
  }
  await settled();
  /** Everything that is still under way is told to stop. */
  const stop = async () => {
    abort.abort(new Error("Stopped by SIGTERM"));
    await clock.advance(30_000);
  };
  return {
    journal,
    server,
    others,
    archive,
    clock,
    abort,
    entries,
    lines,
    positions,
    connectedAtMs,
    askedAtMs,
    outcome,
    stop,
  };
}
