/**
 * One process of the long tier: plays every STEPth seed from FIRST on until DEADLINE, and says each second how far it
 * is and what failed, one line of JSON each time.
 *
 * `deno run -A tests/simulation/play_seeds.ts FIRST STEP DEADLINE` (milliseconds since 1970)
 */
import process from "node:process";
import { planOf, simulatePush } from "./push_simulation.ts";
import { simulate } from "./simulation.ts";

/** What such a process says. */
export interface SeedsPlayed {
  readonly played: number;
  readonly nextSeed: number;
  /** How long a core worked at it. */
  readonly cpuMs: number;
  readonly failures: readonly string[];
}

/** Pushes and one receiver are a smaller world: it needs fewer seeds. */
const PUSH_EVERY = 16;
const SAY_MS = 1000;
/** A program that fails so often is broken; its other failures tell nothing new. */
const MAX_FAILURES = 10;

const [first, step, deadlineMs] = process.argv.slice(2).map(Number) as [number, number, number];
let played = 0;
let failed = 0;
let failures: string[] = [];
let saidMs = Date.now();
let seed = first;

async function attempt(play: () => Promise<unknown>, title: string): Promise<void> {
  try {
    await play();
  } catch (error) {
    failed++;
    const isKnown = (error as Error).name === "SimulationFailure";
    failures.push(isKnown ? (error as Error).message : `${title}: ${(error as Error).stack}`);
  }
}

function say(): void {
  const { user, system } = process.cpuUsage();
  const line: SeedsPlayed = { played, nextSeed: seed, cpuMs: (user + system) / 1000, failures };
  process.stdout.write(JSON.stringify(line) + "\n");
  failures = [];
  saidMs = Date.now();
}

// One at least, however slowly it started.
do {
  await attempt(() => simulate(seed), `seed ${seed}`);
  if (played++ % PUSH_EVERY === 0) {
    const plan = planOf(seed);
    await attempt(() => simulatePush(plan), `pushes: ${JSON.stringify(plan)}`);
  }
  seed += step;
  if (Date.now() - saidMs >= SAY_MS || failures.length > 0) say();
} while (Date.now() < deadlineMs && failed < MAX_FAILURES);
say();
