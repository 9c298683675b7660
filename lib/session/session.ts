import {
  decodeSetting,
  decodeSlotPosition,
  decodeSystemIdentity,
  decodeTimelineHistory,
} from "../protocol/answers.ts";
import {
  createIdleSlotCommand,
  createReplicationSlotCommand,
  dropReplicationSlotCommand,
  IDENTIFY_SYSTEM,
  knowsReadReplicationSlot,
  readReplicationSlotCommand,
  readSlotQuery,
  showCommand,
  type StartReplication,
  timelineHistoryCommand,
} from "../protocol/commands.ts";
import { ServerError } from "../protocol/errors.ts";
import {
  CLOCK_QUERY,
  decodeClock,
  decodeSenders,
  decodeSlots,
  sendersQuery,
  type SenderView,
  slotsQuery,
  type SlotView,
} from "../protocol/replication_views.ts";
import type { SlotPosition, SystemIdentity, WalStream, WalStreamHandler } from "../protocol/replication.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Command, Link } from "./link.ts";
import { SlotSession } from "./slot_session.ts";
import { streamWal } from "./stream.ts";

/** How READ_REPLICATION_SLOT refuses a logical slot (feature_not_supported, PostgreSQL 15 to 18). */
const LOGICAL_SLOT = "0A000";
const UNDEFINED_FILE = "58P01";

/** What a server tells about whoever receives its WAL. */
export interface ReplicationViews {
  /** Physical ones only. */
  readonly slots: readonly SlotView[];
  readonly senders: readonly SenderView[];
  /** The server's clock, in milliseconds since 1970. */
  readonly clockMs: number;
}

/** One live replication connection: what `receiver/` calls a `WalSource`. */
export class Session {
  readonly #link: Link;
  readonly #openSql: (signal?: AbortSignal) => Promise<Link>;
  readonly #openAnother: () => Promise<Link>;
  /** As `server_version_num` counts: 150018, 130005. */
  readonly serverVersion: number;

  constructor(
    link: Link,
    options: {
      readonly serverVersion: number;
      /** Makes an ordinary connection to the same server. */
      readonly openSql: (signal?: AbortSignal) => Promise<Link>;
      /** Makes another replication connection to it. */
      readonly openAnother: () => Promise<Link>;
    },
  ) {
    this.#link = link;
    this.serverVersion = options.serverVersion;
    this.#openSql = options.openSql;
    this.#openAnother = options.openAnother;
  }

  /** For messages: `host:port` or the socket's path. */
  get address(): string {
    return this.#link.address;
  }

  /** IDENTIFY_SYSTEM. */
  identifySystem(): Promise<SystemIdentity> {
    return this.#query({ text: IDENTIFY_SYSTEM, doing: "identify", decode: decodeSystemIdentity });
  }

  /** `SHOW name` on the replication connection. */
  async show(name: string): Promise<string> {
    return await this.#query({ text: showCommand(name), doing: `show ${name} of`, decode: decodeSetting });
  }

  /**
   * `SHOW name` on a connection of its own to the same address: also while this one streams. Whether the same server
   * answers there its system identifier tells.
   */
  async showAfresh(name: string): Promise<{ readonly systemIdentifier: bigint; readonly value: string }> {
    const link = await this.#openAnother();
    try {
      const { systemIdentifier } = await link.query({
        text: IDENTIFY_SYSTEM,
        doing: "identify",
        decode: decodeSystemIdentity,
      });
      const value = await link.query({
        text: showCommand(name),
        doing: `show ${name} of`,
        decode: decodeSetting,
      });
      return { systemIdentifier, value };
    } finally {
      await link.close();
    }
  }

