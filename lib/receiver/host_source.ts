import { messageChain } from "../log.ts";
import { ServerError } from "../protocol/errors.ts";
import { WrongClusterError } from "../wal/errors.ts";
import type { SegmentRun } from "../wal/lineage.ts";
import { segmentName, type SegmentNumber, type SegmentSize } from "../wal/segment.ts";
import type { Clock } from "./clock.ts";
import { WAL_REMOVED } from "./failure.ts";
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
    systemIdentifier: bigint,
    fill: (file: { write(bytes: Uint8Array, position: number): Promise<void> }) => Promise<void>,
  ): Promise<void>;
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
  readonly #refused = new Map<string, { readonly problem: string; readonly atMs: number }>();

  constructor(private readonly options: HostSourceOptions) {}

  get name(): string {
    return this.options.name;
  }

  beginRound(): Promise<void> {
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
   * A server removes its oldest WAL first: if it lacks one, the first that it has is searched for.
   * @returns what is to be said of the rest; `undefined` when it brought all.
   * @throws when it can't be asked any more in this round.
   */
  async bring(
    run: SegmentRun,
    onBrought: (number: SegmentNumber) => void,
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const source = await (this.#connection ??= this.#connect(signal));
    const brought = new Set<SegmentNumber>();
    let answer: string | undefined;
    const ask = async (number: SegmentNumber): Promise<boolean> => {
      if (brought.has(number)) return true;
      const problem = await this.#ask(source, { ...run, number }, signal);
      if (problem === undefined) {
        brought.add(number);
        onBrought(number);
        return true;
      }
      answer ??= problem;
      return false;
    };
    try {
      for (let number = run.firstNumber; number < run.endNumber;) {
        number = await ask(number)
          ? number + 1n as SegmentNumber
          : await firstThere({ goneNumber: number, endNumber: run.endNumber }, ask);
      }
    } catch (error) {
      const isAnswer = error instanceof RefusedError || error instanceof ServerError ||
        error instanceof TimelineEndedError;
      if (signal.aborted || !isAnswer) throw error;
      return messageChain(error);
    }
    return answer;
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
      const { systemIdentifier } = await source.identifySystem();
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

  /** What it says when it no longer has a segment; `undefined` when that is in the archive now. */
  async #ask(
    source: WalSource,
    { timeline, number }: { readonly timeline: SegmentRun["timeline"]; readonly number: SegmentNumber },
    signal: AbortSignal,
  ): Promise<string | undefined> {
    const { segmentSize, intake, clock, timeoutMs, systemIdentifier } = this.options;
    const name = segmentName(timeline, number, segmentSize);
    const before = this.#refused.get(name);
    if (before !== undefined && clock.nowMs() - before.atMs < REFUSED_FOR_MS) {
      throw new RefusedError(before.problem);
    }
    let isWhole = false;
    try {
      await intake.takeFilled(name, systemIdentifier, async (file) => {
        const write = (bytes: Uint8Array, position: number) => file.write(bytes, position);
        await requestSegment(source, { timeline, number, segmentSize }, { clock, timeoutMs, write }, signal);
        isWhole = true;
      });
      return undefined;
    } catch (error) {
      if (error instanceof ServerError && error.sqlState === WAL_REMOVED) return error.serverMessage;
      if (!isWhole || isSystemError(error)) throw error;
      // The archive has something against it.
      if (this.#refused.size >= MAXIMUM_REMEMBERED) this.#refused.clear();
      this.#refused.set(name, { problem: messageChain(error), atMs: clock.nowMs() });
      throw new RefusedError(messageChain(error));
    }
  }
}

/** The archive refused what this server sent. */
class RefusedError extends Error {
  override readonly name = "RefusedError";
}

function isSystemError(error: unknown): boolean {
  return typeof (error as { code?: unknown } | undefined)?.code === "string";
}

/**
 * The lowest segment that is there, above one that is gone and below `endNumber`, or `endNumber`.
 *
 * The number of questions is that of halvings, whatever the length.
 */
export async function firstThere(
  range: { readonly goneNumber: SegmentNumber; readonly endNumber: SegmentNumber },
  isThere: (number: SegmentNumber) => Promise<boolean>,
): Promise<SegmentNumber> {
  let { goneNumber, endNumber: thereNumber } = range;
  // Mostly all of it is gone, and then one question tells.
  let probe = thereNumber - 1n as SegmentNumber;
  while (goneNumber + 1n < thereNumber) {
    if (await isThere(probe)) thereNumber = probe;
    else goneNumber = probe;
    probe = (goneNumber + thereNumber) / 2n as SegmentNumber;
  }
  return thereNumber;
}
