import type { Clock } from "./clock.ts";
import type { Disk, DiskSpace } from "./disk.ts";
import { judgeRoom, type MinimumFree, minimumFreeBytes, type ShortOfRoom } from "./minimum_free.ts";

/** Room is looked at this often while anything is written. */
export const ROOM_INTERVAL_MS = 1000;
/** No more than this is written between two looks, and less where little is left. */
const ROOM_INTERVAL_BYTES = 8 << 20;
const LEAST_INTERVAL_BYTES = 1 << 20;

/** Knows whether there is enough room in the archive's file system to go on reading. */
export class RoomGuard {
  #short: ShortOfRoom | undefined;
  #lookedAtMs = -Infinity;
  #writtenBytes = 0;
  #intervalBytes = ROOM_INTERVAL_BYTES;

  constructor(
    private readonly options: {
      readonly disk: Disk;
      readonly clock: Clock;
      readonly minimum: MinimumFree;
      segmentBytes(): number;
    },
  ) {}

  /** At the last look there was too little. */
  get short(): ShortOfRoom | undefined {
    return this.#short;
  }

  /** Counts what is written. */
  wrote(bytes: number): void {
    this.#writtenBytes += bytes;
  }

  /** Whether it is time to look. */
  get lookDue(): boolean {
    return this.#writtenBytes >= this.#intervalBytes ||
      this.options.clock.nowMs() - this.#lookedAtMs >= ROOM_INTERVAL_MS;
  }

  /** Asks the file system. */
  async look(): Promise<ShortOfRoom | undefined> {
    const { disk, clock, minimum, segmentBytes } = this.options;
    this.#writtenBytes = 0;
    this.#lookedAtMs = clock.nowMs();
    let space: DiskSpace;
    try {
      space = await disk.space();
    } catch {
      // A file system that does not tell is not watched: a write finds out when it is full.
      return this.#short = undefined;
    }
    const measure = { totalBytes: space.totalBytes, segmentBytes: segmentBytes() };
    const spareBytes = space.freeBytes - minimumFreeBytes(minimum, measure);
    this.#intervalBytes = Math.max(LEAST_INTERVAL_BYTES, Math.min(ROOM_INTERVAL_BYTES, spareBytes / 2));
    this.#short = judgeRoom(space, {
      minimum,
      segmentBytes: measure.segmentBytes,
      wasShort: this.#short !== undefined,
    });
    return this.#short;
  }
}
