import { ConnectionError, ProtocolError, ServerError } from "../protocol/errors.ts";
import { ArchiveConflictError, CorruptWalError, WalGapError, WrongClusterError } from "../wal/errors.ts";

/** A state that another try will not mend, found by the receiver itself; the message names the next command. */
export class PermanentError extends Error {
  override readonly name = "PermanentError";
}

/** Lost a race that time wins: the next try may find the server where it should be. */
export class NotYetError extends Error {
  override readonly name = "NotYetError";
}

/** SQLSTATEs that go away by themselves: slot in use, server starting, too many connections. */
const ALWAYS_RETRIED: ReadonlySet<string> = new Set(["55006", "57P03", "53300"]);

/** undefined_file: the server no longer has a segment it was asked for. */
export const WAL_REMOVED = "58P01";

/** object_not_in_prerequisite_state: PostgreSQL 18 on a slot that it has invalidated, whether the WAL is there or not. */
export const SLOT_INVALIDATED = "55000";

/** By class: authentication, wrong names and rights, wrong state, unsupported, bad value, missing database. */
const PERMANENT_CLASSES: ReadonlySet<string> = new Set(["28", "42", "55", "0A", "22", "3D"]);

/** The operating system's refusals that only a person can mend. */
const PERMANENT_CODES: ReadonlySet<string> = new Set(["EACCES", "EPERM", "EROFS", "ENOTDIR", "ELOOP"]);

/** What to do after an error ended a connection: come back, or stop. */
export function afterFailure(error: unknown, history: { readonly streamed: boolean }): "retry" | "stop" {
  if (
    error instanceof ArchiveConflictError || error instanceof WrongClusterError ||
    error instanceof WalGapError ||
    error instanceof CorruptWalError
  ) return "stop";
  if (error instanceof NotYetError) return "retry";
  // Several hosts were tried: as long as one of them may get better, it is worth coming back.
  if (error instanceof ConnectionError && error.cause instanceof AggregateError) {
    return error.cause.errors.every((each) => afterFailure(each, history) === "stop") ? "stop" : "retry";
  }
  if (error instanceof ServerError) {
    if (ALWAYS_RETRIED.has(error.sqlState)) return "retry";
    if (history.streamed) return "retry";
    return PERMANENT_CLASSES.has(error.sqlState.slice(0, 2)) ? "stop" : "retry";
  }
  if (history.streamed) return "retry";
  if (error instanceof PermanentError || error instanceof ProtocolError) return "stop";
  if (error instanceof ConnectionError) {
    return ["tls", "auth", "protocol", "unsuitable", "forbidden"].includes(error.kind) ? "stop" : "retry";
  }
  if (!(error instanceof Error)) return "stop";
  const { code } = error as { code?: unknown };
  // An error without a code of the operating system is a defect of ours: trying again would hide it.
  return typeof code === "string" && !PERMANENT_CODES.has(code) ? "retry" : "stop";
}
