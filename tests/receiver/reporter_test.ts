import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../lib/protocol/errors.ts";
import { Reporter } from "../../lib/receiver/reporter.ts";
import { fakeLog, serverError } from "./fakes.ts";

function reporting() {
  const { log, entries, lines } = fakeLog();
  return { reporter: new Reporter(log), entries, lines };
}

test("Reporter warns once of the same, again of what differs in event or fields", () => {
  const { reporter, entries } = reporting();
  for (let round = 0; round < 3; round++) {
    reporter.warnOnce("no replication slot", { hint: "use --slot" });
    reporter.warnOnce("server version not tried", { serverVersion: 190_000 });
    reporter.warnOnce("server version not tried", { serverVersion: 190_001 });
    reporter.recovered();
  }
  assert.deepEqual(entries.map(({ level, event, fields }) => [level, event, fields]), [
    ["warn", "no replication slot", { hint: "use --slot" }],
    ["warn", "server version not tried", { serverVersion: 190_000 }],
    ["warn", "server version not tried", { serverVersion: 190_001 }],
  ]);
});

test("Reporter tells a problem as an error once; the same again is for debugging", () => {
  const { reporter, lines } = reporting();
  for (let round = 0; round < 3; round++) reporter.disconnected(new Error("gone"));
  assert.deepEqual(lines(), ["error disconnected", "debug disconnected", "debug disconnected"]);
});

test("Reporter tells a change of problem, also back to the one before", () => {
  const { reporter, entries } = reporting();
  for (const text of ["gone", "starting", "gone", "gone"]) reporter.disconnected(new Error(text));
  reporter.problem("archive disk full", { hint: "make room" });
  reporter.problem("archive disk full", { hint: "make room" });
  assert.deepEqual(entries.map(({ level, event, fields }) => `${level} ${fields["error"] ?? event}`), [
    "error gone",
    "error starting",
    "error gone",
    "debug gone",
    "error archive disk full",
    "debug archive disk full",
  ]);
});

test("Reporter takes any problem after a recovery for news", () => {
  const { reporter, lines } = reporting();
  reporter.recovered();
  for (let round = 0; round < 2; round++) {
    reporter.disconnected(new Error("gone"));
    reporter.recovered();
  }
  assert.deepEqual(lines(), ["error disconnected", "error disconnected"]);
});

test("Reporter tells an error with its causes, and its hint where there is one", () => {
  const { reporter, entries } = reporting();
  const cause = new Error("ECONNREFUSED");
  reporter.disconnected(new ConnectionError("refused", "Cannot connect", { cause, hint: "start it" }));
  reporter.disconnected(new ConnectionError("refused", "Cannot connect to db:5432"));
  reporter.disconnected(serverError("55006", 'replication slot "wv" is active for PID 7'));
  assert.deepEqual(entries.map(({ fields }) => fields), [
    { error: "Cannot connect: ECONNREFUSED", hint: "start it" },
    { error: "Cannot connect to db:5432" },
    {
      error: 'Cannot ask db:5432: server says ERROR 55006: replication slot "wv" is active for PID 7',
      hint: "stop the other receiver, or give this one a slot of its own",
    },
  ]);
});

test("Reporter tells also what is no error at all", () => {
  const { reporter, entries } = reporting();
  for (const thrown of ["text", undefined, null]) reporter.disconnected(thrown);
  assert.deepEqual(entries.map(({ fields }) => fields), [{ error: "text" }, { error: "undefined" }, {
    error: "null",
  }]);
});
