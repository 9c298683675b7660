import { withFile } from "../archive/durable.ts";
import { parseHistory, switchPointOf, type TimelineHistory } from "../wal/history.ts";
import type { Lsn } from "../wal/lsn.ts";
import { historyFileName, parseHistoryFileName, type TimelineId, timelineId } from "../wal/timeline.ts";
import type { ArchiveDirectory } from "./archive_directory.ts";
import type { RestoringServer } from "./server_directory.ts";

const MAXIMUM_HISTORY_BYTES = 1 << 20;

/** Where a standby leaves a timeline for a newer one. */
export interface ForkLimit {
  readonly child: TimelineId;
  readonly forkLsn: Lsn;
}

/**
 * Where a standby leaves this timeline, by all that it or the archive knows; `undefined` when nobody knows of a newer one.
 *
 * A standby asks for a segment of the newest timeline first, and for the old timeline's when it does not get that: beyond
 * the fork it would replay what the new timeline does not have.
 */
export async function forkLimit(
  archive: ArchiveDirectory,
  server: RestoringServer,
  timeline: TimelineId,
): Promise<ForkLimit | undefined> {
  const newest = await newestDescendant(archive, timeline);
  let limit: ForkLimit | undefined;
  for (
    const history of [...await ownHistories(server, timeline), ...(newest === undefined ? [] : [newest])]
  ) {
    const forkLsn = switchPointOf(history, timeline);
    if (forkLsn === undefined || (limit !== undefined && limit.forkLsn <= forkLsn)) continue;
    limit = { child: history.timeline, forkLsn };
  }
  return limit;
}

/** As the server looks for it: one after the other, up to the first that is not there. */
async function newestDescendant(
  archive: ArchiveDirectory,
  timeline: TimelineId,
): Promise<TimelineHistory | undefined> {
  let newest: TimelineHistory | undefined;
  for (let child = timeline + 1;; child++) {
    const history = await archive.history(timelineId(child));
    if (history === undefined) return newest;
    if (switchPointOf(history, timeline) !== undefined) newest = history;
  }
}

/** The newer ones that the server keeps itself: it follows one of them. */
async function ownHistories(
  { wal }: RestoringServer,
  timeline: TimelineId,
): Promise<readonly TimelineHistory[]> {
  const found: TimelineHistory[] = [];
  for (const name of await wal.list(".") ?? []) {
    const newer = parseHistoryFileName(name);
    if (newer === undefined || newer <= timeline) continue;
    const history = await withFile(wal, historyFileName(newer), async (file) => {
      const bytes = new Uint8Array(Math.min(await file.bytes(), MAXIMUM_HISTORY_BYTES));
      const count = await file.read(bytes, 0);
      return readHistory(newer, bytes.subarray(0, count));
    });
    if (history !== undefined) found.push(history);
  }
  return found;
}

function readHistory(timeline: TimelineId, bytes: Uint8Array): TimelineHistory | undefined {
  try {
    return parseHistory(timeline, bytes);
  } catch (error) {
    // The server can't read it either: it follows no such timeline.
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
