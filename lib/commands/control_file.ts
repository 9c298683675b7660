import { openDirectDisk } from "../archive/direct_disk.ts";
import { withFile } from "../archive/durable.ts";

const CONTROL_FILE = "global/pg_control";
const SYSTEM_IDENTIFIER_BYTES = 8;

/**
 * The system identifier of the data directory that the process works in, where the server runs its commands;
 * `undefined` when it works in none.
 *
 * @see ControlFileData, src/include/catalog/pg_control.h: its first field, in all versions
 */
export async function systemIdentifierHere(): Promise<bigint | undefined> {
  const bytes = new Uint8Array(SYSTEM_IDENTIFIER_BYTES);
  const count = await withFile(openDirectDisk("."), CONTROL_FILE, (file) => file.read(bytes, 0));
  if (count === undefined) return undefined;
  if (count < bytes.length) throw new Error(`Cannot read "${CONTROL_FILE}": it has ${count} bytes`);
  return new DataView(bytes.buffer).getBigUint64(0, true);
}
