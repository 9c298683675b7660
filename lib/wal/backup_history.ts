import { type Lsn, parseLsn } from "./lsn.ts";
import { type TimelineId, timelineId } from "./timeline.ts";

/** What a server writes about a base backup when it has ended: the file `SEGMENT.OFFSET.backup`, which it archives. */
export interface BackupHistory {
  /** Recovery begins here. */
  readonly startLsn: Lsn;
  /** Recovery must reach this before the copy is consistent. */
  readonly stopLsn: Lsn;
  readonly timeline: TimelineId;
  /** Who made it, in his own words; "" when there are none. */
  readonly label: string;
  /** The server's wall clock in the server's time zone, as it writes it: "2026-11-22 11:20:11 UTC". */
  readonly startTime: string | undefined;
  readonly stopTime: string | undefined;
}

const LOCATION = /^([0-9A-F]{1,8}\/[0-9A-F]{1,8}) \(file ([0-9A-F]{24})\)$/;

/**
 * Reads a backup history file.
 *
 * | line                                        | since |
 * | ------------------------------------------- | ----- |
 * | START WAL LOCATION: 0/2000028 (file …)      |       |
 * | STOP WAL LOCATION: 0/2000138 (file …)       |       |
 * | START TIME: …, STOP TIME: …, LABEL: …       |       |
 * | START TIMELINE: 1                           | 11    |
 *
 * Other lines tell nothing that matters here.
 * @throws {SyntaxError} when a location is missing or is none.
 * @see build_backup_content(), src/backend/access/transam/xlogbackup.c (do_pg_backup_stop() before 16)
 */
export function parseBackupHistory(content: Uint8Array | string): BackupHistory {
  const text = typeof content === "string" ? content : new TextDecoder().decode(content);
  const lines = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [, key, value] = /^([A-Z ]+): ?(.*)$/.exec(line) ?? [];
    if (key !== undefined && !lines.has(key)) lines.set(key, (value ?? "").trimEnd());
  }
  const location = (key: string) => {
    const value = lines.get(key);
    const [, lsn, file] = LOCATION.exec(value ?? "") ?? [];
    if (lsn !== undefined && file !== undefined) return { lsn: parseLsn(lsn), file };
    throw new SyntaxError(
      `Cannot parse backup history: ${key}: ${JSON.stringify(value ?? "")}, want an LSN and a file's name`,
    );
  };
  const start = location("START WAL LOCATION");
  const timeline = lines.get("START TIMELINE");
  return {
    startLsn: start.lsn,
    stopLsn: location("STOP WAL LOCATION").lsn,
    timeline: timelineId(
      timeline !== undefined && /^[0-9]{1,10}$/.test(timeline)
        ? Number(timeline)
        : parseInt(start.file.slice(0, 8), 16),
    ),
    label: lines.get("LABEL") ?? "",
    startTime: lines.get("START TIME"),
    stopTime: lines.get("STOP TIME"),
  };
}
