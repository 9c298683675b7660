import { parseHistory, type TimelineHistory } from "../wal/history.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";
import type { Disk } from "./disk.ts";
import { readWhole } from "./durable.ts";

/** Larger than any history: a line per timeline, of at most some hundred bytes. */
const MAXIMUM_HISTORY_BYTES = 1 << 20;

/** The history file of a timeline, as it stands there; `undefined` when there is none. */
export function readHistoryBytes(disk: Disk, timeline: TimelineId): Promise<Uint8Array | undefined> {
  return readWhole(disk, historyFileName(timeline), MAXIMUM_HISTORY_BYTES);
}

/**
 * What a timeline's history file tells; `undefined` when there is none.
 *
 * @throws {SyntaxError} as `parseHistory()`.
 */
export async function readHistoryOf(disk: Disk, timeline: TimelineId): Promise<TimelineHistory | undefined> {
  const bytes = await readHistoryBytes(disk, timeline);
  return bytes === undefined ? undefined : parseHistory(timeline, bytes);
}
