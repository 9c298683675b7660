import { type ConninfoEntry, conninfoEntry, refuseNul } from "./conninfo_entry.ts";
import { ConninfoError } from "./conninfo_error.ts";
import { isSecretKeyword } from "./keywords.ts";

/** The white space of C's `isspace()`; JavaScript's `\s` knows more. */
const SPACE = /[ \t\n\v\f\r]/;

/**
 * The settings of a keyword/value connection string: `host=db.example password='it\'s'`.
 *
 * @throws {ConninfoError} which tells position and kind, never a value.
 * @see conninfo_parse(), src/interfaces/libpq/fe-connect.c
 */
export function parseKeywordValue(text: string): readonly ConninfoEntry[] {
  refuseNul(text);
  const entries: ConninfoEntry[] = [];
  // After a secret, an "unknown keyword" may be its second half: `password=correct horse=1`, `password='it's=1'`.
  let secretSeen = false;
  let at = skipSpace(text, 0);
  while (at < text.length) {
    const nameStart = at;
    while (at < text.length && text[at] !== "=" && !SPACE.test(text[at]!)) at++;
    const name = text.slice(nameStart, at);
    at = skipSpace(text, at);
    if (text[at] !== "=") throw missingEquals(nameStart);
    at = skipSpace(text, at + 1);
    const value = text[at] === "'" ? quotedValue(text, at) : bareValue(text, at);
    entries.push(conninfoEntry({
      name,
      value: value.value,
      nameStart,
      start: at,
      end: value.end,
      nameIsSafe: !secretSeen,
    }));
    secretSeen ||= isSecretKeyword(name);
    at = skipSpace(text, value.end);
  }
  return entries;
}

function skipSpace(text: string, start: number): number {
  let at = start;
  while (at < text.length && SPACE.test(text[at]!)) at++;
  return at;
}

interface ParsedValue {
  readonly value: string;
  readonly end: number;
}

/** Up to white space; a backslash makes the next character plain, and vanishes at the very end. */
function bareValue(text: string, start: number): ParsedValue {
  let value = "";
  let at = start;
  while (at < text.length && !SPACE.test(text[at]!)) {
    if (text[at] === "\\") at++;
    value += text[at] ?? "";
    at++;
  }
  return { value, end: Math.min(at, text.length) };
}

function quotedValue(text: string, start: number): ParsedValue {
  let value = "";
  for (let at = start + 1; at < text.length; at++) {
    if (text[at] === "'") return { value, end: at + 1 };
    if (text[at] === "\\") at++;
    value += text[at] ?? "";
  }
  throw new ConninfoError(
    `Cannot parse connection string: the quote at character ${start + 1} is never closed`,
    "Within quotes, write ' as \\' and \\ as \\\\",
  );
}

function missingEquals(nameStart: number): ConninfoError {
  return new ConninfoError(
    `Cannot parse connection string: missing "=" after the word at character ${nameStart + 1}`,
    `Write host=… user=…, or a URI that begins with postgresql://; quote a value that holds a space: '…'`,
  );
}
