/** The thread of `openProofThreads()`: an entry point of its own, as threads have their own modules. */
import { parentPort, workerData } from "node:worker_threads";
import { openDirectDisk } from "../direct_disk.ts";
import { errorCode } from "../durable.ts";
import type { ProofAnswer, ProofRequest } from "./prover.ts";
import { proveSegment } from "./segment_proof.ts";

const disk = openDirectDisk(workerData.root);

async function answer({ id, task }: ProofRequest): Promise<void> {
  try {
    const proof = await proveSegment(disk, task);
    const memory = proof === undefined ? [] : [proof.head.buffer, proof.tail.buffer];
    const answer: ProofAnswer = { id, proof };
    parentPort?.postMessage(answer, memory);
  } catch (error) {
    const answer: ProofAnswer = {
      id,
      problem: { message: (error as Error).message, code: errorCode(error) },
    };
    parentPort?.postMessage(answer);
  }
}

parentPort?.on("message", answer);
