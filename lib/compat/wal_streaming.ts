import type { PlainDirectory } from "../archive/plain_directory.ts";
import { PARTIAL_SUFFIX, plainText } from "../archive/plain_layout.ts";
import { ReceivingArchive } from "../archive/receiving_archive.ts";
import { ArchiveError } from "../archive/archive.ts";
import { realClock } from "../commands/clock.ts";
import { hintOf } from "../commands/context.ts";
import type { Host } from "../conninfo/settings.ts";
import { type Log, type LogFields, messageChain } from "../log.ts";
import { ConnectionError, ServerError } from "../protocol/errors.ts";
import { NotYetError, WAL_REMOVED } from "../receiver/failure.ts";
import { type LegEnd, type LegPosition, streamLeg } from "../receiver/leg.ts";
import { Preparation, type Prepared } from "../receiver/preparation.ts";
import { Reporter } from "../receiver/reporter.ts";
import type { ArchiveContents, WalArchive } from "../receiver/wal_archive.ts";
import type { WalSource, WalStream, WalStreamHandler } from "../receiver/wal_source.ts";
import type { Session } from "../session/session.ts";
import { ArchiveConflictError, CorruptWalError, WrongClusterError } from "../wal/errors.ts";
import { advance, formatLsn, type Lsn, ZERO_LSN } from "../wal/lsn.ts";
import {
  segmentFloor,
  segmentName,
  type SegmentNumber,
  segmentNumberAt,
  segmentOffset,
  type SegmentSize,
  segmentStart,
} from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import { FatalError } from "./fatal_error.ts";
import { connectionErrorText, SERVER_CLOSED, serverErrorText } from "./libpq_text.ts";
import type { ReceivewalOptions } from "./pg_receivewal_options.ts";
import type { ProgramLog } from "./program_log.ts";

/** Between two connections, always: the original's own. */
const RECONNECT_SECONDS = 5;
/** The original waits for a dead network for ever; nobody gains by that. */
const RECEIVE_TIMEOUT_MS = 60_000;
const STALL_TIMEOUT_MS = 15_000;
const STOP_TIMEOUT_MS = 10_000;
/** In place of no status at all: the longest that a timer can wait. */
const NEVER_MS = 2_147_000_000;

/** The first server version that tells the permissions of its data directory. */
const DIRECTORY_MODE_VERSION = 110_000;

/** What streaming is made of. */
export interface WalStreamingOptions {
  readonly plain: PlainDirectory;
  readonly log: ProgramLog;
  readonly signal: AbortSignal;
  readonly options: ReceivewalOptions;
  /** Those that a connection is tried with. */
  hosts(): readonly Host[];
  connect(): Promise<Session>;
  /** A segment is complete, and has its name. */
  onSegment(segment: string): void;
}

/** Streams into a directory, connection after connection, as `pg_receivewal` does and says it. */
export class WalStreaming {
  readonly #archive: ReceivingArchive;
  readonly #preparation: Preparation;
  /** For a directory that has nothing of what the server has: the slot tells where to begin. */
  readonly #firstPreparation: Preparation;
  #done = false;
  #position: LegPosition | undefined;
  /** Where the timeline before ended. */
  #previous: { readonly timeline: TimelineId; readonly lsn: Lsn } | undefined;
  /** Below it segments are missing that the server does not have any more. */
  #givenUpBelow: SegmentNumber | undefined;
  #modesRead = false;

  constructor(private readonly streaming: WalStreamingOptions) {
    const { plain, log, options } = streaming;
    const events = {
      segmentPublished: ({ segment, endLsn }: { segment: string; endLsn: Lsn }) => {
        const timeline = parseInt(segment.slice(0, 8), 16);
        if (options.verbose) log.info(`finished segment at ${formatLsn(endLsn)} (timeline ${timeline})`);
        streaming.onSegment(segment);
      },
      savedCopyKept: () => {},
      savedCopyPassed: () => {},
      unknownPageMagic: ({ segment, magic }: { segment: string; magic: number }) =>
        log.warning(
          `segment file "${segment}" is of an unknown version: page magic 0x${
            magic.toString(16).toUpperCase()
          }`,
        ),
    };
    this.#archive = new ReceivingArchive(plain, { clock: realClock, events, prepareNext: false });
    const archive: WalArchive = {
      claim: (server) => this.#archive.claim(server),
      contents: async () => this.#withoutGivenUp(await this.#archive.contents()),
      storeHistory: (timeline, bytes) => this.#archive.storeHistory(timeline, bytes),
      // The original compares nothing with the server.
      planOverlap: () => Promise.resolve(undefined),
      compareOverlap: () => Promise.resolve(),
      openLeg: (leg, listener) => this.#archive.openLeg(leg, listener),
    };
    const preparationLog = new PreparationLog(log);
    const parts = {
      archive,
      log: preparationLog,
      reporter: new Reporter(preparationLog),
      createSlot: false,
      applicationName: "pg_receivewal",
      overlap: { clock: realClock, timeoutMs: RECEIVE_TIMEOUT_MS, statusIntervalMs: NEVER_MS },
    };
    this.#preparation = new Preparation({ ...parts, slot: undefined });
    this.#firstPreparation = new Preparation({ ...parts, slot: options.slot });
  }

