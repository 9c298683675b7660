/** Writes a text of that many bytes to a file descriptor through `standardOutput()`, after some milliseconds. */
import process from "node:process";
import { standardOutput } from "../../lib/commands/output.ts";

const [fd, bytes, afterMs] = process.argv.slice(2).map(Number) as [1 | 2, number, number];
const output = standardOutput(fd);
await new Promise((resolve) => setTimeout(resolve, afterMs));
if (bytes === 0) output.write(String(output.isTerminal));
else output.write("ä".repeat(bytes / 2 - 1) + "!\n");
