/** Runs an original and our stand-in with the same words, and compares what they say and leave. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import type { Output } from "../../lib/commands/context.ts";
import { type OriginalContext, type OriginalName, runOriginal } from "../../lib/compat/originals.ts";

const REAL_DIRECTORY = process.env["WALVAULT_POSTGRES_15"] ?? "/usr/lib/postgresql/15/bin";

/** The path of the real program of PostgreSQL 15; `undefined` where there is none. */
export function realProgram(name: OriginalName): string | undefined {
  const path = join(REAL_DIRECTORY, name);
  return fs.existsSync(path) ? path : undefined;
}

/** What a program said, and how it ended. */
export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** How a program is run. */
export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** The real program, called by its bare name. */
export function runReal(name: OriginalName, words: readonly string[], options: RunOptions = {}): Outcome {
  const { status, stdout, stderr } = spawnSync(realProgram(name) ?? name, [...words], {
    argv0: name,
    encoding: "utf8",
    env: { LC_ALL: "C", PATH: "/usr/bin:/bin", ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    timeout: 60_000,
  });
  return { code: status, stdout, stderr };
}

/** Our stand-in, in this process. */
export async function runOurs(
  name: OriginalName,
  words: readonly string[],
  options: RunOptions & { readonly signal?: AbortSignal } = {},
): Promise<Outcome> {
  const said = { stdout: "", stderr: "" };
  const output = (stream: "stdout" | "stderr"): Output => ({
    isTerminal: false,
    write: (text) => void (said[stream] += text),
  });
  const context: OriginalContext = {
    stdout: output("stdout"),
    stderr: output("stderr"),
    env: options.env ?? {},
    signal: options.signal ?? new AbortController().signal,
    stopBySignals: () => {},
  };
  const code = await runOriginal({ name, calledAs: name, words }, context);
  return { code, ...said };
}

/** A directory that is removed at the end. */
export function temporaryDirectory(): { readonly path: string; [Symbol.dispose](): void } {
  const path = fs.mkdtempSync(join(fs.realpathSync(tmpdir()), "wv-compat-"));
  return { path, [Symbol.dispose]: () => fs.rmSync(path, { recursive: true, force: true }) };
}

/** Lines in no order: programs that go through a directory take it as the file system gives it. */
export function unordered(text: string): readonly string[] {
  return text.split("\n").sort();
}
