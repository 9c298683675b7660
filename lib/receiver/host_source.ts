import { messageChain } from "../log.ts";
import { ServerError } from "../protocol/errors.ts";
import { sameBytes } from "../wal/bytes.ts";
import { WrongClusterError } from "../wal/errors.ts";
import { numbersOf, type SegmentRun } from "../wal/lineage.ts";
import { segmentName, type SegmentNumber, type SegmentSize } from "../wal/segment.ts";
import type { TimelineId } from "../wal/timeline.ts";
import type { Clock } from "./clock.ts";
import { WAL_REMOVED } from "./failure.ts";
import type { Neighbour } from "./healing.ts";
import { requestSegment, TimelineEndedError } from "./segment_request.ts";
import type { WalSource } from "./wal_source.ts";

/** So many segments are remembered that were refused; what is forgotten is only asked for again. */
const MAXIMUM_REMEMBERED = 4096;
/** The archive will hardly think otherwise sooner. */
const REFUSED_FOR_MS = 3_600_000;

/** Where segments that a server streams go. */
export interface SegmentIntake {
  /**
   * Takes the segment `name`, which `fill` writes; resolves when it is durable in the archive under its own name.
   *
   * @throws what `fill` throws, what the disk says, and what is to be said against the segment.
   */
  takeFilled(
    name: string,
    tie: { readonly systemIdentifier: bigint; readonly tiedTo: Neighbour },
    fill: (file: { write(bytes: Uint8Array, position: number): Promise<void> }) => Promise<void>,
  ): Promise<void>;
  /**
   * Why a segment can't be tied to what stands right behind it, whoever brings it, and whether that is for ever;
   * `undefined` when it can be.
   */
  whatIsAwaited(segment: {
    readonly timeline: TimelineId;
    readonly number: SegmentNumber;
  }): Promise<{ readonly text: string; readonly isForEver: boolean } | undefined>;
  /** The history that the archive has of a timeline. */
  historyOf(timeline: TimelineId): Promise<Uint8Array | undefined>;
  /** Whether what `takeFilled` threw will be said again of the same bytes, may pass, or is not the segment's fault. */
  judge(error: unknown): "refused" | "passing" | "failed";
}

/** What a host is asked with. */
export interface HostSourceOptions {
  /** How answers call it. */
  readonly name: string;
  readonly systemIdentifier: bigint;
  readonly segmentSize: SegmentSize;
  readonly intake: SegmentIntake;
  readonly clock: Clock;
  /** For so long a server may say nothing. */
  readonly timeoutMs: number;
  /** Opens a connection to this host alone, whatever its role. */
  connect(signal: AbortSignal): Promise<WalSource>;
}

/**
 * A server that may still have WAL which is missing, on whatever timeline it is: what it has of older ones it streams too.
 *
 * It is connected to once a round, and only if something is still missing when its turn comes.
 */
export class HostSource {
  #connection: Promise<WalSource> | undefined;
  /** The one that it writes, or follows. */
  #timeline: TimelineId | undefined;
  /** Of this round. */
  readonly #comparedHistories = new Set<TimelineId>();
  /** Segments where it was left because it has not come so far, or nothing will stand behind them, in this round. */
  readonly #notThereYet = new Set<string>();
  readonly #refused = new Map<string, { readonly problem: string; readonly atMs: number }>();

  constructor(private readonly options: HostSourceOptions) {}

  get name(): string {
    return this.options.name;
  }

  beginRound(): Promise<void> {
    this.#comparedHistories.clear();
    this.#notThereYet.clear();
    return Promise.resolve();
  }

  async endRound(): Promise<void> {
    const connection = this.#connection;
    this.#connection = undefined;
    try {
      await (await connection)?.close();
    } catch {
      // It was never there; that was told.
    }
  }

