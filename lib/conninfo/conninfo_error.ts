/**
 * A connection string, `PG*` variable, service file or key file that cannot be used as it stands.
 *
 * The caller reports it and stops: trying again changes nothing. The message never holds a free value of the
 * input, only keywords, known choices, positions, file paths and the service's name, so it never holds a secret.
 */
export class ConninfoError extends Error {
  override readonly name = "ConninfoError";

  constructor(message: string, readonly hint?: string) {
    super(message);
  }
}
