import * as fs from "node:fs";
import { basename, dirname, isAbsolute } from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";
import { openDirectDisk } from "../archive/direct_disk.ts";
import { messageChain } from "../log.ts";
import { ArchiveDirectory } from "../restore/archive_directory.ts";
import { fetchComplete, fetchFile, type FetchOutcome, prepareRestore } from "../restore/fetch_file.ts";
import { exitCodeOf, type Obstacle, obstacleOf, RESTORE_EXIT } from "../restore/obstacle.ts";
import { outlastOutage } from "../restore/outlast_outage.ts";
import { parseRequestedName, type RequestedFile } from "../restore/requested_file.ts";
import { isStandby, readServerRun, type RestoringServer } from "../restore/server_directory.ts";
import { type Look, type Trigger, waitForFile } from "../restore/wait_for_file.ts";
import { formatLsn } from "../wal/lsn.ts";
import { type CommandContext, hintOf, UsageError } from "./context.ts";
import type { Delivered } from "./fetch_ahead.ts";
import type { FetchCommandOptions } from "./fetch_options.ts";

const POLL_INTERVAL_MS = 1000;
/** For how long, and how often, the history that a standby asks for is tried again in an outage. */
const HISTORY_PATIENCE_MS = 5000;
const HISTORY_INTERVAL_MS = 250;
const LINE = "walvault fetch --archive DIRECTORY %f %p";

const HINTS: Readonly<Partial<Record<Obstacle, string>>> = {
  hole:
    "Bring the missing WAL back, or end recovery before it on purpose, with recovery_target_timeline or recovery_target_lsn; for the latter a server of 15 or newer needs recovery_prefetch = off",
  damage:
    "Bring it back from another copy, or end recovery before it on purpose, with recovery_target_lsn; for that a server of 15 or newer needs recovery_prefetch = off",
  "wrong cluster": "Name the archive of this cluster",
};

/** Delivers one file to the server that asks for it; resolves to the exit code. */
export async function fetch(
  words: { readonly file: string; readonly target: string },
  options: FetchCommandOptions,
  context: CommandContext,
): Promise<number> {
  const say = (text: string) => context.stderr.write(`walvault: ${text}\n`);
  const file = checkWords(words);
  const absentExit = options.absentExit ?? RESTORE_EXIT.absent;
  const archive = openDirectDisk(checkOptions(options, context));
  const server = {
    data: openDirectDisk("."),
    wal: openDirectDisk(dirname(words.target)),
    targetName: basename(words.target),
  } satisfies RestoringServer;
  const proof = options.verify ? "records" : "pages";
  const aheadCall = { archive, server, target: words.target, proof } as const;
  if (options.prepare !== undefined) {
    const { prepareAhead } = await import("./fetch_ahead.ts");
    try {
      await prepareAhead(aheadCall, { segment: file.name, into: options.prepare });
    } catch (error) {
      if (error instanceof UsageError) throw error;
    }
    // It may end as a child of the server, in a container: any other end would be a crash of one of its own.
    return RESTORE_EXIT.delivered;
  }
  const run = options.ahead ? await readServerRun(server.data) : undefined;
  const reading = options.ahead && run?.processId !== "1" ? await import("./fetch_ahead.ts") : undefined;
  const ahead = reading?.findBoot(server.data.root, run);
  let delivered: Delivered | undefined;
  try {
    await checkTarget(server, words.target);
    const look = async ({ how, tail }: Look): Promise<FetchOutcome> => {
      const restore = await prepareRestore(
        await ArchiveDirectory.open(archive),
        server,
        {
          proof,
          ahead,
          untilGap: options.untilGap === true,
          pause: async (ms) => {
            await sleep(ms, undefined, { signal: context.signal });
          },
        },
      );
      if (how === "thorough") return await fetchFile(restore, file, { tail });
      return await fetchComplete(restore, file) ?? { kind: "absent", reason: "a tail is withheld" };
    };
    const lookOnce = () => look({ how: "thorough", tail: "allowed" });
    // Histories and backup labels come before what they tell of, or never.
    const outcome = options.wait && file.kind === "segment"
      ? await waitForFile(look, waitingOf(options, context))
      : file.kind === "history" && await isStandby(server.data)
      ? await outlastOutage(lookOnce, patienceOf(context))
      : await lookOnce();
    if (outcome.kind === "delivered" && file.kind === "segment") {
      delivered = { segment: file.name, readAhead: outcome.readAhead === true };
    }
    if (outcome.kind === "tail") {
      say(
        `${file.name} is delivered up to ${formatLsn(outcome.endLsn)}, where ${
          options.untilGap ? "a gap begins, or " : ""
        }its timeline ends here ("${outcome.path}")`,
      );
      return RESTORE_EXIT.delivered;
    }
    if (outcome.kind === "delivered" && outcome.damage !== undefined) {
      say(`${messageChain(outcome.damage)}; "${outcome.path}" is delivered instead`);
    }
    if (options.verbose) {
      say(
        outcome.kind === "delivered"
          ? `${file.name} is delivered ("${outcome.path}")${outcome.readAhead ? ", read ahead" : ""}`
          : `${file.name} is not delivered: ${outcome.reason}`,
      );
    }
    return outcome.kind === "delivered" ? RESTORE_EXIT.delivered : absentExit;
  } catch (error) {
    if (error instanceof UsageError) throw error;
    const obstacle = obstacleOf(error);
    const exitCode = exitCodeOf(obstacle, { standby: await isStandby(server.data), absentExit });
    const note = obstacle === "hole" && file.kind === "segment"
      ? await (await import("./fetch_gap.ts")).gapNote(archive, file.name)
      : undefined;
    say(messageChain(error) + (note === undefined ? "" : `; ${note}`));
    const hint = hintOf(error) ?? HINTS[obstacle];
    if (hint !== undefined) context.stderr.write(`hint: ${hint}\n`);
    if (exitCode === absentExit) say(`${file.name}: the standby goes on and asks again`);
    return exitCode;
  } finally {
    if (ahead !== undefined) await reading?.readOn(aheadCall, delivered);
  }

  function patienceOf({ signal }: CommandContext) {
    return {
      nowMs: () => performance.now(),
      sleep: (ms: number) => sleep(ms, undefined, { signal }),
      limitMs: HISTORY_PATIENCE_MS,
      intervalMs: HISTORY_INTERVAL_MS,
    };
  }

  function waitingOf({ trigger, timeout, pollInterval }: FetchCommandOptions, { signal }: CommandContext) {
    return {
      nowMs: () => performance.now(),
      sleep: (ms: number) => sleep(ms, undefined, { signal }),
      trigger: () => Promise.resolve(trigger === undefined ? undefined : readTrigger(trigger)),
      tell: (error: unknown) => say(`${messageChain(error)}; waiting`),
      pollIntervalMs: pollInterval ?? POLL_INTERVAL_MS,
      timeoutMs: timeout,
    };
  }
}

