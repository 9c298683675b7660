import assert from "node:assert/strict";
import { test } from "node:test";
import { parseSynchronousStandbys, synchronousWarnings } from "../../lib/receiver/synchronous.ts";

/** A setting, how many must confirm, and who; nobody for a setting that names none. */
const SETTINGS: readonly (readonly [setting: string, count?: number, names?: readonly string[]])[] = [
  [""],
  [" \t\n "],
  ["()"],
  ["walvault", 1, ["walvault"]],
  ["  walvault\n", 1, ["walvault"]],
  ["WalVault", 1, ["walvault"]],
  ["a,b", 1, ["a", "b"]],
  ["a , b ,c", 1, ["a", "b", "c"]],
  ["a,\n\tb", 1, ["a", "b"]],
  ["*", 1, ["*"]],
  ["a, *", 1, ["a", "*"]],
  ["1", 1, ["1"]],
  ["1, 2", 1, ["1", "2"]],
  ["s1_$x", 1, ["s1_$x"]],
  ["größe", 1, ["größe"]],
  ["first", 1, ["first"]],
  ["any", 1, ["any"]],
  ["1 (a)", 1, ["a"]],
  ["1(a)", 1, ["a"]],
  ["2 (a, b)", 2, ["a", "b"]],
  ["2(a,b,c)", 2, ["a", "b", "c"]],
  ["10 (a)", 10, ["a"]],
  ["2 (*)", 2, ["*"]],
  ["FIRST 1 (a)", 1, ["a"]],
  ["FIRST 2 (a, b, c)", 2, ["a", "b", "c"]],
  ["first 2(a,b)", 2, ["a", "b"]],
  ["ANY 1 (a, b)", 1, ["a", "b"]],
  ["aNy 3 ( a , b , c )", 3, ["a", "b", "c"]],
  ["ANY 2 (*)", 2, ["*"]],
  [" ANY\n2\t(a, b) ", 2, ["a", "b"]],
  ['"walvault"', 1, ["walvault"]],
  ['"WalVault"', 1, ["WalVault"]],
  ['"wal vault", b', 1, ["wal vault", "b"]],
  ['"a,b", c', 1, ["a,b", "c"]],
  ['"say ""no"""', 1, ['say "no"']],
  ['"a(b)"', 1, ["a(b)"]],
  ['ANY 1 ("a(b)", "c)")', 1, ["a(b)", "c)"]],
  ['"2 (a, b)"', 1, ["2 (a, b)"]],
  ['"*"', 1, ["*"]],
  ['FIRST 2 ("A", b, "c d")', 2, ["A", "b", "c d"]],
  // Nothing that a server of today takes; one of tomorrow may.
  ["a b"],
  ["a,,b"],
  ["a,"],
  ["ANY (a)"],
  ["ALL 2 (a, b)"],
  ["2 (a, b) OR c"],
  ["2 (a, (b))"],
  ['"never closed'],
];

for (const [setting, count, names] of SETTINGS) {
  test(`parseSynchronousStandbys() reads ${JSON.stringify(setting)}`, () => {
    const want = count === undefined ? undefined : { count, names };
    assert.deepEqual(parseSynchronousStandbys(setting), want);
  });
}

test("parseSynchronousStandbys() ends soon, whatever a server says", () => {
  const beganAt = performance.now();
  for (
    const text of [
      '"'.repeat(50_001),
      " ".repeat(50_000) + "(",
      "a,".repeat(50_000),
      '""'.repeat(50_000) + "x",
    ]
  ) {
    parseSynchronousStandbys(text);
    parseSynchronousStandbys(`ANY 1 (${text}`);
  }
  assert.ok(performance.now() - beganAt < 5000);
});

const APPLY = "synchronous_commit is remote_apply";
const ONLY = "only synchronous standby";

const WARNINGS: readonly (readonly [
  standbyNames: string,
  commit: string,
  applicationName: string,
  events: readonly string[],
])[] = [
  ["", "on", "walvault", []],
  ["", "remote_apply", "walvault", []],
  ["other", "remote_apply", "walvault", []],
  ["walvault2", "remote_apply", "walvault", []],
  ['"wal vault"', "remote_apply", "wal", []],
  ["walvault", "on", "walvault", [ONLY]],
  ["WALVAULT", "on", "walvault", [ONLY]],
  ["walvault", "on", "WalVault", [ONLY]],
  ['"WalVault"', "on", "walvault", [ONLY]],
  ['"a(b)"', "on", "a(b)", [ONLY]],
  ["walvault", "remote_write", "walvault", [ONLY]],
  ["walvault", "remote_apply", "walvault", [APPLY, ONLY]],
  ["1 (walvault)", "on", "walvault", [ONLY]],
  ["FIRST 2 (walvault, other)", "on", "walvault", [ONLY]],
  ["ANY 2 (other, walvault)", "remote_apply", "walvault", [APPLY, ONLY]],
  ["3 (walvault, other)", "on", "walvault", [ONLY]],
  ["walvault, other", "on", "walvault", []],
  ["other, walvault", "remote_apply", "walvault", [APPLY]],
  ["ANY 1 (walvault, other)", "on", "walvault", []],
  ["ANY 2 (a, walvault, b)", "on", "walvault", []],
  ["*", "on", "walvault", []],
  ["*", "remote_apply", "walvault", [APPLY]],
  ['"*"', "remote_apply", "walvault", [APPLY]],
  ["2 (walvault, *)", "on", "walvault", []],
  ["walvault", "on", "other", []],
  ["ALL (walvault)", "remote_apply", "walvault", []],
];

for (const [standbyNames, commit, applicationName, events] of WARNINGS) {
  const told = events.length === 0 ? "nothing" : events.join(", ");
  test(`synchronousWarnings() to "${applicationName}" for '${standbyNames}' with ${commit}: ${told}`, () => {
    const warnings = synchronousWarnings({ standbyNames, commit, applicationName });
    assert.deepEqual(warnings.map(({ event }) => event), events);
    for (const { hint } of warnings) assert.match(hint, /commits/);
  });
}
