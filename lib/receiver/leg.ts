import { SILENCE_ADVICE } from "../protocol/advice.ts";
import { ConnectionError } from "../protocol/errors.ts";
import type { SocketLoan, StreamEnd, WalStream, WalStreamHandler } from "../protocol/replication.ts";
import type { TimelineHistory } from "../wal/history.ts";
import { bytesBetween, type Lsn } from "../wal/lsn.ts";
import type { SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Clock } from "./clock.ts";
import { NotYetError } from "./failure.ts";
import type { FlushGate } from "./flush_gate.ts";
import { judgeSilence, PAUSED_STATUS_INTERVAL_MS, statusDue } from "./progress.ts";
import { StopTimeout, withinStop } from "./stopping.ts";
import type { LegListener, ShortOfRoom, WalArchive, WalSink } from "./wal_archive.ts";
import type { WalSource } from "./wal_source.ts";

/** Named limits of one connection; all in milliseconds. */
export interface LegTiming {
  /** A status goes out at least this often. */
  readonly statusIntervalMs: number;
  /** A server that says nothing for this long is given up. */
  readonly receiveTimeoutMs: number;
  /** A disk that brings nothing to safety for this long ends the connection. */
  readonly stallTimeoutMs: number;
  /** The server has this long to confirm the end of the stream. */
  readonly stopTimeoutMs: number;
}

/** Where a leg stands; for people who watch. */
export interface LegPosition {
  readonly timeline: TimelineId;
  readonly segmentSize: SegmentSize;
  readonly receivedLsn: Lsn;
  readonly flushLsn: Lsn;
  readonly serverLsn: Lsn;
}

/** What one leg is made of. */
export interface LegOptions {
  readonly source: WalSource;
  readonly archive: WalArchive;
  readonly clock: Clock;
  readonly timing: LegTiming;
  readonly lineage: TimelineHistory;
  readonly segmentSize: SegmentSize;
  readonly startLsn: Lsn;
  readonly slot: string | undefined;
  /** Stop when everything below it is received. */
  readonly endLsn: Lsn | undefined;
  /** Says what the server may be told to be flushed; all that is, without it. */
  readonly flushGate?: FlushGate | undefined;
  /** The server has begun to send. */
  onStreaming(): void;
  onPosition(position: LegPosition): void;
  onDiskFull(): void;
  /** Too little is left of the disk: reading stops. */
  onDiskShort?(room: ShortOfRoom): void;
  /** The disk that was full takes bytes again, or has enough room. */
  onDiskRoom(): void;
  /** The disk brings nothing to safety; told when it is noticed, not when it is over. */
  onDiskStalled(error: NotYetError): void;
}

/** How a leg ended without an error; in each case all that was received is durable. */
export type LegEnd = StreamEnd | { readonly kind: "end-reached" };

/**
 * Streams one leg: from a segment's start until the timeline ends, the server shuts down, or we are told to stop.
 *
 * Whatever ends it, all that was received is made durable before it settles, unless the disk refuses.
 */
export async function streamLeg(options: LegOptions, signal: AbortSignal): Promise<LegEnd> {
  const leg = new RunningLeg(options);
  return await leg.run(signal);
}

