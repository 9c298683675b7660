import { Worker } from "node:worker_threads";
import type { Compression } from "./compression.ts";
import { decodeLz4Block, lz4BlockEncoder } from "./lz4_block.ts";
import { encodeLz4Frame } from "./lz4_frame.ts";
import { pieceEncoder } from "./piece_encoder.ts";
import {
  type PieceLengths,
  type PieceMemory,
  type PieceWork,
  pieceWork,
  type PieceWorker,
} from "./piece_worker.ts";
import { NICENESS, stepBack } from "./step_back.ts";
import { xxHash32 } from "./xx_hash32.ts";

/** A call of `PieceWork`. */
interface Request {
  readonly kind: keyof PieceWork;
  readonly argument?: number | PieceLengths;
}

interface Answer {
  readonly value?: unknown;
  readonly problem?: string;
}

/**
 * Compresses on a thread of its own: what costs processor time there costs the thread that answers the server none.
 *
 * `memory` must be shared memory. No bytes are copied between the threads.
 */
export function openCompressionThread(compression: Compression, memory: PieceMemory): PieceWorker {
  return new CompressionThread(compression, memory);
}

class CompressionThread implements PieceWorker {
  readonly #worker: Worker;
  #pending: { resolve(value: unknown): void; reject(error: Error): void } | undefined;
  #dead: Error | undefined;

  constructor(compression: Compression, readonly memory: PieceMemory) {
    const source = `import { Buffer } from "node:buffer";
import * as fs from "node:fs";
import { setPriority } from "node:os";
import * as zlib from "node:zlib";
import { parentPort, workerData } from "node:worker_threads";
(${stepBack})(fs, { setPriority, niceness: ${NICENESS} });
const decodeBlock = (${decodeLz4Block});
const tools = { zlib, hash: (${xxHash32}), encodeBlock: (${lz4BlockEncoder})(), encodeFrame: (${encodeLz4Frame}), decodeBlock };
const openEncoder = () => (${pieceEncoder})(workerData.compression, tools);
const work = (${pieceWork})(openEncoder, { memory: workerData.memory, compare: Buffer.compare, crc32: (bytes) => zlib.crc32(bytes) });
parentPort.on("message", ({ kind, argument }) => {
  try {
    parentPort.postMessage({ value: work[kind](argument) });
  } catch (error) {
    parentPort.postMessage({ problem: String(error.message) });
  }
});`;
    const url = new URL("data:text/javascript," + encodeURIComponent(source));
    this.#worker = new Worker(url, { workerData: { compression, memory }, name: "compression" });
    this.#worker.on("message", ({ value, problem }: Answer) => {
      const pending = this.#pending;
      this.#pending = undefined;
      if (problem === undefined) pending?.resolve(value);
      else pending?.reject(new Error(`Cannot compress: ${problem}`));
    });
    this.#worker.on("error", (error) => this.#die(error instanceof Error ? error : new Error(String(error))));
    this.#worker.on("exit", () => this.#die(new Error("Cannot compress: the thread for it has ended")));
  }

  async begin(): Promise<void> {
    await this.#ask({ kind: "begin" });
  }

  async compress(contentBytes: number): Promise<number> {
    return await this.#ask({ kind: "compress", argument: contentBytes }) as number;
  }

  async end(): Promise<number> {
    return await this.#ask({ kind: "end" }) as number;
  }

  async holds(piece: PieceLengths): Promise<boolean> {
    return await this.#ask({ kind: "holds", argument: piece }) as boolean;
  }

  async close(): Promise<void> {
    this.#die(new Error("Cannot compress: the thread for it is closed"));
    await this.#worker.terminate();
  }

  #ask(request: Request): Promise<unknown> {
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
