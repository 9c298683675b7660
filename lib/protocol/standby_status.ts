import type { Lsn } from "../wal/lsn.ts";

/**
 * What a standby tells its server: three positions, each set on purpose.
 *
 * Nothing defaults, so nothing is claimed by accident. The apply position is not here: walvault never applies,
 * so the encoder always sends 0 for it.
 */
export interface StandbyStatus {
  /** Everything below it was handed to the operating system. */
  readonly writeLsn: Lsn;
  /** Everything below it survives a power cut. 0 means "nothing claimed": the server then ignores this standby. */
  readonly flushLsn: Lsn;
  /** Asks the server to answer at once with a keepalive. */
  readonly replyRequested: boolean;
}

const STANDBY_STATUS_BYTES = 39;

/**
 * A standby status update, framed as CopyData, in bytes of its own.
 *
 * | byte | |
 * | --- | --- |
 * | 0 | `d` |
 * | 1-4 | length 38 |
 * | 5 | `r` |
 * | 6-13 | write position |
 * | 14-21 | flush position |
 * | 22-29 | apply position: always 0, nothing is applied here |
 * | 30-37 | the sender's clock |
 * | 38 | 1 asks for an answer at once |
 *
 * Positions are the first byte not yet written or flushed, as the server counts them.
 * @param sentAtUs microseconds since 2000-01-01
 */
export function encodeStandbyStatus(status: StandbyStatus, sentAtUs: bigint): Uint8Array {
  const bytes = new Uint8Array(STANDBY_STATUS_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, 0x64);
  view.setUint32(1, STANDBY_STATUS_BYTES - 1);
  view.setUint8(5, 0x72);
  view.setBigUint64(6, status.writeLsn);
  view.setBigUint64(14, status.flushLsn);
  view.setBigInt64(30, sentAtUs);
  view.setUint8(38, status.replyRequested ? 1 : 0);
  return bytes;
}

/** CopyDone, framed: "I send no more". In bytes of its own. */
export function encodeCopyDone(): Uint8Array {
  return Uint8Array.of(0x63, 0, 0, 0, 4);
}