  /**
   * Goes on until it is told to stop, or the end position is passed.
   *
   * @throws {FatalError} at the first disconnect when it is not to loop, and for what no other try can mend.
   */
  async run(first: Session): Promise<void> {
    const { log, options, signal } = this.streaming;
    for (let source: Session | undefined = first;; source = undefined) {
      await this.#connection(source);
      if (this.#done || signal.aborted) return;
      if (!options.loop) throw new FatalError("disconnected");
      log.info(`disconnected; waiting ${RECONNECT_SECONDS} seconds to try again`);
      await this.#sleep(RECONNECT_SECONDS);
      if (signal.aborted) return;
    }
  }

  /** One connection, over all the timelines that it leads to; what ends it is told. */
  async #connection(given: Session | undefined): Promise<void> {
    const { log, signal, hosts, connect } = this.streaming;
    let source = given;
    try {
      source ??= await connect();
    } catch (error) {
      if (!signal.aborted) log.error(connectionErrorText(error, hosts()));
      return;
    }
    try {
      await this.#readModes(source);
      await this.#stream(source);
    } catch (error) {
      this.#tell(error);
    } finally {
      await source.close();
    }
  }

  async #stream(source: Session): Promise<void> {
    const { log, options } = this.streaming;
    let prepared = await this.#prepare(source);
    if (options.verbose) {
      const { startLsn, timeline } = prepared.plan;
      log.info(`starting log streaming at ${formatLsn(startLsn)} (timeline ${timeline})`);
    }
    for (;;) {
      const { plan } = prepared;
      if (this.#stopDue(plan.startLsn, plan.timeline)) return;
      const end = await this.#leg(source, prepared);
      if (end === "go-on") {
        prepared = await this.#prepare(source);
        continue;
      }
      const reached = this.#position?.receivedLsn ?? plan.startLsn;
      // Both are told before the file is closed and once more when the server has confirmed: so does the original.
      const asked = end.kind === "stopped" || end.kind === "end-reached";
      if (asked) this.#stopDue(reached, plan.timeline);
      this.#tellUnfinished(prepared);
      if (end.kind !== "timeline") {
        if (!this.#stopDue(reached, plan.timeline)) {
          log.error("replication stream was terminated before stop point");
        }
        return;
      }
      prepared = await this.#prepare(source);
      if (prepared.plan.timeline === plan.timeline && prepared.plan.startLsn === plan.startLsn) {
        throw new NotYetError(
          `server stopped streaming timeline ${plan.timeline} at ${
            formatLsn(plan.startLsn)
          }, but offers no other`,
        );
      }
    }
  }

