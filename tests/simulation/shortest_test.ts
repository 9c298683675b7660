import assert from "node:assert/strict";
import { test } from "node:test";
import { copyWith } from "./mutated_copy.ts";
import { MUTATIONS } from "./mutations.ts";
import { findShortest } from "./shortest.ts";
import { simulate } from "./simulation.ts";

/** One that anything shows, and one that needs a crash in a window. */
const TITLES = ["no sync of inprogress/", "a gap's line is not synced"];

for (const title of TITLES) {
  test(`a few disturbances are found that show "${title}", and they show it again`, async () => {
    await using copy = copyWith(MUTATIONS.find((mutation) => mutation.title === title)!);
    const broken = (await copy.receiving()).simulate;
    let seed = 0;
    let found = await findShortest(broken, seed);
    while (found === undefined) found = await findShortest(broken, ++seed);
    const { before, after } = found;
    assert.ok(after.played.length <= 5, after.played.map(({ name }) => name).join());
    assert.ok(after.played.length < before.played.length);

    const only = new Set(after.played.map(({ name }) => name));
    // The command that follows names what was tried, which may be more than what was played.
    const [line = ""] = after.message.split("\n");
    await assert.rejects(() => broken(seed, { only }), (error: Error) => error.message.startsWith(line));
    await simulate(seed, { only });
  });
}
