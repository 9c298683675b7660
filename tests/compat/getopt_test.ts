import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { getopt, type OptionTable } from "../../lib/compat/getopt.ts";

const TABLE: OptionTable = {
  letters: "ab:v",
  long: [
    { name: "alpha", letter: "a", argument: "none" },
    { name: "alphabet", letter: "z", argument: "none" },
    { name: "beta", letter: "b", argument: "required" },
    { name: "help", letter: "?", argument: "none" },
    { name: "no-loop", letter: "n", argument: "none" },
    { name: "no-sync", letter: "y", argument: "none" },
    { name: "verbose", letter: "v", argument: "none" },
  ],
};

function take(words: readonly string[]): readonly string[] {
  const taken: string[] = [];
  const items = getopt(words, TABLE);
  for (;;) {
    const item = items.next();
    if (item.done) return [...taken, `rest ${item.value.join(",")}`];
    const { value } = item;
    taken.push(value.kind === "option" ? `${value.letter}=${value.argument}` : value.text);
    if (value.kind === "complaint") return taken;
  }
}

const CASES: readonly (readonly [words: readonly string[], taken: readonly string[]])[] = [
  [[], ["rest "]],
  [["x", "-a", "y"], ["a=", "rest x,y"]],
  [["-ab", "1", "y"], ["a=", "b=1", "rest y"]],
  [["-ab1", "-"], ["a=", "b=1", "rest -"]],
  [["-b", "-a"], ["b=-a", "rest "]],
  [["-a", "--", "-b", "--beta"], ["a=", "rest -b,--beta"]],
  [["--beta=1=2", "--beta", "3"], ["b=1=2", "b=3", "rest "]],
  [["--beta="], ["b=", "rest "]],
  [["--be", "1", "--verb"], ["b=1", "v=", "rest "]],
  [["--alpha"], ["a=", "rest "]],
  [["--help"], ["?=", "rest "]],
  [["--alph"], ["option '--alph' is ambiguous; possibilities: '--alpha' '--alphabet'"]],
  [["--no"], ["option '--no' is ambiguous; possibilities: '--no-loop' '--no-sync'"]],
  [["--nope=1"], ["unrecognized option '--nope=1'"]],
  [["--verb=1"], ["option '--verbose' doesn't allow an argument"]],
  [["--bet"], ["option '--beta' requires an argument"]],
  [["-aq"], ["a=", "invalid option -- 'q'"]],
  [["-:"], ["invalid option -- ':'"]],
  [["-?"], ["invalid option -- '?'"]],
  [["-ab"], ["a=", "option requires an argument -- 'b'"]],
];

for (const [words, taken] of CASES) {
  test(`getopt() takes ${JSON.stringify(words)}`, () => assert.deepEqual(take(words), taken));
}

const GETOPT = spawnSync("getopt", ["--test"]).status === 4;

test("getopt(1), which is glibc's, says the same", { skip: !GETOPT }, () => {
  const long = TABLE.long.map((option) => option.name + (option.argument === "required" ? ":" : "")).join(
    ",",
  );
  for (const [words] of CASES) {
    const run = spawnSync("getopt", ["-n", "us", "-o", TABLE.letters, "-l", long, "--", ...words], {
      encoding: "utf8",
      env: { LC_ALL: "C", PATH: "/usr/bin:/bin" },
    });
    const complaint = take(words).find((text) => /option/.test(text));
    assert.equal(run.stderr, complaint === undefined ? "" : `us: ${complaint}\n`, words.join(" "));
  }
});
