/**
 * A first-in, first-out buffer of bytes in fixed memory.
 *
 * What `peek` returns stays untouched until it is consumed, so a write of it can be under way.
 */
export class WalBuffer {
  #head = 0;
  #bytes = 0;

  constructor(private readonly memory: Uint8Array) {}

  get bytes(): number {
    return this.#bytes;
  }

  get freeBytes(): number {
    return this.memory.length - this.#bytes;
  }

  /** Takes a copy of as many bytes as fit; returns how many. */
  push(bytes: Uint8Array): number {
    const taken = Math.min(bytes.length, this.freeBytes);
    const tail = (this.#head + this.#bytes) % this.memory.length;
    const first = Math.min(taken, this.memory.length - tail);
    this.memory.set(first === bytes.length ? bytes : bytes.subarray(0, first), tail);
    if (first < taken) this.memory.set(bytes.subarray(first, taken), 0);
    this.#bytes += taken;
    return taken;
  }

  /** The oldest bytes that stand in one piece; empty when there are none. */
  peek(): Uint8Array {
    const length = Math.min(this.#bytes, this.memory.length - this.#head);
    return this.memory.subarray(this.#head, this.#head + length);
  }

  /** Lets go of the oldest bytes. */
  consume(bytes: number): void {
    this.#head = (this.#head + bytes) % this.memory.length;
    this.#bytes -= bytes;
  }
}
