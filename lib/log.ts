/** How bad: `error` an operator must act, `warn` odd and we went on, `info` a change of state, `debug` per message. */
export type LogLevel = "error" | "warn" | "info" | "debug";

/** Values that a log line may carry. Never a password, never a connection string. */
export type LogFields = Readonly<Record<string, string | number | bigint | boolean | undefined>>;

/** A constant lower-case event and fields; never prose with values inside. */
export interface Log {
  error(event: string, fields?: LogFields): void;
  warn(event: string, fields?: LogFields): void;
  info(event: string, fields?: LogFields): void;
  debug(event: string, fields?: LogFields): void;
}

/** From quiet to talkative. */
const RANK: Readonly<Record<LogLevel, number>> = { error: 0, warn: 1, info: 2, debug: 3 };

/** One thing that happened. */
export interface LogEntry {
  readonly time: Date;
  readonly level: LogLevel;
  readonly event: string;
  readonly fields: LogFields;
}

/** A log that hands each entry up to `level` to `write`, with the time that `now` tells. */
export function createLog(options: {
  readonly level: LogLevel;
  readonly now: () => Date;
  readonly write: (entry: LogEntry) => void;
}): Log {
  const entryOf = (level: LogLevel) => (event: string, fields: LogFields = {}) => {
    if (RANK[level] <= RANK[options.level]) options.write({ time: options.now(), level, event, fields });
  };
  return { error: entryOf("error"), warn: entryOf("warn"), info: entryOf("info"), debug: entryOf("debug") };
}

/** For people: time, level, event, then `key=value`, quoted where it has to be. */
export function formatTextEntry(entry: LogEntry): string {
  const parts = [entry.time.toISOString(), entry.level.padEnd(5), entry.event];
  for (const [key, value] of Object.entries(entry.fields)) {
    if (value !== undefined) parts.push(`${key}=${formatValue(value)}`);
  }
  return parts.join(" ");
}

function formatValue(value: string | number | bigint | boolean): string {
  const text = String(value);
  return typeof value !== "string" || /^[^\s"=\p{Cc}]+$/u.test(text) ? text : quoted(text);
}

/** What a server says may hold anything: no control character of it reaches a terminal, those of 8 bits included. */
function quoted(text: string): string {
  return JSON.stringify(text).replace(
    /[\x7f-\x9f\u2028\u2029]/g,
    (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"),
  );
}

/** For programs: one JSON object; 64-bit numbers as text. */
export function formatJsonEntry(entry: LogEntry): string {
  const { time, level, event, fields } = entry;
  const plain = (_key: string, value: unknown) => typeof value === "bigint" ? value.toString() : value;
  const head = { time: time.toISOString(), level, event };
  // The head comes first, and no field takes its place.
  return JSON.stringify({ ...head, ...fields, ...head }, plain);
}

/** An error's text with those of its causes, each once. */
export function messageChain(error: unknown): string {
  const texts: string[] = [];
  const seen = new Set<unknown>();
  for (
    let current: unknown = error;
    current instanceof Error && !seen.has(current);
    current = current.cause
  ) {
    seen.add(current);
    if (!texts.some((text) => text.includes((current as Error).message))) texts.push(current.message);
  }
  return texts.length === 0 ? String(error) : texts.join(": ");
}
