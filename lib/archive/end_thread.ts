/** A thread has this long to leave the system call that it is in. */
const END_TIMEOUT_MS = 2000;

/** What is asked of a thread that is to end: of `node:worker_threads`' Worker. */
export interface EndableThread {
  terminate(): Promise<unknown>;
  unref(): void;
}

/**
 * Ends a thread in the middle of what it does; "stuck" when that does not let it go.
 *
 * A disk that stalls must not keep the process from ending: a stuck thread goes with it.
 */
export async function endThread(thread: EndableThread): Promise<"ended" | "stuck"> {
  const ended = thread.terminate().then(() => "ended" as const);
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<"stuck">((resolve) => {
    timer = setTimeout(() => resolve("stuck"), END_TIMEOUT_MS);
  });
  const result = await Promise.race([ended, late]);
  clearTimeout(timer);
  if (result === "stuck") thread.unref();
  return result;
}
