/**
 * Runs the tests and ends with one line, `N passed, N failed`.
 *
 * `deno run -A tasks/test.ts TIER… [PART]…` with these tiers; a PART keeps the test files whose path holds it:
 * - `fast`: every `*_test.ts`, on Deno; those under tests/postgres/ use one real server version;
 * - `bun`: the same files under `bun test`;
 * - `servers`: tests/postgres/ again on each PostgreSQL from 13 to 18 (`WALVAULT_TEST_MAJORS=13,15` for some), but for
 *   what depends on no version, and at the same time;
 * - `soak`: every `*_soak.ts`, for minutes;
 * - `alone`: every `*_alone.ts`, one after the other: they measure time, and the machine should do nothing else;
 * - `image`: builds the container image and starts it.
 */
import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { stripVTControlCharacters } from "node:util";
import { fileURLToPath } from "node:url";
import { findServerPrograms, MAJORS, TEST_MAJOR } from "../tests/postgres/servers.ts";
import { bunPath } from "./bun.ts";
import { countBunTests, countDenoTests, countScriptTests, type TestCounts } from "./test_counts.ts";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const TIERS = ["fast", "bun", "servers", "soak", "alone", "image"] as const;
type Tier = typeof TIERS[number];

const MINUTE_MS = 60_000;
/** No run of a tier may take longer: a hanging test is a failed one. */
const TIME_LIMITS_MS: Readonly<Record<Tier, number>> = {
  fast: 25 * MINUTE_MS,
  bun: 25 * MINUTE_MS,
  servers: 30 * MINUTE_MS,
  soak: 90 * MINUTE_MS,
  alone: 15 * MINUTE_MS,
  image: 15 * MINUTE_MS,
};

const CORES = availableParallelism();
/** So many files run at the same time, for most of them wait for servers; in the tiers that measure or load, fewer. */
const JOBS: Readonly<Record<Tier, number>> = {
  fast: 2 * CORES,
  bun: 2 * CORES,
  servers: 1, // of each version
  soak: Math.max(2, CORES),
  alone: 1,
  image: 1,
};
/** So many versions of PostgreSQL are tested at the same time. */
const MAJORS_AT_ONCE = 2 * CORES;

/** Bun's own limit of 5 s for one test is too short; a test that wants less says so itself. */
const BUN_TEST_TIMEOUT_MS = 10 * MINUTE_MS;

interface Run {
  readonly title: string;
  readonly command: string;
  readonly options: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly timeLimitMs: number;
  readonly count: (output: string) => TestCounts | undefined;
}

function isTier(word: string): word is Tier {
  return (TIERS as readonly string[]).includes(word);
}

function testFiles(ending: string, parts: readonly string[]): readonly string[] {
  const all = ["tests", "lib"].flatMap((folder) =>
    readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" }).map((path) =>
      `./${folder}/${path}`
    )
  );
  return all
    .filter((path) => path.endsWith(ending) && !path.includes("/node_modules/"))
    .filter((path) => parts.length === 0 || parts.some((part) => path.includes(part)))
    .sort();
}

/** What compares with the programs of one PostgreSQL, or takes long and does not depend on the version: the fast tier has it. */
function isForOneMajor(path: string): boolean {
  return /\/(cluster|compat_|compressed_segments|adopt_|archive_rounds|fault|gap_accept|network_namespace|receive_compress|receive_disk|receive_diverged|receive_gaps_away|verify_flips|wrong_clock)/
    .test(path);
}

/** What takes long, and asks of a version only what shorter ones ask of each: the oldest and the newest have it. */
function isForTwoMajors(path: string): boolean {
  return path.endsWith("/fetch_ahead_test.ts");
}

/** What measures or changes its process runs after the others, by itself: Deno runs all files in one. */
function needsOwnProcess(path: string): boolean {
  return /\/(compression_threads|disk|throughput)_test\.ts$/.test(path);
}

function* runsOf(tier: Tier, parts: readonly string[]): Iterable<Run> {
  const timeLimitMs = TIME_LIMITS_MS[tier];
  if (tier === "image") {
    yield {
      title: "the container image",
      command: "bash",
      options: [join(ROOT, "tests", "docker_image.sh")],
      environment: { WALVAULT_DENO: process.execPath },
      timeLimitMs,
      count: countScriptTests,
    };
    return;
  }
  const ending = tier === "soak" || tier === "alone" ? `_${tier}.ts` : "_test.ts";
  const files = testFiles(ending, parts);
  if (files.length === 0) {
    throw new Error(`Cannot test: no file *${ending} matches ${parts.join(" or ") || "anything"}`);
  }
  const onDeno = (title: string, paths: readonly string[], major: number): Run => {
    findServerPrograms(major); // now, so that no test's time limit holds a download
    return {
      title,
      command: process.execPath,
      // `deno check` is a step of its own, and takes as long for one file as for all.
      options: ["test", "--allow-all", "--no-check", "--parallel", ...paths],
      environment: {
        WALVAULT_TEST_MAJOR: String(major),
        DENO_JOBS: String(JOBS[tier]),
      },
      timeLimitMs,
      count: countDenoTests,
    };
  };
  const underBun = (title: string, paths: readonly string[]): Run => ({
    title,
    command: bunPath(),
    options: ["test", "--timeout", String(BUN_TEST_TIMEOUT_MS), `--parallel=${JOBS.bun}`, ...paths],
    environment: { WALVAULT_DENO: process.execPath },
    timeLimitMs,
    count: countBunTests,
  });
  if (tier === "servers") {
    const all = files.filter((path) => path.startsWith("./tests/postgres/") && !isForOneMajor(path));
    if (all.length === 0) {
      throw new Error(`Cannot test: no file that runs on each version matches ${parts.join(" or ")}`);
    }
    const onEach = all.filter((path) => !isForTwoMajors(path));
    const majors = process.env["WALVAULT_TEST_MAJORS"]?.split(",").map(Number) ?? MAJORS;
    for (const major of majors) {
      const paths = major === majors[0] || major === majors.at(-1) ? all : onEach;
      if (paths.length > 0) yield onDeno(`PostgreSQL ${major}`, paths, major);
    }
    return;
  }
  findServerPrograms(TEST_MAJOR);
  const run = tier === "bun"
    ? underBun
    : (title: string, paths: readonly string[]) => onDeno(title, paths, TEST_MAJOR);
  const title = tier === "bun" ? "the same files under Bun" : tier;
  const others = files.filter((path) => !needsOwnProcess(path));
  if (others.length > 0) yield run(title, others);
  for (const path of files.filter(needsOwnProcess)) yield run(`${title}, ${path}`, [path]);
}

