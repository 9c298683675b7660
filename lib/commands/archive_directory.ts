import { type CommandContext, UsageError } from "./context.ts";

/**
 * The archive that a command works on: what `--archive` or WALVAULT_ARCHIVE says.
 *
 * @throws {UsageError} when neither says anything.
 */
export function archiveDirectory(given: string | undefined, context: CommandContext): string {
  const directory = given ?? context.env["WALVAULT_ARCHIVE"];
  if (directory !== undefined && directory !== "") return directory;
  throw new UsageError(
    "No archive is given",
    "Name the archive directory with --archive, or in WALVAULT_ARCHIVE",
  );
}
