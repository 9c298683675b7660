import type { Clock } from "../../lib/receiver/clock.ts";

interface Planned {
  readonly atMs: number;
  readonly order: number;
  action: (() => void) | undefined;
}

/** So many turns of the microtask queue let any chain of the program run to its next disk or network call. */
const TURNS = 12;
/** Before time jumps ahead, a longer look that nothing is left to run. */
const TURNS_BEFORE_JUMP = 120;
const JUMP_MS = 5;

/**
 * Virtual time: what is planned happens in the order of its moment; between two things all promises run dry.
 *
 * Nothing real is waited for, so a run is the same each time.
 */
export class Scheduler {
  #nowMs = 0;
  #order = 0;
  #heap: Planned[] = [];
  /** Things that happened. */
  count = 0;

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Plans `action`; the returned function calls it off. */
  after(delayMs: number, action: () => void): () => void {
    // In steps of 2^-10 ms, so that sums and differences are exact: no timer can be early by a rounding.
    const atMs = Math.ceil((this.#nowMs + Math.max(0, delayMs)) * 1024) / 1024;
    const planned: Planned = { atMs, order: this.#order++, action };
    this.#push(planned);
    return () => {
      planned.action = undefined;
    };
  }

  /** A clock whose timers die with its process. */
  clockOf(process: { readonly alive: boolean }): Clock {
    return {
      nowMs: () => this.#nowMs,
      setTimer: (delayMs, callback) =>
        this.after(delayMs, () => {
          if (process.alive) callback();
        }),
    };
  }

  /** Runs until `done` says so, or nothing is left to happen. */
  async run(done: () => boolean): Promise<void> {
    for (let i = 0; i < TURNS; i++) await undefined;
    while (!done()) {
      if (this.#heap.length === 0) {
        for (let i = 0; i < TURNS_BEFORE_JUMP; i++) await undefined;
      }
      let next = this.#heap[0];
      if (next === undefined) return;
      if (next.action === undefined) {
        this.#pop();
        continue;
      }
      if (next.atMs > this.#nowMs + JUMP_MS) {
        for (let i = 0; i < TURNS_BEFORE_JUMP; i++) await undefined;
        next = this.#heap[0]!;
      }
      this.#pop();
      this.#nowMs = next.atMs;
      this.count++;
      next.action?.();
      for (let i = 0; i < TURNS; i++) await undefined;
    }
  }

  #push(planned: Planned): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(planned);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (isBefore(heap[parent]!, planned)) break;
      heap[index] = heap[parent]!;
      index = parent;
    }
    heap[index] = planned;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++;
      if (isBefore(last, heap[child]!)) break;
      heap[index] = heap[child]!;
      index = child;
    }
    heap[index] = last;
  }
}

function isBefore(a: Planned, b: Planned): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
}
