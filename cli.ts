import process from "node:process";
import type { ServerCommand } from "./lib/commands/command_line.ts";
import { type CommandContext, EXIT, type FailureExits, hintOf, UsageError } from "./lib/commands/context.ts";
import { FETCH_TABLE, type FetchCommandOptions } from "./lib/commands/fetch_options.ts";
import { maskSecrets } from "./lib/commands/mask_secrets.ts";
import { standardOutput } from "./lib/commands/output.ts";
import { plainCall } from "./lib/commands/plain_call.ts";
import { PUSH_TABLE, type PushCommandOptions } from "./lib/commands/push_options.ts";
import { originalCall, runOriginal } from "./lib/compat/originals.ts";
import { messageChain } from "./lib/log.ts";

/** A variable that the sandbox hides is one that is not set. */
const environment = new Proxy({} as Record<string, string | undefined>, {
  get(_target, name) {
    if (typeof name !== "string") return undefined;
    try {
      return process.env[name];
    } catch {
      return undefined;
    }
  },
});

const stop = new AbortController();

const context: CommandContext = {
  stdout: standardOutput(1),
  stderr: standardOutput(2),
  env: environment,
  signal: stop.signal,
};

/** Exits when a command line can't be carried out, by command; `EXIT` for the others. */
const FAILURE_EXITS: Readonly<Record<string, FailureExits>> = {
  push: { usage: 1, failed: 1 },
  // PostgreSQL takes 1 to 125 for the end of all WAL.
  fetch: { usage: 200, failed: 200 },
};

/** What a server names when it asks: a mistyped command must not end its recovery either. */
const RESTORE_TARGET = /(^|\/)RECOVERY(XLOG|HISTORY)$/;

function namesRestoreTarget(words: readonly string[]): boolean {
  return words.some((word) => RESTORE_TARGET.test(word));
}

/** What a server names when it hands a file over. */
const BROUGHT_FILE = /(^|\/)([0-9A-F]{24}(\.[0-9A-F]{8}\.backup|\.partial)?|[0-9A-F]{8}\.history)$/;

function isServersCall(words: readonly string[]): boolean {
  return namesRestoreTarget(words) ||
    words.includes("push") && words.some((word) => BROUGHT_FILE.test(word));
}

function failureExitsOf(words: readonly string[]): FailureExits {
  const name = namesRestoreTarget(words) ? "fetch" : words[0] ?? "";
  return FAILURE_EXITS[name] ?? EXIT;
}

function stopBySignals(): void {
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.on(name, () => {
      // The second one means it: what is not yet safe is the server's to keep.
      if (stop.signal.aborted) process.kill(process.pid, "SIGKILL");
      stop.abort(new Error(`Stopped by ${name}`));
    });
  }
}

/** An error that nobody caught ends neither with the runtime's exit code nor as if nothing had been. */
function failOnUncaught(): void {
  for (const name of ["uncaughtException", "unhandledRejection"] as const) {
    process.on(name, (error) => {
      uncaught = true;
      context.stderr.write(`walvault: ${maskSecrets(messageChain(error))}\n`);
      stop.abort(error);
    });
  }
}

let uncaught = false;

/** An operation has not returned when its time was over. */
let hanging = false;

const PUSH: ServerCommand = {
  table: PUSH_TABLE,
  async run({ operands, options }) {
    const { push } = await import("./lib/commands/push.ts");
    return await push(operands, options as unknown as PushCommandOptions, {
      ...context,
      hangs: () => hanging = true,
    });
  },
};

const FETCH: ServerCommand = {
  table: FETCH_TABLE,
  async run({ operands: [file = "", target = ""], options }) {
    failOnUncaught();
    const { fetch } = await import("./lib/commands/fetch.ts");
    return await fetch({ file, target }, options as unknown as FetchCommandOptions, context);
  },
};

/** Does what a command line says; resolves to the exit code. */
async function run(words: readonly string[], exits: FailureExits): Promise<number> {
  const original = originalCall(process);
  if (original !== undefined) return await runOriginal(original, { ...context, stopBySignals });
  const [name, ...rest] = words;
  for (const { table, run } of [PUSH, FETCH]) {
    const call = table.name === name ? plainCall(rest, table) : undefined;
    if (call !== undefined) return await run(call);
  }
  const [{ runCommandLine }, { asCommand }] = await Promise.all([
    import("./lib/commands/command_line.ts"),
    import("./lib/compat/as_options.ts"),
  ]);
  const place = { ...context, stopBySignals, push: PUSH, fetch: FETCH, others: [asCommand()] };
  const exitCode = await runCommandLine(words, place, exits);
  if (exitCode !== "helped") return exitCode;
  // Help is no file: a server that gets 0 looks for its target, or forgets what it handed over.
  return isServersCall(words) ? exits.usage : EXIT.done;
}

async function main(words: readonly string[], exits: FailureExits): Promise<number> {
  try {
    return await run(words, exits);
  } catch (error) {
    context.stderr.write(`walvault: ${maskSecrets(messageChain(error))}\n`);
    const hint = hintOf(error);
    if (hint !== undefined) context.stderr.write(`hint: ${maskSecrets(hint)}\n`);
    return error instanceof UsageError ? exits.usage : exits.failed;
  }
}

const words = process.argv.slice(2);
const failureExits = failureExitsOf(words);
// Also when it never settles: nothing is left to do then, and nothing was done.
process.exitCode = failureExits.failed;
main(words, failureExits).then((exitCode) => {
  process.exitCode = uncaught ? failureExits.failed : exitCode;
  // Bun waits for calls on its own threads to return, and a server's archiver would wait with it. What is to be told was
  // written at once, and what hangs is neither acknowledged nor cut short: the kernel ends it, or it takes effect.
  if (hanging) process.exit();
});
