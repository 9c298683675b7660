import type { Log } from "../log.ts";
import type { Clock } from "./clock.ts";
import type { Reporter } from "./reporter.ts";
import { StopTimeout, withinStop } from "./stopping.ts";
import { waitFor } from "./waiting.ts";
import type { ShortOfRoom, WalArchive } from "./wal_archive.ts";

/** Room is looked for this often. */
const RETRY_MS = 1000;

/** Waits for room in the archive, and tells once that there is too little, and once that there is enough. */
export class RoomWatch {
  #told = false;

  constructor(
    private readonly dependencies: {
      readonly archive: WalArchive;
      readonly clock: Clock;
      readonly log: Log;
    },
    private readonly reporter: Reporter,
    private readonly limits: { readonly stopTimeoutMs: number },
  ) {}

  /** Reading has stopped. */
  short({ freeBytes, wantBytes }: ShortOfRoom): void {
    if (this.#told) return;
    this.#told = true;
    this.reporter.problem("archive disk low", {
      freeBytes: String(freeBytes),
      wantBytes: String(wantBytes),
      hint: "reading stops until there is room (--min-free); nothing acknowledged is lost",
    });
  }

  /** What was full, or had too little room, takes bytes again. */
  enough(): void {
    this.#told = false;
    this.dependencies.log.info("archive disk has room again");
    this.reporter.recovered();
  }

  /** A connection that could not be read from is not opened; resolves at once where there is room, or told to stop. */
  async waitForRoom(signal: AbortSignal): Promise<void> {
    const { archive, clock } = this.dependencies;
    if (archive.shortOfRoom === undefined) return;
    const limits = { clock, timeoutMs: this.limits.stopTimeoutMs };
    while (!signal.aborted) {
      let room: ShortOfRoom | undefined;
      try {
        room = await withinStop(archive.shortOfRoom(), limits, signal);
      } catch (error) {
        // Told to stop while the disk stalls: the stop is what counts.
        if (error instanceof StopTimeout) return;
        throw error;
      }
      if (room === undefined) {
        if (this.#told) this.enough();
        return;
      }
      this.short(room);
      await waitFor(RETRY_MS, clock, signal);
    }
  }
}
