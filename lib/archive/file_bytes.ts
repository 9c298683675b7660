import type { DiskFile } from "./disk.ts";

const READ_BYTES = 256 * 1024;

/** Reads a file front to back, in the portions that its reader asks for. */
export class FileBytes {
  #buffer = new Uint8Array(READ_BYTES);
  #start = 0;
  #end = 0;
  /** Of the file, the first byte that is not in the buffer. */
  #position = 0;
  #ended = false;

  constructor(private readonly file: DiskFile) {}

  /** Exactly `count` bytes, fewer only where the file ends; valid until the next call. */
  async take(count: number): Promise<Uint8Array> {
    while (this.#end - this.#start < count && !this.#ended) await this.#fill(count);
    const taken = this.#buffer.subarray(this.#start, Math.min(this.#end, this.#start + count));
    this.#start += taken.length;
    return taken;
  }

  /** What is at hand, or the next bytes of the file; empty at its end. Valid until the next call. */
  async takeSome(): Promise<Uint8Array> {
    if (this.#start === this.#end && !this.#ended) await this.#fill(1);
    return await this.take(this.#end - this.#start);
  }

  /** Takes bytes back that the last call handed over, and its caller did not use. */
  giveBack(count: number): void {
    this.#start -= count;
  }

  /** Passes over `count` bytes; false when the file ends before. */
  async skip(count: number): Promise<boolean> {
    for (let rest = count; rest > 0;) {
      const { length } = await this.take(Math.min(rest, READ_BYTES));
      if (length === 0) return false;
      rest -= length;
    }
    return true;
  }

  async #fill(wanted: number): Promise<void> {
    const rest = this.#buffer.subarray(this.#start, this.#end);
    if (wanted > this.#buffer.length) {
      const larger = new Uint8Array(wanted);
      larger.set(rest);
      this.#buffer = larger;
    } else {
      this.#buffer.copyWithin(0, this.#start, this.#end);
    }
    this.#start = 0;
    this.#end = rest.length;
    const count = await this.file.read(this.#buffer.subarray(this.#end), this.#position);
    this.#position += count;
    this.#end += count;
    this.#ended = count === 0;
  }
}
