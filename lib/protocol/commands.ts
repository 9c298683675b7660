import { formatLsn, type Lsn } from "../wal/lsn.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { ServerRole } from "./replication_views.ts";

/** The first version that takes options of CREATE_REPLICATION_SLOT in parentheses, and knows READ_REPLICATION_SLOT. */
const VERSION_15 = 150_000;

const SLOT_NAME = /^[a-z0-9_]{1,63}$/;

/**
 * A slot's name, checked as the server checks it at creation.
 *
 * @throws {RangeError} unless 1 to 63 lower-case letters, digits and underscores.
 * @see ReplicationSlotValidateName(), src/backend/replication/slot.c
 */
export function checkSlotName(name: string): string {
  if (!SLOT_NAME.test(name)) {
    throw new RangeError(
      `Cannot use slot name ${JSON.stringify(name)}: want 1 to 63 lower-case letters, digits and underscores`,
    );
  }
  return name;
}

/** Asks for system identifier, timeline and position. */
export const IDENTIFY_SYSTEM = "IDENTIFY_SYSTEM";

/**
 * Asks for one setting; works on a physical replication connection from PostgreSQL 10.
 *
 * @throws {RangeError} when this can't be a setting's name.
 */
export function showCommand(name: string): string {
  if (!/^[A-Za-z_][A-Za-z0-9_.]{0,62}$/.test(name)) {
    throw new RangeError(
      `Cannot show setting ${JSON.stringify(name)}: want letters, digits, underscores and dots`,
    );
  }
  return `SHOW ${name}`;
}

/** Whether the server knows READ_REPLICATION_SLOT. */
export function knowsReadReplicationSlot(serverVersion: number): boolean {
  return serverVersion >= VERSION_15;
}

/** PostgreSQL 15 and up; see `knowsReadReplicationSlot()`. Throws as `checkSlotName()` does. */
export function readReplicationSlotCommand(name: string): string {
  return `READ_REPLICATION_SLOT "${checkSlotName(name)}"`;
}

/** The same question in SQL, for an ordinary connection to an older server. Throws as `checkSlotName()` does. */
export function readSlotQuery(name: string): string {
  return "SELECT slot_type, restart_lsn, NULL AS restart_tli FROM pg_catalog.pg_replication_slots " +
    `WHERE slot_name = '${checkSlotName(name)}'`;
}

/**
 * Moves a physical slot, in SQL: from PostgreSQL 11 on, on a standby too, where no further than to what is replayed there.
 *
 * The server does it only while it has the role that it is thought to have, and answers NULL otherwise: one that was
 * promoted meanwhile may have left the line that `toLsn` is of. In one statement, and with CASE, as a condition in WHERE
 * may be looked at behind the call. Throws as `checkSlotName()` does.
 */
export function advanceSlotQuery(
  name: string,
  { toLsn, role }: { readonly toLsn: Lsn; readonly role: ServerRole },
): string {
  const isStandby = "pg_catalog.pg_is_in_recovery()";
  const [condition, limit] = role === "standby"
    ? [isStandby, `LEAST('${formatLsn(toLsn)}'::pg_catalog.pg_lsn, pg_catalog.pg_last_wal_replay_lsn())`]
    : [`NOT ${isStandby}`, `'${formatLsn(toLsn)}'`];
  return `SELECT CASE WHEN ${condition} THEN ` +
    `(pg_catalog.pg_replication_slot_advance('${checkSlotName(name)}', ${limit})).end_lsn END AS restart_lsn`;
}

/** A physical slot that reserves WAL from now on, not only from its first use. Throws as `checkSlotName()` does. */
export function createReplicationSlotCommand(name: string, serverVersion: number): string {
  const option = serverVersion >= VERSION_15 ? "(RESERVE_WAL)" : "RESERVE_WAL";
  return `CREATE_REPLICATION_SLOT "${checkSlotName(name)}" PHYSICAL ${option}`;
}

/** A physical slot that reserves nothing before its first use. Throws as `checkSlotName()` does. */
export function createIdleSlotCommand(name: string): string {
  return `CREATE_REPLICATION_SLOT "${checkSlotName(name)}" PHYSICAL`;
}

/** Throws as `checkSlotName()` does. */
export function dropReplicationSlotCommand(name: string): string {
  return `DROP_REPLICATION_SLOT "${checkSlotName(name)}"`;
}

/** Asks for a timeline's history file. */
export function timelineHistoryCommand(timeline: TimelineId): string {
  return `TIMELINE_HISTORY ${timeline}`;
}

/** Where to stream from. */
export interface StartReplication {
  readonly slot: string | undefined;
  readonly startLsn: Lsn;
  readonly timeline: TimelineId;
}

/** Asks for WAL from `startLsn` on. Throws as `checkSlotName()` does. */
export function startReplicationCommand({ slot, startLsn, timeline }: StartReplication): string {
  const slotOption = slot === undefined ? "" : `SLOT "${checkSlotName(slot)}" `;
  return `START_REPLICATION ${slotOption}PHYSICAL ${formatLsn(startLsn)} TIMELINE ${timeline}`;
}
