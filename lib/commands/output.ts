import * as fs from "node:fs";
import type { Output } from "./context.ts";

/** A reader that is slower than we write gets this many chances before its line is given up. */
const MAXIMUM_TRIES = 1000;

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
      let tries = 0;
      for (let done = 0; done < bytes.length && tries < MAXIMUM_TRIES;) {
        try {
          done += fs.writeSync(fd, bytes, done);
        } catch (error) {
          const { code } = error as { code?: string };
          if (code === "EPIPE") return;
          if (code !== "EAGAIN") throw error;
          tries++;
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

/** Major 1, minor 3, as Linux numbers it. */
const NULL_DEVICE = (1 << 8) | 3;
