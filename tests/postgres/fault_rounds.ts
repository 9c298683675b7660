/** Rounds of faults with real servers; each family once in the fast tests, for an hour in the long ones. */
import { setTimeout as sleep } from "node:timers/promises";
import { Random } from "../simulation/random.ts";
import { FAULT_FAMILIES, type FaultFamily } from "./fault_families.ts";
import { type FaultNeed, FaultScene, WHY_NOT } from "./fault_scene.ts";
import { type FaultOutcome, FaultTally } from "./fault_tally.ts";

/** How long, how hard, and what decides everything but the machine's own timing. */
export interface FaultRounds {
  readonly seed: number;
  /** Servers of these versions, one after the other. */
  readonly majors: readonly number[];
  /** No new round begins after it; 0: each family comes once. */
  readonly milliseconds: number;
  /** No fault is meant to last longer. */
  readonly longestMs: number;
  /** Takes a line of what goes on, and the table at the end. */
  readonly tell: (line: string) => void;
}

/** More of them say nothing new. */
const MOST_PROBLEMS = 5;

/**
 * Injects one fault after the other, each family once before any comes again; half of the rounds are synchronous.
 *
 * @throws {Error} when an acknowledged commit is lost, or anything else did not hold.
 */
export async function runFaultRounds(rounds: FaultRounds): Promise<void> {
  const { seed, majors, tell } = rounds;
  const whyNot = new Map((Object.keys(WHY_NOT) as FaultNeed[]).map((need) => [need, WHY_NOT[need]()]));
  const has = new Set([...whyNot.keys()].filter((need) => whyNot.get(need) === undefined));
  const families = FAULT_FAMILIES.filter(({ needs }) => needs === undefined || has.has(needs));
  for (const { name, needs } of FAULT_FAMILIES) {
    if (needs !== undefined && !has.has(needs)) tell(`skipped: "${name}", no ${needs}: ${whyNot.get(needs)}`);
  }
  const tally = new FaultTally();
  const endsAt = performance.now() + rounds.milliseconds;
  const isOver = () => tally.problems.length >= MOST_PROBLEMS || performance.now() >= endsAt;
  let round = 0;
  for (let deck = 0; deck === 0 || !isOver(); deck++) {
    const major = majors[deck % majors.length]!;
    await using stack = new AsyncDisposableStack();
    let scene: FaultScene | undefined;
    const newScene = async () => {
      const opened = await FaultScene.open({ major, has });
      stack.defer(() => opened.destroy());
      return opened;
    };
    for (const family of shuffled(families, new Random(seed + deck))) {
      if (rounds.milliseconds > 0 && isOver()) break;
      scene ??= await newScene();
      round++;
      const outcome = await runRound(scene, family, { ...rounds, round, deck, hasTls: has.has("TLS") });
      tally.add(outcome);
      tell(describeRound(round, major, outcome));
      // Nobody knows what state a failure leaves behind.
      if (outcome.problem !== undefined) scene = undefined;
    }
    if (scene !== undefined) tell(`restored: ${await restoredAll(scene, tally)}`);
  }
  for (const line of tally.table(families.map(({ name }) => name))) tell(line);
  if (tally.problems.length > 0) {
    throw new Error(
      `${tally.lost} acknowledged commits lost, ${tally.problems.length} problems, seed ${seed}:\n${
        tally.problems.join("\n\n")
      }`,
    );
  }
}

async function restoredAll(scene: FaultScene, tally: FaultTally): Promise<string> {
  try {
    return `${await scene.close()} commits`;
  } catch (error) {
    tally.problems.push((error as Error).message);
    return (error as Error).message;
  }
}

function describeRound(round: number, major: number, outcome: FaultOutcome): string {
  const { family, synchronous, acknowledged, stallMs, recoveryMs, cameOfIt, problem } = outcome;
  return [
    `round ${round}, PostgreSQL ${major}, ${family}${
      synchronous ? ", synchronous" : ""
    }: ${acknowledged} commits`,
    `stall ${Math.round(stallMs)} ms`,
    ...(recoveryMs === undefined ? [] : [`back after ${Math.round(recoveryMs)} ms`]),
    ...(cameOfIt === undefined ? [] : [cameOfIt]),
    ...(problem === undefined ? [] : [`FAILED\n${problem}`]),
  ].join(", ");
}

function shuffled(families: readonly FaultFamily[], random: Random): readonly FaultFamily[] {
  return families.map((family) => ({ family, key: random.next() + (family.losesWal ? 1 : 0) }))
    .sort((a, b) => a.key - b.key).map(({ family }) => family);
}

async function runRound(
  scene: FaultScene,
  family: FaultFamily,
  { seed, majors, round, deck, hasTls, longestMs }: FaultRounds & {
    readonly round: number;
    readonly deck: number;
    readonly hasTls: boolean;
  },
): Promise<FaultOutcome> {
  const random = new Random(seed * 1000 + round);
  // Each family both ways on each version, and one way on the one and the other way on the next one before that.
  const turn = deck % majors.length + Math.floor(deck / majors.length);
  const synchronous = family.neverSynchronous !== true &&
    (FAULT_FAMILIES.indexOf(family) + turn + seed) % 2 === 0;
  const lastsMs = random.spread(100, longestMs);
  const tls = family.needs === "TLS" || (family.outcome === undefined && hasTls && random.chance(0.3));
  let recoveryMs: number | undefined;
  let cameOfIt: string | undefined;
  let problem: string | undefined;
  try {
    await scene.begin({
      synchronous,
      tls,
      receiverOptions: family.receiverOptions ?? [],
      network: family.needs === "network namespace" ? "namespace" : "proxy",
      clockOf: family.clockOf,
      archive: family.outcome === undefined ? "shared" : "own",
      random,
    });
    await sleep(random.spread(100, 1000));
    await family.inject(scene, lastsMs);
    if (family.outcome === undefined) {
      recoveryMs = await scene.recover();
      await scene.check();
    } else {
      cameOfIt = await family.outcome(scene);
    }
  } catch (error) {
    problem = `"${family.name}" in round ${round} of seed ${seed}: ${(error as Error).stack}\n${
      scene.receiver?.stderr ?? ""
    }`;
  }
  const { acknowledged, lost, stallMs } = await scene.end();
  return { family: family.name, synchronous, acknowledged, lost, stallMs, recoveryMs, cameOfIt, problem };
}
