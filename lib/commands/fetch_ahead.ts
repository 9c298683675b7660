import * as fs from "node:fs";
import process from "node:process";
import { bunBuiltins } from "../archive/bun_builtins.ts";
import type { DirectDisk } from "../archive/direct_disk.ts";
import type { Disk } from "../archive/disk.ts";
import { removeName } from "../archive/durable.ts";
import { ArchiveDirectory } from "../restore/archive_directory.ts";
import { prepareRestore, type Proof } from "../restore/fetch_file.ts";
import { type Boot, isPreparingName } from "../restore/prepared_file.ts";
import { beginNext, prepareSegment, type Preparing, removePrepared } from "../restore/read_ahead.ts";
import { readServerRun, type RestoringServer, type ServerRun } from "../restore/server_directory.ts";
import { UsageError } from "./context.ts";

/** Another one after each start of the machine; on Linux only. */
const BOOT_ID = "/proc/sys/kernel/random/boot_id";

/** What a call of `fetch --ahead` reads ahead for. */
export interface AheadCall {
  readonly archive: Disk;
  readonly server: RestoringServer & { readonly wal: DirectDisk };
  /** As the command line has it. */
  readonly target: string;
  readonly proof: Proof;
}

/**
 * The start of the machine, the run of the server, and the user; `undefined` where something of it is not told, and nothing
 * is read ahead.
 *
 * @param run as `postmaster.pid` in the data directory `data` tells it.
 * @throws {UsageError} where the program can't start itself.
 */
export function findBoot(data: string, run: ServerRun | undefined): Boot | undefined {
  if (bunBuiltins() === undefined) {
    throw new UsageError(
      "--ahead is not for Deno: its permissions do not let the program start itself",
      "Use the executable that deno task compile:bun makes, or leave --ahead out",
    );
  }
  const userId = process.geteuid?.();
  // Whoever runs it by hand, and pg_rewind, has no server that would ask for the next segment.
  if (run === undefined || userId === undefined) return undefined;
  let text: string;
  let place: fs.Stats;
  try {
    text = fs.readFileSync(BOOT_ID, "utf8");
    place = fs.statSync(data);
  } catch {
    return undefined;
  }
  const bootId = text.trim().replaceAll("-", "");
  if (!/^[0-9a-f]{32}$/.test(bootId)) return undefined;
  const serverRun = [run.processId, run.startedAt, place.dev, place.ino].join(" ");
  return { bootId, serverRun, userId };
}

/** What a call has given to its server. */
export interface Delivered {
  readonly segment: string;
  /** It was read ahead. */
  readonly readAhead: boolean;
}

/**
 * Behind each call: removes what was read ahead and not asked for, and lets another process read the segment behind the
 * one that was delivered.
 *
 * Nothing of it changes the answer: without it the next call copies its segment itself.
 */
export async function readOn(call: AheadCall, delivered: Delivered | undefined): Promise<void> {
  const { archive, server } = call;
  try {
    // Where it was asked for there is nothing else: whatever leaves more, a reader killed or too late, leads to a call that
    // has to copy. To list names takes longer than all the rest.
    if (delivered?.readAhead !== true) await removePrepared(server.wal);
    if (delivered === undefined) return;
    const suffix = [...crypto.getRandomValues(new Uint8Array(6))].map((byte) => byte.toString(36)).join("");
    const next = await beginNext(archive, server, { delivered: delivered.segment, suffix });
    if (next === undefined) return;
    try {
      start(call, next);
    } catch (error) {
      await removeName(server.wal, next.into);
      throw error;
    }
  } catch {
    // A full disk, for one: the server needs it more.
  }
}

/** Nobody waits for it, and it holds nothing of ours open: the server may wait until that is closed. */
function start({ archive, proof, target }: AheadCall, { segment, into }: Preparing): void {
  const [program, ...words] = ownCommand();
  const options = [`--archive=${archive.root}`, ...(proof === "records" ? [] : ["--no-verify"])];
  const command = [program, ...words, "fetch", ...options, `--prepare=${into}`, "--", segment, target];
  bunBuiltins()?.spawn(command, { stdio: ["ignore", "ignore", "ignore"], detached: true }).unref();
}

/** How this program was started: an executable made with Bun shows a path of its own inside as its script. */
function ownCommand(): readonly [string, ...string[]] {
  const [, script = ""] = process.argv;
  if (script.startsWith("/$bunfs/")) return [process.execPath];
  return [process.execPath, ...process.execArgv, script];
}

/** What the other process does. Whatever comes of it, it has delivered nothing, and its end is nobody's concern. */
export async function prepareAhead(call: AheadCall, preparing: Preparing): Promise<void> {
  const { archive, server, proof } = call;
  if (!isPreparingName(preparing.into, preparing.segment)) {
    throw new UsageError(
      `Cannot read ${preparing.segment} into "${preparing.into}": that is no file for it`,
      "--prepare is for the program itself: use --ahead",
    );
  }
  const ahead = findBoot(server.data.root, await readServerRun(server.data));
  if (ahead === undefined) return;
  const restore = await prepareRestore(await ArchiveDirectory.open(archive), server, {
    proof,
    pause: () => Promise.resolve(),
  });
  await prepareSegment({ ...restore, ahead }, server.wal, preparing);
}
