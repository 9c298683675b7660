import assert from "node:assert/strict";
import { test } from "node:test";
import { Turns } from "../../lib/archive/turns.ts";

/** Calls that end when they are told to. */
class Calls {
  readonly turns = new Turns();
  readonly started: string[] = [];
  readonly #ends = new Map<string, { resolve(): void; reject(error: Error): void }>();

  make(kind: "look" | "change", name: string): Promise<void> {
    return this.turns[kind](() => {
      this.started.push(name);
      return new Promise((resolve, reject) => this.#ends.set(name, { resolve, reject }));
    });
  }

  async end(name: string, error?: Error): Promise<void> {
    const end = this.#ends.get(name)!;
    if (error === undefined) end.resolve();
    else end.reject(error);
    await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

test("looks go beside each other; a change waits for all before it and holds up all after it", async () => {
  const calls = new Calls();
  const made = [
    calls.make("look", "a"),
    calls.make("look", "b"),
    calls.make("change", "c"),
    calls.make("look", "d"),
    calls.make("change", "e"),
    calls.make("change", "f"),
    calls.make("look", "g"),
  ];
  const { started } = calls;
  assert.deepEqual(started, ["a", "b"]);
  await calls.end("b");
  assert.deepEqual(started, ["a", "b"]);
  await calls.end("a");
  assert.deepEqual(started, ["a", "b", "c"]);
  await calls.end("c");
  assert.deepEqual(started, ["a", "b", "c", "d"]);
  await calls.end("d");
  await calls.end("e");
  assert.deepEqual(started, ["a", "b", "c", "d", "e", "f"]);
  await calls.end("f");
  assert.equal(calls.turns.idle, false);
  await calls.end("g");
  await Promise.all(made);
  assert.equal(calls.turns.idle, true);
});

test("a call that fails, or throws at once, lets the next one go", async () => {
  const calls = new Calls();
  const failing = calls.make("change", "a");
  const next = calls.make("change", "b");
  const rejected = assert.rejects(failing, /no space/);
  await calls.end("a", new Error("no space"));
  await rejected;
  assert.deepEqual(calls.started, ["a", "b"]);
  await calls.end("b");
  await next;
  await assert.rejects(
    calls.turns.look(() => {
      throw new TypeError("no path");
    }),
    TypeError,
  );
  assert.equal(calls.turns.idle, true);
});

test("after the end nothing is begun, and what was begun may end", async () => {
  const calls = new Calls();
  const begun = calls.make("change", "a");
  const waiting = assert.rejects(calls.make("look", "b"), /it is over/);
  calls.turns.end(new Error("it is over"));
  const late = assert.rejects(calls.make("look", "c"), /it is over/);
  await calls.end("a");
  await begun;
  await waiting;
  await late;
  assert.deepEqual(calls.started, ["a"]);
});
