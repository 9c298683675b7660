import { type Lsn, minLsn, ZERO_LSN } from "../wal/lsn.ts";

/** What of the durable WAL a server may be told to be flushed. */
export interface FlushTeller {
  /** True when all of it may: then whoever brings WAL to the disk may also tell the server. */
  readonly isOpen: boolean;
  /** What to tell of it now; 0/0, which says nothing, while nothing may be told. */
  flushToTell(flushLsn: Lsn): Lsn;
  /** Who is called when there is something new to tell; one at a time. */
  subscribe?(onChange: () => void): void;
}

/** For WAL that no slot and no commit waits for. */
export const TELLS_NOTHING: FlushTeller = { isOpen: false, flushToTell: () => ZERO_LSN };

/**
 * Holds back the flush position while WAL before it is missing (P6).
 *
 * A commit that waits for this standby must not be released by it: a restore could not reach that commit. While
 * nobody waits, the slot shall move all the same. So a position is told once, when it was durable before the server was
 * last seen to wait for no standby; a commit that begins to wait later lies behind it.
 */
export class FlushGate implements FlushTeller {
  #isOpen = false;
  #permittedLsn: Lsn | undefined;
  #onChange: () => void = () => {};

  get isOpen(): boolean {
    return this.#isOpen;
  }

  subscribe(onChange: () => void): void {
    this.#onChange = onChange;
  }

  /** Nothing before it is missing any more. */
  open(): void {
    this.#isOpen = true;
    this.#onChange();
  }

  /** Nobody waits for what lies below `lsn`: it may be told, once. */
  permit(lsn: Lsn): void {
    this.#permittedLsn = lsn;
    this.#onChange();
  }

  flushToTell(flushLsn: Lsn): Lsn {
    if (this.#isOpen) return flushLsn;
    const permitted = this.#permittedLsn;
    this.#permittedLsn = undefined;
    return permitted === undefined ? ZERO_LSN : minLsn(permitted, flushLsn);
  }
}
