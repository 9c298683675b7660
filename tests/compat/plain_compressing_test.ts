import assert from "node:assert/strict";
import { test } from "node:test";
import { dueNames } from "../../lib/compat/plain_compressing.ts";

const name = (number: number, rest = "") =>
  `0000000100000000${number.toString(16).padStart(8, "0").toUpperCase()}${rest}`;

const CASES:
  readonly (readonly [what: string, names: readonly string[], first: string, due: readonly string[]])[] = [
    ["an empty directory", [], name(5), []],
    ["segments from before -Z was given stay", [name(3), name(4), name(5), name(6)], name(5), [
      name(5),
      name(6),
    ]],
    [
      "what a run before did not come to",
      [name(2), name(3, ".gz"), name(4), name(5)],
      name(5),
      [name(4), name(5)],
    ],
    ["what a crash left in both forms", [name(2), name(2, ".gz"), name(3, ".lz4"), name(5)], name(5), [
      name(2),
      name(5),
    ]],
    ["no other files", [name(5, ".partial"), name(6, ".gz.partial"), "00000002.history", name(7)], name(5), [
      name(7),
    ]],
    ["a compressed one that is later", [name(4), name(9, ".gz"), name(6)], name(5), [name(6)]],
  ];

for (const [what, names, first, due] of CASES) {
  test(`dueNames(): ${what}`, () => assert.deepEqual(dueNames(names, first), due));
}
