/** How many tests a run passed and failed. */
export interface TestCounts {
  readonly passed: number;
  readonly failed: number;
}

/**
 * Reads the last line of `deno test`: `ok | 11 passed (4 steps) | 0 failed | 3 ignored (72ms)`.
 *
 * Not from `--junit-path`: a file that fails to load is missing there.
 * @returns `undefined` when there is no such line: the run did not come to its end.
 */
export function countDenoTests(output: string): TestCounts | undefined {
  const line = [...output.matchAll(/^(?:ok|FAILED) \| (\d+) passed(?: \([^)]*\))? \| (\d+) failed/gm)].at(-1);
  return line === undefined ? undefined : { passed: Number(line[1]), failed: Number(line[2]) };
}

/** Reads the last lines of `bun test`: ` 7 pass`, ` 0 fail`, and ` 1 error` for what failed outside of a test. */
export function countBunTests(output: string): TestCounts | undefined {
  const last = (word: string) => [...output.matchAll(new RegExp(`^ *(\\d+) ${word}$`, "gm"))].at(-1)?.[1];
  const passed = last("pass");
  if (passed === undefined) return undefined;
  return { passed: Number(passed), failed: Number(last("fail") ?? 0) + Number(last("errors?") ?? 0) };
}

/** Reads the last line of a script of ours: `8 passed, 0 failed`. */
export function countScriptTests(output: string): TestCounts | undefined {
  const line = [...output.matchAll(/^(\d+) passed, (\d+) failed$/gm)].at(-1);
  return line === undefined ? undefined : { passed: Number(line[1]), failed: Number(line[2]) };
}
