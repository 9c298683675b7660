import type { Output } from "../commands/context.ts";

/**
 * Messages on stderr as PostgreSQL's own programs write them: `NAME: error: …`, `NAME: hint: …`.
 *
 * @see src/common/logging.c (PostgreSQL 15 to 18)
 */
export class ProgramLog {
  constructor(private readonly program: string, private readonly stderr: Output) {}

  error(text: string): void {
    this.#write("error: ", text);
  }

  warning(text: string): void {
    this.#write("warning: ", text);
  }

  /** What the error or warning before it needs explained. */
  detail(text: string): void {
    this.#write("detail: ", text);
  }

  hint(text: string): void {
    this.#write("hint: ", text);
  }

  info(text: string): void {
    this.#write("", text);
  }

  /** The hint of every wrong command line. */
  tryHelp(): void {
    this.hint(`Try "${this.program} --help" for more information.`);
  }

  #write(kind: string, text: string): void {
    this.stderr.write(`${this.program}: ${kind}${text}\n`);
  }
}
