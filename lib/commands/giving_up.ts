import type { GapReceivingArchive } from "../archive/gap_receiving_archive.ts";
import type { ArchiveIdentity } from "../archive/identity.ts";
import { type Log, messageChain } from "../log.ts";
import type { SlotSample } from "../observe/slot_forecast.ts";
import type { Clock } from "../receiver/clock.ts";
import { ServerError } from "../protocol/errors.ts";
import { PermanentError } from "../receiver/failure.ts";
import { gapFields } from "../receiver/gap_watch.ts";
import { lineageIn, newestTimeline } from "../receiver/start.ts";
import { StopTimeout, withinStop } from "../receiver/stopping.ts";
import { firstMissingSegment, type LineageView, missingWithin, type SegmentRun } from "../wal/lineage.ts";
import { formatLsn, type Lsn } from "../wal/lsn.ts";
import { segmentNumberAt } from "../wal/segment.ts";
import type { SlotGuardian } from "./slot_guardian.ts";

/** What is missing is recorded within this, or the slot stays. */
const RECORD_TIMEOUT_MS = 30_000;

/** What a slot is given up with. */
export interface GivingUp {
  readonly slot: string;
  readonly archive: GapReceivingArchive;
  /** `undefined` while the archive has none: then nothing is in it. */
  readonly identity: ArchiveIdentity | undefined;
  readonly clock: Clock;
  readonly log: Log;
  /** Drops it on the standbys that it is kept on; resolves to where it may be left. */
  dropElsewhere(): Promise<readonly string[]>;
}

/**
 * What an archive has not of the WAL below a server's end, but for the segment of that end, where receiving goes on;
 * nothing for an archive that is empty.
 */
export function missingUpTo(serverLsn: Lsn, view: LineageView): readonly SegmentRun[] {
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
  guardian: Pick<SlotGuardian, "address" | "dropSlot">,
  givingUp: GivingUp,
): Promise<never> {
  const { slot, identity, clock, log } = givingUp;
  const takeBack: (() => Promise<void>)[] = [];
  const late = new AbortController();
  const beforeDrop = (last: SlotSample | undefined) =>
    // A disk that stalls must not keep the process from ending.
    withinStop(
      recordMissing(givingUp, last, { takeBack, late: late.signal }),
      { clock, timeoutMs: RECORD_TIMEOUT_MS },
      AbortSignal.abort(),
    );
  try {
    await guardian.dropSlot(identity?.systemIdentifier, beforeDrop);
  } catch (cause) {
    // Without an answer it may be gone all the same: then the record is right.
    const isThere = cause instanceof ServerError || cause instanceof StopTimeout || takeBack.length === 0;
    late.abort();
    const undo = async () => {
      if (!isThere) return;
      for (const withdraw of takeBack) await withdraw();
    };
    await withinStop(undo(), { clock, timeoutMs: RECORD_TIMEOUT_MS }, AbortSignal.abort()).catch((error) =>
      log.error("gap recorded for nothing", {
        error: messageChain(error),
        hint: "the slot is still there, and its WAL is asked for beside the stream: walvault gap list",
      })
    );
    const why = cause instanceof StopTimeout
      ? "what it would leave missing could not be recorded in time, so it stays"
      : isThere
      ? "it holds up too much WAL, and stays"
      : "it holds up too much WAL; look whether it is gone";
    throw new PermanentError(
      `Cannot drop replication slot "${slot}": ${why}; drop it by hand if it must go: walvault receive --drop-slot`,
      { cause },
    );
  }
  log.error("slot dropped", { slot, server: guardian.address ?? "" });
  const left = await givingUp.dropElsewhere();
  throw new PermanentError(
    `Cannot go on receiving: replication slot "${slot}" held up too much WAL, and is dropped as --halt-action says` +
      (left.length === 0 ? "" : `, but it may be left on ${left.join(", ")}`) +
      "; find out why, then receive with --create-slot: what the server still has by then comes",
  );
}

async function recordMissing(
  { slot, archive, identity, log }: GivingUp,
  last: SlotSample | undefined,
  { takeBack, late }: { readonly takeBack: (() => Promise<void>)[]; readonly late: AbortSignal },
): Promise<void> {
  if (last === undefined || identity === undefined) return;
  const { segmentSize } = identity;
  const contents = await archive.contents();
  const timeline = newestTimeline(contents);
  if (timeline === undefined) return;
  const lineage = lineageIn(contents, timeline);
  for (const run of missingUpTo(last.serverLsn, { contents, lineage, segmentSize })) {
    const reason = `replication slot "${slot}" was dropped: it held up too much WAL`;
    const withdraw = await archive.recordGap({ run, reason, server: "", answer: "" });
    // The slot stays then.
    if (late.aborted) return await withdraw();
    takeBack.push(withdraw);
    log.error("gap recorded", {
      ...gapFields(run, segmentSize),
      serverLsn: formatLsn(last.serverLsn),
      hint: "it comes by itself as long as a server has it: walvault gap list",
    });
  }
}
