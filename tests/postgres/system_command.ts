/** Programs of the system that tests set up their faults with. */
import { spawnSync } from "node:child_process";

/** Runs it to its end, and tells whether it was content, and what it said. */
export function runCommand(
  command: string,
  words: readonly string[],
): { readonly ok: boolean; readonly told: string } {
  const { status, stdout, stderr, error } = spawnSync(command, [...words], { encoding: "utf8" });
  return { ok: status === 0, told: error?.message ?? `${stdout}${stderr}`.trim() };
}

/** @throws {Error} when it fails, or is not there. */
export function mustRun(command: string, words: readonly string[]): void {
  const { ok, told } = runCommand(command, words);
  if (!ok) throw new Error(`Cannot run ${command} ${words.join(" ")}: ${told}`);
}