class RunningLeg implements WalStreamHandler, LegListener {
  #sink: WalSink | undefined;
  #stream: WalStream | undefined;
  #serverLsn: Lsn;
  #reportedFlushLsn: Lsn;
  #reportedAtMs: number;
  #heardAtMs: number;
  #asked = false;
  #replyOwed = false;
  #paused = false;
  /** When the disk last brought something to safety, or had nothing to do. */
  #disk: { readonly flushLsn: Lsn; readonly atMs: number };
  #stall: NotYetError | undefined;
  /** How far the writing was when the disk was found full. */
  #fullAtLsn: Lsn | undefined;
  /** Since when there is too little room to go on reading. */
  #shortSinceMs: number | undefined;
  #ended: "end-reached" | "stopped" | undefined;
  #cancelTick: (() => void) | undefined;
  /** What the sink gave up for. */
  #archiveFailure: { readonly error: unknown } | undefined;
  #fail: (error: unknown) => void = () => {};
  /** Settles when the leg must end for a reason of ours. */
  readonly #failed = new Promise<never>((_resolve, reject) => {
    this.#fail = reject;
  });

  constructor(private readonly options: LegOptions) {
    const nowMs = options.clock.nowMs();
    this.#serverLsn = options.startLsn;
    this.#reportedFlushLsn = options.startLsn;
    this.#reportedAtMs = nowMs;
    this.#heardAtMs = nowMs;
    this.#disk = { flushLsn: options.startLsn, atMs: nowMs };
    this.#failed.catch(() => {
      // Whoever races with it has the error; a failure after the end has nobody to tell.
    });
  }

  async run(signal: AbortSignal): Promise<LegEnd> {
    const { archive, source, startLsn, lineage, slot } = this.options;
    const { clock, timing } = this.options;
    const opening = archive.openLeg({ startLsn, lineage, server: source.address }, this);
    const sink = await withinStop(opening, { clock, timeoutMs: timing.stopTimeoutMs }, signal).catch(
      (error) => {
        // What a stalled disk opens when nobody waits any more must not stay open.
        opening.then((late) => late.abandon()).catch(() => {});
        throw error;
      },
    );
    this.#sink = sink;
    const onAbort = () => this.#stop("stopped");
    try {
      if (signal.aborted) onAbort();
      else signal.addEventListener("abort", onAbort, { once: true });
      const stream = await this.#orTooLate(
        source.startReplication({ slot, startLsn, timeline: lineage.timeline }, this),
      );
      this.#stream = stream;
      stream.ended.catch(() => {
        // Raced below; it may also fail later, when nobody waits for it any more.
      });
      this.options.onStreaming();
      this.options.flushGate?.subscribe(() => this.#report());
      this.#heardAtMs = this.options.clock.nowMs();
      this.#report();
      this.#tick();
      // The first bytes may come together with the answer, before there is a stream to pause or to stop.
      if (this.#paused) stream.pause();
      this.#stopAtEnd();
      const end = await Promise.race([stream.ended, this.#failed]);
      await this.#settle(sink, signal);
      // The server's end was in order; what the archive has to say about the last bytes may not be.
      if (this.#archiveFailure !== undefined) throw this.#archiveFailure.error;
      return this.#ended === "end-reached" ? { kind: "end-reached" } : end;
    } catch (error) {
      // The connection must not stay open behind a disk that stalls: the server would wait for it at its shutdown.
      // Whoever has the socket lent lets go of it first, if the disk lets him.
      sink.loan?.end();
      await source.close();
      await this.#settle(sink, signal);
      // Told to stop, and all is safe: that the server did not confirm in time changes nothing.
      if (this.#ended !== undefined && sink.idle) return { kind: this.#ended };
      throw error;
    } finally {
      this.#cancelTick?.();
      this.options.flushGate?.subscribe(() => {});
      this.#tellPosition();
      signal.removeEventListener("abort", onAbort);
    }
  }

  onWal(_startLsn: Lsn, bytes: Uint8Array): void {
    const sink = this.#sink;
    if (sink === undefined) return;
    sink.push(bytes);
    this.#pauseIfDue(sink);
  }

  #pauseIfDue(sink: WalSink): void {
    if (this.#paused || !this.#mustPause(sink)) return;
    this.#paused = true;
    this.#stream?.pause();
    this.#scheduleTick();
  }

  /** Once all is at its end, the rest of the stream is read whatever room there is: it is not much. */
  #mustPause(sink: WalSink): boolean {
    return sink.congested || (sink.shortOfRoom !== undefined && this.#ended === undefined);
  }

  onServerPosition(message: { readonly walEndLsn: Lsn; readonly replyRequested: boolean }): void {
    if (message.walEndLsn > this.#serverLsn) this.#serverLsn = message.walEndLsn;
    if (message.replyRequested) this.#replyOwed = true;
  }

  onDrained(): void {
    const sink = this.#sink;
    if (sink === undefined) return;
    this.#heardAtMs = this.options.clock.nowMs();
    this.#asked = false;
    sink.setServerEnd(this.#serverLsn);
    sink.drained();
    this.#reportIfDue();
    this.#stopAtEnd();
  }

  onProgress(): void {
    const sink = this.#sink;
    if (sink === undefined) return;
    if (this.#fullAtLsn !== undefined && sink.writeLsn > this.#fullAtLsn) {
      this.#fullAtLsn = undefined;
      this.options.onDiskRoom();
    }
    this.#noteRoom(sink);
    this.#pauseIfDue(sink);
    if (this.#paused && !this.#mustPause(sink) && this.#stopWhenSafe === undefined) {
      this.#paused = false;
      this.#heardAtMs = this.options.clock.nowMs();
      this.#stream?.resume();
    }
    this.#reportIfDue();
  }

  #noteRoom(sink: WalSink): void {
    const { shortOfRoom } = sink;
    if (shortOfRoom === undefined) {
      if (this.#shortSinceMs === undefined) return;
      this.#shortSinceMs = undefined;
      this.options.onDiskRoom();
    } else if (this.#shortSinceMs === undefined) {
      this.#shortSinceMs = this.options.clock.nowMs();
      this.options.onDiskShort?.(shortOfRoom);
    }
  }

  onIdle(): SocketLoan | undefined {
    const { endLsn } = this.options;
    // Where every message may be the last one, each has to be looked at here.
    if (this.#paused || this.#ended !== undefined || endLsn !== undefined) return undefined;
    // Whoever has the socket tells all that is flushed.
    if (this.options.flushGate?.isOpen === false) return undefined;
    const loan = this.#stream?.lend?.();
    if (loan === undefined) return undefined;
    return {
      descriptor: loan.descriptor,
      giveBack: (state) => {
        this.#noteLoan(state);
        loan.giveBack(state);
        // What was reported meanwhile is not known here, and a status too many does no harm.
        this.#reportIfDue();
        this.#afterLoan?.();
      },
    };
  }

  onFailure(error: unknown): void {
    this.#archiveFailure ??= { error };
    this.#fail(error);
  }

  onDiskFull(): void {
    this.#fullAtLsn = this.#sink?.writeLsn;
    this.options.onDiskFull();
  }

  /** A server that does not answer START_REPLICATION is as silent as one that stops sending. */
  async #orTooLate<T>(answer: Promise<T>): Promise<T> {
    const { receiveTimeoutMs } = this.options.timing;
    const cancel = this.options.clock.setTimer(receiveTimeoutMs, () => this.#fail(this.#silence()));
    try {
      return await Promise.race([answer, this.#failed]);
    } finally {
      cancel();
      answer.catch(() => {
        // The race is lost: its error was reported, this one follows from it.
      });
    }
  }

  #silence(): ConnectionError {
    const seconds = this.options.timing.receiveTimeoutMs / 1000;
    return new ConnectionError(
      "timeout",
      `Cannot receive from ${this.options.source.address}: silent for ${seconds} s`,
      { hint: SILENCE_ADVICE },
    );
  }

  /**
   * Waits until all that was received is durable: as long as it takes, since coming back before the disk does would
   * only lose time. Told to stop, it waits no longer than a person would.
   *
   * @throws {NotYetError} when it was told to stop, and something is not durable yet; the server still has it.
   */
  async #settle(sink: WalSink, signal: AbortSignal): Promise<void> {
    this.#cancelTick?.();
    const { clock, timing } = this.options;
    const cancelStall = clock.setTimer(timing.stallTimeoutMs, () => this.#tellStall(sink, "waiting for it"));
    try {
      await withinStop(sink.finish(), { clock, timeoutMs: timing.stopTimeoutMs }, signal);
    } catch (error) {
      if (!(error instanceof StopTimeout)) throw error;
      void sink.abandon();
      throw new NotYetError(
        `Cannot bring ${
          bytesBetween({ startLsn: sink.flushLsn, endLsn: sink.receivedLsn })
        } received bytes to the disk: it stalls; they were never acknowledged, and come again`,
      );
    } finally {
      cancelStall();
    }
  }

  #stopAtEnd(): void {
    const { endLsn } = this.options;
    const sink = this.#sink;
    if (endLsn === undefined || sink === undefined || this.#stream === undefined) return;
    if (sink.receivedLsn >= endLsn) this.#stop("end-reached");
  }

  /** Everything received is made durable and reported; then we say that we are done. */
  #stop(reason: "end-reached" | "stopped"): void {
    if (this.#ended !== undefined) return;
    this.#ended = reason;
    const { clock, timing, source } = this.options;
    const sink = this.#sink;
    const stream = this.#stream;
    if (sink === undefined || stream === undefined) {
      // The server has not begun: there is no stream to end, and no answer worth waiting for.
      this.#fail(new ConnectionError("closed", `Cannot stream from ${source.address}: told to stop`));
      return;
    }
    const late = new ConnectionError(
      "timeout",
      `Cannot end the stream from ${source.address}: no confirmation`,
    );
    const cancel = clock.setTimer(timing.stopTimeoutMs, () => this.#fail(late));
    void stream.ended.then(cancel, cancel);
    const { loan } = sink;
    if (loan === undefined) return this.#stopReading(sink, stream);
    this.#afterLoan = () => {
      this.#afterLoan = undefined;
      this.#stopReading(sink, stream);
    };
    loan.end();
  }

  #stopReading(sink: WalSink, stream: WalStream): void {
    // A busy server always sends more: only what is not read any more can all be safe, and told in the last status.
    this.#paused = true;
    stream.pause();
    const stopLsn = sink.receivedLsn;
    this.#stopWhenSafe = () => {
      if (sink.flushLsn < stopLsn) return;
      this.#stopWhenSafe = undefined;
      this.#report();
      stream.stop();
      // What was under way comes before the server's own CopyDone; it is brought to safety too.
      this.#paused = false;
      stream.resume();
    };
    sink.setServerEnd(stopLsn);
    sink.drained();
    this.#stopWhenSafe();
  }

  #stopWhenSafe: (() => void) | undefined;
  /** What waits for the socket to be given back. */
  #afterLoan: (() => void) | undefined;
  #heardCount: number | undefined;

  /** Nobody reads the lent socket while the disk is at work: the server's requests for a reply are not seen. */
  get #lentAndStalled(): boolean {
    const sink = this.#sink;
    return sink?.loan !== undefined && !sink.idle;
  }

  /** Notes what came over a lent socket. */
  #noteLoan(
    loan: { readonly heardCount: number; readonly serverEndLsn: Lsn } | undefined = this.#sink?.loan,
  ): void {
    if (loan === undefined || loan.heardCount === this.#heardCount) return;
    this.#heardCount = loan.heardCount;
    this.#heardAtMs = this.options.clock.nowMs();
    this.#asked = false;
    if (loan.serverEndLsn > this.#serverLsn) this.#serverLsn = loan.serverEndLsn;
  }

  #reportIfDue(): void {
    const sink = this.#sink;
    if (sink === undefined || this.#stream === undefined) return;
    const status = statusDue(
      {
        writeLsn: sink.writeLsn,
        flushLsn: sink.flushLsn,
        reportedFlushLsn: this.#reportedFlushLsn,
        reportedAtMs: this.#reportedAtMs,
        paused: this.#paused || this.#lentAndStalled,
        replyOwed: this.#replyOwed,
      },
      this.options.timing,
      this.options.clock.nowMs(),
    );
    if (status !== undefined) this.#report();
    this.#stopWhenSafe?.();
  }

  #report(options = { replyRequested: false }): void {
    const sink = this.#sink;
    if (sink === undefined) return;
    // Two that send at the same time may write into each other's messages.
    sink.loan?.end();
    const { writeLsn, flushLsn } = sink;
    const { flushGate } = this.options;
    this.#stream?.sendStatus({
      writeLsn,
      flushLsn: flushGate === undefined ? flushLsn : flushGate.flushToTell(flushLsn),
      replyRequested: options.replyRequested,
    });
    this.#reportedFlushLsn = flushLsn;
    this.#reportedAtMs = this.options.clock.nowMs();
    this.#replyOwed = false;
  }

  /** The rare things: silence, a stalled disk, the status that is due by time. */
  #tick(): void {
    const nowMs = this.options.clock.nowMs();
    this.#noteLoan();
    this.#judgeSilence(nowMs);
    this.#judgeDisk(nowMs);
    this.#judgeRoom(nowMs);
    this.#reportIfDue();
    this.#tellPosition();
    this.#scheduleTick();
  }

  #tellPosition(): void {
    const sink = this.#sink;
    if (sink === undefined) return;
    this.options.onPosition({
      timeline: this.options.lineage.timeline,
      segmentSize: this.options.segmentSize,
      receivedLsn: sink.receivedLsn,
      flushLsn: sink.flushLsn,
      serverLsn: this.#serverLsn,
    });
  }

  #scheduleTick(): void {
    this.#cancelTick?.();
    const { statusIntervalMs, receiveTimeoutMs, stallTimeoutMs } = this.options.timing;
    const quiet = Math.min(
      PAUSED_STATUS_INTERVAL_MS,
      statusIntervalMs,
      receiveTimeoutMs / 4,
      stallTimeoutMs / 4,
    );
    this.#cancelTick = this.options.clock.setTimer(quiet, () => this.#tick());
  }

  #judgeSilence(nowMs: number): void {
    // While we do not read, the silence is ours.
    if (this.#paused || this.#lentAndStalled) {
      this.#heardAtMs = nowMs;
      return;
    }
    const { receiveTimeoutMs } = this.options.timing;
    const state = { silentMs: nowMs - this.#heardAtMs, timeoutMs: receiveTimeoutMs, asked: this.#asked };
    switch (judgeSilence(state)) {
      case "ask":
        this.#asked = true;
        this.#report({ replyRequested: true });
        return;
      case "give-up":
        this.#fail(this.#silence());
        return;
      case "none":
        return;
    }
  }

  #judgeDisk(nowMs: number): void {
    const sink = this.#sink;
    if (sink === undefined) return;
    if (sink.idle || sink.flushLsn !== this.#disk.flushLsn) {
      this.#disk = { flushLsn: sink.flushLsn, atMs: nowMs };
      return;
    }
    const { stallTimeoutMs } = this.options.timing;
    if (nowMs - this.#disk.atMs < stallTimeoutMs) return;
    // A receiver that answers but does not read would hold up the server's shutdown: the truth, then good-bye.
    this.#report();
    this.#fail(this.#tellStall(sink, "disconnecting until it does"));
  }

  /** As a disk that is full: a receiver that does not read would hold up the server's shutdown. */
  #judgeRoom(nowMs: number): void {
    const room = this.#sink?.shortOfRoom;
    const sinceMs = this.#shortSinceMs;
    const { stallTimeoutMs } = this.options.timing;
    if (room === undefined || sinceMs === undefined || this.#ended !== undefined) return;
    if (nowMs - sinceMs < stallTimeoutMs) return;
    this.#report();
    this.#fail(
      new NotYetError(
        `Cannot go on receiving: ${room.freeBytes} bytes free in the archive for ${
          stallTimeoutMs / 1000
        } s, ` +
          `want ${room.wantBytes}; disconnecting until there are`,
      ),
    );
  }

  #tellStall(sink: WalSink, consequence: string): NotYetError {
    const waiting = bytesBetween({ startLsn: sink.flushLsn, endLsn: sink.receivedLsn });
    const seconds = this.options.timing.stallTimeoutMs / 1000;
    this.#stall ??= new NotYetError(
      `Cannot bring ${waiting} received bytes to the disk: nothing reached it for ${seconds} s; ${consequence}`,
    );
    this.options.onDiskStalled(this.#stall);
    return this.#stall;
  }
}
