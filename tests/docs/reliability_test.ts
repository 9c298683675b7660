import assert from "node:assert/strict";
import * as fs from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { FAULT_FAMILIES } from "../postgres/fault_families.ts";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const PAGE = fs.readFileSync(join(ROOT, "docs", "reliability.md"), "utf8");
const PROMISES = 10;

/** The cells of each row that begins with what is wanted. */
function rows(first: RegExp): readonly (readonly string[])[] {
  return PAGE.split("\n").filter((line) => line.startsWith("|"))
    .map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()))
    .filter(([cell]) => first.test(cell ?? ""));
}

test("docs/reliability.md: each promise names tests, and they are there", () => {
  const promises = rows(/^P\d+$/);
  const wanted = Array.from({ length: PROMISES }, (_, index) => `P${index + 1}`);
  assert.deepEqual(promises.map(([name]) => name), wanted);
  for (const [name, , tests = ""] of promises) assert.match(tests, /`tests\/.*_test\.ts`/, name);
});

test("docs/reliability.md: every file that is named is there", () => {
  const named = [...PAGE.matchAll(/`(tests\/[^`*]+\.ts)`/g)].map(([, path]) => path!);
  assert.ok(named.length > PROMISES);
  assert.deepEqual(named.filter((path) => !fs.existsSync(join(ROOT, path))), []);
});

test("docs/reliability.md: the table has each fault that is injected, all survived and no commit lost", () => {
  const names = new Set(FAULT_FAMILIES.map(({ name }) => name));
  const table = rows(/./).filter(([name]) => names.has(name ?? ""));
  assert.deepEqual(table.map(([name]) => name), [...names]);
  for (const [name, injected, survived, , , lost] of table) {
    assert.ok(Number(injected) > 0, name);
    assert.equal(survived, injected, name);
    assert.ok(lost === "0" || lost === "", name);
  }
});
