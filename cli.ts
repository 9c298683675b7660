import process from "node:process";
import { Command, CommanderError } from "commander";
import { type CommandContext, EXIT, type FailureExits, hintOf, UsageError } from "./lib/commands/context.ts";
import { fetchCommand } from "./lib/commands/fetch_options.ts";
import { findCommand } from "./lib/commands/find_options.ts";
import { gapCommand } from "./lib/commands/gap_options.ts";
import { maskSecrets } from "./lib/commands/mask_secrets.ts";
import { standardOutput } from "./lib/commands/output.ts";
import { initCommand } from "./lib/commands/init_options.ts";
import { pushCommand } from "./lib/commands/push_options.ts";
import { receiveCommand } from "./lib/commands/receive_options.ts";
import { statusCommand } from "./lib/commands/status_options.ts";
import { verifyCommand } from "./lib/commands/verify_options.ts";
import { VERSION } from "./lib/commands/version.ts";
import { asCommand } from "./lib/compat/as_options.ts";
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

/** All commands; each is loaded when it is needed: a program that only tells its version starts faster. */
function commands(settle: (exitCode: number) => void): readonly Command[] {
  const push = () =>
    pushCommand(async (paths, options) => {
      const { push } = await import("./lib/commands/push.ts");
      settle(await push(paths, options, { ...context, hangs: () => hanging = true }));
    });
  const fetch = () =>
    fetchCommand(async (words, options) => {
      failOnUncaught();
      const { fetch } = await import("./lib/commands/fetch.ts");
      settle(await fetch(words, options, context));
    });
  // A server waits for these at every segment, and to make all the others takes as long as to load one of them.
  if (process.argv[2] === "push") return [push()];
  if (process.argv[2] === "fetch") return [fetch()];
  return [
    receiveCommand(async (options) => {
      stopBySignals();
      const { receive } = await import("./lib/commands/receive.ts");
      settle(await receive(options, context));
    }),
    initCommand(async (options) => {
      const { init } = await import("./lib/commands/init.ts");
      settle(await init(options, context));
    }),
    push(),
    fetch(),
    findCommand(async (options) => {
      const { find } = await import("./lib/commands/find.ts");
      settle(await find(options, context));
    }),
    verifyCommand(async (options) => {
      stopBySignals();
      const { verify } = await import("./lib/commands/verify.ts");
      settle(await verify(options, context));
    }),
    statusCommand(async (files, options) => {
      const { status } = await import("./lib/commands/status.ts");
      settle(await status(files, options, context));
    }),
    gapCommand({
      async list(options) {
        const { gapList } = await import("./lib/commands/gap.ts");
        settle(await gapList(options, context));
      },
      async accept(options) {
        const { gapAccept } = await import("./lib/commands/gap.ts");
        settle(await gapAccept(options, context));
      },
      async heal(options) {
        stopBySignals();
        const { gapHeal } = await import("./lib/commands/gap.ts");
        settle(await gapHeal(options, context));
      },
    }),
    asCommand(),
  ];
}

async function main(failureExits: FailureExits): Promise<number> {
  const original = originalCall(process);
  if (original !== undefined) return await runOriginal(original, { ...context, stopBySignals });
  let exitCode: number = EXIT.done;
  const configure = (command: Command, hint: string) =>
    command.exitOverride().configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(maskSecrets(text)),
    }).showHelpAfterError(`hint: Try "${hint}"`);
  const program = configure(new Command("walvault"), "walvault --help")
    .description(
      "Keeps every PostgreSQL commit safe on another machine: streams WAL record by record into an archive.",
    )
    .version(`walvault ${VERSION}`, "-V, --version", "print the version");
  for (const command of commands((code) => exitCode = code)) {
    program.addCommand(configure(command, `walvault ${command.name()} --help`));
    // They inherit nothing of it.
    for (const each of command.commands) configure(each, `walvault ${command.name()} ${each.name()} --help`);
  }
  try {
    if (process.argv.length <= 2) program.help({ error: true });
    await program.parseAsync(process.argv);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) {
      // Help is no file: a server that gets 0 looks for its target.
      const helped = error.exitCode === 0 && !namesRestoreTarget(process.argv.slice(2));
      return helped ? EXIT.done : failureExits.usage;
    }
    context.stderr.write(`walvault: ${maskSecrets(messageChain(error))}\n`);
    const hint = hintOf(error);
    if (hint !== undefined) context.stderr.write(`hint: ${maskSecrets(hint)}\n`);
    return error instanceof UsageError ? failureExits.usage : failureExits.failed;
  }
}

const failureExits = failureExitsOf(process.argv.slice(2));
// Also when it never settles: nothing is left to do then, and nothing was done.
process.exitCode = failureExits.failed;
main(failureExits).then((exitCode) => {
  process.exitCode = uncaught ? failureExits.failed : exitCode;
  // Bun waits for calls on its own threads to return, and a server's archiver would wait with it. What is to be told was
  // written at once, and what hangs is neither acknowledged nor cut short: the kernel ends it, or it takes effect.
  if (hanging) process.exit();
});
