import { Worker } from "node:worker_threads";
import { DamagedFileError, NotAFileError } from "./damaged_file.ts";
import { endThread } from "./end_thread.ts";
import type { IndexedArchive, IndexWorker } from "./index_worker.ts";
import type { OpenRecordState } from "./segment_index.ts";

/** What goes to the thread. */
export type IndexRequest =
  | { readonly kind: "index"; readonly name: string }
  | { readonly kind: "missing"; readonly limit: number };

/** What comes back. */
export interface IndexAnswer {
  readonly value?: OpenRecordState | "gone" | readonly string[];
  readonly problem?: { readonly message: string; readonly code: string | undefined; readonly name: string };
}

/**
 * Makes indexes on a thread of its own, which steps back behind all others and touches the disk by itself.
 *
 * @throws {Error} where a sandbox keeps the program's own files from it.
 */
export function openIndexThread(root: string, archive: IndexedArchive): IndexWorker {
  return new IndexThread(root, archive);
}

/**
 * Where the thread's own module is.
 *
 * In a bundle all modules have the bundle's own place, and this one lies beside it as in the source.
 */
function threadModule(): URL {
  const isSource = import.meta.url.endsWith("/lib/archive/index_threads.ts");
  return new URL(isSource ? "./index_thread.ts" : "./lib/archive/index_thread.js", import.meta.url);
}

class IndexThread implements IndexWorker {
  readonly #worker: Worker;
  #pending: { resolve(value: IndexAnswer["value"]): void; reject(error: Error): void } | undefined;
  #dead: Error | undefined;

  constructor(root: string, archive: IndexedArchive) {
    this.#worker = new Worker(threadModule(), { workerData: { root, archive }, name: "index" });
    this.#worker.on("message", ({ value, problem }: IndexAnswer) => {
      const pending = this.#pending;
      this.#pending = undefined;
      if (problem === undefined) pending?.resolve(value);
      else pending?.reject(errorOf(problem));
    });
    this.#worker.on("error", (error) => this.#die(error instanceof Error ? error : new Error(String(error))));
    this.#worker.on("exit", () => this.#die(new Error("Cannot index: the thread for it has ended")));
  }

  async index(name: string): Promise<OpenRecordState | "gone"> {
    return await this.#ask({ kind: "index", name }) as OpenRecordState | "gone";
  }

  async missing(limit: number): Promise<readonly string[]> {
    return await this.#ask({ kind: "missing", limit }) as readonly string[];
  }

  async close(): Promise<"ended" | "stuck"> {
    this.#die(new Error("Cannot index: the thread for it is closed"));
    return await endThread(this.#worker);
  }

  #ask(request: IndexRequest): Promise<IndexAnswer["value"]> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    return new Promise((resolve, reject) => {
      this.#pending = { resolve, reject };
      this.#worker.postMessage(request);
    });
  }

  #die(error: Error): void {
    this.#dead ??= error;
    this.#pending?.reject(this.#dead);
    this.#pending = undefined;
  }
}

/** A class gets lost on the way between threads; these tell that it is the segment, not the disk. */
const ERROR_CLASSES: ReadonlyMap<string, new (message: string) => Error> = new Map<
  string,
  new (message: string) => Error
>([
  ["DamagedFileError", DamagedFileError],
  ["NotAFileError", NotAFileError],
  ["RangeError", RangeError],
  ["SyntaxError", SyntaxError],
]);

/** The error as it was on the thread. */
export function errorOf({ message, code, name }: NonNullable<IndexAnswer["problem"]>): Error {
  const error = new (ERROR_CLASSES.get(name) ?? Error)(message);
  return code === undefined ? error : Object.assign(error, { code });
}
