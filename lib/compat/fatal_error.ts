import type { Log } from "../log.ts";

/** What ends the program with exit code 1; the message is all that is said. */
export class FatalError extends Error {
  override readonly name = "FatalError";
}

/** For what says nothing in the original. */
export const silentLog: Log = { error: () => {}, warn: () => {}, info: () => {}, debug: () => {} };
