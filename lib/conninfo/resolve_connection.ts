import { ConninfoError } from "./conninfo_error.ts";
import type { ConninfoFiles } from "./conninfo_files.ts";
import { conninfoEntry } from "./conninfo_entry.ts";
import {
  choiceValue,
  defaultValues,
  type GivenValue,
  type GivenValues,
  integerValue,
  mergeValues,
  textValue,
  valuesFromEntries,
  valuesFromEnvironment,
} from "./given_values.ts";
import type { Keyword } from "./keywords.ts";
import { parseConninfo } from "./parse_conninfo.ts";
import { findPassword, readPassfile } from "./passfile.ts";
import { requiredAuthMethods } from "./require_auth.ts";
import { type HostAddress, resolveHosts } from "./resolve_hosts.ts";
import { resolveTls } from "./resolve_tls.ts";
import { readService } from "./service_file.ts";
import type { ConnectionSettings, Host, TcpKeepalive } from "./settings.ts";
import { checkUnsupported } from "./unsupported_keywords.ts";

/** Everything a connection can be described by. */
export interface ConnectionInput {
  /** Keyword/value or URI; `undefined` leaves all to the environment. */
  readonly conninfo: string | undefined;
  /** Keywords from options such as `--host`; they win over `conninfo`, and "" counts as absent. */
  readonly overrides?: Readonly<Record<string, string>>;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly files: ConninfoFiles;
  readonly homeDirectory: string | undefined;
  /** The user when none is given. */
  readonly operatingSystemUser: string;
  readonly fallbackApplicationName: string;
}

/** What to connect to, and what to tell the user about it. */
export interface ResolvedConnection {
  readonly settings: ConnectionSettings;
  /** Whole sentences without a secret, for the log or stderr. */
  readonly warnings: readonly string[];
}

/** The database that a physical replication connection has in a passfile. */
const REPLICATION_DATABASE = "replication";

/**
 * The settings of a replication connection, as libpq would find them.
 *
 * Each keyword comes from the first that has it: options, connection string, service file, environment, default.
 * Files are read only when they are needed: the passfile not if there is a password.
 * @throws {ConninfoError} on anything that libpq refuses, and on what we cannot honour.
 */
export function resolveConnection(input: ConnectionInput): ResolvedConnection {
  const { files, homeDirectory } = input;
  const values = gatherValues(input);
  const warnings: string[] = [...checkUnsupported(values)];

  const hosts = resolveHosts(values, files);
  const anyTcpHost = hosts.some((host) => host.target.kind === "tcp");
  const { tls, warnings: tlsWarnings } = resolveTls({ values, files, homeDirectory, anyTcpHost });
  warnings.push(...tlsWarnings);

  const user = textValue(values, "user") ?? input.operatingSystemUser;
  if (user === "") throw new ConninfoError("Cannot connect: no user is given", "Give one with user=…");

  const settings: Omit<ConnectionSettings, "hosts"> = {
    user,
    database: textValue(values, "dbname"),
    applicationName: applicationName(values, input.fallbackApplicationName),
    options: textValue(values, "options"),
    clientEncoding: clientEncoding(values),
    connectTimeoutMs: seconds(values, "connect_timeout"),
    targetSessionAttrs: choiceValue(values, "target_session_attrs", TARGET_SESSION_ATTRS) ?? "any",
    loadBalanceHosts: choiceValue(values, "load_balance_hosts", ["disable", "random"]) === "random",
    tls,
    keepalive: keepalive(values),
    requireAuth: requiredAuthMethods(values),
  };
  const found = addPasswords({ hosts, user, values, files, homeDirectory });
  if (found.warning !== undefined) warnings.push(found.warning);
  return { settings: { hosts: found.hosts, ...settings }, warnings };
}

const TARGET_SESSION_ATTRS = [
  "any",
  "read-write",
  "read-only",
  "primary",
  "standby",
  "prefer-standby",
] as const;

function gatherValues(input: ConnectionInput): GivenValues {
  const { files, homeDirectory } = input;
  const environment = valuesFromEnvironment(input.env);
  const given = mergeValues([
    valuesFromOverrides(input.overrides ?? {}),
    valuesFromEntries(parseConninfo(input.conninfo ?? "")),
  ]);
  const lookup = mergeValues([given, environment]);
  const service = lookup.get("service")?.value;
  const fromService = service === undefined ? new Map<Keyword, GivenValue>() : readService({
    service,
    file: lookup.get("servicefile")?.value,
    homeDirectory,
    systemConfigDirectory: input.env["PGSYSCONFDIR"],
    files,
  });
  return mergeValues([given, fromService, environment, defaultValues()]);
}

function valuesFromOverrides(overrides: Readonly<Record<string, string>>): GivenValues {
  const values = new Map<Keyword, GivenValue>();
  for (const [name, text] of Object.entries(overrides)) {
    if (text === "") continue;
    if (text.includes("\0")) throw new ConninfoError("Cannot use the command line: NUL in a value");
    const range = { nameStart: 0, start: 0, end: 0 };
    const { keyword, value } = conninfoEntry({ name, value: text, nameIsSafe: true, ...range });
    values.set(keyword, { value, origin: "the command line" });
  }
  return values;
}

/** As in libpq, an empty `application_name` means none at all, not the fallback. */
function applicationName(values: GivenValues, fallback: string): string | undefined {
  const given = values.get("application_name") ?? values.get("fallback_application_name");
  return (given?.value ?? fallback) || undefined;
}

/** `auto` asks for the locale's encoding; ours is always UTF-8. */
function clientEncoding(values: GivenValues): string | undefined {
  const encoding = textValue(values, "client_encoding");
  return encoding === "auto" ? "UTF8" : encoding;
}

/** A positive number of seconds in milliseconds; 0, less and absent are `undefined`. */
function seconds(values: GivenValues, keyword: Keyword): number | undefined {
  const count = integerValue(values, keyword);
  return count === undefined || count <= 0 ? undefined : count * 1000;
}

function keepalive(values: GivenValues): TcpKeepalive {
  return {
    enabled: (integerValue(values, "keepalives") ?? 1) !== 0,
    idleMs: seconds(values, "keepalives_idle"),
  };
}

interface PasswordInput {
  readonly hosts: readonly HostAddress[];
  readonly user: string;
  readonly values: GivenValues;
  readonly files: ConninfoFiles;
  readonly homeDirectory: string | undefined;
}

function addPasswords(input: PasswordInput): { hosts: readonly Host[]; warning: string | undefined } {
  const { user, values, homeDirectory } = input;
  const password = textValue(values, "password");
  const inHome = homeDirectory === undefined ? undefined : `${homeDirectory}/.pgpass`;
  const path = password === undefined ? textValue(values, "passfile") ?? inHome : undefined;
  const passfile = path === undefined ? undefined : readPassfile(path, input.files);
  const passwordOf = (host: HostAddress): string | undefined => {
    if (passfile?.text === undefined) return password;
    const { passfileNames, port } = host;
    return findPassword(passfile.text, { hosts: passfileNames, port, database: REPLICATION_DATABASE, user });
  };
  const hosts = input.hosts.map((host): Host => ({
    name: host.name,
    port: host.port,
    target: host.target,
    password: passwordOf(host),
  }));
  return { hosts, warning: passfile?.warning };
}
