import { ConnectionError } from "../protocol/errors.ts";
import type { StreamEnd, WalStreamHandler } from "../protocol/replication.ts";
import { formatLsn, type Lsn, lsn, ZERO_LSN } from "../wal/lsn.ts";
import { segmentEnd, type SegmentNumber, type SegmentSize, segmentStart } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Clock } from "./clock.ts";
import type { WalSource, WalStream } from "./wal_source.ts";

/** More than this of a segment is not held in memory: then the socket is not read. */
const MAXIMUM_WAITING_BYTES = 1 << 20;

/** One segment that a server is asked for. */
export interface SegmentRequest {
  readonly timeline: TimelineId;
  readonly number: SegmentNumber;
  readonly segmentSize: SegmentSize;
}

/** What the request works with. */
export interface SegmentRequestOptions {
  readonly clock: Clock;
  /** For so long no WAL may come. */
  readonly timeoutMs: number;
  /** Writes bytes of the segment, one call after the other. */
  write(bytes: Uint8Array, position: number): Promise<void>;
}

/** The server's timeline ends inside a segment: that segment belongs to another one. */
export class TimelineEndedError extends Error {
  override readonly name = "TimelineEndedError";
}

/**
 * Has a server stream one segment, no slot and nothing claimed; resolves when all of its bytes were written.
 *
 * @throws {ServerError} 58P01 when the server no longer has it; whatever else it answers.
 * @throws {TimelineEndedError} when the timeline does not go on to the segment's end on this server.
 * @throws {ConnectionError} when it says nothing, or the connection ends.
 */
export async function requestSegment(
  source: WalSource,
  { timeline, number, segmentSize }: SegmentRequest,
  options: SegmentRequestOptions,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  const startLsn = segmentStart(number, segmentSize);
  const endLsn = segmentEnd(number, segmentSize);
  const silence = new Silence(source.address, options);
  const writer = new PieceWriter(options);
  let stream: WalStream | undefined;
  let nextLsn: Lsn = startLsn;
  let isAnswerDue = false;
  const whole = Promise.withResolvers<void>();
  const handler: WalStreamHandler = {
    onWal(atLsn, bytes) {
      silence.end();
      // What comes between our goodbye and the server's is of later segments.
      if (nextLsn >= endLsn) return;
      if (atLsn !== nextLsn) {
        throw new ConnectionError(
          "protocol",
          `Cannot take WAL from ${source.address}: it sent ${formatLsn(atLsn)}, want ${formatLsn(nextLsn)}`,
        );
      }
      const wanted = bytes.subarray(0, Number(endLsn - nextLsn));
      writer.push(wanted, Number(nextLsn - startLsn));
      nextLsn = lsn(nextLsn + BigInt(wanted.length));
      if (nextLsn >= endLsn) whole.resolve();
      else if (writer.isFull && stream !== undefined) {
        stream.pause();
        // It is our disk that is waited for.
        silence.close();
      }
    },
    onServerPosition({ replyRequested }) {
      isAnswerDue ||= replyRequested;
    },
    onDrained() {
      if (!isAnswerDue || stream === undefined) return;
      isAnswerDue = false;
      // Nothing is claimed: it is not this connection that makes WAL safe, nor one that a commit may count on.
      stream.sendStatus({ writeLsn: ZERO_LSN, flushLsn: ZERO_LSN, replyRequested: false });
    },
  };
  const stopped = abortOf(signal);
  try {
    stream = await Promise.race([
      source.startReplication({ slot: undefined, startLsn, timeline }, handler),
      silence.promise,
      stopped.promise,
    ]);
    const { ended } = stream;
    ended.catch(() => {
      // Raced below.
    });
    writer.onRoom = () => {
      if (nextLsn >= endLsn) return;
      silence.end();
      stream?.resume();
    };
    const end = await Promise.race([whole.promise, ended, silence.promise, writer.failed, stopped.promise]);
    if (end !== undefined && nextLsn < endLsn) throw endedEarly(end, { source, timeline, nextLsn });
    if (end === undefined) {
      stream.resume();
      stream.stop();
      silence.end();
      await Promise.race([ended, silence.promise, stopped.promise]);
    }
    await Promise.race([writer.finish(), stopped.promise]);
  } finally {
    silence.close();
    stopped.close();
  }
}

function endedEarly(
  end: StreamEnd,
  { source, timeline, nextLsn }: {
    readonly source: WalSource;
    readonly timeline: TimelineId;
    readonly nextLsn: Lsn;
  },
): Error {
  if (end.kind === "timeline") {
    return new TimelineEndedError(
      `its timeline ${timeline} ends at ${
        formatLsn(end.switchLsn)
      }, where timeline ${end.nextTimeline} goes on`,
    );
  }
  return new ConnectionError(
    "closed",
    `Cannot take WAL from ${source.address}: it ended the stream at ${formatLsn(nextLsn)}`,
  );
}

/** Writes pieces one after the other, and holds those that wait. */
class PieceWriter {
  #waitingBytes = 0;
  #last: Promise<void> = Promise.resolve();
  readonly #failure = Promise.withResolvers<never>();
  onRoom: () => void = () => {};

  constructor(private readonly options: Pick<SegmentRequestOptions, "write">) {
    this.#failure.promise.catch(() => {
      // Whoever waits is told.
    });
  }

  /** Rejects when a write does. */
  get failed(): Promise<never> {
    return this.#failure.promise;
  }

  get isFull(): boolean {
    return this.#waitingBytes >= MAXIMUM_WAITING_BYTES;
  }

  /** Takes a copy. */
  push(bytes: Uint8Array, position: number): void {
    // Not `slice()`: that of a Buffer shares its memory.
    const copy = new Uint8Array(bytes);
    this.#waitingBytes += copy.length;
    this.#last = this.#last.then(() => this.options.write(copy, position)).then(() => {
      const wasFull = this.isFull;
      this.#waitingBytes -= copy.length;
      if (wasFull && !this.isFull) this.onRoom();
    });
    this.#last.catch((error) => this.#failure.reject(error));
  }

  finish(): Promise<void> {
    return this.#last;
  }
}

/** Rejects when no WAL has come for some time. */
class Silence {
  readonly #late = Promise.withResolvers<never>();
  #cancel: () => void = () => {};

  constructor(
    private readonly address: string,
    private readonly options: Pick<SegmentRequestOptions, "clock" | "timeoutMs">,
  ) {
    this.#late.promise.catch(() => {
      // Raced by whoever waits.
    });
    this.end();
  }

  get promise(): Promise<never> {
    return this.#late.promise;
  }

  /** Something came. */
  end(): void {
    const { clock, timeoutMs } = this.options;
    this.#cancel();
    this.#cancel = clock.setTimer(timeoutMs, () => {
      const text = `Cannot take WAL from ${this.address}: none came for ${timeoutMs / 1000} s`;
      this.#late.reject(new ConnectionError("timeout", text));
    });
  }

  close(): void {
    this.#cancel();
  }
}

function abortOf(signal: AbortSignal): { readonly promise: Promise<never>; close(): void } {
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => {
    // Raced by whoever waits.
  });
  const onAbort = () => aborted.reject(signal.reason);
  signal.addEventListener("abort", onAbort, { once: true });
  return { promise: aborted.promise, close: () => signal.removeEventListener("abort", onAbort) };
}
