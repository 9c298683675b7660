import type { Disk } from "../archive/disk.ts";
import { readWhole, withFile } from "../archive/durable.ts";
import { historyFileName, type TimelineId } from "../wal/timeline.ts";

const CONTROL_FILE = "global/pg_control";
const PID_FILE = "postmaster.pid";
const MAXIMUM_PID_FILE_BYTES = 4096;
const STANDBY_SIGNAL = "standby.signal";

/** What is known of the server that asks. */
export interface RestoringServer {
  /** The working directory: the server's data directory, when it is the server that asks. */
  readonly data: Disk;
  /** Where the target is to be written, and where the server looks for files of its own: `pg_wal`. */
  readonly wal: Disk;
  /** The target's name there. */
  readonly targetName: string;
}

/**
 * The system identifier of the data directory; `undefined` where there is none.
 *
 * It stands at the start of `pg_control` in every version, little-endian as on every platform that matters.
 */
export async function readSystemIdentifier(data: Disk): Promise<bigint | undefined> {
  return await withFile(data, CONTROL_FILE, async (file) => {
    const bytes = new Uint8Array(8);
    if (await file.read(bytes, 0) < bytes.length) return undefined;
    return new DataView(bytes.buffer).getBigUint64(0, true);
  });
}

/** Whether the server is a standby that goes on asking, and that an exit code above 125 would end. */
export async function isStandby(data: Disk): Promise<boolean> {
  return await data.entry(STANDBY_SIGNAL) !== undefined;
}

/** Which run of a server it is: another one after each start of it. */
export interface ServerRun {
  /** Where it is 1, the server is the first process of a container: what nobody waits for becomes its child. */
  readonly processId: string;
  /** Seconds since 1970. */
  readonly startedAt: string;
}

/** The run that `postmaster.pid` tells of; `undefined` where it is not there, or not whole. */
export async function readServerRun(data: Disk): Promise<ServerRun | undefined> {
  const bytes = await readWhole(data, PID_FILE, MAXIMUM_PID_FILE_BYTES).catch(() => undefined);
  if (bytes === undefined) return undefined;
  // Process, data directory, start; then what is of no use here.
  const [processId = "", , startedAt = ""] = new TextDecoder().decode(bytes).split("\n", 3)
    .map((line) => line.trim());
  return /^-?[0-9]+$/.test(processId) && /^[0-9]+$/.test(startedAt) ? { processId, startedAt } : undefined;
}

/** Whether the server has the history of a timeline itself. */
export async function hasOwnHistory(wal: Disk, timeline: TimelineId): Promise<boolean> {
  return (await wal.entry(historyFileName(timeline)))?.kind === "file";
}
