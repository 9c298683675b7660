import * as fs from "node:fs";
import type { Output } from "./context.ts";

/** A reader that takes nothing for this long loses the rest of the text. */
const PATIENCE_MS = 100;

/**
 * Standard output or error, written at once: nothing is lost when the process ends, in any runtime.
 *
 * A reader that went away, or does not read for long, must not end or hold up a receiver.
 */
export function standardOutput(fd: 1 | 2): Output {
  return {
    isTerminal: isTerminal(fd),
    write(text) {
      const bytes = new TextEncoder().encode(text);
      let waitedMs = 0;
      for (let done = 0; done < bytes.length && waitedMs < PATIENCE_MS;) {
        try {
          done += fs.writeSync(fd, bytes, done);
          waitedMs = 0;
        } catch (error) {
          const { code } = error as { code?: string };
          // What cannot be logged, on a full disk for example, can be told nowhere: receiving matters more.
          if (code === "EPIPE" || fd === 2 && code !== "EAGAIN") return;
          if (code !== "EAGAIN") throw error;
          Atomics.wait(NOTHING, 0, 0, 1);
          waitedMs++;
        }
      }
    },
  };
}

function isTerminal(fd: number): boolean {
  try {
    // Not `process.stdout.isTTY`: making that stream takes a fifth of the time that --version has.
    return fs.fstatSync(fd).isCharacterDevice() && !isNull(fd);
  } catch {
    return false;
  }
}

/** `/dev/null` is a character device too. */
function isNull(fd: number): boolean {
  return fs.fstatSync(fd).rdev === NULL_DEVICE;
}

/** Nobody ever wakes who waits on it: a pause that blocks, for a full pipe. */
const NOTHING = new Int32Array(new SharedArrayBuffer(4));

/** Major 1, minor 3, as Linux numbers it. */
const NULL_DEVICE = (1 << 8) | 3;
