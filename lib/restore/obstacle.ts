import { DamagedFileError, NotAFileError } from "../archive/damaged_file.ts";
import { errorCode } from "../archive/durable.ts";
import { CorruptWalError, WalGapError, WrongClusterError } from "../wal/errors.ts";

/** Exit codes of a `restore_command`: PostgreSQL ends recovery and promotes on 1 to 125, and stops on more. */
export const RESTORE_EXIT = { delivered: 0, absent: 1, refused: 200 } as const;

/**
 * What kept a file from being delivered, though nothing proves that it does not exist.
 *
 * - `outage`: the archive, or the target, can't be read or written.
 * - `hole`: WAL that once was is not in the archive.
 * - `damage`: it is there, and not as it was written.
 * - `wrong cluster`: the archive is another cluster's.
 * - `other`: none of these; a command line that can't be right, an error of our own.
 */
export type Obstacle = "outage" | "hole" | "damage" | "wrong cluster" | "other";

/** The archive is not where it should be, or can't be used now. */
export class OutageError extends Error {
  override readonly name = "OutageError";

  constructor(message: string, readonly hint: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** A file that was listed and is gone: it was published, moved or passed in between, so the look must be repeated. */
export class VanishedError extends Error {
  override readonly name = "VanishedError";
}

/** What kind of obstacle an error is. */
export function obstacleOf(error: unknown): Obstacle {
  if (error instanceof WrongClusterError) return "wrong cluster";
  if (error instanceof WalGapError) return "hole";
  if (error instanceof DamagedFileError || error instanceof CorruptWalError) return "damage";
  if (error instanceof NotAFileError) return "damage";
  if (error instanceof OutageError || error instanceof VanishedError || isSystemError(error)) return "outage";
  return "other";
}

/** What the operating system says: no permission, a disk that fails, a server of files that is gone. */
function isSystemError(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  // Deno (2.9) calls some of them "UNKNOWN", ESTALE among them.
  const code = errorCode(error) ?? "";
  return typeof (error as { errno?: unknown }).errno === "number" || code === "UNKNOWN" ||
    /^E(?!RR_)[A-Z0-9]+$/.test(code);
}

/**
 * The exit code for an obstacle.
 *
 * A running standby is ended by anything above 125, and asks again by itself after 1: what may be healed meanwhile is
 * 1 there.
 */
export function exitCodeOf(
  obstacle: Obstacle,
  { standby, absentExit }: { readonly standby: boolean; readonly absentExit: number },
): number {
  const mayHeal = obstacle === "outage" || obstacle === "hole" || obstacle === "damage";
  return standby && mayHeal ? absentExit : RESTORE_EXIT.refused;
}
