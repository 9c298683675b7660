import process from "node:process";
import { Command, CommanderError } from "commander";
import { type CommandContext, EXIT, type FailureExits, hintOf, UsageError } from "./lib/commands/context.ts";
import { maskSecrets } from "./lib/commands/mask_secrets.ts";
import { standardOutput } from "./lib/commands/output.ts";
import { receiveCommand } from "./lib/commands/receive_options.ts";
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
const FAILURE_EXITS: Readonly<Record<string, FailureExits>> = {};

function stopBySignals(): void {
  for (const name of ["SIGINT", "SIGTERM"] as const) {
    process.on(name, () => {
      // The second one means it: what is not yet safe is the server's to keep.
      if (stop.signal.aborted) process.kill(process.pid, "SIGKILL");
      stop.abort(new Error(`Stopped by ${name}`));
    });
  }
}

/** All commands; each is loaded when it is needed: a program that only tells its version starts faster. */
function commands(settle: (exitCode: number) => void): readonly Command[] {
  return [
    receiveCommand(async (options) => {
      stopBySignals();
      const { receive } = await import("./lib/commands/receive.ts");
      settle(await receive(options, context));
    }),
    asCommand(),
  ];
}

async function main(): Promise<number> {
  const original = originalCall(process);
  if (original !== undefined) return await runOriginal(original, { ...context, stopBySignals });
  const failureExits = FAILURE_EXITS[process.argv[2] ?? ""] ?? EXIT;
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
  }
  try {
    if (process.argv.length <= 2) program.help({ error: true });
    await program.parseAsync(process.argv);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : failureExits.usage;
    context.stderr.write(`walvault: ${maskSecrets(messageChain(error))}\n`);
    const hint = hintOf(error);
    if (hint !== undefined) context.stderr.write(`hint: ${maskSecrets(hint)}\n`);
    return error instanceof UsageError ? failureExits.usage : failureExits.failed;
  }
}

process.exitCode = await main();
