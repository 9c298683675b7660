import { randomInt } from "node:crypto";
import type { ConnectionSettings, Host, SslMode, TargetSessionAttrs } from "../conninfo/settings.ts";
import type { Log } from "../log.ts";
import { decodeServerVersion, decodeSetting } from "../protocol/answers.ts";
import { showCommand } from "../protocol/commands.ts";
import { ConnectionError, ServerError } from "../protocol/errors.ts";
import { Link } from "./link.ts";
import { Session } from "./session.ts";
import { type Encryption, formatAddress, openSocket } from "./socket.ts";

/** invalid_authorization_specification: what a missing or refusing line of pg_hba.conf gives. */
const PG_HBA_REFUSAL = "28000";

/** A host has this long for socket, TLS and login, where the connection string says nothing. */
const LOGIN_TIMEOUT_MS = 60_000;

/** What `connect()` needs besides the settings. */
export interface ConnectOptions {
  readonly log: Log;
  /** Says whether this server will do; `false` closes it and tries the next host. */
  readonly accept?: ((session: Session) => Promise<boolean>) | undefined;
  /** Gives up; `connect()` then throws its reason. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * Opens a replication connection to the first host that answers, lets us in and is of the kind wanted.
 *
 * As in libpq, a host that refuses the login ends the search.
 * @throws {ServerError} when the only host, or the one that refused the login, gave a reason.
 * @throws {ConnectionError} when no host will do; several causes are an `AggregateError` below it.
 */
export async function connect(settings: ConnectionSettings, options: ConnectOptions): Promise<Session> {
  const hosts = settings.loadBalanceHosts ? shuffled(settings.hosts) : settings.hosts;
  const errors: unknown[] = [];
  for (const target of passes(settings.targetSessionAttrs)) {
    for (const host of hosts) {
      try {
        return await connectHost(host, { settings, options, target });
      } catch (error) {
        options.signal?.throwIfAborted();
        if (isLoginRefusal(error)) throw error;
        errors.push(error);
      }
    }
  }
  throw errors.length === 1 ? errors[0] : summaryOf(errors);
}

/** What a host answered, or why it did not. */
export type HostReply<T> =
  | { readonly address: string; readonly answer: T }
  | { readonly address: string; readonly error: unknown };

/**
 * Asks every host of a connection string, all at once, of whatever kind it is; one that fails keeps no other from
 * answering.
 *
 * @throws the signal's reason when it aborts.
 */
export async function askHosts<T>(
  settings: ConnectionSettings,
  options: { readonly log: Log; readonly signal: AbortSignal },
  ask: (session: Session) => Promise<T>,
): Promise<readonly HostReply<T>[]> {
  const { log, signal } = options;
  const replies = await Promise.all(settings.hosts.map(async (host): Promise<HostReply<T>> => {
    const address = formatAddress(host);
    try {
      const attempt = { settings, options: { log, signal }, target: "any" } as const;
      await using session = await connectHost(host, attempt);
      const onAbort = () => void session.close();
      signal.addEventListener("abort", onAbort, { once: true });
      try {
        return { address, answer: await ask(session) };
      } finally {
        signal.removeEventListener("abort", onAbort);
      }
    } catch (error) {
      return { address, error };
    }
  }));
  signal.throwIfAborted();
  return replies;
}

/** One round over the hosts, or for `prefer-standby` two. */
function passes(target: TargetSessionAttrs): TargetSessionAttrs[] {
  return target === "prefer-standby" ? ["standby", "any"] : [target];
}

interface Attempt {
  readonly settings: ConnectionSettings;
  readonly options: ConnectOptions;
  readonly target: TargetSessionAttrs;
}

async function connectHost(host: Host, { settings, options, target }: Attempt): Promise<Session> {
  const { log, accept, signal } = options;
  const startup: Startup = {
    settings,
    host,
    database: settings.database ?? "replication",
    parameters: {
      replication: "true",
      // Whether transaction_read_only is on then tells a standby from a primary, on every version.
      default_transaction_read_only: tellsStandbys(target) ? "off" : undefined,
    },
    log,
    signal,
  };
  const { link, serverVersion } = await logIn(startup);
  try {
    const session = new Session(link, {
      serverVersion,
      openSql: async (giveUp) => (await logIn({ ...sqlStartup(startup), signal: giveUp })).link,
      openAnother: async () => (await logIn({ ...startup, signal: undefined })).link,
    });
    await checkTarget(session, target);
    if (accept !== undefined && !await accept(session)) {
      throw new ConnectionError("unsuitable", `Cannot use ${session.address}: it was not accepted`);
    }
    signal?.throwIfAborted();
    log.debug("connected", { address: session.address, serverVersion });
    return session;
  } catch (error) {
    await link.close();
    throw error;
  }
}

/** An ordinary connection, to ask what a replication connection can't. */
function sqlStartup(startup: Startup): Startup {
  return {
    ...startup,
    database: startup.settings.database ?? "postgres",
    parameters: {},
    signal: undefined,
  };
}

function tellsStandbys(target: TargetSessionAttrs): boolean {
  return target === "primary" || target === "standby";
}

async function checkTarget(session: Session, target: TargetSessionAttrs): Promise<void> {
  if (target === "any") return;
  const readOnly = await session.show("transaction_read_only") === "on";
  const wantsReadOnly = target === "read-only" || target === "standby";
  if (readOnly === wantsReadOnly) return;
  const is = tellsStandbys(target)
    ? (readOnly ? "a standby" : "a primary")
    : (readOnly ? "read-only" : "read-write");
  throw new ConnectionError("unsuitable", `Cannot use ${session.address}: it is ${is}, want ${target}`);
}

interface Startup {
  readonly settings: ConnectionSettings;
  readonly host: Host;
  readonly database: string;
  readonly parameters: Readonly<Record<string, string | undefined>>;
  readonly log: Log;
  readonly signal: AbortSignal | undefined;
}

interface LoggedIn {
  readonly link: Link;
  readonly serverVersion: number;
}

/** In the order of trying; libpq's own. */
const ENCRYPTIONS = {
  disable: ["plain", undefined],
  allow: ["plain", "tls"],
  prefer: ["tls", "plain"],
  require: ["tls", undefined],
  "verify-ca": ["tls", undefined],
  "verify-full": ["tls", undefined],
} as const satisfies Record<SslMode, readonly [Encryption, Encryption | undefined]>;

/** Logs in, encrypted or not as the settings allow. */
async function logIn(startup: Startup): Promise<LoggedIn> {
  // TLS is not for Unix sockets, whatever the settings say.
  const [first, second] = startup.host.target.kind === "unix"
    ? ["plain" as const, undefined]
    : ENCRYPTIONS[startup.settings.tls.mode];
  try {
    return await tryLogIn(startup, first);
  } catch (error) {
    startup.signal?.throwIfAborted();
    if (second === undefined || !mayDiffer(error, second)) throw error;
    try {
      return await tryLogIn(startup, second);
    } catch (secondError) {
      startup.signal?.throwIfAborted();
      // The server's own reason says more than what went wrong with the second way.
      throw error instanceof ServerError && secondError instanceof ConnectionError ? error : secondError;
    }
  }
}

/** Whether the second kind of encryption can mend what was wrong with the first. */
function mayDiffer(error: unknown, second: Encryption): boolean {
  if (error instanceof ServerError) return error.sqlState === PG_HBA_REFUSAL;
  return second === "plain" && error instanceof ConnectionError && error.kind === "tls";
}

async function tryLogIn(startup: Startup, encryption: Encryption): Promise<LoggedIn> {
  const { settings, host, log } = startup;
  const address = formatAddress(host);
  // Libpq waits for ever; a host that is up and does not answer must not keep us from the next one.
  const timeoutMs = settings.connectTimeoutMs ?? LOGIN_TIMEOUT_MS;
  const late = new AbortController();
  const timer = setTimeout(
    () =>
      late.abort(
        new ConnectionError("timeout", `Cannot connect to ${address}: no answer in ${timeoutMs / 1000} s`),
      ),
    timeoutMs,
  );
  const signal = startup.signal === undefined ? late.signal : AbortSignal.any([startup.signal, late.signal]);
  try {
    const socket = await openSocket({
      host,
      encryption,
      tls: settings.tls,
      keepalive: settings.keepalive,
      signal,
    });
    const link = new Link(socket, {
      address,
      log,
      user: settings.user,
      database: startup.database,
      password: host.password,
      requireAuth: settings.requireAuth,
      parameters: {
        application_name: settings.applicationName ?? "walvault",
        options: settings.options,
        // Not the settings' own encoding: nothing but error texts depends on it, and we read them as this.
        client_encoding: "UTF8",
        ...startup.parameters,
      },
    });
    const serverVersion = await orAbort(link, signal);
    return { link, serverVersion };
  } finally {
    clearTimeout(timer);
  }
}

/** The first command, which logs in; when it fails nothing is left of the link. */
async function orAbort(link: Link, signal: AbortSignal): Promise<number> {
  const onAbort = () => link.destroy();
  signal.addEventListener("abort", onAbort, { once: true });
  try {
    return await link.query({
      text: showCommand("server_version_num"),
      doing: "connect to",
      decode: (answer) => decodeServerVersion(decodeSetting(answer)),
    });
  } catch (error) {
    link.destroy();
    throw signal.aborted ? signal.reason : error;
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

function isLoginRefusal(error: unknown): boolean {
  return error instanceof ServerError && error.sqlState.startsWith("28");
}

function summaryOf(errors: readonly unknown[]): ConnectionError {
  const last = errors.at(-1);
  const texts = new Set(errors.map((error) => error instanceof Error ? error.message : String(error)));
  return new ConnectionError(last instanceof ConnectionError ? last.kind : "refused", [...texts].join("; "), {
    cause: new AggregateError(errors),
    hint: errors.map((error) => (error as { hint?: string }).hint).find((hint) => hint !== undefined),
  });
}

function shuffled(hosts: readonly Host[]): Host[] {
  const result = [...hosts];
  for (let i = result.length - 1; i > 0; i--) {
    const j = randomInt(i + 1);
    [result[i], result[j]] = [result[j]!, result[i]!];
  }
  return result;
}
