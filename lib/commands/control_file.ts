import { openDirectDisk } from "../archive/direct_disk.ts";
import type { Disk } from "../archive/disk.ts";
import { withFile } from "../archive/durable.ts";

const CONTROL_FILE = "global/pg_control";
const SYSTEM_IDENTIFIER_BYTES = 8;
/** Before PostgreSQL 10 it had another name. */
const WAL_DIRECTORY = /(^|\/)pg_(wal|xlog)\/*$/;

/**
 * The system identifier of the data directory that the process works in, where the server runs its commands;
 * `undefined` when it works in none.
 *
 * @see ControlFileData, src/include/catalog/pg_control.h: its first field, in all versions
 */
export function systemIdentifierHere(): Promise<bigint | undefined> {
  return readSystemIdentifier(openDirectDisk("."), CONTROL_FILE);
}

/** Of the server whose `pg_wal` a directory is; `undefined` when it is none. */
export async function systemIdentifierBeside(wal: Disk): Promise<bigint | undefined> {
  return WAL_DIRECTORY.test(wal.root) ? await readSystemIdentifier(wal, `../${CONTROL_FILE}`) : undefined;
}

async function readSystemIdentifier(disk: Disk, path: string): Promise<bigint | undefined> {
  const bytes = new Uint8Array(SYSTEM_IDENTIFIER_BYTES);
  const count = await withFile(disk, path, (file) => file.read(bytes, 0));
  if (count === undefined) return undefined;
  if (count < bytes.length) throw new Error(`Cannot read "${path}": it has ${count} bytes`);
  return new DataView(bytes.buffer).getBigUint64(0, true);
}