  async #prepare(source: Session): Promise<Prepared> {
    const { slot } = this.streaming.options;
    const prepared = await this.#preparation.prepare(source);
    if (prepared.plan.origin !== "server" || slot === undefined) return prepared;
    if (await source.readSlot(slot) === undefined) {
      throw new NotYetError(`replication slot "${slot}" does not exist`);
    }
    return await this.#firstPreparation.prepare(source);
  }

  /** `go-on` when the server lacks what is missing here, and there is more behind it. */
  async #leg(source: Session, prepared: Prepared): Promise<LegEnd | "go-on"> {
    const { options, log, signal } = this.streaming;
    const { plan, lineage, segmentSize } = prepared;
    let streamed = false;
    this.#position = undefined;
    try {
      return await streamLeg({
        source: asOriginal(source, { options, segmentSize }),
        archive: this.#archive,
        clock: realClock,
        lineage,
        segmentSize,
        startLsn: plan.startLsn,
        slot: options.slot,
        // The original goes on until it has passed the end position.
        endLsn: options.endpos === undefined ? undefined : advance(options.endpos, 1),
        timing: {
          statusIntervalMs: options.statusIntervalSeconds === 0
            ? NEVER_MS
            : options.statusIntervalSeconds * 1000,
          receiveTimeoutMs: RECEIVE_TIMEOUT_MS,
          stallTimeoutMs: STALL_TIMEOUT_MS,
          stopTimeoutMs: STOP_TIMEOUT_MS,
        },
        onStreaming: () => streamed = true,
        onPosition: (position) => this.#position = position,
        onDiskFull: () => log.error("could not write to WAL file: No space left on device; waiting for room"),
        onDiskRoom: () => log.info("there is room again"),
        onDiskStalled: (error) => log.error(error.message),
      }, signal);
    } catch (error) {
      if (!(error instanceof ServerError)) throw streamed ? new StreamingError(error) : error;
      if (error.sqlState === WAL_REMOVED && await this.#goOnBehind(prepared, error)) return "go-on";
      if (streamed) this.#tellUnfinished(prepared);
      throw new FailedStream(
        streamed
          ? `unexpected termination of replication stream: ${serverErrorText(error)}`
          : `could not send replication command "START_REPLICATION": ${serverErrorText(error)}`,
        { cause: error },
      );
    }
  }

  /** A hole that nobody can fill is told, and left behind, as the original leaves it without a word. */
  async #goOnBehind({ plan, segmentSize }: Prepared, error: ServerError): Promise<boolean> {
    const { runs } = this.#withoutGivenUp(await this.#archive.contents());
    const missing = segmentNumberAt(plan.startLsn, segmentSize);
    const next = runs.map((run) => run.firstNumber).filter((number) => number > missing)
      .reduce<SegmentNumber | undefined>(
        (least, number) => least === undefined || number < least ? number : least,
        undefined,
      );
    if (next === undefined) return false;
    this.streaming.log.warning(
      `write-ahead log from ${formatLsn(plan.startLsn)} to ${
        formatLsn(segmentStart(next, segmentSize))
      } is missing in ` +
        `"${this.streaming.plain.disk.root}": ${error.serverMessage}`,
    );
    this.#givenUpBelow = next;
    return true;
  }

  #withoutGivenUp(contents: ArchiveContents): ArchiveContents {
    const below = this.#givenUpBelow;
    if (below === undefined) return contents;
    return {
      ...contents,
      runs: contents.runs.filter((run) => run.firstNumber >= below),
      unfinished: contents.unfinished.filter((segment) => segment.number >= below),
    };
  }

  /** Whether this is the end, which is told; the original asks at each start, and after each message. */
  #stopDue(lsn: Lsn, timeline: TimelineId): boolean {
    const { log, options, signal } = this.streaming;
    const at = `${formatLsn(lsn)} (timeline ${timeline})`;
    if (options.endpos !== undefined && lsn > options.endpos) {
      if (options.verbose) log.info(`stopped log streaming at ${at}`);
      this.#done = true;
      return true;
    }
    const previous = this.#previous;
    if (options.verbose && previous !== undefined && previous.timeline !== timeline) {
      log.info(`switched to timeline ${timeline} at ${formatLsn(previous.lsn)}`);
    }
    this.#previous = { timeline, lsn };
    if (!signal.aborted) return false;
    if (options.verbose) log.info("received interrupt signal, exiting");
    this.#done = true;
    return true;
  }

  #tellUnfinished({ plan, segmentSize }: Prepared): void {
    const lsn = this.#position?.receivedLsn ?? plan.startLsn;
    this.#previous = { timeline: plan.timeline, lsn };
    if (segmentOffset(lsn, segmentSize) === 0) return;
    const name = segmentName(plan.timeline, segmentNumberAt(lsn, segmentSize), segmentSize);
    this.streaming.log.info(`not renaming "${name}${PARTIAL_SUFFIX}", segment is not complete`);
  }

  /** @throws {FatalError} for what no other try can mend: the bytes do not belong together. */
  #tell(error: unknown): void {
    const { log, signal } = this.streaming;
    const cause = error instanceof StreamingError ? error.cause : error;
    const text = errorText(error);
    if (
      cause instanceof WrongClusterError || cause instanceof ArchiveConflictError ||
      cause instanceof ArchiveError ||
      cause instanceof CorruptWalError
    ) throw new FatalError(text, { cause });
    if (signal.aborted && !(cause instanceof NotYetError)) return;
    log.error(text);
    const hint = hintOf(cause);
    if (hint !== undefined && !(cause instanceof ServerError)) log.hint(hint);
  }

  /** New files get the permissions that the server's own have. */
  async #readModes(source: Session): Promise<void> {
    if (this.#modesRead || source.serverVersion < DIRECTORY_MODE_VERSION) return;
    const mode = parseInt(await source.show("data_directory_mode"), 8);
    if ((mode & 0o050) === 0o050) this.streaming.plain.withModes({ file: 0o640, directory: 0o750 });
    this.#modesRead = true;
  }

  #sleep(seconds: number): Promise<void> {
    const { signal } = this.streaming;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      const onAbort = () => {
        clearTimeout(timer);
        resolve();
      };
      if (signal.aborted) onAbort();
      else signal.addEventListener("abort", onAbort, { once: true });
    });
  }
}

/** What ended a stream, after it had begun. */
class StreamingError extends Error {
  override readonly name = "StreamingError";

