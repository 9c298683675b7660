import type { Log } from "../log.ts";

/** What ends the program with exit code 1; message and hint are all that is said. */
export class FatalError extends Error {
  override readonly name = "FatalError";
  readonly hint: string | undefined;

  constructor(message: string, options?: ErrorOptions & { readonly hint?: string | undefined }) {
    super(message, options);
    this.hint = options?.hint;
  }
}

/** For what says nothing in the original. */
export const silentLog: Log = { error: () => {}, warn: () => {}, info: () => {}, debug: () => {} };
