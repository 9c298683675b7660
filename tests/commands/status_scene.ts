/** Runs `status` in this process, on archives made of bytes. */
import type { CommandContext } from "../../lib/commands/context.ts";
import { status } from "../../lib/commands/status.ts";
import { statusCommand, type StatusCommandOptions } from "../../lib/commands/status_options.ts";

/** What a run of the command said. */
export interface Told {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs it with these words of the command line; the environment is empty, or as given. */
export async function tellStatus(
  words: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<Told> {
  let stdout = "";
  let stderr = "";
  const context: CommandContext = {
    stdout: { write: (text) => void (stdout += text), isTerminal: false },
    stderr: { write: (text) => void (stderr += text), isTerminal: false },
    env,
    signal: new AbortController().signal,
  };
  let code = -1;
  const command = statusCommand(async (files: readonly string[], options: StatusCommandOptions) => {
    code = await status(files, options, context);
  }).exitOverride().configureOutput({ writeErr: (text) => void (stderr += text) });
  await command.parseAsync([...words], { from: "user" });
  return { code, stdout, stderr };
}

/** As `tellStatus`, with `--json`: the object. */
export async function statusObject(words: readonly string[]): Promise<Record<string, unknown>> {
  const { stdout } = await tellStatus([...words, "--json"]);
  return JSON.parse(stdout) as Record<string, unknown>;
}
