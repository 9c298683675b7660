import type { Clock } from "./clock.ts";
import { DamagedFileError, NotAFileError } from "./damaged_file.ts";
import type { IndexWorker } from "./index_worker.ts";

/** So many names are known at a time; the others are found by looking. */
const MAXIMUM_DUE = 256;
/** Segments that can't be indexed are left alone; of so many it is remembered. */
const MAXIMUM_LEFT_ALONE = 1024;

/** Segments that come closer together than this are a burst: whoever catches up needs the processors for that. */
const BURST_MS = 400;
/** A burst is over when none has come for so long. */
const QUIET_MS = 2000;
/** For each millisecond of work so many of rest, where there are few processors. */
const REST_FACTOR = 3;
const MAXIMUM_REST_MS = 1000;
/** Without work for so long, the worker goes: a thread takes memory. */
const IDLE_MS = 30_000;
/** After a failure, a full disk above all, it is tried again. */
const RETRY_MS = 60_000;

/** What the keeper tells. */
export interface IndexKeeperEvents {
  segmentIndexed(event: { readonly segment: string }): void;
  /** It can't be indexed; told once. */
  segmentLeftAlone(event: { readonly segment: string; readonly problem: string }): void;
  /** It waits, and tries again by itself. The same failure is told once. */
  indexingHeldUp(event: { readonly error: unknown }): void;
}

/** What an `IndexKeeper` works with. */
export interface IndexKeeperOptions {
  /** Opens what does the work; it is closed when there is nothing to do for a while. */
  readonly openWorker: () => IndexWorker;
  /** Whether it rests between two segments. */
  readonly resting: boolean;
  readonly clock: Clock;
  readonly events: IndexKeeperEvents;
}

/**
 * Sees to it that published segments get their indexes, while others do what matters more.
 *
 * For the holder of the archive's lock. Nothing waits for it, and nothing depends on it: whoever misses an index makes it.
 */
export class IndexKeeper {
  readonly #due: string[] = [];
  /** There may be more to do than is known. */
  #look = true;
  /** Its last record goes on in the segment that comes next. */
  #unresolved: string | undefined;
  readonly #leftAlone = new Set<string>();
  #worker: IndexWorker | undefined;
  #told: string | undefined;
  #publishedAtMs = -Infinity;
  #burst = false;
  #stopping = false;
  /** A thread that could not be ended may still write. */
  #isStuck = false;
  #wake: (() => void) | undefined;
  readonly #done: Promise<void>;

  constructor(private readonly options: IndexKeeperOptions) {
    this.#done = this.#run();
  }

  /** A segment was published. */
  published(name: string): void {
    const nowMs = this.options.clock.nowMs();
    this.#burst = nowMs - this.#publishedAtMs < BURST_MS;
    this.#publishedAtMs = nowMs;
    if (this.#unresolved !== undefined) this.#add(this.#unresolved);
    this.#unresolved = undefined;
    this.#add(name);
    // In a burst it sleeps on.
    if (!this.#burst) this.#wake?.();
  }

  /** Gives up what is under way; "stuck" when the disk still has something of it. */
  async stop(): Promise<"ended" | "stuck"> {
    this.#stopping = true;
    this.#wake?.();
    await this.#closeWorker();
    await this.#done;
    return this.#isStuck ? "stuck" : "ended";
  }

  #add(name: string): void {
    if (this.#due.length >= MAXIMUM_DUE) this.#look = true;
    else if (!this.#due.includes(name)) this.#due.push(name);
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      try {
        await this.#step();
      } catch (error) {
        if (this.#stopping) return;
        await this.#holdUp(error);
      }
    }
  }

  async #step(): Promise<void> {
    const { clock, openWorker, resting } = this.options;
    const quietMs = clock.nowMs() - this.#publishedAtMs;
    if (this.#burst && quietMs < QUIET_MS) return await this.#sleep(QUIET_MS - quietMs);
    this.#burst = false;
    if (this.#due.length === 0 && !this.#look) {
      if (this.#worker === undefined) return await this.#sleep(undefined);
      await this.#sleep(IDLE_MS);
      if (this.#due.length === 0 && !this.#look) await this.#closeWorker();
      return;
    }
    const startedMs = clock.nowMs();
    this.#worker ??= openWorker();
    if (this.#due.length === 0) await this.#find(this.#worker);
    else await this.#index(this.#worker);
    if (!resting || this.#stopping) return;
    await this.#sleep(Math.min(MAXIMUM_REST_MS, REST_FACTOR * (clock.nowMs() - startedMs)));
  }

  async #find(worker: IndexWorker): Promise<void> {
    this.#look = false;
    try {
      const missing = (await worker.missing(MAXIMUM_DUE + this.#leftAlone.size))
        .filter((name) => !this.#leftAlone.has(name));
      this.#look = missing.length >= MAXIMUM_DUE;
      for (const name of missing) this.#add(name);
    } catch (error) {
      this.#look = true;
      throw error;
    }
  }

  async #index(worker: IndexWorker): Promise<void> {
    const name = this.#due[0];
    if (name === undefined) return;
    try {
      const state = await worker.index(name);
      this.#due.shift();
      if (state === "unresolved") this.#unresolved = name;
      if (state !== "gone") this.options.events.segmentIndexed({ segment: name });
      this.#told = undefined;
    } catch (error) {
      if (!isOfSegment(error)) throw error;
      // Others can be indexed: this one is for verify.
      this.#due.shift();
      if (this.#leftAlone.has(name)) return;
      this.options.events.segmentLeftAlone({ segment: name, problem: error.message });
      if (this.#leftAlone.size < MAXIMUM_LEFT_ALONE) this.#leftAlone.add(name);
    }
  }

  async #holdUp(error: unknown): Promise<void> {
    // A thread that died does not come back.
    await this.#closeWorker();
    // One that fails for ever must not hold up all the others.
    this.#due.push(...this.#due.splice(0, 1));
    const problem = error instanceof Error ? error.message : String(error);
    if (problem !== this.#told) this.options.events.indexingHeldUp({ error });
    this.#told = problem;
    await this.#sleep(RETRY_MS);
  }

  async #closeWorker(): Promise<void> {
    const worker = this.#worker;
    this.#worker = undefined;
    if (await worker?.close() === "stuck") this.#isStuck = true;
  }

  /** `undefined`: until it is woken. */
  #sleep(delayMs: number | undefined): Promise<void> {
    if (this.#stopping) return Promise.resolve();
    return new Promise((resolve) => {
      const cancel = delayMs === undefined
        ? () => {}
        : this.options.clock.setTimer(delayMs, () => this.#wake?.());
      this.#wake = () => {
        this.#wake = undefined;
        cancel();
        resolve();
      };
    });
  }
}

/** Whether it is the segment that can't be indexed, and not the disk or the thread that fails. */
function isOfSegment(error: unknown): error is Error {
  return error instanceof DamagedFileError || error instanceof NotAFileError || error instanceof RangeError ||
    error instanceof SyntaxError;
}
