import { WrongClusterError } from "../wal/errors.ts";
import { isInLineage, switchPointOf, type TimelineHistory } from "../wal/history.ts";
import { type SegmentNumber, segmentNumberAt, type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { SystemIdentity } from "../protocol/replication.ts";
import type { Clock } from "./clock.ts";
import { NotYetError } from "./failure.ts";
import { firstAvailable, removalOf, type SearchOptions } from "./first_available.ts";
import type { WalSource } from "./wal_source.ts";

/** A segment that is asked for. */
export interface SoughtSegment {
  readonly number: SegmentNumber;
  /** Of the server that lacks it. */
  readonly lineage: TimelineHistory;
  readonly systemIdentifier: bigint;
  readonly segmentSize: SegmentSize;
}

/** What a host says of a segment. */
export type SegmentAnswer =
  | { readonly kind: "has" }
  | {
    readonly kind: "lacks";
    /** The first later one that it has. */
    readonly firstNumber: SegmentNumber | undefined;
    readonly words: string;
  };

/**
 * Asks a host for a segment, whether it would do for streaming or not: an old primary has its old timeline's WAL.
 *
 * @throws whatever is no answer: then it may have it, for all we know.
 */
export async function askForSegment(
  source: WalSource,
  sought: SoughtSegment,
  waiting: { readonly clock: Clock; readonly timeoutMs: number },
): Promise<SegmentAnswer> {
  const system = await source.identifySystem();
  if (system.systemIdentifier !== sought.systemIdentifier) {
    throw new WrongClusterError(
      `Cannot ask ${source.address} for WAL: its system identifier is ${system.systemIdentifier}, want ${sought.systemIdentifier}`,
    );
  }
  // At its end a server waits instead of answering.
  if (system.flushLsn <= segmentStart(sought.number, sought.segmentSize)) {
    throw new NotYetError(`Cannot ask ${source.address} for WAL: its own ends before it`);
  }
  const search = { ...waiting, lineage: sought.lineage, segmentSize: sought.segmentSize };
  const words = await removalOf(source, sought.number, search);
  if (words === undefined) return { kind: "has" };
  return { kind: "lacks", firstNumber: await firstBehind(source, system, { ...search, ...sought }), words };
}

/** The first segment behind one that is gone; `undefined` when the host has nothing of the lineage behind it. */
async function firstBehind(
  source: WalSource,
  system: SystemIdentity,
  search: SearchOptions & SoughtSegment,
): Promise<SegmentNumber | undefined> {
  const { number: goneNumber, lineage, segmentSize } = search;
  if (system.timeline > lineage.timeline) {
    throw new NotYetError(
      `Cannot say what ${source.address} has: it is on timeline ${system.timeline}, which is newer than what is known`,
    );
  }
  const thereNumber = lastNumberOf(system, { lineage, segmentSize });
  if (thereNumber === undefined || thereNumber <= goneNumber) return undefined;
  // Of a segment that is only to come nobody can say that it is there.
  const isBegun = segmentStart(thereNumber, segmentSize) < system.flushLsn;
  if (isBegun && await removalOf(source, thereNumber, search) !== undefined) return undefined;
  return await firstAvailable(source, { goneNumber, thereNumber }, search);
}

/** The last segment of a lineage that a host of these timelines can have. */
function lastNumberOf(
  { timeline, flushLsn }: SystemIdentity,
  { lineage, segmentSize }: Pick<SoughtSegment, "lineage" | "segmentSize">,
): SegmentNumber | undefined {
  const ownNumber = segmentNumberAt(flushLsn, segmentSize);
  if (!isInLineage(lineage, timeline)) return undefined;
  const leftAtLsn = switchPointOf(lineage, timeline);
  if (leftAtLsn === undefined) return ownNumber;
  // The segment of the switch is in a file of the next timeline.
  const lastNumber = segmentNumberAt(leftAtLsn, segmentSize) - 1n as SegmentNumber;
  return lastNumber < ownNumber ? lastNumber : ownNumber;
}
