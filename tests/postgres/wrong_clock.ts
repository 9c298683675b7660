/** A wall clock that is wrong for some processes only, by libfaketime. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { WorkDirectory } from "./receiver.ts";

const STEP_MS = 50;
const SHARED_MEMORY = "/dev/shm";

/** The library, which Debian puts below the machine's own directory, and others below `lib64`. */
function findLibrary(): string | undefined {
  const name = join("faketime", "libfaketime.so.1");
  const below = (parent: string) =>
    fs.readdirSync(parent, { withFileTypes: true }).map((entry) => join(parent, entry.name, name));
  const places = ["/usr/lib", "/usr/local/lib"].filter((parent) => fs.existsSync(parent)).flatMap(below);
  return [...places, join("/usr/lib64", name)].find((path) => fs.existsSync(path));
}

/** Told by how much it is wrong while programs run by it. Their monotonic clock stays what it is. */
export class WrongClock {
  /** Programs that are started with it have this clock. */
  readonly environment: Readonly<Record<string, string>>;
  readonly #path: string;
  readonly #pids = new Set<number>();

  constructor(directory: WorkDirectory) {
    const library = findLibrary();
    if (library === undefined) throw new Error("Cannot find libfaketime.so.1");
    this.#path = directory.file("clock");
    this.environment = {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: this.#path,
      FAKETIME_NO_CACHE: "1",
      FAKETIME_DONT_FAKE_MONOTONIC: "1",
      NO_FAKE_STAT: "1",
    };
    this.turn(0);
  }

  /** So many seconds ahead of the right time; behind it when negative. Counts at once. */
  turn(seconds: number): void {
    // It is read at every look at the clock: never half of it.
    const fresh = `${this.#path}.tmp`;
    fs.writeFileSync(fresh, `${seconds < 0 ? "-" : "+"}${Math.abs(seconds).toFixed(3)}\n`);
    fs.renameSync(fresh, this.#path);
  }

  /** From the right time on, each second takes a second away; in steps, with a little forward between them. */
  async runBackwards(lastsMs: number): Promise<void> {
    const startedMs = performance.now();
    for (let passedMs = 0; passedMs < lastsMs; passedMs = performance.now() - startedMs) {
      this.turn(-2 * passedMs / 1000);
      await sleep(STEP_MS);
    }
  }

  /** This process has the clock. Each leaves two files behind when it is killed. */
  wornBy(pid: number | undefined): void {
    if (pid !== undefined) this.#pids.add(pid);
  }

  /** For when all of them have ended. */
  [Symbol.dispose](): void {
    for (const pid of this.#pids) {
      for (const name of [`faketime_shm_${pid}`, `sem.faketime_sem_${pid}`]) {
        fs.rmSync(join(SHARED_MEMORY, name), { force: true });
      }
    }
  }
}

/** Why there can be no wrong clock here; `undefined` when there can. */
export function whyNoWrongClock(): string | undefined {
  using directory = new WorkDirectory();
  try {
    using clock = new WrongClock(directory);
    clock.turn(-3600);
    const { stdout, stderr, error } = spawnSync("date", ["+%s"], {
      encoding: "utf8",
      env: { PATH: "/usr/bin:/bin", ...clock.environment },
    });
    const isTurned = Math.abs(Number(stdout) + 3600 - Date.now() / 1000) < 60;
    return isTurned ? undefined : `the clock can't be turned: ${error?.message ?? stdout + stderr}`;
  } catch (error) {
    return (error as Error).message;
  }
}
