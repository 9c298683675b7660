import * as fs from "node:fs";
import process from "node:process";
import type { Output } from "../commands/context.ts";

/** Longer than any password that PostgreSQL takes. */
const MAXIMUM_BYTES = 1024;
const LINE_FEED = 10;

/** Asks for a password on the terminal, without showing it; without a terminal, a line of standard input is one. */
export function promptForPassword(stderr: Output): string {
  const { stdin } = process;
  stderr.write("Password: ");
  const hidden = stdin.isTTY === true;
  if (hidden) stdin.setRawMode(true);
  try {
    return readLine();
  } finally {
    if (hidden) {
      stdin.setRawMode(false);
      stderr.write("\n");
    }
  }
}

function readLine(): string {
  const line: number[] = [];
  const byte = new Uint8Array(1);
  while (line.length < MAXIMUM_BYTES) {
    if (fs.readSync(0, byte, 0, 1, null) === 0) break;
    const [value = LINE_FEED] = byte;
    // Raw mode: Enter is a carriage return, Ctrl-C and Ctrl-D are bytes too.
    if (value === LINE_FEED || value === 13 || value === 4) break;
    if (value === 3) {
      process.kill(process.pid, "SIGINT");
      break;
    }
    if (value === 127 || value === 8) line.pop();
    else line.push(value);
  }
  return new TextDecoder().decode(Uint8Array.from(line));
}
