import { type Timestamp, timestamp } from "../timestamp.ts";
import { MainDataInput } from "./main_data.ts";

/** The resource manager of transactions' ends. */
export const TRANSACTION_RESOURCE_MANAGER = 1;

const OPERATION_MASK = 0x70;
const COMMIT = 0x00;
const ABORT = 0x20;
const COMMIT_PREPARED = 0x30;
const ABORT_PREPARED = 0x40;
/** In `info`: more than the time follows, and a word that tells what. */
const HAS_MORE = 0x80;

const HAS_DATABASE = 1 << 0;
const HAS_SUBTRANSACTIONS = 1 << 1;
const HAS_RELATION_FILES = 1 << 2;
const HAS_INVALIDATIONS = 1 << 3;
const HAS_PREPARED = 1 << 4;
const HAS_GID = 1 << 7;
const HAS_DROPPED_STATISTICS = 1 << 8;

const DATABASE_BYTES = 8;
const RELATION_FILE_BYTES = 12;
const INVALIDATION_BYTES = 16;
/** An object of dropped statistics; its number grew to 64 bits in version 18. */
const STATISTICS_BYTES = { to17: 12, from18: 16 } as const;

/** The end of a transaction, as its record tells. */
export interface TransactionEnd {
  readonly kind: "commit" | "abort";
  /** The transaction: of a prepared one its own, not that of the session which ended it. */
  readonly xid: number;
  /** By the server's clock, when it was on its way to write the record: later records may hold earlier times. */
  readonly time: Timestamp;
  /** Its subtransactions, those that were rolled back before it left out. */
  readonly subxids: Uint32Array;
  /** It was prepared before, and ended by COMMIT PREPARED or ROLLBACK PREPARED. */
  readonly isPrepared: boolean;
  /** The name under which it was prepared, where the record holds it (from 11 on, with logical decoding). */
  readonly gid: string | undefined;
}

const NO_SUBTRANSACTIONS = new Uint32Array(0);

/** Whether a record ends a transaction. */
export function isTransactionEnd(resourceManager: number, info: number): boolean {
  return resourceManager === TRANSACTION_RESOURCE_MANAGER && endsTransaction(info);
}

/** Whether a record of `TRANSACTION_RESOURCE_MANAGER` ends a transaction: recovery can stop at those only. */
export function endsTransaction(info: number): boolean {
  const operation = info & OPERATION_MASK;
  return operation === COMMIT || operation === ABORT || operation === COMMIT_PREPARED ||
    operation === ABORT_PREPARED;
}

/**
 * Decodes the main data of a record of `TRANSACTION_RESOURCE_MANAGER`; `undefined` when it ends no transaction.
 *
 * | part                                                    | there with                                     |
 * | ------------------------------------------------------- | ---------------------------------------------- |
 * | 8 time                                                  | always                                         |
 * | 4 what follows                                          | the bit 0x80 of `info`                         |
 * | 4 database, 4 tablespace                                | bit 0 of what follows                          |
 * | 4 count, 4 for each subtransaction                      | bit 1                                          |
 * | 4 count, 12 for each removed file of a relation         | bit 2                                          |
 * | 4 count, 12 (from 18 on: 16) for each dropped statistic | bit 8 (from 15 on)                             |
 * | 4 count, 16 for each invalidation message               | bit 3                                          |
 * | 4 prepared transaction                                  | bit 4                                          |
 * | name of the prepared transaction, zero byte             | bits 4 and 7                                   |
 *
 * Unaligned; what follows after that (the replication origin) does not matter here.
 * @throws {SyntaxError} when the bytes end before that.
 * @see ParseCommitRecord(), ParseAbortRecord(), src/backend/access/rmgrdesc/xactdesc.c (10 to 18)
 */
export function decodeTransactionEnd(
  record: { readonly info: number; readonly xid: number; readonly mainData: Uint8Array },
  majorVersion: number,
): TransactionEnd | undefined {
  const { info, mainData } = record;
  if (!endsTransaction(info)) return undefined;
  const operation = info & OPERATION_MASK;
  const kind = operation === COMMIT || operation === COMMIT_PREPARED ? "commit" : "abort";
  const input = new MainDataInput(mainData, `the ${kind} of transaction ${record.xid}`);
  const time = timestamp(input.i64());
  const flags = (info & HAS_MORE) === 0 ? 0 : input.u32();
  if ((flags & HAS_DATABASE) !== 0) input.skip(DATABASE_BYTES);
  const subxids = (flags & HAS_SUBTRANSACTIONS) === 0 ? NO_SUBTRANSACTIONS : input.u32s(input.u32());
  if ((flags & HAS_RELATION_FILES) !== 0) input.skip(input.u32(), RELATION_FILE_BYTES);
  if ((flags & HAS_DROPPED_STATISTICS) !== 0) {
    input.skip(input.u32(), majorVersion >= 18 ? STATISTICS_BYTES.from18 : STATISTICS_BYTES.to17);
  }
  if ((flags & HAS_INVALIDATIONS) !== 0) input.skip(input.u32(), INVALIDATION_BYTES);
  const isPrepared = (flags & HAS_PREPARED) !== 0;
  const xid = isPrepared ? input.u32() : record.xid;
  const gid = isPrepared && (flags & HAS_GID) !== 0 ? input.text() : undefined;
  return { kind, xid, time, subxids, isPrepared, gid };
}
