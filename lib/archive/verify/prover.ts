import { Worker } from "node:worker_threads";
import { openDirectDisk } from "../direct_disk.ts";
import { type IndexTask, makeIndex } from "./make_index.ts";
import { proveSegment, type SegmentProof, type SegmentTask } from "./segment_proof.ts";

/** A thread has so many tasks: it need not wait for the next one while its last answer is on the way. */
const TASKS_AHEAD = 2;

/** Proves segments, several at a time. */
export interface Prover {
  /** How many tasks are worth giving it at a time. */
  readonly capacity: number;
  /** `undefined` when the file is gone. */
  prove(task: SegmentTask): Promise<SegmentProof | undefined>;
  /** Makes an index; whether it did. */
  index(task: IndexTask): Promise<boolean>;
  close(): Promise<void>;
}

/** What goes to a thread. */
export type ProofRequest =
  | { readonly id: number; readonly kind: "prove"; readonly task: SegmentTask }
  | { readonly id: number; readonly kind: "index"; readonly task: IndexTask };

/** What comes back. */
export interface ProofAnswer {
  readonly id: number;
  readonly result?: SegmentProof | boolean | undefined;
  readonly problem?: { readonly message: string; readonly code: string | undefined };
}

/** A prover on the calling thread, which stands still while a file is read. */
export function openDirectProver(root: string): Prover {
  const disk = openDirectDisk(root);
  return {
    capacity: 1,
    async prove(task) {
      // Between two files signals and the clock get their turn.
      await new Promise((resolve) => setTimeout(resolve, 0));
      return await proveSegment(disk, task);
    },
    async index(task) {
      await new Promise((resolve) => setTimeout(resolve, 0));
      return await makeIndex(disk, task);
    },
    close: async () => void await disk.close(),
  };
}

/** A prover on `count` threads. */
export function openProofThreads(root: string, count: number): Prover {
  const threads: ProofThread[] = [];
  try {
    for (let i = 0; i < count; i++) threads.push(new ProofThread(root));
  } catch (cause) {
    for (const thread of threads) void thread.close();
    throw cause;
  }
  const idlest = () => threads.toSorted((a, b) => a.pending - b.pending)[0]!;
  return {
    capacity: count * TASKS_AHEAD,
    prove: (task) => idlest().ask<SegmentProof | undefined>((id) => ({ id, kind: "prove", task })),
    index: (task) => idlest().ask<boolean>((id) => ({ id, kind: "index", task })),
    close: async () => void await Promise.all(threads.map((thread) => thread.close())),
  };
}

/**
 * Where the thread's own module is.
 *
 * In a bundle all modules have the bundle's own place, and this one lies beside it as in the source.
 */
function threadModule(): URL {
  const isSource = import.meta.url.endsWith("/lib/archive/verify/prover.ts");
  return new URL(isSource ? "./proof_thread.ts" : "./lib/archive/verify/proof_thread.js", import.meta.url);
}

class ProofThread {
  readonly #worker: Worker;
  readonly #pending = new Map<
    number,
    { resolve(result: ProofAnswer["result"]): void; reject(error: Error): void }
  >();
  #lastId = 0;
  #dead: Error | undefined;

  constructor(root: string) {
    this.#worker = new Worker(threadModule(), { workerData: { root }, name: "proof" });
    this.#worker.on("message", ({ id, result, problem }: ProofAnswer) => {
      const pending = this.#pending.get(id);
      this.#pending.delete(id);
      if (problem === undefined) pending?.resolve(result);
      else pending?.reject(Object.assign(new Error(problem.message), { code: problem.code }));
    });
    this.#worker.on("error", (error) => this.#die(error instanceof Error ? error : new Error(String(error))));
    this.#worker.on("exit", () => this.#die(new Error("Cannot go on: a thread that reads has ended")));
  }

  get pending(): number {
    return this.#pending.size;
  }

  ask<T extends ProofAnswer["result"]>(request: (id: number) => ProofRequest): Promise<T> {
    if (this.#dead !== undefined) return Promise.reject(this.#dead);
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve: (result) => resolve(result as T), reject });
      this.#worker.postMessage(request(id));
    });
  }

  async close(): Promise<void> {
    this.#die(new Error("Cannot go on: a thread that reads is closed"));
    await this.#worker.terminate();
  }

  #die(error: Error): void {
    this.#dead ??= error;
    for (const { reject } of this.#pending.values()) reject(this.#dead);
    this.#pending.clear();
  }
}
