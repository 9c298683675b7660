import { ConnectionError, ServerError } from "../protocol/errors.ts";
import { formatLsn, type Lsn, lsn } from "../wal/lsn.ts";
import type { TimelineHistory } from "../wal/history.ts";
import type { Clock } from "./clock.ts";
import type { Overlap, WalArchive } from "./wal_archive.ts";
import type { WalSource, WalStream, WalStreamHandler } from "./wal_source.ts";

/** Classes of errors that say nothing about WAL: of the connection, its login, resources, a shutdown. */
const OF_THE_CONNECTION = /^(08|28|53|57)/;

/** No position: for a status that claims nothing. */
const NOTHING = lsn(0n);

/** How long a server may be silent, and we. */
export interface OverlapTiming {
  readonly clock: Clock;
  readonly timeoutMs: number;
  readonly statusIntervalMs: number;
}

/**
 * Asks a server for the archive's own last WAL before `startLsn`, and compares.
 *
 * Resolves to how many bytes are the same; 0 where there is nothing to compare, or the server no longer has that WAL.
 * @throws {ArchiveConflictError} when they differ: the server must not be followed.
 * @throws {CorruptWalError} when they differ because the archive's own are damaged: what is lost can still be had.
 */
export async function compareOverlap(
  source: WalSource,
  archive: WalArchive,
  leg: { readonly startLsn: Lsn; readonly lineage: TimelineHistory },
  timing: OverlapTiming,
): Promise<number> {
  const overlap = await archive.planOverlap(leg);
  if (overlap === undefined) return 0;
  const bytes = await fetchOverlap(source, overlap, timing);
  if (bytes === undefined) return 0;
  await archive.compareOverlap({ overlap, bytes, server: source.address });
  return bytes.length;
}

/** `undefined` when the server no longer has that WAL, or ends its stream before it has sent all of it. */
async function fetchOverlap(
  source: WalSource,
  { timeline, startLsn, endLsn }: Overlap,
  { clock, timeoutMs, statusIntervalMs }: OverlapTiming,
): Promise<Uint8Array | undefined> {
  const bytes = new Uint8Array(Number(endLsn - startLsn));
  const complete = Promise.withResolvers<"complete">();
  let isComplete = false;
  let isStopping = false;
  const handler: WalStreamHandler = {
    onWal: (atLsn, piece) => {
      // A server sends more than is wanted before it sees that we are done.
      const at = Number(atLsn - startLsn);
      if (at >= bytes.length) return;
      bytes.set(piece.subarray(0, bytes.length - at), at);
      if (at + piece.length < bytes.length) return;
      isComplete = true;
      complete.resolve("complete");
    },
    onServerPosition: ({ replyRequested }) => {
      // After our CopyDone nothing more is said.
      if (replyRequested && !isStopping) report();
    },
    onDrained: () => waitOn(),
  };
  let stream: WalStream | undefined;
  /** Of what is only compared nothing is claimed; but on a slow network it may take as long as a server waits. */
  const report = () => stream?.sendStatus({ writeLsn: NOTHING, flushLsn: NOTHING, replyRequested: false });
  let cancelReport = () => {};
  const reportOn = () => {
    cancelReport = clock.setTimer(statusIntervalMs, () => {
      report();
      reportOn();
    });
  };
  const late = Promise.withResolvers<never>();
  late.promise.catch(() => {
    // Raced below.
  });
  let cancel = () => {};
  const waitOn = () => {
    cancel();
    cancel = clock.setTimer(timeoutMs, () => {
      const what = `Cannot read WAL at ${formatLsn(startLsn)} from ${source.address}`;
      late.reject(new ConnectionError("timeout", `${what}: silent for ${timeoutMs / 1000} s`));
    });
  };
  waitOn();
  reportOn();
  try {
    // Without the slot: it must not go back to here.
    const starting = source.startReplication({ slot: undefined, startLsn, timeline }, handler);
    starting.catch(() => {
      // Raced below.
    });
    stream = await Promise.race([starting, late.promise]);
    stream.ended.catch(() => {
      // Raced below.
    });
    const first = await Promise.race([complete.promise, stream.ended, late.promise]);
    cancelReport();
    isStopping = true;
    if (first === "complete") stream.stop();
    await Promise.race([stream.ended, late.promise]);
    return isComplete ? bytes : undefined;
  } catch (error) {
    // It has that WAL no more, or will not send it: then the back link decides, and the stream itself.
    if (error instanceof ServerError && !OF_THE_CONNECTION.test(error.sqlState)) return undefined;
    throw error;
  } finally {
    cancel();
    cancelReport();
  }
}
