import { createLog, formatJsonEntry, formatTextEntry, type Log } from "../log.ts";
import type { CommandContext, Verbosity } from "./context.ts";

/** The log of a command: on stderr, in the format and as detailed as asked for. */
export function commandLog(context: CommandContext, verbosity: Verbosity): Log {
  const format = verbosity.logFormat === "json" ? formatJsonEntry : formatTextEntry;
  return createLog({
    level: verbosity.quiet ? "error" : verbosity.verbose ? "debug" : "info",
    now: () => new Date(),
    write: (entry) => context.stderr.write(format(entry) + "\n"),
  });
}
