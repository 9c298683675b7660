import { formatLsn, type Lsn } from "./lsn.ts";

/**
 * WAL bytes that cannot be what the server wrote. The caller must stop: going on would archive damage.
 *
 * A torn tail after a crash is expected and is not this error.
 */
export class CorruptWalError extends Error {
  override readonly name = "CorruptWalError";
  /** `lsn` is where the damage begins; `problem` reads "what is, want what should be". */
  constructor(readonly lsn: Lsn, problem: string, options?: ErrorOptions) {
    super(`Cannot decode WAL at ${formatLsn(lsn)}: ${problem}`, options);
  }
}

/** The archive already holds other bytes under this name. The caller must stop; nothing was overwritten. */
export class ArchiveConflictError extends Error {
  override readonly name = "ArchiveConflictError";
}

/** The server or file belongs to another cluster than the archive. The caller must stop. */
export class WrongClusterError extends Error {
  override readonly name = "WrongClusterError";
}

/** WAL is missing between two places that should join. The caller must record the gap before it goes on. */
export class WalGapError extends Error {
  override readonly name = "WalGapError";
}
