import { availableParallelism } from "node:os";
import type { Archive } from "../archive/archive.ts";
import { IndexKeeper } from "../archive/index_keeper.ts";
import { openIndexThread } from "../archive/index_threads.ts";
import { type Log, messageChain } from "../log.ts";
import { realClock } from "./clock.ts";

/** With so many, indexing takes nothing from receiving, and from a server beside it. */
const ENOUGH_PROCESSORS = 4;

/**
 * Keeps the indexes of an archive's segments while it receives, on a thread of its own.
 *
 * For the holder of the archive's lock. It begins as soon as the archive is known to be one.
 */
export class Indexing {
  #keeper: IndexKeeper | undefined;

  constructor(private readonly archive: Archive, private readonly log: Log) {
    this.#start();
  }

  /** A segment was published. */
  published(segment: string): void {
    this.#start();
    this.#keeper?.published(segment);
  }

  /** Gives up what is under way; "stuck" when the disk still has something of it. */
  async close(): Promise<"ended" | "stuck"> {
    return await this.#keeper?.stop() ?? "ended";
  }

  #start(): void {
    const { archive, log } = this;
    const { identity, modes, disk } = archive;
    if (this.#keeper !== undefined || identity === undefined) return;
    this.#keeper = new IndexKeeper({
      openWorker: () => openIndexThread(disk.root, { identity, modes }),
      resting: availableParallelism() < ENOUGH_PROCESSORS,
      clock: realClock,
      events: {
        segmentIndexed: ({ segment }) => log.debug("segment indexed", { segment }),
        segmentLeftAlone: ({ segment, problem }) => log.warn("segment not indexed", { segment, problem }),
        // Nobody has to act: whoever needs an index makes it.
        indexingHeldUp: ({ error }) => log.debug("indexing waits", { error: messageChain(error) }),
      },
    });
  }
}
