/** As `nice` counts it: with two processors, receiving and the disk come first. */
export const NICENESS = 10;

/**
 * Makes the calling thread alone step back behind all others, where the system can do that.
 *
 * Its source text runs in the compression thread too, so it uses nothing but its parameters and globals.
 */
export function stepBack(
  fs: Pick<typeof import("node:fs"), "readlinkSync">,
  { setPriority, niceness }: {
    readonly setPriority: (threadId: number, priority: number) => void;
    readonly niceness: number;
  },
): void {
  try {
    // PID/task/TID: Linux keeps a priority for each thread.
    const threadId = Number(fs.readlinkSync("/proc/thread-self").split("/").pop());
    if (threadId > 0) setPriority(threadId, niceness);
  } catch {
    // Another system, or a sandbox: then it takes its share as any other.
  }
}
