/**
 * The long tier of the simulation: `deno task simulate` plays seeds on all cores for an hour, from a seed that it draws
 * and prints.
 *
 * - `WALVAULT_SIMULATION_SECONDS`: how long;
 * - `WALVAULT_SIMULATION_SEED`: the first seed;
 * - `WALVAULT_SIMULATION_PROCESSES`: how many at once.
 */
import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { SeedsPlayed } from "./play_seeds.ts";

const PROGRESS_MS = 30_000;
/** No seed takes nearly as long. */
const HANGS_MS = 120_000;

const number = (name: string, otherwise: number) => Number(process.env[name] ?? otherwise);
const seconds = number("WALVAULT_SIMULATION_SECONDS", 3600);
const first = number("WALVAULT_SIMULATION_SEED", Math.floor(Math.random() * 1e9));
const processes = number("WALVAULT_SIMULATION_PROCESSES", availableParallelism());
const startMs = Date.now();
const played = Array.from({ length: processes }, () => 0);
const cpuMs = Array.from({ length: processes }, () => 0);
let failures = 0;

const say = (line: string) => process.stdout.write(line + "\n");
const sum = (values: readonly number[]) => values.reduce((total, each) => total + each, 0);
const soFar = () => {
  const passedSeconds = (Date.now() - startMs) / 1000;
  const seeds = sum(played);
  // What a core does by itself: others may use the machine too.
  const perCore = seeds * 1000 / Math.max(1, sum(cpuMs));
  return `${seeds} seeds in ${passedSeconds.toFixed(0)} s, ${(seeds / passedSeconds).toFixed(1)} a second ` +
    `(${perCore.toFixed(1)} in a second of one core's work), ${failures} failed`;
};
const fail = (text: string) => {
  failures++;
  say(`FAILED ${text}`);
};

async function play(index: number): Promise<void> {
  const program = fileURLToPath(new URL("play_seeds.ts", import.meta.url));
  const words = [first + index, processes, startMs + 1000 * seconds].map(String);
  const child = spawn(process.execPath, ["run", "--allow-all", "--no-check", program, ...words], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let nextSeed = first + index;
  const hangs = setInterval(() => {
    if (Date.now() - heardMs < HANGS_MS) return;
    fail(`a seed from ${nextSeed} on, each ${processes}th, does not end`);
    child.kill("SIGKILL");
    clearInterval(hangs);
  }, 1000);
  let heardMs = Date.now();
  const lines = createInterface({ input: child.stdout });
  lines.on("line", (line) => {
    heardMs = Date.now();
    const told = JSON.parse(line) as SeedsPlayed;
    played[index] = told.played;
    nextSeed = told.nextSeed;
    cpuMs[index] = told.cpuMs;
    for (const failure of told.failures) fail(failure);
  });
  const closed = new Promise((resolve) => lines.once("close", resolve));
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  await closed;
  clearInterval(hangs);
  if (code !== 0) fail(`a process that had come to seed ${nextSeed} ended with ${code ?? "a signal"}`);
}

say(`seeds from ${first} on, for ${seconds} s, in ${processes} processes`);
const progress = setInterval(() => say(soFar()), PROGRESS_MS);
await Promise.all(played.map((_, index) => play(index)));
clearInterval(progress);
say(soFar());
process.exitCode = failures > 0 ? 1 : 0;
