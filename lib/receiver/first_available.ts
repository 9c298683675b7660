import { ConnectionError, ServerError } from "../protocol/errors.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { timelineOfSegment } from "../wal/lineage.ts";
import { type SegmentNumber, type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { Clock } from "./clock.ts";
import { WAL_REMOVED } from "./failure.ts";
import type { WalSource, WalStream, WalStreamHandler } from "./wal_source.ts";

/** Halving 2^44 segments, the most there are, and one try more. */
const MAXIMUM_PROBES = 45;

/** What is known of a server's WAL: it removes the oldest first. */
export interface SearchRange {
  /** It does not have this one any more. */
  readonly goneNumber: SegmentNumber;
  /** It has this one, which is later. */
  readonly thereNumber: SegmentNumber;
  /** Where its oldest one may be: what a slot keeps. */
  readonly hintNumber: SegmentNumber | undefined;
}

/** The segment to ask for next; `undefined` when the first one that is there is `thereNumber`. */
export function nextProbe({ goneNumber, thereNumber, hintNumber }: SearchRange): SegmentNumber | undefined {
  if (goneNumber + 1n >= thereNumber) return undefined;
  if (hintNumber !== undefined) {
    // First what the slot keeps, then the one before it: mostly that is all.
    if (goneNumber < hintNumber && hintNumber < thereNumber) return hintNumber;
    if (hintNumber === thereNumber) return hintNumber - 1n as SegmentNumber;
  }
  return (goneNumber + thereNumber) / 2n as SegmentNumber;
}

/** A server's WAL, and how long to wait for its answers. */
export interface SearchOptions {
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
  readonly clock: Clock;
  readonly timeoutMs: number;
}

/**
 * The first segment of a lineage that a server still has.
 *
 * @throws {ServerError} @throws {ConnectionError} whatever else it answers.
 */
export async function firstAvailable(
  source: WalSource,
  range: SearchRange,
  options: SearchOptions,
): Promise<SegmentNumber> {
  let { goneNumber, thereNumber, hintNumber } = range;
  for (let probes = 0; probes < MAXIMUM_PROBES; probes++) {
    const number = nextProbe({ goneNumber, thereNumber, hintNumber });
    if (number === undefined) break;
    const isThere = await hasSegment(source, number, options);
    if (isThere) thereNumber = number;
    else goneNumber = number;
    // Asked for the one that the slot keeps and the one before: from here on it tells nothing.
    if (number !== hintNumber || !isThere) hintNumber = undefined;
  }
  return thereNumber;
}

/** Whether a server still has a segment: it tells only when it is to stream it. */
export async function hasSegment(
  source: WalSource,
  number: SegmentNumber,
  { lineage, segmentSize, clock, timeoutMs }: SearchOptions,
): Promise<boolean> {
  const first = Promise.withResolvers<void>();
  // What it sends is thrown away.
  const handler: WalStreamHandler = {
    onWal: () => first.resolve(),
    onServerPosition: () => {},
    onDrained: () => {},
  };
  const late = Promise.withResolvers<never>();
  late.promise.catch(() => {
    // Raced below.
  });
  const cancel = clock.setTimer(timeoutMs, () =>
    late.reject(
      new ConnectionError(
        "timeout",
        `Cannot ask ${source.address} for WAL: silent for ${timeoutMs / 1000} s`,
      ),
    ));
  const timeline = timelineOfSegment(lineage, number, segmentSize);
  const startLsn = segmentStart(number, segmentSize);
  try {
    const starting = source.startReplication({ slot: undefined, startLsn, timeline }, handler);
    const stream: WalStream = await Promise.race([starting, late.promise]);
    stream.ended.catch(() => {
      // Awaited below.
    });
    await Promise.race([first.promise, stream.ended, late.promise]);
    stream.stop();
    await Promise.race([stream.ended, late.promise]);
    return true;
  } catch (error) {
    if (error instanceof ServerError && error.sqlState === WAL_REMOVED) return false;
    throw error;
  } finally {
    cancel();
  }
}