/** Writes whole lines, each with the prefix, as they come. */
function lineWriter(to: NodeJS.WritableStream, prefix: string) {
  let rest = "";
  return {
    write(text: string): void {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) to.write(`${prefix}${line}\n`);
    },
    end(): void {
      if (rest !== "") to.write(`${prefix}${rest}\n`);
    },
  };
}

/**
 * Runs one command, shows its output as it comes, and counts; a run that tells no count is one failure.
 *
 * Where others run beside it, its lines tell whose they are.
 */
async function perform(run: Run, isAlone: boolean): Promise<TestCounts> {
  process.stdout.write(`\n── ${run.title}\n`);
  const startedMs = performance.now();
  const isPgVariable = (name: string) => name.startsWith("PG"); // no server of the machine's owner
  const inherited = Object.fromEntries(Object.entries(process.env).filter(([name]) => !isPgVariable(name)));
  const child = spawn(run.command, [...run.options], {
    cwd: ROOT,
    env: {
      ...inherited,
      ...(process.stdout.isTTY ? { FORCE_COLOR: "1" } : { NO_COLOR: "1" }),
      // The first test that needs it builds it, once for all files.
      WALVAULT_TEST_BUILD: build,
      ...run.environment,
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const [from, to] of [[child.stdout, process.stdout], [child.stderr, process.stderr]] as const) {
    const lines = isAlone ? undefined : lineWriter(to, `${run.title}: `);
    from.setEncoding("utf8");
    from.on("data", (text: string) => {
      output = (output + text).slice(-1_000_000); // the counts stand at the end
      (lines ?? to).write(text);
    });
    from.on("end", () => lines?.end());
  }
  let problem: string | undefined;
  const limit = setTimeout(() => {
    problem = `it was not done within ${run.timeLimitMs / MINUTE_MS} minutes`;
    child.kill("SIGKILL");
  }, run.timeLimitMs);
  const code = await new Promise<number>((resolve) => {
    child.once("error", (error) => {
      problem = error.message;
      resolve(1);
    });
    child.once("close", (exitCode) => resolve(exitCode ?? 1));
  });
  clearTimeout(limit);

  process.stdout.write(`── ${run.title}: ${Math.round((performance.now() - startedMs) / 1000)} s\n`);
  const counts = run.count(stripVTControlCharacters(output));
  if (counts === undefined) problem ??= "it told no result";
  if (problem === undefined && counts !== undefined && (code === 0 || counts.failed > 0)) return counts;
  process.stderr.write(`Cannot finish ${run.title}: ${problem ?? `it exited with ${code}`}\n`);
  return { passed: counts?.passed ?? 0, failed: (counts?.failed ?? 0) + 1 };
}

/** So many at the same time, in their order; a run that can't be begun is one failure, and ends its tier. */
async function performAll(runs: Iterable<Run>, atOnce: number): Promise<TestCounts> {
  const total = { passed: 0, failed: 0 };
  const waiting = runs[Symbol.iterator]();
  const performOnes = async () => {
    try {
      for (let next = waiting.next(); next.done !== true; next = waiting.next()) {
        const { passed, failed } = await perform(next.value, atOnce === 1);
        total.passed += passed;
        total.failed += failed;
      }
    } catch (error) {
      process.stderr.write(`${(error as Error).message}\n`); // a server or Bun that can't be had
      total.failed++;
    }
  };
  await Promise.all(Array.from({ length: atOnce }, performOnes));
  return total;
}

const words = process.argv.slice(2);
const tiers = words.filter(isTier);
const parts = words.filter((word) => !isTier(word));
let passed = 0;
let failed = 0;
if (tiers.length === 0) throw new Error(`Cannot test: no tier, want one or more of ${TIERS.join(", ")}`);
const build = mkdtempSync(join(tmpdir(), "wv-build-"));
// The servers' account runs what is in it.
chmodSync(build, 0o755);
for (const tier of tiers) {
  const counts = await performAll(runsOf(tier, parts), tier === "servers" ? MAJORS_AT_ONCE : 1);
  passed += counts.passed;
  failed += counts.failed;
}
rmSync(build, { recursive: true, force: true });
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exitCode = failed > 0 ? 1 : 0;
