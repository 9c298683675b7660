import { ConninfoError } from "./conninfo_error.ts";
import { isKeyword, type Keyword } from "./keywords.ts";
import { suggestKeyword } from "./suggest_keyword.ts";

/** One setting of a connection string, in the order given; of a repeated keyword the last one counts. */
export interface ConninfoEntry {
  readonly keyword: Keyword;
  readonly value: string;
  /** The half-open range of the value's characters in the text, quotes and escapes included. */
  readonly start: number;
  readonly end: number;
}

interface RawEntry {
  readonly name: string;
  readonly value: string;
  /** Where the name begins in the text, for the message. */
  readonly nameStart: number;
  readonly start: number;
  readonly end: number;
  /** Whether the name surely is no piece of a secret that somebody quoted badly. */
  readonly nameIsSafe: boolean;
}

/**
 * A setting under its known keyword; `requiressl` becomes `sslmode`.
 *
 * @throws {ConninfoError} when libpq does not know the name.
 */
export function conninfoEntry(raw: RawEntry): ConninfoEntry {
  const { start, end } = raw;
  if (raw.name === "requiressl") {
    return { keyword: "sslmode", value: raw.value.startsWith("1") ? "require" : "prefer", start, end };
  }
  if (!isKeyword(raw.name)) throw unknownKeyword(raw);
  return { keyword: raw.name, value: raw.value, start, end };
}

function unknownKeyword({ name, nameStart, nameIsSafe }: RawEntry): ConninfoError {
  const shown = nameIsSafe ? quotedName(name) : "";
  const quoting = nameIsSafe
    ? undefined
    : "If this is a part of the password, quote it ('…') or percent-encode it (in a URI)";
  return new ConninfoError(
    `Cannot parse connection string: invalid connection option ${shown}at character ${nameStart + 1}`,
    didYouMean(name) ?? quoting,
  );
}

/** The hint of an unknown keyword, if one resembles it. */
export function didYouMean(name: string): string | undefined {
  const suggestion = suggestKeyword(name);
  return suggestion === undefined ? undefined : `Did you mean "${suggestion}"?`;
}

/** The name in quotes and a space when it looks like a keyword, "" when it looks like anything else. */
export function quotedName(name: string): string {
  return /^[A-Za-z_][A-Za-z0-9_.-]{0,39}$/.test(name) ? `"${name}" ` : "";
}

/**
 * Refuses a NUL, at which C programs would stop reading.
 * @throws {ConninfoError}
 */
export function refuseNul(text: string): void {
  const position = text.indexOf("\0");
  if (position < 0) return;
  throw new ConninfoError(`Cannot parse connection string: NUL at character ${position + 1}`);
}
