import { Command, Option } from "commander";
import type { CommandCall, CommandTable } from "./command_table.ts";

/** A command for the command line: all of its table, and what it does. */
export function tableCommand(table: CommandTable, run: (call: CommandCall) => Promise<void>): Command {
  const command = new Command(table.name).summary(table.summary).description(table.description);
  for (const { form, description } of table.operands) command.argument(form, description);
  for (const { flags, description, parse, choices, fallback, hidden } of table.options) {
    const option = new Option(flags, description);
    if (parse !== undefined) option.argParser(parse);
    if (choices !== undefined) option.choices(choices);
    if (fallback !== undefined) option.default(fallback.value, fallback.shown);
    if (hidden) option.hideHelp();
    command.addOption(option);
  }
  return command.addHelpText("after", table.helpText)
    .action(() => run({ operands: command.args, options: command.opts() }));
}
