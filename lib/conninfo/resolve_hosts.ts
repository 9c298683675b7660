import { ConninfoError } from "./conninfo_error.ts";
import type { ConninfoFiles } from "./conninfo_files.ts";
import { type GivenValues, invalidValue, parseInteger, textValue } from "./given_values.ts";
import type { Host } from "./settings.ts";

const DEFAULT_PORT = 5432;

/** Where servers put their sockets: Debian and Red Hat, then the PostgreSQL project's own builds. */
const SOCKET_DIRECTORIES = ["/var/run/postgresql", "/tmp"] as const;

/** The bytes of a socket path on Linux, without the final NUL; macOS takes 4 fewer. */
const LONGEST_SOCKET_PATH = 107;

/** A server to try, before its password is known. */
export interface HostAddress extends Omit<Host, "password"> {
  /** The names under which a passfile may know it. */
  readonly passfileNames: readonly string[];
}

/**
 * The servers that `host`, `hostaddr` and `port` list together; never empty.
 *
 * @throws {ConninfoError} when the lists do not fit, or a port or address is none.
 * @see connectOptions2(), src/interfaces/libpq/fe-connect.c
 */
export function resolveHosts(values: GivenValues, files: ConninfoFiles): readonly HostAddress[] {
  const names = listValue(values, "host");
  const addresses = listValue(values, "hostaddr");
  const count = addresses?.length ?? names?.length ?? 1;
  if (names !== undefined && names.length !== count) {
    throw new ConninfoError(
      `Cannot use host and hostaddr: could not match ${names.length} host names to ${count} hostaddr values`,
      "Give both lists the same length",
    );
  }
  const ports = listValue(values, "port") ?? [""];
  if (ports.length !== 1 && ports.length !== count) {
    throw new ConninfoError(
      `Cannot use port: could not match ${ports.length} port numbers to ${count} hosts`,
      "Give one port for all hosts, or one for each",
    );
  }
  return Array.from({ length: count }, (_, index) =>
    resolveHost({
      name: names?.[index] ?? "",
      address: addresses?.[index] ?? "",
      port: parsePort(values, (ports.length === 1 ? ports[0] : ports[index]) ?? ""),
      values,
      files,
    }));
}

function listValue(values: GivenValues, keyword: "host" | "hostaddr" | "port"): string[] | undefined {
  return textValue(values, keyword)?.split(",");
}

function parsePort(values: GivenValues, text: string): number {
  if (text === "") return DEFAULT_PORT;
  const port = parseInteger(text);
  if (port === undefined || port < 1 || port > 65535) {
    throw invalidValue(values, "port", "invalid port number, want 1 to 65535");
  }
  return port;
}

interface HostParts {
  readonly name: string;
  readonly address: string;
  readonly port: number;
  readonly values: GivenValues;
  readonly files: ConninfoFiles;
}

function resolveHost({ name, address, port, values, files }: HostParts): HostAddress {
  if (address !== "") {
    if (!isNumericAddress(address)) {
      throw invalidValue(values, "hostaddr", "could not parse network address, want an IPv4 or IPv6 address");
    }
    const shown = name || address;
    return { name: shown, port, target: { kind: "tcp", address }, passfileNames: [shown] };
  }
  const directory = name || defaultSocketDirectory(port, files);
  if (!isSocketDirectory(directory)) {
    return { name, port, target: { kind: "tcp", address: name }, passfileNames: [name] };
  }
  const path = socketPath(directory, port);
  if (new TextEncoder().encode(path).length > LONGEST_SOCKET_PATH) {
    throw invalidValue(
      values,
      "host",
      `Unix-domain socket path is too long, want at most ${LONGEST_SOCKET_PATH} bytes`,
    );
  }
  // libpq knows only the default of its own build by this name; we don't know which build wrote the passfile.
  const isDefault = SOCKET_DIRECTORIES.some((known) => known === directory);
  return {
    name: directory,
    port,
    target: { kind: "unix", path },
    passfileNames: isDefault ? ["localhost", directory] : [directory],
  };
}

function defaultSocketDirectory(port: number, files: ConninfoFiles): string {
  const found = SOCKET_DIRECTORIES.find((directory) => files.exists(socketPath(directory, port)));
  return found ?? SOCKET_DIRECTORIES[0];
}

/** A path, or with "@" a name in Linux's abstract socket namespace. */
function isSocketDirectory(host: string): boolean {
  return host.startsWith("/") || host.startsWith("@");
}

function socketPath(directory: string, port: number): string {
  return `${directory}/.s.PGSQL.${port}`;
}

/** Loosely: enough that no name server is ever asked. */
function isNumericAddress(text: string): boolean {
  return /^[0-9.]+$/.test(text) || /^[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]+)?$/.test(text);
}
