import { type Lsn, ZERO_LSN } from "../wal/lsn.ts";

/**
 * Holds back the flush position while WAL before it is missing (P6).
 *
 * Commits may wait inside the missing WAL: a flush position past it would release them, and no restore could reach them.
 * So nothing is told to be flushed, and 0/0 says nothing: the server then does not count this standby, and its slot stays.
 */
export class FlushGate {
  #isOpen = false;
  #onOpen: () => void = () => {};

  /** True when all that is durable may be told: then whoever brings WAL to the disk may tell it to the server too. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** What to tell of what is durable. */
  flushToTell(flushLsn: Lsn): Lsn {
    return this.#isOpen ? flushLsn : ZERO_LSN;
  }

  /** Nothing before it is missing any more, or it was given up; it stays open. */
  open(): void {
    this.#isOpen = true;
    this.#onOpen();
  }

  /** Who is called when it opens; one at a time. */
  subscribe(onOpen: () => void): void {
    this.#onOpen = onOpen;
  }
}
