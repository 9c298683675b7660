import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { formatTimestamp, type Timestamp } from "../wal/timestamp.ts";
import type { TimelineId } from "../wal/timeline.ts";

/** Where recovery is to stop, as PostgreSQL's settings say it. */
export type RecoveryTarget =
  | { readonly kind: "time"; readonly time: Timestamp; readonly inclusive: boolean }
  | { readonly kind: "xid"; readonly xid: number; readonly inclusive: boolean }
  | { readonly kind: "lsn"; readonly lsn: Lsn; readonly inclusive: boolean }
  | { readonly kind: "name"; readonly name: string };

/** Settings by name, in the order in which they are to be written. */
export type RecoverySettings = Readonly<Record<string, string>>;

/**
 * The settings for `postgresql.conf` (12 on; before that `recovery.conf`) that stop recovery there.
 *
 * The timeline is always named: what "latest" means may have changed by the time of the recovery.
 */
export function recoverySettings(target: RecoveryTarget, timeline: TimelineId): RecoverySettings {
  return {
    ...targetSettings(target),
    ...(target.kind === "name" ? {} : { recovery_target_inclusive: target.inclusive ? "on" : "off" }),
    recovery_target_timeline: String(timeline),
  };
}

function targetSettings(target: RecoveryTarget): RecoverySettings {
  switch (target.kind) {
    case "time":
      return { recovery_target_time: formatTimestamp(target.time) };
    case "xid":
      return { recovery_target_xid: String(target.xid) };
    case "lsn":
      return { recovery_target_lsn: formatLsn(target.lsn) };
    case "name":
      return { recovery_target_name: target.name };
  }
}

/** The settings as lines of `postgresql.conf`. */
export function formatSettings(settings: RecoverySettings): readonly string[] {
  return Object.entries(settings).map(([name, value]) => `${name} = ${quoteSetting(value)}`);
}

/**
 * In single quotes, as the server's configuration files want it.
 *
 * @see DeescapeQuotedString(), src/backend/utils/misc/guc-file.l: a quote is doubled, a backslash begins an escape
 */
function quoteSetting(value: string): string {
  const escaped = value.replaceAll("\\", "\\\\").replaceAll("'", "''").replaceAll("\n", "\\n").replaceAll(
    "\r",
    "\\r",
  );
  return `'${escaped}'`;
}
