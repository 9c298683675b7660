import * as fs from "node:fs";
import { userInfo } from "node:os";
import type { ConninfoFiles } from "../conninfo/conninfo_files.ts";
import { ConninfoError } from "../conninfo/conninfo_error.ts";
import { resolveConnection, type ResolvedConnection } from "../conninfo/resolve_connection.ts";
import { type CommandContext, UsageError } from "./context.ts";

/** What a sandbox or the file system refuses counts as absent, as libpq has it. */
function unlessRefused<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch {
    // Whatever the reason: a file that we can't see is a file that is not there.
    return undefined;
  }
}

/** The files that a connection may be described by. */
export const commandFiles: ConninfoFiles = {
  readText: (path) => unlessRefused(() => fs.readFileSync(path, "utf8")),
  mode: (path) => unlessRefused(() => fs.statSync(path).mode),
  exists: (path) => unlessRefused(() => fs.existsSync(path)) ?? false,
  owner: (path) => unlessRefused(() => fs.statSync(path).uid),
};

/** The user when none is given; "" when nothing tells. */
export function operatingSystemUser(context: Pick<CommandContext, "env">): string {
  return unlessRefused(() => userInfo().username) ?? context.env["USER"] ?? "";
}

/**
 * What `-c` and the environment say together.
 *
 * @throws {UsageError} on a connection string that libpq would refuse, or that asks for what we can't do.
 */
export function commandConnection(conninfo: string | undefined, context: CommandContext): ResolvedConnection {
  try {
    return resolveConnection({
      conninfo,
      env: context.env,
      files: commandFiles,
      homeDirectory: context.env["HOME"],
      operatingSystemUser: operatingSystemUser(context),
      fallbackApplicationName: "walvault",
    });
  } catch (error) {
    if (!(error instanceof ConninfoError)) throw error;
    throw new UsageError(error.message, error.hint ?? "See --connection in: walvault receive --help");
  }
}

/** What names a server where no connection string does. */
const SERVER_VARIABLES = ["PGHOST", "PGHOSTADDR", "PGSERVICE"] as const;

/** As `commandConnection`, where a server is a choice; `undefined` when neither the words nor the environment name one. */
export function namedConnection(
  conninfo: string | undefined,
  context: CommandContext,
): ResolvedConnection | undefined {
  const isNamed = conninfo !== undefined ||
    SERVER_VARIABLES.some((name) => (context.env[name] ?? "") !== "");
  return isNamed ? commandConnection(conninfo, context) : undefined;
}
