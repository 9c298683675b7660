import type { CommandContext } from "../commands/context.ts";

/** The programs that walvault can stand in for. */
export const ORIGINALS = ["pg_receivewal", "pg_streamrecv", "pg_archivecleanup", "pg_standby"] as const;

/** Name of a program that walvault can stand in for. */
export type OriginalName = typeof ORIGINALS[number];

/** A command line that is meant for one of the originals. */
export interface OriginalCall {
  readonly name: OriginalName;
  /** As it was called: getopt's complaints begin with it. */
  readonly calledAs: string;
  /** What stands behind the name. */
  readonly words: readonly string[];
}

/** What an original gets besides its words. */
export interface OriginalContext extends CommandContext {
  /** From here on SIGINT and SIGTERM abort the signal instead of ending the process. */
  stopBySignals(): void;
}

/**
 * The call of an original: `walvault as NAME …`, or through a link of that name.
 *
 * `undefined` for every other command line.
 * @param process `argv0` is empty where the runtime does not show how it was called
 */
export function originalCall(
  process: { readonly argv: readonly string[]; readonly argv0: string },
): OriginalCall | undefined {
  const words = process.argv.slice(2);
  const linked = nameOf(process.argv0.slice(process.argv0.lastIndexOf("/") + 1));
  if (linked !== undefined) return { name: linked, calledAs: process.argv0, words };
  const named = words[0] === "as" ? nameOf(words[1] ?? "") : undefined;
  return named === undefined ? undefined : { name: named, calledAs: named, words: words.slice(2) };
}

function nameOf(text: string): OriginalName | undefined {
  return ORIGINALS.find((name) => name === text);
}

/** Acts as the original; resolves to its exit code. Each is loaded when it is needed. */
export async function runOriginal(call: OriginalCall, context: OriginalContext): Promise<number> {
  switch (call.name) {
    case "pg_receivewal":
      return await (await import("./pg_receivewal.ts")).pgReceivewal(call, context);
    case "pg_streamrecv":
      return await (await import("./pg_streamrecv.ts")).pgStreamrecv(call, context);
    case "pg_archivecleanup":
      return (await import("./pg_archivecleanup.ts")).pgArchivecleanup(call, context);
    case "pg_standby":
      return await (await import("./pg_standby.ts")).pgStandby(call, context);
  }
}
