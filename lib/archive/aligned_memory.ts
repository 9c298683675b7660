import { DISK_PROTOCOL } from "./disk_executor.ts";

const WASM_PAGE_BYTES = 64 * 1024;

/** Shared memory that is handed out from page to page: what is written past the page cache must be aligned. */
export class AlignedMemory {
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  #allocatedBytes = 0;

  /** @param bytes how much there is in all. */
  constructor(bytes: number) {
    const pages = Math.ceil(bytes / WASM_PAGE_BYTES);
    // A plain SharedArrayBuffer begins anywhere.
    const { buffer } = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    this.bytes = new Uint8Array(buffer as unknown as SharedArrayBuffer);
  }

  /** Zero-filled, at the start of a page. */
  allocate(bytes: number): Uint8Array {
    const start = this.#allocatedBytes;
    if (start + bytes > this.bytes.length) {
      throw new RangeError(
        `Cannot allocate ${bytes} bytes of disk memory: ${this.bytes.length - start} are left`,
      );
    }
    const { directUnit } = DISK_PROTOCOL;
    this.#allocatedBytes = Math.ceil((start + bytes) / directUnit) * directUnit;
    return this.bytes.subarray(start, start + bytes);
  }

  holds(bytes: Uint8Array): boolean {
    return bytes.buffer === this.bytes.buffer;
  }
}