  /**
   * Brings what it has of these segments; `onBrought` is told of each when that is durable.
   *
   * From what stands behind downwards, each vouched for by the one that came before: a clone of the server is found out
   * before anything of it is in the archive. A server removes its oldest WAL first: at the first segment that it lacks it
   * is left. One that has not come so far as the last of them is asked with "before", from the other end, when nobody
   * else has any more.
   * @returns what is to be said of the rest; `undefined` when it brought all.
   * @throws when it can't be asked any more in this round.
   */
  async bring(
    run: SegmentRun,
    onBrought: (number: SegmentNumber) => void,
    signal: AbortSignal,
    tiedTo: Neighbour = "behind",
  ): Promise<string | undefined> {
    const { timeline, endNumber } = run;
    const lastNumber = endNumber - 1n as SegmentNumber;
    const keyOf = (number: SegmentNumber) => `${timeline} ${number}`;
    if (tiedTo === "before" && !this.#notThereYet.has(keyOf(lastNumber))) return undefined;
    const awaited = tiedTo === "before"
      ? undefined
      : await this.options.intake.whatIsAwaited({ timeline, number: lastNumber });
    if (awaited?.isForEver === true) this.#notThereYet.add(keyOf(lastNumber));
    if (awaited !== undefined) return awaited.text;
    const source = await (this.#connection ??= this.#connect(signal));
    await this.#refuseOtherHistory(source, timeline);
    for (const number of numbersOf(run, tiedTo === "behind" ? "down" : "up")) {
      try {
        await this.#ask(source, { timeline, number, tiedTo }, signal);
      } catch (error) {
        const isLack = error instanceof ServerError || error instanceof TimelineEndedError;
        if (signal.aborted || !(isLack || error instanceof RefusedError)) throw error;
        const isRemoved = error instanceof ServerError && error.sqlState === WAL_REMOVED;
        if (isLack && !isRemoved) this.#notThereYet.add(keyOf(number));
        return isRemoved ? error.serverMessage : messageChain(error);
      }
      onBrought(number);
    }
    return undefined;
  }

  /** @throws {WrongClusterError} when it was promoted to a timeline of which the archive has another history. */
  async #refuseOtherHistory(source: WalSource, timeline: TimelineId): Promise<void> {
    const { intake } = this.options;
    for (const each of new Set([this.#timeline ?? timeline, timeline])) {
      if (each === 1 || this.#comparedHistories.has(each)) continue;
      const own = await intake.historyOf(each);
      const theirs = own === undefined ? undefined : await source.timelineHistory(each);
      if (own !== undefined && theirs !== undefined && !sameBytes(own, theirs)) {
        throw new WrongClusterError(
          `Cannot take WAL from ${source.address}: it has another history of timeline ${each} than the archive; two ` +
            "servers were promoted to the same timeline",
        );
      }
      this.#comparedHistories.add(each);
    }
  }

  async #connect(signal: AbortSignal): Promise<WalSource> {
    const { clock, timeoutMs } = this.options;
    const source = await this.options.connect(signal);
    // Without an answer, or when nobody waits for it any more: then the question fails.
    const giveUp = () => void source.close();
    const cancel = clock.setTimer(timeoutMs, giveUp);
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      signal.throwIfAborted();
      const { systemIdentifier, timeline } = await source.identifySystem();
      this.#timeline = timeline;
      if (systemIdentifier === this.options.systemIdentifier) return source;
      throw new WrongClusterError(
        `Cannot take WAL from ${source.address}: it has system identifier ${systemIdentifier}, ` +
          `the archive ${this.options.systemIdentifier}`,
      );
    } catch (error) {
      await source.close();
      throw error;
    } finally {
      cancel();
      signal.removeEventListener("abort", giveUp);
    }
  }

  /**
   * Resolves when a segment is in the archive.
   *
   * @throws {RefusedError} @throws {ServerError} @throws {TimelineEndedError} what is to be said of this segment.
   */
  async #ask(
    source: WalSource,
    { timeline, number, tiedTo }: {
      readonly timeline: SegmentRun["timeline"];
      readonly number: SegmentNumber;
      readonly tiedTo: Neighbour;
    },
    signal: AbortSignal,
  ): Promise<void> {
    const { segmentSize, intake, clock, timeoutMs, systemIdentifier } = this.options;
    const name = segmentName(timeline, number, segmentSize);
    const before = this.#refused.get(name);
    if (before !== undefined && clock.nowMs() - before.atMs < REFUSED_FOR_MS) {
      throw new RefusedError(before.problem);
    }
    let isWhole = false;
    try {
      await intake.takeFilled(name, { systemIdentifier, tiedTo }, async (file) => {
        const write = (bytes: Uint8Array, position: number) => file.write(bytes, position);
        await requestSegment(source, { timeline, number, segmentSize }, { clock, timeoutMs, write }, signal);
        isWhole = true;
      });
    } catch (error) {
      const judgement = isWhole ? intake.judge(error) : "failed";
      if (judgement === "failed") throw error;
      if (judgement === "refused") {
        if (this.#refused.size >= MAXIMUM_REMEMBERED) this.#refused.clear();
        this.#refused.set(name, { problem: messageChain(error), atMs: clock.nowMs() });
      }
      throw new RefusedError(messageChain(error));
    }
  }
}

/** The archive refused what this server sent. */
class RefusedError extends Error {
  override readonly name = "RefusedError";
}
