import { decodeTimelineEnd } from "../protocol/answers.ts";
import { type StartReplication, startReplicationCommand } from "../protocol/commands.ts";
import { CopyBothDecoder } from "../protocol/copy_both.ts";
import { ProtocolError } from "../protocol/errors.ts";
import type { StreamEnd, WalStream, WalStreamHandler } from "../protocol/replication.ts";
import { encodeStandbyStatus } from "../protocol/standby_status.ts";
import { formatLsn } from "../wal/lsn.ts";
import { POSTGRES_EPOCH_US } from "../wal/timestamp.ts";
import type { Link } from "./link.ts";

/**
 * Sends START_REPLICATION, and hands what comes to the handler.
 *
 * Resolves when the server starts to send, or when it answers at once that the timeline ends at the start.
 * @throws {ServerError} when the server refuses.
 * @throws {ConnectionError} when the link ends.
 */
export async function streamWal(
  link: Link,
  start: StartReplication,
  handler: WalStreamHandler,
): Promise<WalStream> {
  const started = Promise.withResolvers<void>();
  let stopAsked = false;
  /** Whether `stop()` came before the server's own end. */
  let stopped = false;
  /** What the handler threw, if it did: the caller gets that, not what we make of it. */
  let thrown: { readonly error: unknown } | undefined;
  const guarded = guardHandler(handler, (error) => thrown = { error });
  const decoder = new CopyBothDecoder(start.startLsn, guarded);
  const shutdown = Promise.withResolvers<StreamEnd>();

  const copied = link.copy({
    text: startReplicationCommand(start),
    doing: "stream WAL from",
    decode: (answer): StreamEnd => {
      const end = decodeTimelineEnd(answer);
      // Asked to stop on an old timeline, the server tells the switch too, though it is not reached.
      if (stopped && end?.switchLsn !== decoder.nextLsn) return { kind: "stopped" };
      if (end === undefined) throw new ProtocolError("the stream ended, and no timeline follows");
      if (end.nextTimeline <= start.timeline || end.switchLsn > decoder.nextLsn) {
        throw new ProtocolError(
          `the stream of timeline ${start.timeline} ended at ${formatLsn(decoder.nextLsn)}, ` +
            `but timeline ${end.nextTimeline} follows at ${formatLsn(end.switchLsn)}`,
        );
      }
      return { kind: "timeline", ...end };
    },
  }, {
    decoder,
    onStart: () => {
      // Nothing more is read until the caller has the stream: Deno reads faster than promises are settled.
      link.copyControl.pause();
      started.resolve();
    },
    onDrained: () => guarded.onDrained(),
    onServerDone: () => void (stopped = stopAsked),
    onShutdown: () => shutdown.resolve({ kind: "shutdown" }),
  }).catch((error: unknown) => {
    throw thrown === undefined ? error : thrown.error;
  });

  const ended = Promise.race([shutdown.promise, copied]);
  // `ended` is the caller's to await, but a caller that looks later must not find the process gone.
  ended.catch(() => undefined);
  await Promise.race([started.promise, ended]);

  const { copyControl } = link;
  let reading: "held" | "paused" | "flowing" = "held";
  setImmediate(() => {
    if (reading !== "held") return;
    reading = "flowing";
    copyControl.resume();
  });
  return {
    ended,
    sendStatus: (status) => {
      const sentAtUs = BigInt(Date.now()) * 1000n - POSTGRES_EPOCH_US;
      copyControl.sendStatus(encodeStandbyStatus(status, sentAtUs));
    },
    pause: () => {
      reading = "paused";
      copyControl.pause();
    },
    resume: () => {
      reading = "flowing";
      copyControl.resume();
    },
    lend: () => {
      const descriptor = reading === "flowing" ? copyControl.lend() : undefined;
      if (descriptor === undefined) return undefined;
      return {
        descriptor,
        giveBack: (state) => {
          copyControl.takeBack(state);
          if (reading === "flowing") copyControl.resume();
        },
      };
    },
    stop: () => {
      stopAsked = true;
      copyControl.sendCopyDone();
    },
  };
}

/** The same handler; the first thing it throws is told before it is thrown on. */
function guardHandler(handler: WalStreamHandler, onThrow: (error: unknown) => void): WalStreamHandler {
  const guard = <A extends unknown[]>(call: (...args: A) => void) => (...args: A) => {
    try {
      call(...args);
    } catch (error) {
      onThrow(error);
      throw error;
    }
  };
  return {
    onWal: guard((startLsn, bytes) => handler.onWal(startLsn, bytes)),
    onServerPosition: guard((message) => handler.onServerPosition(message)),
    onDrained: guard(() => handler.onDrained()),
  };
}
