import { type GivenValues, integerValue, invalidValue, textValue } from "./given_values.ts";
import type { Keyword } from "./keywords.ts";

interface Refusal {
  readonly keyword: Keyword;
  /** Other values than this one are for somebody else to judge; without it every value is refused. */
  readonly value?: string;
  readonly why: string;
  readonly hint: string;
}

const NO_GSS = "GSSAPI is not supported";
const NO_OAUTH = "OAuth is not supported";
const NO_SCRAM_KEYS = "SCRAM keys are not supported";
const USE_PASSWORD = "Use a password, a passfile or a client certificate";

/** What would weaken the connection, or change its meaning, if it were passed over in silence. */
const REFUSALS: readonly Refusal[] = [
  {
    keyword: "gssencmode",
    value: "require",
    why: NO_GSS,
    hint: "Use TLS: gssencmode=disable sslmode=verify-full",
  },
  {
    keyword: "channel_binding",
    value: "require",
    why: "channel binding is not supported",
    hint: "Leave it out; sslmode=verify-full checks who the server is",
  },
  {
    keyword: "sslcertmode",
    value: "require",
    why: "whether the server asked for the certificate cannot be told",
    hint: "Leave it out, and require the certificate in the server's pg_hba.conf (clientcert)",
  },
  {
    keyword: "requirepeer",
    why: "the owner of the server's process cannot be asked for",
    hint: "Leave it out, and let the socket lie in a directory that only the server can write",
  },
  {
    keyword: "sslcrldir",
    why: "a directory of revocation lists is not supported",
    hint: "Put the lists into one file and name it with sslcrl",
  },
  { keyword: "sslkeylogfile", why: "TLS keys are never written to a file", hint: "Leave it out" },
  { keyword: "scram_client_key", why: NO_SCRAM_KEYS, hint: USE_PASSWORD },
  { keyword: "scram_server_key", why: NO_SCRAM_KEYS, hint: USE_PASSWORD },
  { keyword: "oauth_issuer", why: NO_OAUTH, hint: USE_PASSWORD },
  { keyword: "oauth_client_id", why: NO_OAUTH, hint: USE_PASSWORD },
  { keyword: "oauth_client_secret", why: NO_OAUTH, hint: USE_PASSWORD },
  { keyword: "oauth_scope", why: NO_OAUTH, hint: USE_PASSWORD },
];

/** The values that libpq takes for keywords of which we honour none but the harmless. */
const CHOICES: readonly { readonly keyword: Keyword; readonly choices: readonly string[] }[] = [
  { keyword: "gssencmode", choices: ["disable", "prefer", "require"] },
  { keyword: "channel_binding", choices: ["disable", "prefer", "require"] },
  { keyword: "sslcertmode", choices: ["disable", "allow", "require"] },
];

/** Timers that a socket of Node, Deno or Bun has no setting for. */
const UNSETTABLE: readonly Keyword[] = ["keepalives_interval", "keepalives_count", "tcp_user_timeout"];

/**
 * What to warn about: settings that change nothing here.
 *
 * @throws {ConninfoError} on a setting that must not be passed over.
 */
export function checkUnsupported(values: GivenValues): readonly string[] {
  for (const { keyword, choices } of CHOICES) {
    const value = textValue(values, keyword);
    if (value !== undefined && !choices.includes(value)) {
      throw invalidValue(values, keyword, `unknown value, want ${choices.join(", ")}`);
    }
  }
  for (const refusal of REFUSALS) {
    const value = textValue(values, refusal.keyword);
    if (value === undefined || (refusal.value !== undefined && value !== refusal.value)) continue;
    throw invalidValue(values, refusal.keyword, refusal.why, refusal.hint);
  }
  checkProtocolVersions(values);
  const warnings = UNSETTABLE
    .filter((keyword) => (integerValue(values, keyword) ?? 0) > 0)
    .map((keyword) => ignored(values, keyword, "this runtime cannot set it on a socket"));
  if ((textValue(values, "sslcompression") ?? "0") !== "0") {
    warnings.push(ignored(values, "sslcompression", "TLS compression is not supported"));
  }
  if (!isPhysicalReplication(values)) {
    warnings.push(ignored(values, "replication", "a replication connection is always made"));
  }
  return warnings;
}

function ignored(values: GivenValues, keyword: Keyword, why: string): string {
  return `${keyword} of ${values.get(keyword)?.origin} is ignored: ${why}`;
}

/** Whether `replication` asks for what we do anyway; `database` is refused, "false" is not. */
function isPhysicalReplication(values: GivenValues): boolean {
  const value = textValue(values, "replication")?.toLowerCase();
  if (value === "database") {
    throw invalidValue(
      values,
      "replication",
      "logical replication is not supported",
      "Leave it out: WAL is streamed by physical replication",
    );
  }
  if (value === undefined || ["true", "on", "yes", "1"].includes(value)) return true;
  if (["false", "off", "no", "0"].includes(value)) return false;
  throw invalidValue(values, "replication", "unknown value, want true");
}

const PROTOCOL_VERSIONS: Readonly<Record<string, number>> = { "3.0": 30, "3.2": 32, latest: 32 };

/** Ours is 3.0, so only a higher minimum is out of reach. */
function checkProtocolVersions(values: GivenValues): void {
  const version = (keyword: "min_protocol_version" | "max_protocol_version") => {
    const value = textValue(values, keyword);
    if (value === undefined) return undefined;
    if (!Object.hasOwn(PROTOCOL_VERSIONS, value)) {
      throw invalidValue(values, keyword, `unknown value, want ${Object.keys(PROTOCOL_VERSIONS).join(", ")}`);
    }
    return PROTOCOL_VERSIONS[value];
  };
  version("max_protocol_version");
  if ((version("min_protocol_version") ?? 30) > 30) {
    throw invalidValue(values, "min_protocol_version", "walvault speaks 3.0", "Leave it out");
  }
}