/** A file that is half written, or holds another word, is no trigger yet. */
function readTrigger(path: string): Trigger | undefined {
  let text: string;
  try {
    text = fs.readFileSync(path, "utf8").trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
  if (text === "" || text === "smart") return "smart";
  return text === "fast" ? "fast" : undefined;
}

function checkWords({ file, target }: { readonly file: string; readonly target: string }): RequestedFile {
  const requested = parseRequestedName(file);
  if (file === "%f" || target === "%p") {
    throw new UsageError(
      `Cannot fetch "${file}" to "${target}": only PostgreSQL puts names in the place of %f and %p`,
      `This is for postgresql.conf: restore_command = '${LINE}'`,
    );
  }
  if (requested === undefined) {
    const swapped = parseRequestedName(basename(target)) !== undefined && !target.includes("/") ||
      /^RECOVERY(XLOG|HISTORY)$/.test(basename(file));
    throw new UsageError(
      swapped
        ? `Cannot fetch "${file}" to "${target}": %f and %p are swapped`
        : file.includes("/") && parseRequestedName(basename(file)) !== undefined
        ? `Cannot fetch "${file}": want a file name, without a path`
        : `Cannot fetch "${file}": want the name of a WAL segment, a timeline history or a backup label`,
      `The line should read: restore_command = '${LINE}'`,
    );
  }
  if (target === "" || target.endsWith("/")) {
    throw new UsageError(
      `Cannot write to "${target}": want the path of a file`,
      `The line should read: restore_command = '${LINE}'`,
    );
  }
  return requested;
}

function checkOptions(options: FetchCommandOptions, context: CommandContext): string {
  for (
    const [flag, given] of [
      ["--trigger", options.trigger],
      ["--timeout", options.timeout],
      ["--poll-interval", options.pollInterval],
    ] as const
  ) {
    if (given === undefined || options.wait) continue;
    throw new UsageError(`${flag} is for --wait`, "Without --wait the answer comes at once");
  }
  const directory = options.archive ?? context.env["WALVAULT_ARCHIVE"];
  if (directory === undefined || directory === "") {
    throw new UsageError(
      "No archive is given",
      "Name the archive directory with --archive, or in WALVAULT_ARCHIVE",
    );
  }
  return directory;
}

async function checkTarget({ wal, targetName }: RestoringServer, target: string): Promise<void> {
  const directory = await wal.entry(".");
  if (directory === undefined || directory.kind === "file" || directory.kind === "other") {
    const what = directory === undefined ? "there is no such directory" : "that is no directory";
    const from = isAbsolute(target) ? "" : `, from the working directory "${process.cwd()}"`;
    throw new UsageError(
      `Cannot write "${target}": "${wal.root}": ${what}${from}`,
      "%p counts from the server's data directory: run it there",
    );
  }
  if ((await wal.entry(targetName))?.kind === "directory") {
    throw new UsageError(
      `Cannot write "${target}": it is a directory, want the path of a file`,
      `The line should read: restore_command = '${LINE}'`,
    );
  }
}
