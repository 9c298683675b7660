import { ConninfoError } from "./conninfo_error.ts";
import { type ConninfoFiles, isSpecialFile } from "./conninfo_files.ts";
import { choiceValue, DEFAULT_ORIGIN, type GivenValues, invalidValue, textValue } from "./given_values.ts";
import type { SslMode, TlsSettings } from "./settings.ts";

/** From the weakest to the strongest. */
const SSL_MODES = [
  "disable",
  "allow",
  "prefer",
  "require",
  "verify-ca",
  "verify-full",
] as const satisfies readonly SslMode[];

const PROTOCOLS = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"] as const;
type Protocol = typeof PROTOCOLS[number];

interface TlsInput {
  readonly values: GivenValues;
  readonly files: ConninfoFiles;
  readonly homeDirectory: string | undefined;
  /** TLS is never used on Unix sockets, so its files don't matter there. */
  readonly anyTcpHost: boolean;
}

/**
 * The TLS settings, with libpq's default files under `~/.postgresql` where they exist.
 *
 * @throws {ConninfoError} on a bad value, a missing root certificate, or a key that others can read.
 * @see initialize_SSL(), src/interfaces/libpq/fe-secure-openssl.c
 */
export function resolveTls(
  input: TlsInput,
): { readonly tls: TlsSettings; readonly warnings: readonly string[] } {
  const { values } = input;
  const mode = resolveMode(values);
  const negotiation = choiceValue(values, "sslnegotiation", ["postgres", "direct"]) ?? "postgres";
  if (negotiation === "direct" && isWeaker(mode, "require")) {
    throw invalidValue(
      values,
      "sslmode",
      `weak sslmode "${mode}" may not be used with sslnegotiation=direct`,
      "Use sslmode=require, verify-ca or verify-full",
    );
  }
  const used = mode !== "disable" && input.anyTcpHost;
  const client = used ? resolveClientCertificate(input, mode) : NO_CLIENT_CERTIFICATE;
  const tls: TlsSettings = {
    mode,
    rootCert: used ? resolveRootCert(input, mode) : undefined,
    cert: client.cert,
    key: client.key,
    keyPassword: client.cert === undefined ? undefined : textValue(values, "sslpassword"),
    crl: used ? resolveCrl(input) : undefined,
    serverNameIndication: values.get("sslsni")?.value.startsWith("1") ?? true,
    negotiation,
    ...resolveProtocols(values),
  };
  const warnings = used && tls.rootCert === undefined ? unverifiedWarnings(values) : [];
  return { tls, warnings: [...warnings, ...client.warnings] };
}

/** libpq goes on in silence when the file that would have made `require` check the server is not there. */
function unverifiedWarnings(values: GivenValues): string[] {
  const given = textValue(values, "sslrootcert");
  if (given === undefined) return [];
  return [`root certificate file "${given}" does not exist; the server's certificate is not verified`];
}

function isWeaker(mode: SslMode, than: SslMode): boolean {
  return SSL_MODES.indexOf(mode) < SSL_MODES.indexOf(than);
}

function resolveMode(values: GivenValues): SslMode {
  const mode = choiceValue(values, "sslmode", SSL_MODES) ?? "prefer";
  if (textValue(values, "sslrootcert") !== "system" || mode === "verify-full") return mode;
  // Anybody can get a certificate that the system trusts: without the name it proves nothing.
  if (values.get("sslmode")?.origin === DEFAULT_ORIGIN) return "verify-full";
  throw invalidValue(
    values,
    "sslmode",
    `weak sslmode "${mode}" may not be used with sslrootcert=system`,
    "Use sslmode=verify-full",
  );
}

function resolveProtocols(
  values: GivenValues,
): { minProtocol: Protocol | undefined; maxProtocol: Protocol | undefined } {
  const protocol = (keyword: "ssl_min_protocol_version" | "ssl_max_protocol_version") => {
    const value = textValue(values, keyword)?.toLowerCase();
    if (value === undefined) return undefined;
    const found = PROTOCOLS.find((name) => name.toLowerCase() === value);
    if (found === undefined) {
      throw invalidValue(values, keyword, `unknown value, want ${PROTOCOLS.join(", ")}`);
    }
    return found;
  };
  const minProtocol = protocol("ssl_min_protocol_version");
  const maxProtocol = protocol("ssl_max_protocol_version");
  if (minProtocol !== undefined && maxProtocol !== undefined && minProtocol > maxProtocol) {
    throw invalidValue(
      values,
      "ssl_max_protocol_version",
      `invalid SSL protocol version range: ends at ${maxProtocol}, want at least ${minProtocol}`,
    );
  }
  return { minProtocol, maxProtocol };
}

