import type { ConninfoEntry } from "./conninfo_entry.ts";
import { parseKeywordValue } from "./keyword_value.ts";
import { isConnectionUri, parseConnectionUri } from "./uri.ts";

/**
 * The settings of a connection string in either form, in the order given; "" has none.
 *
 * @throws {ConninfoError} which tells position and kind, never a value.
 */
export function parseConninfo(text: string): readonly ConninfoEntry[] {
  return isConnectionUri(text) ? parseConnectionUri(text) : parseKeywordValue(text);
}
