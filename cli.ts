import process from "node:process";
import { Command, CommanderError } from "commander";
import { type CommandContext, EXIT, hintOf, UsageError } from "./lib/commands/context.ts";
import { maskSecrets } from "./lib/commands/mask_secrets.ts";
import { standardOutput } from "./lib/commands/output.ts";
import { receiveCommand } from "./lib/commands/receive_options.ts";
import { VERSION } from "./lib/commands/version.ts";
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

async function main(): Promise<number> {
  const stop = new AbortController();
  const onSignal = (name: string) => {
    // The second one means it: what is not yet safe is the server's to keep.
    if (stop.signal.aborted) process.kill(process.pid, "SIGKILL");
    stop.abort(new Error(`Stopped by ${name}`));
  };
  const context: CommandContext = {
    stdout: standardOutput(1),
    stderr: standardOutput(2),
    env: environment,
    signal: stop.signal,
  };
  let exitCode: number = EXIT.done;
  const program = new Command("walvault")
    .description(
      "Keeps every PostgreSQL commit safe on another machine: streams WAL record by record into an archive.",
    )
    .version(`walvault ${VERSION}`, "-V, --version", "print the version")
    .exitOverride()
    .configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(maskSecrets(text)),
    })
    .showHelpAfterError('hint: Try "walvault --help"')
    .addCommand(
      receiveCommand(async (options) => {
        for (const name of ["SIGINT", "SIGTERM"] as const) process.on(name, () => onSignal(name));
        // Loaded when it is needed: a program that only tells its version starts faster.
        const { receive } = await import("./lib/commands/receive.ts");
        exitCode = await receive(options, context);
      }).exitOverride().configureOutput({
        writeOut: (text) => context.stdout.write(text),
        writeErr: (text) => context.stderr.write(maskSecrets(text)),
      }).showHelpAfterError('hint: Try "walvault receive --help"'),
    );
  try {
    if (process.argv.length <= 2) program.help({ error: true });
    await program.parseAsync(process.argv);
    return exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.usage;
    return tell(error, context);
  }
}

function tell(error: unknown, context: CommandContext): number {
  context.stderr.write(`walvault: ${maskSecrets(messageChain(error))}\n`);
  const hint = hintOf(error);
  if (hint !== undefined) context.stderr.write(`hint: ${maskSecrets(hint)}\n`);
  return error instanceof UsageError ? EXIT.usage : EXIT.failed;
}

process.exitCode = await main();
