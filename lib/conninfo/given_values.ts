import type { ConninfoEntry } from "./conninfo_entry.ts";
import { ConninfoError } from "./conninfo_error.ts";
import { type Keyword, KEYWORD_NAMES, keywordRow } from "./keywords.ts";

/** A keyword's value and who gave it. */
export interface GivenValue {
  readonly value: string;
  /** For messages: `the connection string`, `PGSSLMODE`, `service file "/etc/x" line 3`, `the default`. */
  readonly origin: string;
}

/** What was given for each keyword; "" is a value too, and as in libpq it hides the environment's. */
export type GivenValues = ReadonlyMap<Keyword, GivenValue>;

export const DEFAULT_ORIGIN = "the default";

/** The settings of a connection string; of a repeated keyword the last one counts. */
export function valuesFromEntries(entries: readonly ConninfoEntry[]): GivenValues {
  return new Map(
    entries.map(({ keyword, value }) => [keyword, { value, origin: "the connection string" }] as const),
  );
}

/**
 * The settings of `PG*` variables.
 *
 * `PGREQUIRESSL=1` counts only without `PGSSLMODE`. `PGDATESTYLE`, `PGTZ` and `PGGEQO`, which libpq passes to the
 * server, are left out: they mean nothing to a WAL stream.
 */
export function valuesFromEnvironment(env: Readonly<Record<string, string | undefined>>): GivenValues {
  const values = new Map<Keyword, GivenValue>();
  for (const keyword of KEYWORD_NAMES) {
    const variable = keywordRow(keyword).environment;
    const value = variable === undefined ? undefined : env[variable];
    if (variable !== undefined && value !== undefined) values.set(keyword, { value, origin: variable });
  }
  if (!values.has("sslmode") && env["PGREQUIRESSL"]?.startsWith("1")) {
    values.set("sslmode", { value: "require", origin: "PGREQUIRESSL" });
  }
  return values;
}

export function defaultValues(): GivenValues {
  const values = new Map<Keyword, GivenValue>();
  for (const keyword of KEYWORD_NAMES) {
    const value = keywordRow(keyword).default;
    if (value !== undefined) values.set(keyword, { value, origin: DEFAULT_ORIGIN });
  }
  return values;
}

/** All values together; for each keyword the first source that has it wins. */
export function mergeValues(sources: readonly GivenValues[]): GivenValues {
  const merged = new Map<Keyword, GivenValue>();
  for (const source of sources) {
    for (const [keyword, given] of source) if (!merged.has(keyword)) merged.set(keyword, given);
  }
  return merged;
}

/** The keyword's value; `undefined` when it is absent or empty. */
export function textValue(values: GivenValues, keyword: Keyword): string | undefined {
  return values.get(keyword)?.value || undefined;
}

/**
 * The keyword's value among `choices`, or `undefined` when the keyword is absent.
 * @throws {ConninfoError} on any other value, "" included.
 */
export function choiceValue<Choice extends string>(
  values: GivenValues,
  keyword: Keyword,
  choices: readonly Choice[],
): Choice | undefined {
  const given = values.get(keyword);
  if (given === undefined) return undefined;
  const choice = choices.find((candidate) => candidate === given.value);
  if (choice === undefined) {
    throw invalidValue(values, keyword, `unknown value, want ${choices.join(", ")}`);
  }
  return choice;
}

/**
 * A 32-bit integer as libpq reads it (spaces around it and a sign are fine); `undefined` when the keyword is absent.
 * @throws {ConninfoError} on anything else, "" included.
 * @see parse_int_param(), src/interfaces/libpq/fe-connect.c
 */
export function integerValue(values: GivenValues, keyword: Keyword): number | undefined {
  const given = values.get(keyword);
  if (given === undefined) return undefined;
  const integer = parseInteger(given.value);
  if (integer === undefined) throw invalidValue(values, keyword, "no integer, want a 32-bit decimal number");
  return integer;
}

/** A 32-bit decimal integer with spaces around it; `undefined` when the text is none. */
export function parseInteger(text: string): number | undefined {
  if (!/^[ \t\n\v\f\r]*[+-]?[0-9]+[ \t\n\v\f\r]*$/.test(text)) return undefined;
  const integer = Number(text);
  return integer >= -(2 ** 31) && integer < 2 ** 31 ? integer : undefined;
}

/** The error of a value that cannot be used; names keyword and origin, not the value. */
export function invalidValue(
  values: GivenValues,
  keyword: Keyword,
  problem: string,
  hint?: string,
): ConninfoError {
  const origin = values.get(keyword)?.origin ?? DEFAULT_ORIGIN;
  return new ConninfoError(`Cannot use ${keyword} of ${origin}: ${problem}`, hint);
}
