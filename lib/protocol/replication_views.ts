import { parseLsn } from "../wal/lsn.ts";
import type { Lsn } from "../wal/lsn.ts";
import { type Answer, decodeRows } from "./answers.ts";
import { ProtocolError } from "./errors.ts";

/** The first version whose slots have a limit, and tell how far they are from it. */
const VERSION_13 = 130_000;
/** The first version that tells when a receiver has replied. */
const VERSION_12 = 120_000;

/** A physical slot, as `pg_replication_slots` tells it. */
export interface SlotView {
  readonly name: string;
  /** The process that sends to whoever uses it now. */
  readonly activePid: number | undefined;
  /** `undefined` while the slot reserves nothing. */
  readonly restartLsn: Lsn | undefined;
  /** "reserved", "extended", "unreserved" or "lost"; `undefined` before PostgreSQL 13, or while it reserves nothing. */
  readonly walStatus: string | undefined;
  /** How much WAL may still be written before the slot may lose some; `undefined` when there is no limit. */
  readonly safeWalBytes: bigint | undefined;
}

/** A process that sends WAL, as `pg_stat_replication` tells it. */
export interface SenderView {
  readonly pid: number;
  readonly applicationName: string;
  /** The other columns are hidden from a role that may not look at another's. */
  readonly state: string | undefined;
  readonly sentLsn: Lsn | undefined;
  readonly writeLsn: Lsn | undefined;
  readonly flushLsn: Lsn | undefined;
  readonly syncState: string | undefined;
  /** Since its receiver last replied; `undefined` also before PostgreSQL 12. */
  readonly sinceReplyMs: number | undefined;
}

/** What a server is just now. */
export type ServerRole = "primary" | "standby";

/** Where a server is. */
export interface ServerPosition {
  readonly role: ServerRole;
  /** What a standby has replayed, or a primary brought to its disk; `undefined` before anything was. */
  readonly endLsn: Lsn | undefined;
}

/** The server's role and position; from PostgreSQL 10 on. */
export const POSITION_QUERY =
  "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN 'standby' ELSE 'primary' END AS role, " +
  "CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() " +
  "ELSE pg_catalog.pg_current_wal_flush_lsn() END AS end_lsn";

/** The slots; from PostgreSQL 10 on. */
export function slotsQuery(serverVersion: number): string {
  const limits = serverVersion >= VERSION_13
    ? "wal_status, safe_wal_size"
    : "NULL AS wal_status, NULL AS safe_wal_size";
  return `SELECT slot_name, active_pid, restart_lsn, ${limits} FROM pg_catalog.pg_replication_slots ` +
    "WHERE slot_type = 'physical' ORDER BY slot_name";
}

/** The processes that send WAL; from PostgreSQL 10 on. */
export function sendersQuery(serverVersion: number): string {
  const since = serverVersion >= VERSION_12
    ? "round(extract(epoch FROM pg_catalog.clock_timestamp() - reply_time) * 1000)"
    : "NULL";
  return "SELECT pid, application_name, state, sent_lsn, write_lsn, flush_lsn, sync_state, " +
    `${since} AS since_reply FROM pg_catalog.pg_stat_replication ORDER BY pid`;
}

/** The server's clock, in milliseconds since 1970. */
export const CLOCK_QUERY =
  "SELECT round(extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint AS now";

/**
 * What `slotsQuery()` answered.
 *
 * @throws {ProtocolError} on anything else.
 */
export function decodeSlots(answer: Answer): readonly SlotView[] {
  return decodeRows(answer, "a query of slots", (row) => ({
    name: wanted(row.read("slot_name", String), "slot_name"),
    activePid: row.read("active_pid", decodeInteger),
    restartLsn: row.read("restart_lsn", parseLsn),
    walStatus: row.read("wal_status", String),
    safeWalBytes: row.read("safe_wal_size", decodeBigInteger),
  }));
}

/**
 * What `sendersQuery()` answered.
 *
 * @throws {ProtocolError} on anything else.
 */
export function decodeSenders(answer: Answer): readonly SenderView[] {
  return decodeRows(answer, "a query of senders", (row) => ({
    pid: wanted(row.read("pid", decodeInteger), "pid"),
    applicationName: row.read("application_name", String) ?? "",
    state: row.read("state", String),
    sentLsn: row.read("sent_lsn", parseLsn),
    writeLsn: row.read("write_lsn", parseLsn),
    flushLsn: row.read("flush_lsn", parseLsn),
    syncState: row.read("sync_state", String),
    sinceReplyMs: row.read("since_reply", decodeInteger),
  }));
}

/**
 * What `POSITION_QUERY` answered.
 *
 * @throws {ProtocolError} on anything else.
 */
export function decodePosition(answer: Answer): ServerPosition {
  const [position] = decodeRows(answer, "a query of the position", (row) => ({
    role: row.read("role", String) === "standby" ? "standby" as const : "primary" as const,
    endLsn: row.read("end_lsn", parseLsn),
  }));
  return wanted(position, "role");
}

/**
 * Where `advanceSlotQuery()` has left a slot; `undefined` when the server was not of the wanted role.
 *
 * @throws {ProtocolError} on anything else.
 */
export function decodeAdvance(answer: Answer): Lsn | undefined {
  return decodeRows(answer, "the advance of a slot", (row) => row.read("restart_lsn", parseLsn))[0];
}

/**
 * What `CLOCK_QUERY` answered.
 *
 * @throws {ProtocolError} on anything else.
 */
export function decodeClock(answer: Answer): number {
  const [now] = decodeRows(answer, "a query of the clock", (row) => row.read("now", decodeInteger));
  return wanted(now, "now");
}

function wanted<T>(value: T | undefined, column: string): T {
  if (value === undefined) throw new ProtocolError(`Cannot decode ${column}: it is NULL`);
  return value;
}

function decodeInteger(text: string): number {
  const value = /^-?[0-9]{1,16}$/.test(text) ? Number(text) : NaN;
  if (!Number.isSafeInteger(value)) throw new RangeError(`${JSON.stringify(text)}, want a whole number`);
  return value;
}

function decodeBigInteger(text: string): bigint {
  if (!/^-?[0-9]{1,20}$/.test(text)) throw new RangeError(`${JSON.stringify(text)}, want a whole number`);
  return BigInt(text);
}
