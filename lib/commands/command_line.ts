import { Command, CommanderError } from "commander";
import type { CommandCall, CommandTable } from "./command_table.ts";
import { type CommandContext, EXIT, type FailureExits } from "./context.ts";
import { findCommand } from "./find_options.ts";
import { gapCommand } from "./gap_options.ts";
import { initCommand } from "./init_options.ts";
import { maskSecrets } from "./mask_secrets.ts";
import { receiveCommand } from "./receive_options.ts";
import { statusCommand } from "./status_options.ts";
import { tableCommand } from "./table_command.ts";
import { verifyCommand } from "./verify_options.ts";
import { VERSION } from "./version.ts";

/** A command that a server calls at every segment: its command line, and what it does; resolves to the exit code. */
export interface ServerCommand {
  readonly table: CommandTable;
  run(call: CommandCall): Promise<number>;
}

/** What a command line is read for. */
export interface CommandLineContext extends CommandContext {
  /** From here on SIGINT and SIGTERM abort the signal instead of ending the process. */
  stopBySignals(): void;
  readonly push: ServerCommand;
  readonly fetch: ServerCommand;
  /** Commands of other rooms. */
  readonly others: readonly Command[];
}

/**
 * Does what any command line says, also where it is to be explained, or wrong.
 *
 * @param words what stands behind the program's name
 * @returns the exit code; `"helped"` when it was asked for help or the version
 */
export async function runCommandLine(
  words: readonly string[],
  context: CommandLineContext,
  exits: FailureExits,
): Promise<number | "helped"> {
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
  for (const command of commands(context, (code) => exitCode = code)) {
    program.addCommand(configure(command, `walvault ${command.name()} --help`));
    // They inherit nothing of it.
    for (const each of command.commands) configure(each, `walvault ${command.name()} ${each.name()} --help`);
  }
  try {
    if (words.length === 0) program.help({ error: true });
    await program.parseAsync(words, { from: "user" });
    return exitCode;
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? "helped" : exits.usage;
  }
}

/** All commands; each is loaded when it is needed: a program that only tells its version starts faster. */
function commands(context: CommandLineContext, settle: (exitCode: number) => void): readonly Command[] {
  const ofServer = ({ table, run }: ServerCommand) =>
    tableCommand(table, async (call) => settle(await run(call)));
  return [
    receiveCommand(async (options) => {
      context.stopBySignals();
      const { receive } = await import("./receive.ts");
      settle(await receive(options, context));
    }),
    initCommand(async (options) => {
      const { init } = await import("./init.ts");
      settle(await init(options, context));
    }),
    ofServer(context.push),
    ofServer(context.fetch),
    findCommand(async (options) => {
      const { find } = await import("./find.ts");
      settle(await find(options, context));
    }),
    verifyCommand(async (options) => {
      context.stopBySignals();
      const { verify } = await import("./verify.ts");
      settle(await verify(options, context));
    }),
    statusCommand(async (files, options) => {
      const { status } = await import("./status.ts");
      settle(await status(files, options, context));
    }),
    gapCommand({
      async list(options) {
        const { gapList } = await import("./gap.ts");
        settle(await gapList(options, context));
      },
      async accept(options) {
        const { gapAccept } = await import("./gap.ts");
        settle(await gapAccept(options, context));
      },
      async heal(options) {
        context.stopBySignals();
        const { gapHeal } = await import("./gap.ts");
        settle(await gapHeal(options, context));
      },
    }),
    ...context.others,
  ];
}