  /** `undefined` when there is no such slot. Before PostgreSQL 15 this opens one ordinary SQL connection. */
  async readSlot(name: string): Promise<SlotPosition | undefined> {
    const doing = `read slot ${name} of`;
    if (!knowsReadReplicationSlot(this.serverVersion)) {
      const text = readSlotQuery(name);
      const sql = await this.#openSql().catch((error) => {
        throw explainSql(error, `Cannot ${doing} ${this.address}`, SLOT_HINT);
      });
      try {
        return await sql.query({ text, doing, decode: decodeSlotPosition });
      } finally {
        await sql.close();
      }
    }
    try {
      return await this.#query({ text: readReplicationSlotCommand(name), doing, decode: decodeSlotPosition });
    } catch (error) {
      if (!(error instanceof ServerError && error.sqlState === LOGICAL_SLOT)) throw error;
      return { kind: "logical", restartLsn: undefined, restartTimeline: undefined };
    }
  }

  /** What its views tell; over an ordinary SQL connection, which the server may refuse. */
  async replicationViews(signal?: AbortSignal): Promise<ReplicationViews> {
    const doing = "read the slots of";
    const sql = await this.#openSql(signal).catch((error) => {
      throw explainSql(error, `Cannot ${doing} ${this.address}`, VIEWS_HINT);
    });
    const onAbort = () => void sql.close();
    signal?.addEventListener("abort", onAbort, { once: true });
    try {
      const version = this.serverVersion;
      return {
        slots: await sql.query({ text: slotsQuery(version), doing, decode: decodeSlots }),
        senders: await sql.query({
          text: sendersQuery(version),
          doing: "read the senders of",
          decode: decodeSenders,
        }),
        clockMs: await sql.query({ text: CLOCK_QUERY, doing: "read the clock of", decode: decodeClock }),
      };
    } finally {
      signal?.removeEventListener("abort", onAbort);
      await sql.close();
    }
  }

  /** An ordinary connection to the same server, which it may refuse, to look at slots and to move them. */
  async openSlots(signal?: AbortSignal): Promise<SlotSession> {
    const sql = await this.#openSql(signal).catch((error) => {
      throw explainSql(error, `Cannot read the slots of ${this.address}`, VIEWS_HINT);
    });
    return new SlotSession(sql, this.serverVersion);
  }

  /** Physical, with RESERVE_WAL. `ServerError` 42710 when it exists. */
  async createSlot(name: string): Promise<void> {
    const text = createReplicationSlotCommand(name, this.serverVersion);
    await this.#query({ text, doing: `create slot ${name} on`, decode: ignoreRows });
  }

  /** Physical, and reserving nothing before its first use, as `pg_receivewal` makes it. `ServerError` 42710 when it exists. */
  async createIdleSlot(name: string): Promise<void> {
    await this.#query({
      text: createIdleSlotCommand(name),
      doing: `create slot ${name} on`,
      decode: ignoreRows,
    });
  }

  /** `ServerError` 42704 when there is none, 55006 when it is in use. */
  async dropSlot(name: string): Promise<void> {
    await this.#query({
      text: dropReplicationSlotCommand(name),
      doing: `drop slot ${name} on`,
      decode: ignoreRows,
    });
  }

  /** The history file's bytes; `undefined` when the server does not have it (58P01). */
  async timelineHistory(timeline: TimelineId): Promise<Uint8Array | undefined> {
    try {
      return await this.#query({
        text: timelineHistoryCommand(timeline),
        doing: `read history of timeline ${timeline} from`,
        decode: (answer) => decodeTimelineHistory(answer, timeline),
      });
    } catch (error) {
      if (error instanceof ServerError && error.sqlState === UNDEFINED_FILE) return undefined;
      throw error;
    }
  }

  /**
   * Resolves when the server starts to send, or at once when the start is exactly the timeline's end
   * (`ended` then settles with the switch).
   *
   * Other commands wait until the stream is over.
   * @throws {ServerError} when the server refuses.
   */
  startReplication(start: StartReplication, handler: WalStreamHandler): Promise<WalStream> {
    return streamWal(this.#link, start, handler);
  }

  /** Ends the connection; a running stream fails with `ConnectionError`. Idempotent. */
  close(): Promise<void> {
    return this.#link.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #query<T>(command: Command<T>): Promise<T> {
    return this.#link.query(command);
  }
}

function ignoreRows(): void {}

const SLOT_HINT = "Before PostgreSQL 15 a slot can be read over an ordinary connection only: " +
  "give the role one in pg_hba.conf, and a database with dbname=";
const VIEWS_HINT = "The state of slots can be read over an ordinary connection only: " +
  "give the role one in pg_hba.conf, and a database with dbname=";

/** The server may let a role replicate and not let it in for SQL. */
function explainSql(error: unknown, doing: string, hint: string): unknown {
  if (!(error instanceof ServerError)) return error;
  const { severity, sqlState, serverMessage: message, detail, fields } = error;
  const said = { severity, sqlState, message, detail, hint: undefined, fields };
  return new ServerError(doing, said, { cause: error, hint });
}
