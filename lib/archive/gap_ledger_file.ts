import type { Disk } from "./disk.ts";
import { readWhole } from "./durable.ts";
import { type GapLedger, parseLedger } from "./gaps.ts";
import { GAP_LEDGER_FILE } from "./layout.ts";

/** A line has some hundred bytes. */
const MAXIMUM_LEDGER_BYTES = 64 << 20;
const NEWLINE = 0x0a;

/**
 * Reads an archive's gap ledger; `undefined` when there is none.
 *
 * @throws {SyntaxError} when a newer program wrote in it.
 */
export async function readLedger(disk: Disk): Promise<GapLedger | undefined> {
  const bytes = await readWhole(disk, GAP_LEDGER_FILE, MAXIMUM_LEDGER_BYTES);
  return bytes === undefined ? undefined : parseLedger(bytes);
}

/**
 * Adds a line to the ledger; durable when it resolves.
 *
 * One write, at the end, so that two who write at once do not mix their lines. What a crash cut off before stays a line
 * of its own: nothing is ever glued to it. A power cut in here leaves nothing, a part of the line, or all of it.
 *
 * To sync the lines that are there already would prove nothing: when a sync of them failed, in an earlier process, the
 * kernel calls the pages clean and the next sync a success. Who counts on such a line adds it again.
 */
export async function appendToLedger(disk: Disk, line: Uint8Array, mode: number): Promise<void> {
  const file = await disk.append(GAP_LEDGER_FILE, mode);
  try {
    const end = await file.bytes();
    const last = new Uint8Array(1);
    const isCutOff = end > 0 && await file.read(last, end - 1) === 1 && last[0] !== NEWLINE;
    const bytes = isCutOff ? new Uint8Array([NEWLINE, ...line]) : line;
    await file.write(bytes, end);
    await file.sync();
  } finally {
    await file.close();
  }
  await disk.syncDirectory(".");
}
