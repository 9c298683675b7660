/** Runs a program and tells what it cost, by the kernel's own count. */
import { type ChildProcess, spawn } from "node:child_process";
import * as fs from "node:fs";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

/** What one run of a program cost. */
export interface Cost {
  readonly exitCode: number;
  readonly seconds: number;
  /** User and system time of the program and its children. */
  readonly cpuSeconds: number;
  /** Highest resident set, VmHWM. */
  readonly peakBytes: number;
}

/**
 * A program that runs and is watched; `end` settles when it is gone.
 *
 * To be held with `await using`: one that outlives its benchmark keeps trying to reach a server that is gone, and whatever
 * it has inherited open, so that who waits for the end of the benchmark's output, or for its lock, waits for ever.
 */
export interface Watched extends AsyncDisposable {
  readonly child: ChildProcess;
  readonly end: Promise<Cost>;
}

const POLL_MS = 20;
/** A program that was told to stop is told again after so long, */
const STOP_AGAIN_MS = 5000;
/** and so often. */
const STOP_TRIES = 4;

/** The program's process: the one child of the shell that counts its time. */
export function programPid(shell: ChildProcess): number | undefined {
  try {
    const children = fs.readFileSync(`/proc/${shell.pid}/task/${shell.pid}/children`, "utf8").trim();
    return children === "" ? undefined : Number(children.split(" ")[0]);
  } catch {
    return undefined;
  }
}

function peakOf(pid: number | undefined): number {
  try {
    const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
    return Number(/VmHWM:\s+([0-9]+) kB/.exec(status)?.[1] ?? "0") * 1024;
  } catch {
    // It ended between two looks.
    return 0;
  }
}

/** Starts a program under a shell that tells its processor time when it ends. */
export function watch(
  command: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Watched {
  // The second line of `times` is what the shell's children took; three decimals of a second.
  const script = 'trap : INT TERM; "$@"; code=$?; times >&3; exit $code';
  const started = performance.now();
  const child = spawn("bash", ["-c", script, "bench", ...command], {
    stdio: ["ignore", "ignore", "inherit", "pipe"],
    env: { ...process.env, ...environment },
  });
  let times = "";
  child.stdio[3]?.on("data", (bytes: Uint8Array) => times += new TextDecoder().decode(bytes));
  let peakBytes = 0;
  const poll = setInterval(() => peakBytes = Math.max(peakBytes, peakOf(programPid(child))), POLL_MS);
  const end = new Promise<Cost>((resolve) => {
    child.once("close", (code) => {
      clearInterval(poll);
      const seconds = (performance.now() - started) / 1000;
      resolve({ exitCode: code ?? 1, seconds, cpuSeconds: childrenSeconds(times), peakBytes });
    });
  });
  const kill = async () => {
    // The shell ends behind it; without a program it has nothing to wait for.
    if (child.exitCode === null) signalProcess(programPid(child), "SIGKILL");
    await end;
  };
  return { child, end, [Symbol.asyncDispose]: kill };
}

/**
 * Tells a program to stop, and waits until it has.
 *
 * @throws when it does not.
 */
export async function stop({ child, end }: Pick<Watched, "child" | "end">): Promise<Cost> {
  for (let tries = 0; tries < STOP_TRIES; tries++) {
    // One that a signal comes to early has none yet for it, or is still the shell.
    signalProcess(programPid(child), "SIGINT");
    const late = new AbortController();
    const timeout = sleep(STOP_AGAIN_MS, undefined, { signal: late.signal }).catch(() => undefined);
    const cost = await Promise.race([end, timeout]);
    late.abort();
    if (cost !== undefined) return cost;
  }
  throw new Error(`Cannot compare: a program did not stop in ${STOP_TRIES * STOP_AGAIN_MS / 1000} s`);
}

function signalProcess(pid: number | undefined, signal: "SIGINT" | "SIGKILL"): void {
  if (pid === undefined) return;
  try {
    process.kill(pid, signal);
  } catch (error) {
    // It has just ended.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Sums what bash's `times` says in its second line: `0m1.234s 0m0.567s`. */
export function childrenSeconds(times: string): number {
  const parts = times.trim().split("\n")[1]?.split(" ") ?? [];
  return parts.reduce((sum, part) => {
    const match = /^([0-9]+)m([0-9.]+)s$/.exec(part);
    return sum + (match === null ? NaN : Number(match[1]) * 60 + Number(match[2]));
  }, 0);
}

/** The middle value; of an even count the mean of the two in the middle. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  const [a, b] = [sorted[Math.ceil(middle) - 1] ?? NaN, sorted[Math.floor(middle)] ?? NaN];
  return (a + b) / 2;
}

/** Rows under a header, columns as wide as they must be. */
export function formatTable(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = header.map((title, column) =>
    Math.max(title.length, ...rows.map((row) => (row[column] ?? "").length))
  );
  const line = (cells: readonly string[]) =>
    "| " + cells.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(" | ") + " |";
  return [
    line(header),
    "|" + widths.map((width) => "-".repeat(width + 2)).join("|") + "|",
    ...rows.map(line),
    "",
  ].join(
    "\n",
  );
}
