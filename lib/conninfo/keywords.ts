interface KeywordRow {
  /** The environment variable that stands in when the keyword is absent. */
  readonly environment?: string;
  readonly default?: string;
  /** Never in messages, logs or process titles. */
  readonly secret?: true;
}

/**
 * Every connection keyword of libpq 18, and `servicefile`; all are known, not all are honoured.
 *
 * `requiressl` is not here: like libpq, the parsers turn it into `sslmode`.
 * @see PQconninfoOptions, src/interfaces/libpq/fe-connect.c (PostgreSQL 10 to 18)
 */
export const KEYWORDS = {
  service: { environment: "PGSERVICE" },
  servicefile: { environment: "PGSERVICEFILE" },
  user: { environment: "PGUSER" },
  password: { environment: "PGPASSWORD", secret: true },
  passfile: { environment: "PGPASSFILE" },
  channel_binding: { environment: "PGCHANNELBINDING" },
  connect_timeout: { environment: "PGCONNECT_TIMEOUT" },
  dbname: { environment: "PGDATABASE" },
  host: { environment: "PGHOST" },
  hostaddr: { environment: "PGHOSTADDR" },
  port: { environment: "PGPORT" },
  client_encoding: { environment: "PGCLIENTENCODING" },
  options: { environment: "PGOPTIONS" },
  application_name: { environment: "PGAPPNAME" },
  fallback_application_name: {},
  keepalives: {},
  keepalives_idle: {},
  keepalives_interval: {},
  keepalives_count: {},
  tcp_user_timeout: {},
  sslmode: { environment: "PGSSLMODE", default: "prefer" },
  sslnegotiation: { environment: "PGSSLNEGOTIATION", default: "postgres" },
  sslcompression: { environment: "PGSSLCOMPRESSION" },
  sslcert: { environment: "PGSSLCERT" },
  sslkey: { environment: "PGSSLKEY" },
  sslcertmode: { environment: "PGSSLCERTMODE" },
  sslpassword: { secret: true },
  sslrootcert: { environment: "PGSSLROOTCERT" },
  sslcrl: { environment: "PGSSLCRL" },
  sslcrldir: { environment: "PGSSLCRLDIR" },
  sslsni: { environment: "PGSSLSNI", default: "1" },
  sslkeylogfile: {},
  requirepeer: { environment: "PGREQUIREPEER" },
  require_auth: { environment: "PGREQUIREAUTH" },
  ssl_min_protocol_version: { environment: "PGSSLMINPROTOCOLVERSION", default: "TLSv1.2" },
  ssl_max_protocol_version: { environment: "PGSSLMAXPROTOCOLVERSION" },
  min_protocol_version: { environment: "PGMINPROTOCOLVERSION" },
  max_protocol_version: { environment: "PGMAXPROTOCOLVERSION" },
  gssencmode: { environment: "PGGSSENCMODE" },
  krbsrvname: { environment: "PGKRBSRVNAME" },
  gsslib: { environment: "PGGSSLIB" },
  gssdelegation: { environment: "PGGSSDELEGATION" },
  scram_client_key: { secret: true },
  scram_server_key: { secret: true },
  replication: {},
  target_session_attrs: { environment: "PGTARGETSESSIONATTRS", default: "any" },
  load_balance_hosts: { environment: "PGLOADBALANCEHOSTS", default: "disable" },
  oauth_issuer: {},
  oauth_client_id: {},
  oauth_client_secret: { secret: true },
  oauth_scope: {},
} as const satisfies Readonly<Record<string, KeywordRow>>;

export type Keyword = keyof typeof KEYWORDS;

export const KEYWORD_NAMES = Object.keys(KEYWORDS) as readonly Keyword[];

export function isKeyword(name: string): name is Keyword {
  return Object.hasOwn(KEYWORDS, name);
}

export function keywordRow(keyword: Keyword): KeywordRow {
  return KEYWORDS[keyword];
}

/** Whether the keyword's value must stay out of everything people read; `false` for unknown names. */
export function isSecretKeyword(name: string): boolean {
  return isKeyword(name) && keywordRow(name).secret === true;
}
