import assert from "node:assert/strict";
import { test } from "node:test";
import { type Failure, shrink } from "./shrink.ts";

/** Runs that fail when `isBad` says so, and play all that they are given. */
async function shortest(
  from: readonly number[],
  isBad: (some: readonly number[]) => boolean,
): Promise<{ readonly played: readonly number[]; readonly tries: number }> {
  const play = (played: readonly number[]): Promise<Failure<number> | undefined> =>
    Promise.resolve(isBad(played) ? { message: "bad", played } : undefined);
  const { failure, tries } = await shrink({ message: "bad", played: from }, { play, isSame: () => true });
  return { played: failure.played, tries };
}

const HUNDRED = Array.from({ length: 100 }, (_, index) => index);

test("shrink() leaves what is needed together, wherever it stands", async () => {
  for (const needed of [[], [0], [99], [0, 99], [13, 14, 70], [5, 20, 41, 60, 97]]) {
    const { played, tries } = await shortest(HUNDRED, (some) => needed.every((each) => some.includes(each)));
    assert.deepEqual(played, needed);
    assert.ok(tries < 250, `${tries} tries`);
  }
});

test("shrink() ends where no single one can be left out, also when fewer would do", async () => {
  const { played } = await shortest(HUNDRED, (some) => some.length % 2 === 0);
  assert.deepEqual(played, []);
  const odd = await shortest(HUNDRED, (some) => some.length === 100 || some.length === 7);
  assert.equal(odd.played.length, 100);
});

test("shrink() goes on from what was played, and takes no other failure for the same", async () => {
  const { failure } = await shrink({ message: "P2", played: HUNDRED }, {
    // Without 40 nothing of what follows happens, and without 3 it fails too, but of something else.
    play: (some) =>
      Promise.resolve({
        message: some.includes(3) ? "P2" : "P1",
        played: some.includes(40) ? some : some.filter((each) => each < 40),
      }),
    isSame: ({ message }) => message === "P2",
  });
  assert.deepEqual(failure.played, [3]);
});

test("shrink() gives up after some tries", async () => {
  const many = Array.from({ length: 5000 }, (_, index) => index);
  const { tries } = await shortest(many, (some) => some.length >= 4999);
  assert.ok(tries <= 400);
});
