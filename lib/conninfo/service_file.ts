import { didYouMean, quotedName } from "./conninfo_entry.ts";
import { ConninfoError } from "./conninfo_error.ts";
import type { ConninfoFiles } from "./conninfo_files.ts";
import type { GivenValue, GivenValues } from "./given_values.ts";
import { isKeyword, type Keyword } from "./keywords.ts";

/** Where `pg_service.conf` lies without `PGSYSCONFDIR`: Debian's place; each build of libpq has its own. */
const SYSTEM_CONFIG_DIRECTORY = "/etc/postgresql-common";

interface ServiceQuery {
  readonly service: string;
  /** `servicefile` or `PGSERVICEFILE`: must then exist. */
  readonly file: string | undefined;
  readonly homeDirectory: string | undefined;
  /** `PGSYSCONFDIR`. */
  readonly systemConfigDirectory: string | undefined;
  readonly files: ConninfoFiles;
}

/**
 * The settings of a named service: the user's file first, then the system's.
 *
 * @throws {ConninfoError} when no file defines the service, or the one that does has an error.
 * @see parseServiceInfo(), src/interfaces/libpq/fe-connect.c
 */
export function readService(query: ServiceQuery): GivenValues {
  const { service, homeDirectory, files } = query;
  const system = `${query.systemConfigDirectory ?? SYSTEM_CONFIG_DIRECTORY}/pg_service.conf`;
  const user = query.file ?? (homeDirectory === undefined ? undefined : `${homeDirectory}/.pg_service.conf`);
  for (const path of user === undefined ? [system] : [user, system]) {
    const text = files.readText(path);
    if (text === undefined && path === query.file) {
      throw new ConninfoError(`Cannot read service file "${path}": service file not found`);
    }
    const values = text === undefined ? undefined : parseServiceFile(text, { path, service });
    if (values !== undefined) return values;
  }
  throw new ConninfoError(
    `Cannot find service "${service}": definition of service not found`,
    `Looked in ${user === undefined ? "" : `"${user}" and `}"${system}"`,
  );
}

/**
 * The settings in a service file's `[service]` section; `undefined` when there is no such section.
 *
 * Only that section is checked, as in libpq. Of a repeated keyword the first one counts. There is no quoting, and
 * spaces around "=" belong to the keyword and the value.
 * @throws {ConninfoError} which tells file and line, never a value.
 */
export function parseServiceFile(
  text: string,
  options: { readonly path: string; readonly service: string },
): GivenValues | undefined {
  const { path, service } = options;
  let values: Map<Keyword, GivenValue> | undefined;
  for (const [index, rawLine] of text.split("\n").entries()) {
    const line = rawLine.replace(/^[ \t\v\f\r]+/, "").replace(/[ \t\v\f\r]+$/, "");
    if (line === "" || line.startsWith("#")) continue;
    if (line.startsWith("[")) {
      if (values !== undefined) return values;
      if (line.startsWith(`[${service}]`)) values = new Map();
    } else if (values !== undefined) {
      const [keyword, value] = parseServiceLine(line, { path, lineNumber: index + 1 });
      const origin = `service file "${path}" line ${index + 1}`;
      if (!values.has(keyword)) values.set(keyword, { value, origin });
    }
  }
  return values;
}

function parseServiceLine(
  line: string,
  place: { readonly path: string; readonly lineNumber: number },
): [Keyword, string] {
  const fail = (what: string, hint?: string) =>
    new ConninfoError(`Cannot parse service file "${place.path}" line ${place.lineNumber}: ${what}`, hint);
  if (line.startsWith("ldap")) {
    throw fail("LDAP lookup of services is not supported", "Write the settings into the service file");
  }
  const equals = line.indexOf("=");
  if (equals < 0) throw fail(`syntax error, want keyword=value`);
  const name = line.slice(0, equals);
  const value = line.slice(equals + 1);
  if (name === "service" || name === "servicefile") {
    throw fail("nested service specifications are not supported");
  }
  if (line.includes("\0")) throw fail("NUL in the line");
  if (name === "requiressl") return ["sslmode", value.startsWith("1") ? "require" : "prefer"];
  if (!isKeyword(name)) {
    const spaced = isKeyword(name.trim()) ? `No space may stand before "="` : undefined;
    throw fail(`invalid connection option ${quotedName(name)}`.trimEnd(), spaced ?? didYouMean(name));
  }
  return [name, value];
}
