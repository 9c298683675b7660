import type { ConninfoEntry } from "./conninfo_entry.ts";
import { ConninfoError } from "./conninfo_error.ts";
import { isSecretKeyword } from "./keywords.ts";
import { parseConninfo } from "./parse_conninfo.ts";

const MASK = "***";

/**
 * A connection string for process titles and logs: every secret value is `***`, the rest stays as it was.
 *
 * A text that does not parse becomes `***` as a whole, as one can't tell where its password ends.
 */
export function redactConninfo(text: string): string {
  let redacted = text;
  for (const { keyword, start, end } of parsedEntries(text).toReversed()) {
    if (isSecretKeyword(keyword)) redacted = redacted.slice(0, start) + MASK + redacted.slice(end);
  }
  return redacted;
}

function parsedEntries(text: string): readonly ConninfoEntry[] {
  try {
    return parseConninfo(text);
  } catch (error) {
    if (!(error instanceof ConninfoError)) throw error;
    // The error does not matter here: whoever connects with the text reports it.
    return [{ keyword: "password", value: "", start: 0, end: text.length }];
  }
}
