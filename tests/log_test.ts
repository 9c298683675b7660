import assert from "node:assert/strict";
import { test } from "node:test";
import {
  createLog,
  formatJsonEntry,
  formatTextEntry,
  type LogEntry,
  type LogFields,
  type LogLevel,
  messageChain,
} from "../lib/log.ts";

const LEVELS: readonly LogLevel[] = ["error", "warn", "info", "debug"];

function entry(fields: LogFields): LogEntry {
  return { time: new Date(0), level: "warn", event: "disk full", fields };
}

for (const [index, level] of LEVELS.entries()) {
  test(`createLog() at ${level} writes what is as bad or worse`, () => {
    const written: LogEntry[] = [];
    const log = createLog({ level, now: () => new Date(1000), write: (one) => written.push(one) });
    for (const each of LEVELS) log[each]("event");
    assert.deepEqual(written.map((one) => one.level), LEVELS.slice(0, index + 1));
    assert.deepEqual(written[0], { time: new Date(1000), level: "error", event: "event", fields: {} });
  });
}

test("formatTextEntry() quotes values where it has to", () => {
  const table: readonly (readonly [value: LogFields[string], want: string])[] = [
    ["plain", "plain"],
    ["16/B374D848", "16/B374D848"],
    ["", '""'],
    ["two words", '"two words"'],
    ["a=b", '"a=b"'],
    ['say "no"', '"say \\"no\\""'],
    ["line\nbreak", '"line\\nbreak"'],
    ["\x1b[2J", '"\\u001b[2J"'],
    ["\x9b2J", '"\\u009b2J"'],
    ["del\x7f", '"del\\u007f"'],
    ["\u2028", '"\\u2028"'],
    ["größer", "größer"],
    [12, "12"],
    [1n << 63n, "9223372036854775808"],
    [true, "true"],
  ];
  for (const [value, want] of table) {
    assert.equal(formatTextEntry(entry({ value })), `1970-01-01T00:00:00.000Z warn  disk full value=${want}`);
  }
});

test("formatTextEntry() is one line of printable characters, whatever a server says", () => {
  const everything = Array.from({ length: 0x300 }, (_, code) => String.fromCharCode(code)).join("");
  // deno-lint-ignore no-control-regex
  assert.doesNotMatch(formatTextEntry(entry({ everything })), /[\x00-\x1f\x7f-\x9f]/);
});

test("formatTextEntry() leaves out fields without a value", () => {
  assert.equal(
    formatTextEntry(entry({ a: undefined, b: 1 })),
    "1970-01-01T00:00:00.000Z warn  disk full b=1",
  );
});

test("formatJsonEntry() is one line that parses, 64-bit numbers as text", () => {
  const text = formatJsonEntry(entry({ lsn: 1n << 63n, say: 'a "b"\n', none: undefined, on: false }));
  assert.ok(!text.includes("\n"));
  assert.deepEqual(JSON.parse(text), {
    time: "1970-01-01T00:00:00.000Z",
    level: "warn",
    event: "disk full",
    lsn: "9223372036854775808",
    say: 'a "b"\n',
    on: false,
  });
});

test("formatJsonEntry() lets no field stand in for time, level or event", () => {
  const parsed = JSON.parse(formatJsonEntry(entry({ level: "debug", event: "x", time: "never" })));
  assert.deepEqual(parsed, { time: "1970-01-01T00:00:00.000Z", level: "warn", event: "disk full" });
});

test("messageChain() tells an error with its causes, each once", () => {
  const root = new Error("ENOSPC");
  const table: readonly (readonly [error: unknown, want: string])[] = [
    [root, "ENOSPC"],
    [new Error("Cannot write", { cause: root }), "Cannot write: ENOSPC"],
    [new Error("Cannot write: ENOSPC", { cause: root }), "Cannot write: ENOSPC"],
    [new Error("a", { cause: new Error("b", { cause: new Error("c") }) }), "a: b: c"],
    [new Error("a", { cause: "text" }), "a"],
    ["text", "text"],
    [undefined, "undefined"],
  ];
  for (const [error, want] of table) assert.equal(messageChain(error), want);
});

test("messageChain() ends also where causes go round", () => {
  const a = new Error("a");
  const b = new Error("b", { cause: a });
  a.cause = b;
  assert.equal(messageChain(a), "a: b");
});
