/** The thread of `openIndexThread()`: an entry point of its own, as threads have their own modules. */
import * as fs from "node:fs";
import { setPriority } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import { openDirectDisk } from "./direct_disk.ts";
import { errorCode } from "./durable.ts";
import type { IndexAnswer, IndexRequest } from "./index_threads.ts";
import { directIndexWorker } from "./index_worker.ts";
import { NICENESS, stepBack } from "./step_back.ts";

stepBack(fs, { setPriority, niceness: NICENESS });
const worker = directIndexWorker(openDirectDisk(workerData.root), workerData.archive);

async function answer(request: IndexRequest): Promise<void> {
  try {
    const value = request.kind === "index"
      ? await worker.index(request.name)
      : await worker.missing(request.limit);
    const answer: IndexAnswer = { value };
    parentPort?.postMessage(answer);
  } catch (error) {
    const { message } = error as Error;
    const answer: IndexAnswer = { problem: { message, code: errorCode(error), name: (error as Error).name } };
    parentPort?.postMessage(answer);
  }
}

parentPort?.on("message", answer);
