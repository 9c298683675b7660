import { ConnectionError, type ServerError } from "../../lib/protocol/errors.ts";
import type { WalSource } from "../../lib/receiver/wal_source.ts";
import { switchPointOf } from "../../lib/wal/history.ts";
import type { TimelineId } from "../../lib/wal/timeline.ts";
import type { Random } from "./random.ts";
import { Connection, refusalOf, type ServerWatcher, type SimHost, type SimServer } from "./sim_server.ts";
import { type Branch, SEGMENT_BYTES } from "./sim_wal.ts";

/** How the second host is. */
export interface SecondHostHabits {
  /** So far it is behind the server. */
  lagBytes(): number;
  /** It is no standby but a clone that went its own way: this is its WAL. */
  readonly clone: Branch | undefined;
}

/** Another host of the connection string: a standby of the server that keeps all WAL, or what looks like one. */
export class SecondHost implements SimHost {
  readonly address = "standby:5432";
  readonly slot = undefined;
  readonly standbyNames = "";
  readonly namesChanges = 0;
  readonly watcher: ServerWatcher;
  #connections = new Set<Connection>();
  #up = true;

  constructor(
    private readonly primary: SimServer,
    private readonly kind: SecondHostHabits,
    readonly random: Random,
    watcher: Pick<ServerWatcher, "violation" | "trace">,
  ) {
    this.watcher = {
      ...watcher,
      // It may wait for whoever only fetches what is missing: he promised it nothing.
      violation: () => {},
      onStatus: (_stream, { writeLsn, flushLsn, applyLsn }) => {
        if (writeLsn !== 0n || flushLsn !== 0n || applyLsn !== 0n) {
          watcher.violation("P2: something is claimed to a host that is only asked for what is missing");
        }
      },
      onStreamStart: () => {},
      onRewritten: () => {},
      onReleased: () => {},
      onWalGone: () => {},
    };
    primary.onNextEra = () => this.cut();
  }

  get scheduler() {
    return this.primary.scheduler;
  }

  get habits() {
    return this.primary.habits;
  }

  get branch(): Branch {
    return this.kind.clone ?? this.primary.branch;
  }

  get removedBelow(): bigint {
    return this.primary.world.firstLsn;
  }

  get flushLsn(): bigint {
    if (this.kind.clone !== undefined) return this.kind.clone.endLsn;
    const { flushLsn } = this.primary;
    // It has replayed the switch to the timeline that it is on.
    const least = this.branch.history.entries.at(-1)?.endLsn ?? this.removedBelow;
    const behind = flushLsn - BigInt(this.kind.lagBytes());
    return behind > least ? behind : flushLsn < least ? flushLsn : least;
  }

  connect(process: { readonly alive: boolean }): Promise<WalSource & { isOpen(): boolean }> {
    return new Promise((resolve, reject) => {
      this.scheduler.after(this.habits.networkMs * this.random.next(), () => {
        if (!process.alive) return;
        if (!this.#up) return reject(new ConnectionError("refused", "nobody listens"));
        const connection = new Connection(this, process);
        this.#connections.add(connection);
        resolve(connection);
      });
    });
  }

  cut(): void {
    for (const connection of [...this.#connections]) connection.cut("the server closed the connection");
  }

  /** It is down from now on, or comes back. */
  setUp(up: boolean): void {
    this.#up = up;
    if (!up) this.cut();
  }

  silence(): void {
    for (const connection of this.#connections) connection.silent = true;
  }

  loseClient(process: { readonly alive: boolean }): void {
    for (const connection of [...this.#connections]) {
      if (connection.process === process) connection.loseClient();
    }
  }

  createSlot(): void {
    throw new Error("nobody makes a slot here");
  }

  refusal(start: {
    readonly timeline: TimelineId;
    readonly startLsn: bigint;
    readonly slot: string | undefined;
  }): ServerError | undefined {
    return refusalOf(this, start);
  }

  sendLimit(timeline: TimelineId): bigint {
    return switchPointOf(this.branch.history, timeline) ?? this.flushLsn;
  }

  onStatus(): void {}

  forget(connection: Connection): void {
    this.#connections.delete(connection);
  }

  /** Whether it has all of a segment of the server's line. */
  has(number: bigint): boolean {
    return this.kind.clone === undefined && (number + 1n) * BigInt(SEGMENT_BYTES) <= this.flushLsn;
  }
}