  constructor(override readonly cause: unknown) {
    super("Cannot go on streaming", { cause });
  }
}

/** The message is all that is said. */
class FailedStream extends Error {
  override readonly name = "FailedStream";
}

function errorText(error: unknown): string {
  if (error instanceof FailedStream) return error.message;
  if (error instanceof StreamingError) {
    const { cause } = error;
    if (cause instanceof ConnectionError && cause.kind === "closed") {
      return `could not receive data from WAL stream: ${SERVER_CLOSED}`;
    }
    return plainText(messageChain(cause));
  }
  if (error instanceof ServerError) {
    return `could not send replication command "${commandOf(error)}": ${serverErrorText(error)}`;
  }
  return plainText(messageChain(error));
}

/** Which command the server refused, by what was being done. */
function commandOf(error: ServerError): string {
  if (error.message.startsWith("Cannot identify")) return "IDENTIFY_SYSTEM";
  const [, setting] = /^Cannot show ([a-z_]+) /.exec(error.message) ?? [];
  if (setting !== undefined) return `SHOW ${setting}`;
  return error.message.startsWith("Cannot read history") ? "TIMELINE_HISTORY" : "READ_REPLICATION_SLOT";
}

/** A connection that tells the server no more than the original does, and takes no more from it. */
function asOriginal(
  source: Session,
  { options, segmentSize }: { readonly options: ReceivewalOptions; readonly segmentSize: SegmentSize },
): WalSource {
  const { slot, synchrony, endpos } = options;
  // Whoever tells a flush position may become a synchronous standby: that is for those who ask for it.
  const told = (flushLsn: Lsn): Lsn => {
    if (slot === undefined && synchrony !== "synchronous") return ZERO_LSN;
    return synchrony === "no-sync" ? segmentFloor(flushLsn, segmentSize) : flushLsn;
  };
  return {
    address: source.address,
    serverVersion: source.serverVersion,
    identifySystem: () => source.identifySystem(),
    show: (name) => source.show(name),
    showAfresh: (name) => source.showAfresh(name),
    readSlot: (name) => source.readSlot(name),
    createSlot: (name) => source.createSlot(name),
    dropSlot: (name) => source.dropSlot(name),
    timelineHistory: (timeline) => source.timelineHistory(timeline),
    close: () => source.close(),
    async startReplication(start, handler): Promise<WalStream> {
      const taker = endpos === undefined ? handler : new UpToEndpos(handler, { endpos, segmentSize });
      const stream = await source.startReplication(start, taker);
      return {
        ended: stream.ended,
        sendStatus: (status) => stream.sendStatus({ ...status, flushLsn: told(status.flushLsn) }),
        pause: () => stream.pause(),
        resume: () => stream.resume(),
        stop: () => stream.stop(),
      };
    },
  };
}

/** Takes nothing behind the message, or the segment, in which the end position was passed. */
class UpToEndpos implements WalStreamHandler {
  #receivedLsn: Lsn | undefined;
  #passed = false;

  constructor(
    private readonly handler: WalStreamHandler,
    private readonly limits: { readonly endpos: Lsn; readonly segmentSize: SegmentSize },
  ) {}

  onWal(startLsn: Lsn, bytes: Uint8Array): void {
    if (this.#passed) return;
    const { endpos, segmentSize } = this.limits;
    const toBoundary = segmentSize - segmentOffset(startLsn, segmentSize);
    const boundaryLsn = advance(startLsn, toBoundary);
    this.#passed = bytes.length >= toBoundary && boundaryLsn > endpos;
    const taken = this.#passed ? bytes.subarray(0, toBoundary) : bytes;
    this.#receivedLsn = advance(startLsn, taken.length);
    this.handler.onWal(startLsn, taken);
  }

  onServerPosition(message: Parameters<WalStreamHandler["onServerPosition"]>[0]): void {
    this.#passed ||= this.#receivedLsn !== undefined && this.#receivedLsn > this.limits.endpos;
    this.handler.onServerPosition(message);
  }

  onDrained(): void {
    this.handler.onDrained();
  }
}

/** Of what is told while a start is prepared, the original's users need to hear only what may cost them data. */
class PreparationLog implements Log {
  readonly #said = new Set<string>();

  constructor(private readonly log: ProgramLog) {}

  error(): void {}
  info(): void {}
  debug(): void {}

  warn(event: string, fields: LogFields = {}): void {
    const text = event === "archive is ahead of the fork"
      ? `timeline ${fields["timeline"]} goes on to ${
        fields["archiveEndLsn"]
      } here, but the server left it at ${fields["forkLsn"]}`
      : event === "server version not tried"
      ? `server version ${fields["serverVersion"]} was not tried with this program`
      : undefined;
    if (text === undefined || this.#said.has(text)) return;
    this.#said.add(text);
    this.log.warning(text);
  }
}
