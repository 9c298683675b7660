/** The thread of `openProofThreads()`: an entry point of its own, as threads have their own modules. */
import { parentPort, workerData } from "node:worker_threads";
import { openDirectDisk } from "../direct_disk.ts";
import { errorCode } from "../durable.ts";
import type { ProofAnswer, ProofRequest } from "./prover.ts";
import { makeIndex } from "./make_index.ts";
import { proveSegment } from "./segment_proof.ts";

const disk = openDirectDisk(workerData.root);

async function answer(request: ProofRequest): Promise<void> {
  const { id } = request;
  try {
    if (request.kind === "index") {
      const answer: ProofAnswer = { id, result: await makeIndex(disk, request.task) };
      parentPort?.postMessage(answer);
      return;
    }
    const proof = await proveSegment(disk, request.task);
    const memory = proof === undefined ? [] : [proof.head.buffer, proof.tail.buffer];
    const answer: ProofAnswer = { id, result: proof };
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
