import { Argument, Command } from "commander";
import { ORIGINALS } from "./originals.ts";

/** `as` for the command line: only its help; a call of an original is taken before any option is looked at. */
export function asCommand(): Command {
  return new Command("as")
    .summary("act as another program, with its own options, output and exit codes")
    .description(
      "Acts as the program of that name: what stands behind the name is read as that program reads it. A link of that " +
        "name to this program does the same.",
    )
    .addArgument(new Argument("<name>", "the program").choices(ORIGINALS))
    .argument("[words...]", "its own options")
    .addHelpText(
      "after",
      `
Examples:
  walvault as pg_receivewal --help
  ln -s walvault /usr/local/bin/pg_receivewal`,
    );
}
