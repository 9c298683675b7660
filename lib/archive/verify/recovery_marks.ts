import type { Lsn } from "../../wal/lsn.ts";
import { type WalRecord, XLOG_RESOURCE_MANAGER } from "../../wal/record.ts";
import { decodeRecordBody } from "../../wal/record_body.ts";
import { decodeXlogRecord, type XlogRecord } from "../../wal/rmgr/xlog.ts";

const INFO_MASK = 0xf0;
const CHECKPOINT_SHUTDOWN = 0x00;
const CHECKPOINT_ONLINE = 0x10;
const FULL_PAGE_WRITES_CHANGE = 0x80;
const END_OF_RECOVERY = 0x90;
const OVERWRITE_CONTRECORD = 0xd0;

/** By a record that ends a recovery: a timeline begins here, and which one it came from. */
export interface TimelineMark {
  /** The first record that is the timeline's own: the end of recovery may write others before the one that tells. */
  readonly lsn: Lsn;
  readonly timeline: number;
  readonly previousTimeline: number;
}

/** Whether a record may tell where a timeline, or a recovery, begins. */
export function isRecoveryMark(resourceManager: number, info: number): boolean {
  if (resourceManager !== XLOG_RESOURCE_MANAGER) return false;
  const kind = info & INFO_MASK;
  return kind === CHECKPOINT_SHUTDOWN || kind === CHECKPOINT_ONLINE || kind === END_OF_RECOVERY ||
    isWrittenBefore(kind);
}

/** @see StartupXLOG(), src/backend/access/transam/xlog.c: what it may write before the end of recovery (13 to 18) */
function isWrittenBefore(kind: number): boolean {
  return kind === FULL_PAGE_WRITES_CHANGE || kind === OVERWRITE_CONTRECORD;
}

/** Finds where timelines and recoveries begin, among the records of a segment. */
export class RecoveryMarks {
  readonly timelineStarts: TimelineMark[] = [];
  /** Where the last checkpoint lets a recovery begin. */
  redoLsn: Lsn | undefined;
  /** A row of records that a recovery may have written at its end, up to here: where it began, and its last one. */
  #row: { readonly firstLsn: Lsn; readonly lastLsn: Lsn } | undefined;

  take({ lsn, header, bytes }: WalRecord, majorVersion: number | undefined): void {
    const row = this.#row?.lastLsn === header.prevLsn ? this.#row : undefined;
    this.#row = undefined;
    const kind = header.info & INFO_MASK;
    if (isWrittenBefore(kind)) {
      this.#row = { firstLsn: row?.firstLsn ?? lsn, lastLsn: lsn };
      return;
    }
    // Of a version that nobody knows, nothing can be said.
    if (majorVersion === undefined) return;
    const record = decodeIfRight({ header, bytes }, majorVersion);
    if (record?.kind !== "checkpoint" && record?.kind !== "end of recovery") return;
    if (record.kind === "checkpoint") this.redoLsn = record.redoLsn;
    const { timeline, previousTimeline } = record;
    if (timeline === previousTimeline) return;
    this.timelineStarts.push({ lsn: row?.firstLsn ?? lsn, timeline, previousTimeline });
  }
}

function decodeIfRight(
  { header: { info }, bytes }: Pick<WalRecord, "header" | "bytes">,
  majorVersion: number,
): XlogRecord | undefined {
  try {
    return decodeXlogRecord({ info, mainData: decodeRecordBody(bytes, majorVersion).mainData }, majorVersion);
  } catch (error) {
    // Its CRC holds, so it is what was written: by something else than PostgreSQL, and it tells nothing.
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
