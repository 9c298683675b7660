import { type BackendMessage, MESSAGE, messageName, readUint32 } from "../protocol/backend_messages.ts";
import { ConnectionError, ProtocolError } from "../protocol/errors.ts";

/** Most SCRAM iterations that we compute; the driver does it in one go, 10 million take about 3 s. */
const MAX_SCRAM_ITERATIONS = 10_000_000;

const REQUEST = { ok: 0, cleartext: 3, md5: 5, sasl: 10, saslContinue: 11, saslFinal: 12 } as const;

/** Names as `require_auth` has them. */
const METHODS: ReadonlyMap<number, string> = new Map([
  [REQUEST.cleartext, "password"],
  [REQUEST.md5, "md5"],
  [7, "gss"],
  [9, "sspi"],
  [REQUEST.sasl, "scram-sha-256"],
]);

/**
 * Watches the login between driver and server, and stops it before the driver says what it should not.
 *
 * The driver believes the server in places where it should not: it takes any authentication method, an endless
 * SCRAM iteration count, a nonce that is not ours, and "ok" from a server that never proved to know the password.
 * @see check_expected_areq(), src/interfaces/libpq/fe-auth.c
 */
export class AuthGuard {
  readonly #requireAuth: readonly string[] | undefined;
  readonly #hasPassword: boolean;
  #stage: "start" | "asked" | "sasl" | "sasl-continue" | "sasl-final" | "done" = "start";
  #clientNonce: string | undefined;

  constructor(
    options: { readonly requireAuth: readonly string[] | undefined; readonly hasPassword: boolean },
  ) {
    this.#requireAuth = options.requireAuth;
    this.#hasPassword = options.hasPassword;
  }

  /** Whether the server has let us in. */
  get done(): boolean {
    return this.#stage === "done";
  }

  /** Bytes of the driver's, on their way to the server. */
  sent(bytes: Uint8Array): void {
    if (this.#stage !== "sasl") return;
    this.#clientNonce ??= /n,,n=[^,]*,r=([^,]+)$/.exec(latin1(bytes))?.[1];
  }

  /**
   * A message of the server's, on its way to the driver.
   *
   * @throws {ConnectionError} of kind `auth` when the driver must not answer it; its text is the problem alone.
   * @throws {ProtocolError} when it does not belong here.
   */
  check(message: BackendMessage): void {
    if (message.type !== MESSAGE.authentication) {
      if (this.#stage === "done" || message.type === MESSAGE.error || message.type === MESSAGE.notice) return;
      throw new ProtocolError(`Cannot take message ${messageName(message.type)} before the login is over`);
    }
    if (message.body.length < 4) {
      throw new ProtocolError("Cannot decode authentication request: it is too short");
    }
    const request = readUint32(message.body, 0);
    switch (request) {
      case REQUEST.ok:
        return this.#takeOk();
      case REQUEST.saslContinue:
        return this.#takeSaslContinue(latin1(message.body.subarray(4)));
      case REQUEST.saslFinal:
        this.#expect("sasl-continue");
        this.#stage = "sasl-final";
        return;
      default:
        return this.#takeRequest(request, message.body);
    }
  }

  #takeRequest(request: number, body: Uint8Array): void {
    this.#expect("start");
    const method = METHODS.get(request) ?? `method ${request}`;
    this.#allow(method);
    if (method === "gss" || method === "sspi" || !METHODS.has(request)) {
      throw refused(`the server asks for ${method} authentication, which is not supported`);
    }
    if (request === REQUEST.sasl && !latin1(body.subarray(4)).split("\0").includes("SCRAM-SHA-256")) {
      throw refused("the server offers no SASL mechanism that we know, want SCRAM-SHA-256");
    }
    if (request === REQUEST.md5 && body.length !== 8) {
      throw new ProtocolError("Cannot decode MD5 request: no salt");
    }
    if (!this.#hasPassword) {
      throw refused("the server asks for a password, and none is given", {
        hint: "Put it into the passfile (~/.pgpass), PGPASSWORD or the connection string",
      });
    }
    this.#stage = request === REQUEST.sasl ? "sasl" : "asked";
  }

  #takeSaslContinue(text: string): void {
    this.#expect("sasl");
    const [, nonce, , iterations] = /^r=([^,]+),s=([A-Za-z0-9+/=]+),i=([0-9]{1,10})$/.exec(text) ?? [];
    if (nonce === undefined || iterations === undefined) {
      throw new ProtocolError("Cannot decode SCRAM challenge: want nonce, salt and iteration count");
    }
    if (
      this.#clientNonce === undefined || nonce === this.#clientNonce || !nonce.startsWith(this.#clientNonce)
    ) {
      throw refused("the server's SCRAM nonce does not continue ours");
    }
    if (Number(iterations) < 1 || Number(iterations) > MAX_SCRAM_ITERATIONS) {
      throw refused(
        `the server wants ${iterations} SCRAM iterations, at most ${MAX_SCRAM_ITERATIONS} are done`,
      );
    }
    this.#stage = "sasl-continue";
  }

  #takeOk(): void {
    if (this.#stage === "start") this.#allow("none");
    if (this.#stage === "sasl" || this.#stage === "sasl-continue") {
      throw refused("the server ends SCRAM without its proof that it knows the password");
    }
    if (this.#stage === "done") throw new ProtocolError("Cannot take a second login");
    this.#stage = "done";
  }

  #expect(stage: "start" | "sasl" | "sasl-continue"): void {
    if (this.#stage === stage) return;
    throw new ProtocolError(`Cannot take authentication request: out of order after stage ${this.#stage}`);
  }

  /** `require_auth` is a list of what is allowed, or, with `!`, of what is not. */
  #allow(method: string): void {
    const listed = this.#requireAuth;
    if (listed === undefined) return;
    const negated = listed.some((name) => name.startsWith("!"));
    const allowed = negated ? !listed.includes(`!${method}`) : listed.includes(method);
    if (allowed) return;
    throw refused(
      method === "none"
        ? "the server let us in without authentication"
        : `the server asks for ${method} authentication`,
      { hint: `require_auth allows ${listed.join(", ")}` },
    );
  }
}

function refused(problem: string, options?: { readonly hint: string }): ConnectionError {
  return new ConnectionError("auth", problem, options);
}

function latin1(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}
