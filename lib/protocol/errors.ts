import { adviceFor } from "./advice.ts";

/** The fields of an ErrorResponse or NoticeResponse, decoded and not yet trusted. */
export interface ServerMessage {
  /** `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE` …, never translated (the untranslated field where there is one). */
  readonly severity: string;
  /** Five characters, for example `28P01`. */
  readonly sqlState: string;
  readonly message: string;
  readonly detail: string | undefined;
  readonly hint: string | undefined;
  /** Every field by its one-letter code, these five included. */
  readonly fields: ReadonlyMap<string, string>;
}

/**
 * The server refused, and said why. May be retried; some states (`28P01`, `42704`) will not get better alone.
 *
 * @see "Error and Notice Message Fields" in the PostgreSQL documentation
 */
export class ServerError extends Error {
  override readonly name = "ServerError";
  readonly severity: string;
  readonly sqlState: string;
  /** The server's own words, without ours around them. */
  readonly serverMessage: string;
  readonly detail: string | undefined;
  readonly hint: string | undefined;
  readonly fields: ReadonlyMap<string, string>;

  /** @param doing what failed, as "Cannot connect to 10.0.0.1:5432" */
  constructor(doing: string, said: ServerMessage, options?: ErrorOptions & { readonly hint?: string }) {
    super(`${doing}: server says ${said.severity} ${said.sqlState}: ${said.message}`, options);
    this.severity = said.severity;
    this.sqlState = said.sqlState;
    this.serverMessage = said.message;
    this.detail = said.detail;
    this.hint = options?.hint ?? adviceFor(said) ?? said.hint;
    this.fields = said.fields;
  }
}

/** Why there is no connection (any more). */
export type ConnectionErrorKind =
  /** The name has no address. */
  | "unresolved"
  /** Nobody listens there, or the way is blocked. */
  | "refused"
  | "timeout"
  /** The sandbox this program runs in does not let it. */
  | "forbidden"
  /** It was there and is gone: closed by the server, by the network or by us. */
  | "closed"
  /** No TLS where it is wanted, or the certificate is not good. */
  | "tls"
  /** The server asks for what we may not or cannot give. */
  | "auth"
  /** The other side does not speak the protocol; `cause` is the `ProtocolError`. */
  | "protocol"
  /** The server works but is not the one wanted (`target_session_attrs`, or the caller did not accept it). */
  | "unsuitable";

/** There is no connection, for a reason that is not the server's own word. May be retried. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";
  readonly hint: string | undefined;

  constructor(
    readonly kind: ConnectionErrorKind,
    message: string,
    options?: ErrorOptions & { readonly hint?: string | undefined },
  ) {
    super(message, options);
    this.hint = options?.hint;
  }
}

/** Bytes from the other side that PostgreSQL would not have sent there: broken, hostile, or not PostgreSQL. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}
