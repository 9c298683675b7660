import { type Lsn, lsn } from "../lsn.ts";
import { type Timestamp, timestamp, timestampOfUnix } from "../timestamp.ts";
import { MainDataInput } from "./main_data.ts";

const INFO_MASK = 0xf0;
const CHECKPOINT_SHUTDOWN = 0x00;
const CHECKPOINT_ONLINE = 0x10;
const BACKUP_END = 0x50;
const PARAMETER_CHANGE = 0x60;
const RESTORE_POINT = 0x70;
const END_OF_RECOVERY = 0x90;

const DECODED: ReadonlySet<number> = new Set([
  CHECKPOINT_SHUTDOWN,
  CHECKPOINT_ONLINE,
  BACKUP_END,
  PARAMETER_CHANGE,
  RESTORE_POINT,
  END_OF_RECOVERY,
]);

/** `wal_level` as numbers; 10 on. */
const WAL_LEVELS = ["minimal", "replica", "logical"] as const;

/** Everything before `redoLsn` is in the data files: recovery can begin there. */
export interface Checkpoint {
  readonly kind: "checkpoint";
  readonly redoLsn: Lsn;
  /** Of the server's end, or of a recovery's: nothing else was written meanwhile. */
  readonly isShutdown: boolean;
  readonly timeline: number;
  /** Differs from `timeline` in the first one of a new timeline. */
  readonly previousTimeline: number;
  /** The next transaction to be given out, 64 bits: the low 32 are an xid, the high ones count how often those wrapped. */
  readonly nextXid: bigint;
  /** Whole seconds. */
  readonly time: Timestamp;
}

/** A name for a place in the WAL: `pg_create_restore_point()`. */
export interface RestorePoint {
  readonly kind: "restore point";
  readonly name: string;
  readonly time: Timestamp;
}

/** A base backup that began at `startLsn` is complete: from here on it is consistent. */
export interface BackupEnd {
  readonly kind: "backup end";
  readonly startLsn: Lsn;
}

/** A server was promoted: from here on it writes WAL of its own. */
export interface EndOfRecovery {
  readonly kind: "end of recovery";
  readonly timeline: number;
  readonly previousTimeline: number;
  readonly time: Timestamp;
}

/** Settings that a standby must keep up with. */
export interface ParameterChange {
  readonly kind: "parameter change";
  readonly maxConnections: number;
  readonly maxWorkerProcesses: number;
  /** From 12 on. */
  readonly maxWalSenders: number | undefined;
  readonly maxPreparedTransactions: number;
  readonly maxLocksPerTransaction: number;
  readonly walLevel: typeof WAL_LEVELS[number] | undefined;
  readonly walLogHints: boolean;
  readonly trackCommitTimestamp: boolean;
}

/** What a record of `XLOG_RESOURCE_MANAGER` tells, of those that say where recovery can begin or stop. */
export type XlogRecord = Checkpoint | RestorePoint | BackupEnd | EndOfRecovery | ParameterChange;

/** Whether `decodeXlogRecord()` has something to say of a record of `XLOG_RESOURCE_MANAGER`. */
export function isXlogRecord(info: number): boolean {
  return DECODED.has(info & INFO_MASK);
}

/**
 * Decodes the main data of a record of `XLOG_RESOURCE_MANAGER`; `undefined` for those of other kinds.
 *
 * | kind             | main data                                                                                        |
 * | ---------------- | ------------------------------------------------------------------------------------------------ |
 * | checkpoint       | 8 redo, 4 timeline, 4 previous timeline, 8 full-page writes and (17 on) wal_level, 8 next        |
 * |                  | transaction, 28 (next object to oldest multixact's database), 4 padding, 8 seconds since 1970, … |
 * |                  | (10, 11: 4 instead of 8 after the timelines; then 4 epoch, 4 next transaction, 28, 8 seconds)    |
 * | backup end       | 8 start                                                                                          |
 * | parameter change | 4 each: connections, workers, (12 on) WAL senders, prepared, locks, wal_level; 1 hints, 1 commit |
 * |                  | timestamps                                                                                       |
 * | restore point    | 8 time, name with a zero byte, in 64 bytes                                                       |
 * | end of recovery  | 8 time, 4 timeline, 4 previous timeline, …                                                       |
 *
 * @throws {SyntaxError} when the bytes end before that.
 * @see CheckPoint, src/include/catalog/pg_control.h; xl_restore_point, xl_end_of_recovery, xl_parameter_change,
 * src/include/access/xlog_internal.h (10 to 18)
 */
export function decodeXlogRecord(
  record: { readonly info: number; readonly mainData: Uint8Array },
  majorVersion: number,
): XlogRecord | undefined {
  const info = record.info & INFO_MASK;
  switch (info) {
    case CHECKPOINT_SHUTDOWN:
    case CHECKPOINT_ONLINE:
      return decodeCheckpoint(new MainDataInput(record.mainData, "a checkpoint"), {
        isShutdown: info === CHECKPOINT_SHUTDOWN,
        majorVersion,
      });
    case BACKUP_END:
      return {
        kind: "backup end",
        startLsn: lsn(new MainDataInput(record.mainData, "the end of a backup").u64()),
      };
    case PARAMETER_CHANGE:
      return decodeParameterChange(new MainDataInput(record.mainData, "a parameter change"), majorVersion);
    case RESTORE_POINT: {
      const input = new MainDataInput(record.mainData, "a restore point");
      const time = timestamp(input.i64());
      return { kind: "restore point", name: input.text(), time };
    }
    case END_OF_RECOVERY: {
      const input = new MainDataInput(record.mainData, "an end of recovery");
      const time = timestamp(input.i64());
      return { kind: "end of recovery", timeline: input.u32(), previousTimeline: input.u32(), time };
    }
    default:
      return undefined;
  }
}

function decodeCheckpoint(
  input: MainDataInput,
  { isShutdown, majorVersion }: { readonly isShutdown: boolean; readonly majorVersion: number },
): Checkpoint {
  const redoLsn = lsn(input.u64());
  const timeline = input.u32();
  const previousTimeline = input.u32();
  let nextXid: bigint;
  if (majorVersion >= 12) {
    input.skip(8);
    nextXid = input.u64();
  } else {
    input.skip(4);
    const epoch = BigInt(input.u32());
    nextXid = epoch << 32n | BigInt(input.u32());
  }
  input.skip(majorVersion >= 12 ? 32 : 28);
  const time = timestampOfUnix(input.i64() * 1_000_000n);
  return { kind: "checkpoint", redoLsn, isShutdown, timeline, previousTimeline, nextXid, time };
}

function decodeParameterChange(input: MainDataInput, majorVersion: number): ParameterChange {
  return {
    kind: "parameter change",
    maxConnections: input.u32(),
    maxWorkerProcesses: input.u32(),
    maxWalSenders: majorVersion >= 12 ? input.u32() : undefined,
    maxPreparedTransactions: input.u32(),
    maxLocksPerTransaction: input.u32(),
    walLevel: WAL_LEVELS[input.u32()],
    walLogHints: input.u8() !== 0,
    trackCommitTimestamp: input.u8() !== 0,
  };
}
