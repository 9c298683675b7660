import { VERSION } from "../commands/version.ts";
import type { OriginalName } from "./originals.ts";

/** The PostgreSQL whose options are known: what scripts read out of `--version`. */
const POSTGRESQL_VERSION = "18.0";

/** The line that `--version` prints. */
export function programVersion(name: OriginalName): string {
  return `${name} (PostgreSQL) ${POSTGRESQL_VERSION} (walvault ${VERSION})\n`;
}

/** The end of every help text, in the place of PostgreSQL's own address. */
export function helpEnding(name: OriginalName): string {
  return `\nThis is walvault ${VERSION}, which stands in for ${name}.\n`;
}
