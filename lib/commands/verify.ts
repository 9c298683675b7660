import { availableParallelism } from "node:os";
import process from "node:process";
import { openDirectDisk } from "../archive/direct_disk.ts";
import { RangeBoundError } from "../archive/verify/plan.ts";
import { openDirectProver, openProofThreads, type Prover } from "../archive/verify/prover.ts";
import { verifyDirectory } from "../archive/verify/verify.ts";
import type { Log } from "../log.ts";
import { archiveDirectory } from "./archive_directory.ts";
import { realClock } from "./clock.ts";
import { type CommandContext, EXIT, UsageError } from "./context.ts";
import { commandLog } from "./logging.ts";
import { ProgressLine } from "./progress_line.ts";
import { formatVerifyJson, formatVerifyText } from "./verify_answer.ts";
import type { VerifyCommandOptions } from "./verify_options.ts";

/** Proves the WAL in a directory; resolves to the exit code. */
export async function verify(options: VerifyCommandOptions, context: CommandContext): Promise<number> {
  if (options.verbose && options.quiet) {
    throw new UsageError("--verbose and --quiet exclude each other", "Give one of them");
  }
  const log = commandLog(context, options);
  const directory = archiveDirectory(options.archive, context);
  const started = realClock.nowMs();
  const line = new ProgressLine(context.stderr, realClock, { enabled: options.quiet !== true });
  let jobs = 1;
  try {
    const { from, to, timeline } = options;
    const report = await verifyDirectory(openDirectDisk(directory), {
      range: { from, to, timeline },
      userId: process.geteuid?.(),
      openProver: (segments) => {
        jobs = Math.min(options.jobs ?? availableParallelism(), segments);
        const prover = openProver(directory, jobs, log);
        if (prover.capacity === 1) jobs = 1;
        return prover;
      },
      onProgress: (progress) => line.show(progress),
      signal: context.signal,
    });
    line.clear();
    const run = { directory, jobs, seconds: (realClock.nowMs() - started) / 1000 };
    const format = options.json ? formatVerifyJson : formatVerifyText;
    context.stdout.write(format(report, run));
    return report.problemCount === 0 ? EXIT.done : EXIT.no;
  } catch (error) {
    if (error instanceof RangeBoundError) {
      throw new UsageError(error.message, "Look at --from and --to; the segment size counts in both");
    }
    throw error;
  } finally {
    line.clear();
  }
}

function openProver(directory: string, jobs: number, log: Log): Prover {
  if (jobs === 1) return openDirectProver(directory);
  try {
    return openProofThreads(directory, jobs);
  } catch (error) {
    // A sandbox that may not read the program's own files: a thread can't be started then.
    log.warn("one file at a time", {
      error: (error as Error).message,
      hint: "under Deno, allow to read the program's own files too, or give --jobs 1",
    });
    return openDirectProver(directory);
  }
}
