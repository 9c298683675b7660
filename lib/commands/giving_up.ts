import type { GapReceivingArchive } from "../archive/gap_receiving_archive.ts";
import type { Log } from "../log.ts";
import type { SlotSample } from "../observe/slot_forecast.ts";
import { PermanentError } from "../receiver/failure.ts";
import { gapFields } from "../receiver/gap_watch.ts";
import { newestTimeline } from "../receiver/start.ts";
import { emptyHistory, parseHistory } from "../wal/history.ts";
import { firstMissingSegment, type LineageView, missingWithin, type SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { segmentNumberAt, type SegmentSize } from "../wal/segment.ts";
import type { SlotGuardian } from "./slot_guardian.ts";

/** What a slot is given up with. */
export interface GivingUp {
  readonly slot: string;
  readonly archive: GapReceivingArchive;
  /** `undefined` while the archive has no identity: then nothing is in it. */
  readonly segmentSize: SegmentSize | undefined;
  readonly log: Log;
}

/**
 * What an archive has not of the WAL below a server's end, but for the segment of that end, where receiving goes on;
 * nothing for an archive that is empty.
 */
export function missingBelow(view: LineageView, serverLsn: Lsn): readonly SegmentRun[] {
  const firstNumber = firstMissingSegment(view);
  const endNumber = segmentNumberAt(serverLsn, view.segmentSize);
  return firstNumber === undefined ? [] : missingWithin(view, { firstNumber, endNumber });
}

/**
 * Drops a slot that holds up too much WAL. What the server may throw away then is recorded first: without a durable record
 * the slot stays.
 *
 * @throws {PermanentError} always: what comes next is a person's decision.
 */
export async function giveSlotUp(
  guardian: SlotGuardian,
  { slot, archive, segmentSize, log }: GivingUp,
): Promise<never> {
  const beforeDrop = async (last: SlotSample | undefined) => {
    log.error("slot is dropped, wal will be missing", { slot, server: guardian.address ?? "" });
    if (last === undefined || segmentSize === undefined) return;
    const contents = await archive.contents();
    const timeline = newestTimeline(contents);
    if (timeline === undefined) return;
    const history = contents.histories.find((own) => own.timeline === timeline);
    const lineage = history === undefined ? emptyHistory(timeline) : parseHistory(timeline, history.bytes);
    for (const run of missingBelow({ contents, lineage, segmentSize }, last.serverLsn)) {
      const reason = `replication slot "${slot}" was dropped: it held up too much WAL`;
      await archive.recordGap({ run, reason, server: guardian.address ?? "", answer: "" });
      log.error("gap recorded", {
        ...gapFields(run, segmentSize),
        serverLsn: formatLsn(last.serverLsn),
        hint: "it comes by itself as long as a server has it: walvault gap list",
      });
    }
  };
  try {
    await guardian.dropSlot(beforeDrop);
  } catch (cause) {
    throw new PermanentError(
      `Cannot drop replication slot "${slot}", which holds up too much WAL; drop it by hand: walvault receive --drop-slot`,
      { cause },
    );
  }
  throw new PermanentError(
    `Cannot go on receiving: replication slot "${slot}" held up too much WAL, and is dropped as --halt-action says; ` +
      "find out why, then receive with --create-slot: what the server still has by then comes",
  );
}
