import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type CommandCall, type CommandTable, formsOf } from "../../lib/commands/command_table.ts";
import { FETCH_TABLE } from "../../lib/commands/fetch_options.ts";
import { plainCall } from "../../lib/commands/plain_call.ts";
import { PUSH_TABLE } from "../../lib/commands/push_options.ts";
import { tableCommand } from "../../lib/commands/table_command.ts";

/** What commander makes of the same words; `undefined` when it refuses them. */
async function commanderCall(
  words: readonly string[],
  table: CommandTable,
): Promise<CommandCall | undefined> {
  let read: CommandCall | undefined;
  const command = tableCommand(table, (call) => {
    read = call;
    return Promise.resolve();
  }).exitOverride().configureOutput({ writeOut: () => {}, writeErr: () => {} });
  try {
    await command.parseAsync(words, { from: "user" });
  } catch {
    return undefined;
  }
  return read;
}

const SEGMENT = "000000010000000000000003";
const TEXTS = [
  SEGMENT,
  `pg_wal/${SEGMENT}`,
  "/srv/archive",
  "60",
  "0",
  "66",
  "zstd:3",
  "gzip",
  "none",
  "json",
  "",
  "-",
  "--",
];

function wordsOf(table: CommandTable): fc.Arbitrary<readonly string[]> {
  const forms = table.options.flatMap((option) => {
    const { short, long } = formsOf(option);
    return short === undefined ? [long] : [short, long];
  });
  const text = fc.oneof({ weight: 4, arbitrary: fc.constantFrom(...TEXTS) }, fc.string({ maxLength: 4 }));
  const form = fc.constantFrom(...forms, "--help", "-h", "--no-ahead", "--arch");
  const option = fc.oneof(
    form.map((each) => [each]),
    fc.tuple(form, text),
    fc.tuple(form, text).map(([name, value]) => [`${name}=${value}`]),
    fc.tuple(form, text).map(([name, value]) => [`${name}${value}`]),
  );
  const whole = fc.array(option, { maxLength: 3 }).chain((options) =>
    fc.shuffledSubarray([...options, ...table.operands.map(() => [SEGMENT])])
  );
  const any = fc.array(fc.oneof(option, text.map((each) => [each])), { maxLength: 5 });
  return fc.oneof(whole, any).map((parts) => parts.flat());
}

for (const table of [PUSH_TABLE, FETCH_TABLE]) {
  test(`a plain call of ${table.name} is read as commander reads it`, async () => {
    let plain = 0;
    await fc.assert(
      fc.asyncProperty(wordsOf(table), async (words) => {
        const call = plainCall(words, table);
        if (call === undefined) return;
        plain++;
        assert.deepEqual({ ...call }, await commanderCall(words, table));
      }),
      { numRuns: 3000 },
    );
    assert.ok(plain > 100, `${plain} plain calls`);
  });
}

const PLAIN: readonly (readonly [CommandTable, readonly string[]])[] = [
  [PUSH_TABLE, ["-d", "/srv/archive", `pg_wal/${SEGMENT}`]],
  [PUSH_TABLE, ["--archive=/srv/archive", "--compress", "zstd:3", "--timeout", "5", `pg_wal/${SEGMENT}`]],
  [PUSH_TABLE, [`pg_wal/${SEGMENT}`, "--archive", "/srv/archive", "-q", "--log-format", "json"]],
  [FETCH_TABLE, ["-d", "/srv/archive", SEGMENT, "pg_wal/RECOVERYXLOG"]],
  [FETCH_TABLE, ["--ahead", "--archive", "/srv/archive", "00000002.history", "pg_wal/RECOVERYHISTORY"]],
  [FETCH_TABLE, [
    "--no-verify",
    "--archive=/srv/archive",
    "--absent-exit",
    "66",
    SEGMENT,
    "pg_wal/RECOVERYXLOG",
  ]],
];

for (const [table, words] of PLAIN) {
  test(`walvault ${table.name} ${words.join(" ")} is a plain call`, async () => {
    const call = plainCall(words, table);
    assert.ok(call);
    assert.deepEqual({ ...call }, await commanderCall(words, table));
  });
}

const NOT_PLAIN: readonly (readonly [string, CommandTable, readonly string[]])[] = [
  ["help", PUSH_TABLE, ["--help"]],
  ["no file", PUSH_TABLE, ["-d", "/srv/archive"]],
  ["two files", PUSH_TABLE, ["-d", "/srv/archive", "a", "b"]],
  ["one word too few", FETCH_TABLE, ["-d", "/srv/archive", SEGMENT]],
  ["an unknown option", FETCH_TABLE, ["--bogus", SEGMENT, "pg_wal/RECOVERYXLOG"]],
  ["a wrong value", PUSH_TABLE, ["--timeout", "0", "a"]],
  ["a value that looks like an option", PUSH_TABLE, ["--archive", "--quiet", "a"]],
  ["an option twice", PUSH_TABLE, ["-d", "a", "--archive", "b", "c"]],
  ["the end of options", PUSH_TABLE, ["-d", "a", "--", "c"]],
];

for (const [what, table, words] of NOT_PLAIN) {
  test(`a command line with ${what} is no plain call`, () => {
    assert.equal(plainCall(words, table), undefined);
  });
}
