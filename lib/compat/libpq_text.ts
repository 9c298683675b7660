import type { Host } from "../conninfo/settings.ts";
import { ConnectionError, ServerError } from "../protocol/errors.ts";
import { formatAddress } from "../session/socket.ts";
import { systemErrorText } from "./system_error.ts";

/** What is said when the other side is gone in the middle of it. */
export const SERVER_CLOSED = "server closed the connection unexpectedly\n" +
  "\tThis probably means the server terminated abnormally\n\tbefore or while processing the request.";

/** A server's own error as libpq words it: severity, message, and what else it said, a line each. */
export function serverErrorText(error: ServerError): string {
  const lines = [`${error.severity}:  ${error.serverMessage}`];
  const [detail, hint] = [error.fields.get("D"), error.fields.get("H")];
  if (detail !== undefined) lines.push(`DETAIL:  ${detail}`);
  if (hint !== undefined) lines.push(`HINT:  ${hint}`);
  return lines.join("\n");
}

/**
 * Why there is no connection, as libpq words it: a line for each address that was tried.
 *
 * @param hosts those that were tried
 * @see connectFailureMessage(), src/interfaces/libpq/fe-connect.c (PostgreSQL 14 to 18)
 */
export function connectionErrorText(error: unknown, hosts: readonly Host[]): string {
  const cause = error instanceof ConnectionError ? error.cause : undefined;
  // Several hosts were tried: each has its own error.
  const errors = cause instanceof AggregateError &&
      cause.errors.every((each) => each instanceof Error && each.message.includes("Cannot "))
    ? cause.errors
    : [error];
  return errors.map((each) => oneErrorText(each, hosts)).join("\n");
}

/** True when the server wants a password, and none was at hand. */
export function wantsPassword(error: unknown): boolean {
  return error instanceof ConnectionError && error.message.includes("asks for a password, and none is given");
}

function oneErrorText(error: unknown, hosts: readonly Host[]): string {
  const message = error instanceof Error ? error.message : String(error);
  const host = hosts.find((each) => message.startsWith(`Cannot connect to ${formatAddress(each)}:`)) ??
    hosts[0];
  if (host === undefined) return message;
  const at = (address: string | undefined) => `${placeOf(host, address)} failed: `;
  if (error instanceof ServerError) return at(undefined) + serverErrorText(error);
  if (!(error instanceof ConnectionError)) return message;
  if (wantsPassword(error)) return `${at(undefined)}fe_sendauth: no password supplied`;
  if (error.kind === "unresolved") {
    return `could not translate host name "${host.name}" to address: Name or service not known`;
  }
  if (error.kind === "timeout") return `${at(undefined)}timeout expired`;
  const { cause } = error;
  if (error.kind !== "refused" || cause === undefined) {
    const prefix = `Cannot connect to ${formatAddress(host)}: `;
    return at(undefined) + (message.startsWith(prefix) ? message.slice(prefix.length) : message);
  }
  const question = host.target.kind === "unix"
    ? "\n\tIs the server running locally and accepting connections on that socket?"
    : "\n\tIs the server running on that host and accepting TCP/IP connections?";
  // A name with several addresses: each was tried.
  const attempts: readonly unknown[] = cause instanceof AggregateError ? cause.errors : [cause];
  return attempts.map((attempt) => {
    const { address } = attempt as { readonly address?: unknown };
    return at(typeof address === "string" ? address : undefined) + systemErrorText(attempt) + question;
  }).join("\n");
}

function placeOf(host: Host, address: string | undefined): string {
  if (host.target.kind === "unix") return `connection to server on socket "${host.target.path}"`;
  const reached = address ?? (host.target.address === host.name ? undefined : host.target.address);
  const shown = reached === undefined || reached === host.name ? "" : ` (${reached})`;
  return `connection to server at "${host.name}"${shown}, port ${host.port}`;
}
