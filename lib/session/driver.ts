import postgres from "postgres";
import { type Answer } from "../protocol/answers.ts";
import { ProtocolError } from "../protocol/errors.ts";
import type { SocketTap } from "./socket_tap.ts";

/** Who logs in, and with what. */
export interface Login {
  readonly user: string;
  readonly database: string;
  readonly password: string | undefined;
  /** Startup parameters; `undefined` ones are left out. */
  readonly parameters: Readonly<Record<string, string | undefined>>;
}

/**
 * The driver, on a socket that is there already; it logs in with the first query.
 *
 * Every option is given, because the driver fills the others from its own `PG*` variables.
 */
export function startDriver(tap: SocketTap, login: Login): postgres.Sql {
  let taken = false;
  const options = {
    host: ["socket"],
    port: [0],
    path: undefined,
    user: login.user,
    database: login.database,
    pass: () => login.password ?? "",
    ssl: false,
    sslnegotiation: null,
    max: 1,
    max_pipeline: 1,
    idle_timeout: 0,
    connect_timeout: 0,
    max_lifetime: null,
    keep_alive: null,
    backoff: false,
    prepare: false,
    debug: false,
    fetch_types: false,
    publications: "",
    no_subscribe: true,
    // Any known word keeps PGTARGETSESSIONATTRS out; it is taken away again below.
    target_session_attrs: "primary",
    // The tap swallows notices; without a function the driver would print on stdout.
    onnotice: () => {},
    connection: login.parameters,
    socket: () => {
      // Once: a driver that asks again is in its reconnect loop.
      if (taken) throw new Error("the socket is used up");
      taken = true;
      return tap;
    },
  };
  const start = postgres as unknown as (options: unknown) => postgres.Sql;
  return start({ ...start(options).options, target_session_attrs: undefined });
}

/**
 * The driver's raw result.
 *
 * @throws {ProtocolError} when it is not one table.
 */
export function answerOf(result: unknown): Answer {
  const rows = result as ArrayLike<unknown> & { readonly columns?: readonly { readonly name: string }[] };
  const columns = (rows.columns ?? []).map((column) => column.name);
  return {
    columns,
    rows: Array.from(rows, (row) => {
      if (!Array.isArray(row) || row.length !== columns.length) {
        throw new ProtocolError("Cannot take answer: more than one table, want one");
      }
      return row.map((value: Uint8Array | null) => value ?? undefined);
    }),
  };
}
