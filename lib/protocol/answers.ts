import { type Lsn, parseLsn } from "../wal/lsn.ts";
import { historyFileName, type TimelineId, timelineId } from "../wal/timeline.ts";
import { ProtocolError } from "./errors.ts";
import type { SlotPosition, SystemIdentity } from "./replication.ts";

/** The rows of one command, as bytes in text format; `undefined` is NULL. */
export interface Answer {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (Uint8Array | undefined)[])[];
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * What IDENTIFY_SYSTEM answered.
 *
 * @throws {ProtocolError} on anything else than one row of system identifier, timeline and LSN.
 */
export function decodeSystemIdentity(answer: Answer): SystemIdentity {
  const row = onlyRow(answer, "IDENTIFY_SYSTEM");
  return {
    systemIdentifier: wanted(row.read("systemid", decodeUint64), "systemid"),
    timeline: wanted(row.read("timeline", decodeTimeline), "timeline"),
    flushLsn: wanted(row.read("xlogpos", decodeLsn), "xlogpos"),
  };
}

/**
 * What SHOW answered.
 *
 * @throws {ProtocolError} on anything else than one text.
 */
export function decodeSetting(answer: Answer): string {
  if (answer.columns.length !== 1) {
    throw new ProtocolError(`Cannot decode answer to SHOW: ${answer.columns.length} columns, want 1`);
  }
  const name = answer.columns[0]!;
  return wanted(onlyRow(answer, "SHOW").read(name, String), name);
}

/**
 * A version as `SHOW server_version_num` tells it: 150018, 130005.
 *
 * @throws {ProtocolError} on anything else than five to seven digits.
 */
export function decodeServerVersion(text: string): number {
  if (!/^[1-9][0-9]{4,6}$/.test(text)) {
    throw new ProtocolError(
      `Cannot decode server_version_num: ${JSON.stringify(text)}, want for example "150018"`,
    );
  }
  return Number(text);
}

/**
 * What READ_REPLICATION_SLOT, or the query that stands in for it, answered; `undefined` when there is no such slot.
 *
 * @throws {ProtocolError} on an unknown kind of slot, or a position that is none.
 */
export function decodeSlotPosition(answer: Answer): SlotPosition | undefined {
  if (answer.rows.length === 0) return undefined;
  const row = onlyRow(answer, "READ_REPLICATION_SLOT");
  const kind = row.read("slot_type", String);
  if (kind === undefined) return undefined;
  if (kind !== "physical" && kind !== "logical") {
    throw new ProtocolError(`Cannot decode slot_type: ${JSON.stringify(kind)}, want "physical" or "logical"`);
  }
  return {
    kind,
    restartLsn: row.read("restart_lsn", decodeLsn),
    restartTimeline: row.read("restart_tli", decodeTimeline),
  };
}

/**
 * The history file's bytes that TIMELINE_HISTORY answered.
 *
 * @throws {ProtocolError} when the file is not the one asked for.
 */
export function decodeTimelineHistory(answer: Answer, timeline: TimelineId): Uint8Array {
  const row = onlyRow(answer, "TIMELINE_HISTORY");
  const name = wanted(row.read("filename", String), "filename");
  const wantedName = historyFileName(timeline);
  if (name !== wantedName) {
    throw new ProtocolError(
      `Cannot take history file ${JSON.stringify(name)}: want ${JSON.stringify(wantedName)}`,
    );
  }
  return wanted(row.bytes("content"), "content").slice();
}

/**
 * Where the timeline ended and which one follows; `undefined` when the stream ended for another reason.
 *
 * @throws {ProtocolError} on a row that says something else.
 */
export function decodeTimelineEnd(
  answer: Answer,
): { readonly nextTimeline: TimelineId; readonly switchLsn: Lsn } | undefined {
  if (answer.rows.length === 0) return undefined;
  const row = onlyRow(answer, "START_REPLICATION");
  return {
    nextTimeline: wanted(row.read("next_tli", decodeTimeline), "next_tli"),
    switchLsn: wanted(row.read("next_tli_startpos", decodeLsn), "next_tli_startpos"),
  };
}

/** One row of an answer, by its columns. */
export interface Row {
  bytes(column: string): Uint8Array | undefined;
  /** `decode` may throw anything: the text is then named in a `ProtocolError`. */
  read<T>(column: string, decode: (text: string) => T): T | undefined;
}

/** Decodes each row of an answer; throws as `decode` does, and `ProtocolError` when a column is missing. */
export function decodeRows<T>(answer: Answer, command: string, decode: (row: Row) => T): readonly T[] {
  return answer.rows.map((_, index) => decode(rowAt(answer, index, command)));
}

function onlyRow(answer: Answer, command: string): Row {
  if (answer.rows.length !== 1) {
    throw new ProtocolError(`Cannot decode answer to ${command}: ${answer.rows.length} rows, want 1`);
  }
  return rowAt(answer, 0, command);
}

function rowAt({ columns, rows }: Answer, rowIndex: number, command: string): Row {
  const row = rows[rowIndex] ?? [];
  const bytes = (column: string) => {
    const index = columns.indexOf(column);
    if (index < 0 || row.length !== columns.length) {
      throw new ProtocolError(`Cannot decode answer to ${command}: column ${column} is missing`);
    }
    return row[index];
  };
  return {
    bytes,
    read(column, decode) {
      const value = bytes(column);
      if (value === undefined) return undefined;
      try {
        return decode(utf8.decode(value));
      } catch (cause) {
        throw new ProtocolError(`Cannot decode ${column} in the answer to ${command}`, { cause });
      }
    },
  };
}

function wanted<T>(value: T | undefined, column: string): T {
  if (value === undefined) throw new ProtocolError(`Cannot decode ${column}: it is NULL`);
  return value;
}

function decodeUint64(text: string): bigint {
  const value = /^[0-9]{1,20}$/.test(text) ? BigInt(text) : -1n;
  if (value < 0n || value >= 2n ** 64n) throw new RangeError(`${JSON.stringify(text)}, want 0 to 2^64-1`);
  return value;
}

function decodeTimeline(text: string): TimelineId {
  if (!/^[0-9]{1,10}$/.test(text)) throw new RangeError(`${JSON.stringify(text)}, want a timeline's number`);
  return timelineId(Number(text));
}

const decodeLsn = parseLsn;
