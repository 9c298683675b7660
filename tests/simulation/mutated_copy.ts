import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import type { Mutation } from "./mutations.ts";
import type * as PushSimulation from "./push_simulation.ts";
import type * as Simulation from "./simulation.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));

/** The simulations over a program with a defect. */
export interface MutatedCopy extends AsyncDisposable {
  readonly pushes: () => Promise<typeof PushSimulation>;
  readonly receiving: () => Promise<typeof Simulation>;
}

/**
 * Makes a copy of the program with a defect; it goes when it is disposed of.
 *
 * @throws {RangeError} when what the mutation changes is not there once.
 */
export function copyWith(mutation: Mutation): MutatedCopy {
  const copy = mkdtempSync(join(tmpdir(), "walvault-mutation-"));
  const moduleAt = (name: string) => import(pathToFileURL(join(copy, "tests/simulation", name)).href);
  const made: MutatedCopy = {
    pushes: () => moduleAt("push_simulation.ts"),
    receiving: () => moduleAt("simulation.ts"),
    [Symbol.asyncDispose]: () => Promise.resolve(rmSync(copy, { recursive: true })),
  };
  try {
    for (const path of ["lib", "tests/simulation", "tests/wal", "tests/archive", "deno.json"]) {
      cpSync(join(ROOT, path), join(copy, path), { recursive: true });
    }
    const file = join(copy, mutation.file);
    let source = readFileSync(file, "utf8");
    for (const [from, to] of mutation.changes) {
      if (source.split(from).length !== 2) {
        throw new RangeError(
          `Cannot make "${mutation.title}": "${from.trim().split("\n")[0]}" is not once in ${mutation.file}`,
        );
      }
      source = source.replace(from, () => to);
    }
    writeFileSync(file, source);
    return made;
  } catch (error) {
    rmSync(copy, { recursive: true });
    throw error;
  }
}