function resolveRootCert({ values, files, homeDirectory }: TlsInput, mode: SslMode): TlsSettings["rootCert"] {
  const given = textValue(values, "sslrootcert");
  if (given === "system") return { kind: "system" };
  const path = given ?? defaultFile(homeDirectory, "root.crt");
  if (path !== undefined && files.exists(path)) return { kind: "file", path };
  if (isWeaker(mode, "verify-ca")) return undefined;
  const hint = "Either provide the file, use the system's trusted roots with sslrootcert=system, " +
    "or change sslmode to disable server certificate verification";
  throw path === undefined
    ? new ConninfoError(`Cannot verify the server: no home directory to locate root certificate file`, hint)
    : new ConninfoError(`Cannot verify the server: root certificate file "${path}" does not exist`, hint);
}

/** Unlike libpq, which goes on without checking, a list asked for by name must be there. */
function resolveCrl({ values, files, homeDirectory }: TlsInput): string | undefined {
  const given = textValue(values, "sslcrl");
  if (given !== undefined && !files.exists(given)) {
    throw invalidValue(values, "sslcrl", `certificate revocation list file "${given}" does not exist`);
  }
  if (given !== undefined) return given;
  const path = defaultFile(homeDirectory, "root.crl");
  return path !== undefined && files.exists(path) ? path : undefined;
}

function defaultFile(homeDirectory: string | undefined, name: string): string | undefined {
  return homeDirectory === undefined ? undefined : `${homeDirectory}/.postgresql/${name}`;
}

interface ClientCertificate {
  readonly cert: string | undefined;
  readonly key: string | undefined;
  readonly warnings: readonly string[];
}

const NO_CLIENT_CERTIFICATE: ClientCertificate = { cert: undefined, key: undefined, warnings: [] };

function resolveClientCertificate(
  { values, files, homeDirectory }: TlsInput,
  mode: SslMode,
): ClientCertificate {
  if (textValue(values, "sslcertmode") === "disable") return NO_CLIENT_CERTIFICATE;
  const givenCert = textValue(values, "sslcert");
  const cert = givenCert ?? defaultFile(homeDirectory, "postgresql.crt");
  if (cert === undefined || !files.exists(cert)) {
    if (givenCert === undefined) return NO_CLIENT_CERTIFICATE;
    const warning = `certificate file "${cert}" does not exist; connecting without a client certificate`;
    return { ...NO_CLIENT_CERTIFICATE, warnings: [warning] };
  }
  const givenKey = textValue(values, "sslkey");
  const key = givenKey ?? defaultFile(homeDirectory, "postgresql.key");
  const problem = key === undefined ? "no private key is given" : keyProblem(key, files);
  if (problem === undefined) return { cert, key, warnings: [] };
  // Nobody asked for TLS or for these files: libpq would go on without TLS, we go on without the certificate.
  if (isWeaker(mode, "require") && givenCert === undefined && givenKey === undefined) {
    return { ...NO_CLIENT_CERTIFICATE, warnings: [`client certificate "${cert}" is not used: ${problem}`] };
  }
  throw new ConninfoError(`Cannot use client certificate "${cert}": ${problem}`);
}

/** Why libpq would not load the private key, if it would not. */
function keyProblem(path: string, files: ConninfoFiles): string | undefined {
  if (!files.exists(path)) {
    return path.includes(":") && !/^[A-Za-z]:/.test(path)
      ? `private key "${path}" is no file, and OpenSSL engines are not supported`
      : `certificate present, but not private key file "${path}"`;
  }
  const mode = files.mode(path);
  if (mode === undefined) return undefined;
  if (isSpecialFile(mode)) return `private key file "${path}" is not a regular file`;
  const forbidden = files.owner?.(path) === 0 ? 0o037 : 0o077;
  if ((mode & forbidden) === 0) return undefined;
  return `private key file "${path}" has group or world access; file must have permissions u=rw (0600) or less ` +
    "if owned by the current user, or permissions u=rw,g=r (0640) or less if owned by root";
}
