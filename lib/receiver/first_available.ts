import { ConnectionError, ServerError } from "../protocol/errors.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { timelineOfSegment } from "../wal/lineage.ts";
import { formatLsn } from "../wal/lsn.ts";
import { type SegmentNumber, type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { Clock } from "./clock.ts";
import { NotYetError, WAL_REMOVED } from "./failure.ts";
import type { WalSource, WalStreamHandler } from "./wal_source.ts";

/** A server's WAL, and how long to wait for its answers. */
export interface SearchOptions {
  /** Whose segments are asked for. */
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
  readonly clock: Clock;
  readonly timeoutMs: number;
}

/** What is known of a server's WAL: it removes the oldest first. */
export interface SearchRange {
  /** It does not have this one any more. */
  readonly goneNumber: SegmentNumber;
  /** It has this one, which is later. */
  readonly thereNumber: SegmentNumber;
}

/**
 * The first segment of a lineage that a server still has: by halving, so at most some forty questions.
 *
 * @throws whatever else than "removed" it answers.
 */
export async function firstAvailable(
  source: WalSource,
  { goneNumber, thereNumber }: SearchRange,
  options: SearchOptions,
): Promise<SegmentNumber> {
  let [gone, there] = [goneNumber, thereNumber];
  while (gone + 1n < there) {
    const middle = (gone + there) / 2n as SegmentNumber;
    if (await removalOf(source, middle, options) === undefined) there = middle;
    else gone = middle;
  }
  return there;
}

/**
 * A server's own words when it no longer has a segment; `undefined` when it sends that segment's first bytes.
 *
 * No slot is used: of one that is lost, PostgreSQL 18 tells nothing but that.
 * @throws {ServerError} @throws {ConnectionError} @throws {NotYetError} whatever else comes: it says nothing of the WAL.
 */
export async function removalOf(
  source: WalSource,
  number: SegmentNumber,
  { lineage, segmentSize, clock, timeoutMs }: SearchOptions,
): Promise<string | undefined> {
  const startLsn = segmentStart(number, segmentSize);
  const timeline = timelineOfSegment(lineage, number, segmentSize);
  let began = false;
  let cancel = () => {};
  const first = Promise.withResolvers<"began">();
  const late = Promise.withResolvers<never>();
  late.promise.catch(() => {
    // Raced below.
  });
  const silence = new ConnectionError(
    "timeout",
    `Cannot ask ${source.address} for WAL: silent for ${timeoutMs / 1000} s`,
  );
  /** What is on its way comes before the end of the stream, and over a slow network that takes its time. */
  const heard = () => {
    cancel();
    cancel = clock.setTimer(timeoutMs, () => late.reject(silence));
  };
  // What it sends is thrown away.
  const handler: WalStreamHandler = {
    onWal: () => {
      began = true;
      first.resolve("began");
    },
    onServerPosition: () => {},
    onDrained: () => {
      if (began) heard();
    },
  };
  heard();
  try {
    const starting = source.startReplication({ slot: undefined, startLsn, timeline }, handler);
    const stream = await Promise.race([starting, late.promise]);
    stream.ended.catch(() => {
      // Awaited below.
    });
    const end = await Promise.race([first.promise, stream.ended, late.promise]);
    if (end !== "began") {
      throw new NotYetError(
        `Cannot have WAL from ${formatLsn(startLsn)} on timeline ${timeline}: ${source.address} ends there`,
      );
    }
    stream.stop();
    await Promise.race([stream.ended, late.promise]);
    return undefined;
  } catch (error) {
    // After the first byte it speaks of a later segment.
    if (began || !(error instanceof ServerError) || error.sqlState !== WAL_REMOVED) throw error;
    return error.serverMessage;
  } finally {
    cancel();
  }
}
