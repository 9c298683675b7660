import type postgres from "postgres";
import type { Log } from "../log.ts";
import type { Answer } from "../protocol/answers.ts";
import { SILENCE_ADVICE } from "../protocol/advice.ts";
import { ConnectionError, ProtocolError, ServerError, type ServerMessage } from "../protocol/errors.ts";
import { AuthGuard } from "./auth_guard.ts";
import { answerOf, type Login, startDriver } from "./driver.ts";
import type { OpenSocket } from "./socket.ts";
import { type CopyListener, SocketTap } from "./socket_tap.ts";

/** Longest wait for the answer to a command; all of ours take milliseconds on a server that is well. */
export const COMMAND_TIMEOUT_MS = 60_000;

/** What a link needs besides its socket. */
export interface LinkOptions extends Login {
  /** For messages. */
  readonly address: string;
  readonly requireAuth: readonly string[] | undefined;
  readonly log: Log;
}

/** A command to the server. */
export interface Command<T> {
  readonly text: string;
  /** For error texts, with the address behind it: "read slot x of". */
  readonly doing: string;
  /** Throws `ProtocolError` when the rows make no sense; the link then ends. */
  readonly decode: (answer: Answer) => T;
}

/**
 * One socket with the driver on it: sends one command at a time, and knows why it ended.
 *
 * The driver does the login, with the first command, and the simple queries.
 */
export class Link {
  readonly address: string;
  /** Settings that the server tells by itself. */
  readonly parameters: ReadonlyMap<string, string>;
  readonly #tap: SocketTap;
  readonly #sql: postgres.Sql;
  readonly #guard: AuthGuard;
  #last: Promise<unknown> = Promise.resolve();
  #running: { readonly doing: string; readonly reject: (error: Error) => void } | undefined;
  /** The newest error of the running command; one that ends the session stays. */
  #said: ServerMessage | undefined;
  #failure: Error | undefined;

  constructor(socket: OpenSocket, options: LinkOptions) {
    const { address, log } = options;
    this.address = address;
    const parameters = new Map<string, string>();
    this.parameters = parameters;
    this.#guard = new AuthGuard({
      requireAuth: options.requireAuth,
      hasPassword: options.password !== undefined,
    });
    this.#tap = new SocketTap(socket, {
      guard: this.#guard,
      listener: {
        onParameter: ({ name, value }) => void parameters.set(name, value),
        onNotice: ({ severity, sqlState, message }) =>
          log.debug("server notice", { address, severity, sqlState, message }),
        onServerError: (said) => void (this.#said = said),
        onEnd: (cause) => this.#end(cause),
      },
    });
    this.#sql = startDriver(this.#tap, options);
  }

  /** Whether the server has let us in. */
  get loggedIn(): boolean {
    return this.#guard.done;
  }

  /** What a running copy may do. */
  get copyControl(): Pick<
    SocketTap,
    "sendStatus" | "sendCopyDone" | "pause" | "resume" | "lend" | "takeBack"
  > {
    return this.#tap;
  }

  /**
   * Sends a command and gives its rows; commands wait for each other.
   *
   * @throws {ServerError} when the server refuses.
   * @throws {ConnectionError} when the link has ended, or there is no answer for `COMMAND_TIMEOUT_MS`.
   */
  query<T>(command: Command<T>): Promise<T> {
    return this.#inTurn(() => {
      const deadline = this.#startDeadline(command);
      return this.#send(command).finally(() => clearTimeout(deadline));
    });
  }

  /** Sends a command that may open a copy; its rows come when the copy is over. Throws as `query()` does. */
  copy<T>(command: Command<T>, listener: CopyListener): Promise<T> {
    return this.#inTurn(() => {
      const deadline = this.#startDeadline(command);
      this.#tap.awaitCopy({
        ...listener,
        onStart() {
          clearTimeout(deadline);
          listener.onStart();
        },
      });
      return this.#send(command).finally(() => clearTimeout(deadline));
    });
  }

  /** Ends it; the running command fails at once. Takes `CLOSE_TIMEOUT_MS` at most, never rejects. Idempotent. */
  close(): Promise<void> {
    return this.#tap.close();
  }

  /** Cuts the line. */
  destroy(): void {
    this.#tap.cut();
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const answer = this.#last.then(run);
    // The next command waits for this one, whatever becomes of it; the caller sees the error.
    this.#last = answer.catch(() => undefined);
    return answer;
  }

  #startDeadline({ doing }: Command<unknown>): ReturnType<typeof setTimeout> {
    return setTimeout(() => {
      this.#giveUp(
        new ConnectionError("timeout", this.#text(doing, `no answer in ${COMMAND_TIMEOUT_MS / 1000} s`), {
          hint: SILENCE_ADVICE,
        }),
      );
    }, COMMAND_TIMEOUT_MS);
  }

  #send<T>({ text, doing, decode }: Command<T>): Promise<T> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    if (this.#said?.severity === "ERROR") this.#said = undefined;
    this.#running = { doing, reject };
    this.#sql.unsafe(text).simple().raw().then((result) => resolve(decode(answerOf(result)))).catch(
      (cause) => {
        // The driver rejects for the server's error, or because it can't make sense of the answer.
        if (this.#said !== undefined) reject(new ServerError(this.#text(doing), this.#said));
        else this.#giveUp(this.#protocolError(doing, cause));
      },
    );
    return promise.finally(() => this.#running = undefined);
  }

  #giveUp(error: Error): void {
    this.#failure ??= error;
    void this.#tap.close();
  }

  #end(cause: unknown): void {
    const doing = this.#running?.doing ?? "use the connection to";
    const said = this.#said;
    this.#failure ??= said !== undefined && said.severity !== "ERROR"
      ? new ServerError(this.#text(doing), said, { cause })
      : this.#connectionError(doing, cause);
    this.#running?.reject(this.#failure);
  }

  #connectionError(doing: string, cause: unknown): ConnectionError {
    if (cause === undefined) {
      return new ConnectionError("closed", this.#text(doing, "the server closed the connection"));
    }
    const kind = cause instanceof ConnectionError
      ? cause.kind
      : cause instanceof ProtocolError
      ? "protocol"
      : "closed";
    const hint = cause instanceof ConnectionError ? cause.hint : undefined;
    const problem = cause instanceof Error ? cause.message : String(cause);
    return new ConnectionError(kind, this.#text(doing, problem), { cause, hint });
  }

  #protocolError(doing: string, cause: unknown): ConnectionError {
    const problem = cause instanceof ProtocolError ? cause.message : "the answer makes no sense";
    return new ConnectionError("protocol", this.#text(doing, problem), { cause });
  }

  #text(doing: string, problem?: string): string {
    return `Cannot ${doing} ${this.address}${problem === undefined ? "" : `: ${problem}`}`;
  }
}
