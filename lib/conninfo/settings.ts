/** TCP keepalive of a connection, as libpq's `keepalives*` and `tcp_user_timeout` keywords set it. */
export interface TcpKeepalive {
  readonly enabled: boolean;
  /** Idle time before the first probe; `undefined` leaves it to the operating system. */
  readonly idleMs: number | undefined;
}

/** One server to try: its address, and the password that is for it alone. */
export interface Host {
  /** The name as given: for TLS identity, the passfile, and messages. */
  readonly name: string;
  readonly port: number;
  /** Where to connect: a TCP address (`hostaddr`, else the name) or a Unix socket's path. */
  readonly target: { readonly kind: "tcp"; readonly address: string } | {
    readonly kind: "unix";
    readonly path: string;
  };
  /** From the connection string, `PGPASSWORD` or the passfile, in this order. */
  readonly password: string | undefined;
}

export type SslMode = "disable" | "allow" | "prefer" | "require" | "verify-ca" | "verify-full";

export type TargetSessionAttrs =
  | "any"
  | "read-write"
  | "read-only"
  | "primary"
  | "standby"
  | "prefer-standby";

/** TLS settings; file paths are read by the session when it connects. */
export interface TlsSettings {
  readonly mode: SslMode;
  /** A PEM file, or the operating system's own store. `undefined`: none given and no default file exists. */
  readonly rootCert:
    | { readonly kind: "file"; readonly path: string }
    | { readonly kind: "system" }
    | undefined;
  readonly cert: string | undefined;
  readonly key: string | undefined;
  readonly keyPassword: string | undefined;
  readonly crl: string | undefined;
  readonly serverNameIndication: boolean;
  /** `direct` skips SSLRequest (PostgreSQL 17 and up). */
  readonly negotiation: "postgres" | "direct";
  readonly minProtocol: "TLSv1" | "TLSv1.1" | "TLSv1.2" | "TLSv1.3" | undefined;
  readonly maxProtocol: "TLSv1" | "TLSv1.1" | "TLSv1.2" | "TLSv1.3" | undefined;
}

/**
 * Everything a connection string, the environment, the service file and the passfile say together.
 *
 * @see "Parameter Key Words" in the libpq documentation
 */
export interface ConnectionSettings {
  /** In the order to try; never empty. */
  readonly hosts: readonly Host[];
  readonly user: string;
  /** `undefined` when none was given; a replication connection does not need one. */
  readonly database: string | undefined;
  readonly applicationName: string | undefined;
  /** The `options` keyword: command-line options for the server. */
  readonly options: string | undefined;
  readonly clientEncoding: string | undefined;
  /** `undefined` waits for ever, as libpq's 0 does. */
  readonly connectTimeoutMs: number | undefined;
  readonly targetSessionAttrs: TargetSessionAttrs;
  readonly loadBalanceHosts: boolean;
  readonly tls: TlsSettings;
  readonly keepalive: TcpKeepalive;
  /** Authentication methods allowed (`require_auth`); `undefined` allows every one. */
  readonly requireAuth: readonly string[] | undefined;
}
